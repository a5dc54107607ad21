package api

import (
	"context"

	"github.com/transferd/transferd/server"
)

type securityPolicyRequest struct{ SecurityPolicyName string }

// describedSecurityPolicy is shape DescribedSecurityPolicy. All policies that the service knows are for servers, and
// those say nothing of SshHostKeyAlgorithms, which connectors have.
type describedSecurityPolicy struct {
	server.SecurityPolicy
	Protocols []string
}

func (a *API) describeSecurityPolicy(_ context.Context, in securityPolicyRequest) (any, error) {
	p, ok := server.LookupPolicy(in.SecurityPolicyName)
	if !ok {
		return nil, &server.NotFoundError{ResourceType: "SecurityPolicy", Resource: in.SecurityPolicyName}
	}
	described := describedSecurityPolicy{p, []string{"SFTP", "FTPS"}}
	return struct{ SecurityPolicy describedSecurityPolicy }{described}, nil
}

type listSecurityPoliciesAnswer struct {
	NextToken           string `json:",omitempty"`
	SecurityPolicyNames []string
}

func (a *API) listSecurityPolicies(_ context.Context, in pageRequest) (*listSecurityPoliciesAnswer, error) {
	self := func(name string) string { return name }
	names, next, err := page(a, list{operation: "ListSecurityPolicies"}, in,
		func(p server.Page) ([]string, error) { return part(server.PolicyNames(), p, self), nil }, self)
	if err != nil {
		return nil, err
	}
	return &listSecurityPoliciesAnswer{NextToken: next, SecurityPolicyNames: names}, nil
}
