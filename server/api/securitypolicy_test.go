package api_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server"
)

// Every policy that is listed can be described, and a server can have it.
func TestSecurityPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var names []string
	pages := transfer.NewListSecurityPoliciesPaginator(w.sdk, &transfer.ListSecurityPoliciesInput{MaxResults: aws.Int32(4)})
	for pages.HasMorePages() {
		names = append(names, ok[*transfer.ListSecurityPoliciesOutput](t)(pages.NextPage(t.Context())).SecurityPolicyNames...)
	}
	if !slices.Equal(names, server.PolicyNames()) {
		t.Errorf("got %q", names)
	}
	id := w.newServer(t)
	for _, name := range names {
		p := *ok[*transfer.DescribeSecurityPolicyOutput](t)(w.sdk.DescribeSecurityPolicy(t.Context(), &transfer.DescribeSecurityPolicyInput{SecurityPolicyName: &name})).SecurityPolicy
		if *p.SecurityPolicyName != name || p.Type != types.SecurityPolicyResourceTypeServer || *p.Fips != strings.Contains(name, "FIPS") ||
			!slices.Equal(p.Protocols, []types.SecurityPolicyProtocol{"SFTP", "FTPS"}) {
			t.Errorf("got %s", pretty(p))
		}
		known, _ := server.LookupPolicy(name)
		if !slices.Equal(p.SshCiphers, known.SshCiphers) || !slices.Equal(p.SshKexs, known.SshKexs) ||
			!slices.Equal(p.SshMacs, known.SshMacs) || !slices.Equal(p.TlsCiphers, known.TlsCiphers) || len(p.SshCiphers) == 0 {
			t.Errorf("got %s\nwant %+v", pretty(p), known)
		}
		ok[*transfer.UpdateServerOutput](t)(w.sdk.UpdateServer(t.Context(), &transfer.UpdateServerInput{ServerId: &id, SecurityPolicyName: &name}))
	}
}

func TestSecurityPolicyRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, exception := range map[string]string{
		"TransferSecurityPolicy-1999-01":              "ResourceNotFoundException",
		"TransferSFTPConnectorSecurityPolicy-2024-03": "ResourceNotFoundException", // there are no connectors here
		"SecurityPolicy-2024-01":                      "ValidationException",
		"":                                            "ValidationException",
	} {
		a := w.call(t, "DescribeSecurityPolicy", `{"SecurityPolicyName":"`+name+`"}`)
		a.refused(t, 400, exception)
		if exception == "ResourceNotFoundException" && !strings.Contains(a.Body, `"Resource":"`+name+`","ResourceType":"SecurityPolicy"`) {
			t.Errorf("got %s", a.Body)
		}
	}
	w.call(t, "ListSecurityPolicies", `{"NextToken":"forged"}`).refused(t, 400, "InvalidNextTokenException")
	w.call(t, "ListSecurityPolicies", `{"MaxResults":1001}`).refused(t, 400, "ValidationException", "'maxResults'")
}
