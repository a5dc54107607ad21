package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server"
)

// newServer makes a bare server and returns its id.
func (w *world) newServer(t testing.TB) string {
	t.Helper()
	return *ok[*transfer.CreateServerOutput](t)(w.sdk.CreateServer(t.Context(), &transfer.CreateServerInput{})).ServerId
}

// describe reads a server as a client sees it.
func (w *world) describe(t testing.TB, id string) types.DescribedServer {
	t.Helper()
	return *ok[*transfer.DescribeServerOutput](t)(w.sdk.DescribeServer(t.Context(), &transfer.DescribeServerInput{ServerId: &id})).Server
}

func (w *world) state(t testing.TB, id string, to server.State) {
	t.Helper()
	if err := w.UpdateServer(t.Context(), server.ID(id), func(s *server.Server) error { s.State = to; return nil }); err != nil {
		t.Fatal(err)
	}
}

func TestBareServerHasTheServicesDefaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	got := w.describe(t, id)
	want := types.DescribedServer{
		Arn: aws.String("arn:aws:transfer:eu-central-1:123456789012:server/" + id), ServerId: &id,
		Domain: types.DomainS3, EndpointType: types.EndpointTypePublic, IdentityProviderType: types.IdentityProviderTypeServiceManaged,
		Protocols: []types.Protocol{types.ProtocolSftp}, State: types.StateStarting, SecurityPolicyName: aws.String("TransferSecurityPolicy-2024-01"),
		HostKeyFingerprint: aws.String("SHA256:new="), UserCount: aws.Int32(0), IpAddressType: types.IpAddressTypeIpv4,
		ProtocolDetails: &types.ProtocolDetails{
			PassiveIp: aws.String("AUTO"), TlsSessionResumptionMode: types.TlsSessionResumptionModeEnforced, SetStatOption: types.SetStatOptionDefault,
		},
		S3StorageOptions: &types.S3StorageOptions{DirectoryListingOptimization: types.DirectoryListingOptimizationDisabled},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", pretty(got), pretty(want))
	}
}

func pretty(v any) string {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestServerKeepsWhatItWasGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flow := w.newWorkflow(t)
	detail := []types.WorkflowDetail{{WorkflowId: &flow, ExecutionRole: aws.String(role)}}
	logs := "arn:aws:logs:eu-central-1:123456789012:log-group:x:*"
	out := ok[*transfer.CreateServerOutput](t)(w.sdk.CreateServer(t.Context(), &transfer.CreateServerInput{
		Domain: types.DomainS3, EndpointType: types.EndpointTypePublic, EndpointDetails: &types.EndpointDetails{},
		HostKey: aws.String("good"), LoggingRole: aws.String(role), Protocols: []types.Protocol{types.ProtocolSftp},
		PreAuthenticationLoginBanner: aws.String("before\r\n"), PostAuthenticationLoginBanner: aws.String("after"),
		ProtocolDetails:    &types.ProtocolDetails{SetStatOption: types.SetStatOptionEnableNoOp, PassiveIp: aws.String("0.0.0.0")},
		SecurityPolicyName: aws.String("TransferSecurityPolicy-2022-03"), StructuredLogDestinations: []string{logs},
		S3StorageOptions: &types.S3StorageOptions{DirectoryListingOptimization: types.DirectoryListingOptimizationEnabled},
		Tags:             []types.Tag{{Key: aws.String("transferd:sftp-address"), Value: aws.String("127.0.0.1:0")}},
		WorkflowDetails:  &types.WorkflowDetails{OnUpload: detail, OnPartialUpload: detail},
	}))
	id := *out.ServerId
	s := w.describe(t, id)
	if *s.HostKeyFingerprint != "SHA256:brought=" || w.keyCount(server.ID(id)) != 1 {
		t.Errorf("fingerprint %s of %d keys", *s.HostKeyFingerprint, w.keyCount(server.ID(id)))
	}
	if *s.LoggingRole != role || *s.PreAuthenticationLoginBanner != "before\r\n" || *s.PostAuthenticationLoginBanner != "after" ||
		*s.SecurityPolicyName != "TransferSecurityPolicy-2022-03" || s.StructuredLogDestinations[0] != logs ||
		s.S3StorageOptions.DirectoryListingOptimization != types.DirectoryListingOptimizationEnabled || len(s.Tags) != 1 {
		t.Errorf("got %s", pretty(s))
	}
	if d := s.ProtocolDetails; d.SetStatOption != types.SetStatOptionEnableNoOp || *d.PassiveIp != "0.0.0.0" || d.TlsSessionResumptionMode != types.TlsSessionResumptionModeEnforced {
		t.Errorf("protocol details %s", pretty(d))
	}
	if !reflect.DeepEqual(s.WorkflowDetails.OnUpload, detail) || !reflect.DeepEqual(s.WorkflowDetails.OnPartialUpload, detail) {
		t.Errorf("workflows %s", pretty(s.WorkflowDetails))
	}

	// Nothing sent changes nothing.
	ok[*transfer.UpdateServerOutput](t)(w.sdk.UpdateServer(t.Context(), &transfer.UpdateServerInput{ServerId: &id}))
	if again := w.describe(t, id); !reflect.DeepEqual(again, s) {
		t.Errorf("an empty update changed %s to %s", pretty(s), pretty(again))
	}
	// One of two details, and one of two workflows.
	ok[*transfer.UpdateServerOutput](t)(w.sdk.UpdateServer(t.Context(), &transfer.UpdateServerInput{
		ServerId: &id, ProtocolDetails: &types.ProtocolDetails{PassiveIp: aws.String("192.0.2.1")},
		WorkflowDetails: &types.WorkflowDetails{OnUpload: []types.WorkflowDetail{}},
	}))
	u := w.describe(t, id)
	if u.ProtocolDetails.SetStatOption != types.SetStatOptionEnableNoOp || *u.ProtocolDetails.PassiveIp != "192.0.2.1" {
		t.Errorf("protocol details %s", pretty(u.ProtocolDetails))
	}
	if len(u.WorkflowDetails.OnUpload) != 0 || len(u.WorkflowDetails.OnPartialUpload) != 1 {
		t.Errorf("workflows %s", pretty(u.WorkflowDetails))
	}
	// Everything that can be cleared.
	ok[*transfer.UpdateServerOutput](t)(w.sdk.UpdateServer(t.Context(), &transfer.UpdateServerInput{
		ServerId: &id, LoggingRole: aws.String(""), PreAuthenticationLoginBanner: aws.String(""), PostAuthenticationLoginBanner: aws.String(""),
		StructuredLogDestinations: []string{},
		WorkflowDetails:           &types.WorkflowDetails{OnUpload: []types.WorkflowDetail{}, OnPartialUpload: []types.WorkflowDetail{}},
	}))
	c := w.describe(t, id)
	if c.LoggingRole != nil || c.PreAuthenticationLoginBanner != nil || c.PostAuthenticationLoginBanner != nil || c.StructuredLogDestinations != nil || c.WorkflowDetails != nil {
		t.Errorf("not cleared: %s", pretty(c))
	}
}

// What this service cannot do yet, and what no server can be, is refused by name, on a new server and on one that is
// there, and nothing is left behind.
func TestServerRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	before := w.describe(t, id)
	for _, c := range []struct{ operation, members, word string }{
		{"", `"Protocols":["SFTP","FTPS"]`, "FTPS is not supported yet"},
		{"", `"Protocols":["FTP"]`, "FTP is not supported yet"},
		{"", `"Protocols":["AS2"]`, "AS2 is not supported yet"},
		{"", `"Protocols":["SFTP","SFTP"]`, "twice"},
		{"", `"IdentityProviderType":"API_GATEWAY","IdentityProviderDetails":{"Url":"https://x"}`, "IdentityProviderType API_GATEWAY is not supported yet"},
		{"", `"IdentityProviderType":"AWS_LAMBDA"`, "IdentityProviderType AWS_LAMBDA is not supported yet"},
		{"", `"IdentityProviderDetails":{"Url":"https://x"}`, "Must specify IdentityProviderType with IdentityProviderDetails"},
		{"", `"EndpointType":"VPC"`, "EndpointType VPC is not supported yet"},
		{"", `"EndpointDetails":{"VpcId":"vpc-1"}`, "EndpointDetails.VpcId"},
		{"", `"EndpointDetails":{"AddressAllocationIds":["eipalloc-1"]}`, "EndpointDetails.AddressAllocationIds"},
		{"", `"EndpointDetails":{"SubnetIds":["subnet-1"]}`, "EndpointDetails.SubnetIds"},
		{"", `"EndpointDetails":{"SecurityGroupIds":["sg-01234567"]}`, "EndpointDetails.SecurityGroupIds"},
		{"", `"EndpointDetails":{"VpcEndpointId":"vpce-0123456789abcdef0"}`, "EndpointDetails.VpcEndpointId"},
		{"", `"IpAddressType":"DUALSTACK"`, "IpAddressType DUALSTACK is not supported yet"},
		{"", `"Certificate":"arn:aws:acm:x"`, "Certificate"},
		{"", `"ProtocolDetails":{"As2Transports":["HTTP"]}`, "As2Transports"},
		{"", `"ProtocolDetails":{"SftpPorts":[{"SftpPort":2222}]}`, "SftpPorts"},
		{"", `"ProtocolDetails":{"ProxyConfig":{"SftpMode":"PROXY_PROTOCOL_V2_ENFORCED"}}`, "ProxyConfig.SftpMode PROXY_PROTOCOL_V2_ENFORCED"},
		{"", `"ProtocolDetails":{"PassiveIp":"::1"}`, "PassiveIp"},
		{"", `"ProtocolDetails":{"PassiveIp":"300.0.0.1"}`, "PassiveIp"},
		{"", `"SecurityPolicyName":"TransferSecurityPolicy-1999-01"`, "SecurityPolicyName: there is no such policy"},
		{"CreateServer", `"Domain":"EFS"`, "Domain EFS is not supported yet"},
		{"CreateServer", `"HostKey":"bad"`, "HostKey: not a private key"},
		{"CreateServer", `"Tags":[{"Key":"aws:x","Value":""}]`, "reserved"},
		{"UpdateServer", `"HostKey":"good"`, "HostKey in UpdateServer is not supported yet"},
	} {
		for _, operation := range []string{"CreateServer", "UpdateServer"} {
			if c.operation != "" && c.operation != operation {
				continue
			}
			body := "{" + c.members + "}"
			if operation == "UpdateServer" {
				body = `{"ServerId":"` + id + `",` + c.members + "}"
			}
			w.call(t, operation, body).refused(t, 400, "InvalidRequestException", c.word)
		}
	}
	missing := `"WorkflowDetails":{"OnUpload":[{"WorkflowId":"w-0123456789abcdefz","ExecutionRole":"` + role + `"}]}`
	a := w.call(t, "CreateServer", "{"+missing+"}")
	a.refused(t, 400, "ResourceNotFoundException", "Unknown workflow w-0123456789abcdefz")
	if !strings.Contains(a.Body, `"Resource":"w-0123456789abcdefz","ResourceType":"Workflow"`) {
		t.Errorf("body %s", a.Body)
	}
	w.call(t, "UpdateServer", `{"ServerId":"`+id+`",`+missing+"}").refused(t, 400, "ResourceNotFoundException")
	if after := w.describe(t, id); !reflect.DeepEqual(after, before) {
		t.Errorf("refused updates changed %s to %s", pretty(before), pretty(after))
	}
	if n, _ := w.count(); n != 1 {
		t.Errorf("refused creations left %d servers", n-1)
	}
	// The values that mean what is so anyway are no reason to refuse.
	a = w.call(t, "UpdateServer", `{"ServerId":"`+id+`","Certificate":"","HostKey":"","EndpointDetails":{"SubnetIds":[]},"IdentityProviderDetails":{},`+
		`"IdentityProviderType":"SERVICE_MANAGED","IpAddressType":"IPV4","ProtocolDetails":{"SftpPorts":[],"ProxyConfig":{"SftpMode":"NONE"}}}`)
	if a.Status != 200 {
		t.Errorf("got %+v", a)
	}
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	start := func() error {
		_, err := w.sdk.StartServer(t.Context(), &transfer.StartServerInput{ServerId: &id})
		return err
	}
	stop := func() error {
		_, err := w.sdk.StopServer(t.Context(), &transfer.StopServerInput{ServerId: &id})
		return err
	}
	for _, c := range []struct {
		from          server.State
		started, then server.State // after StartServer, after StopServer
	}{
		{server.Offline, server.Starting, server.Offline},
		{server.StartFailed, server.Starting, server.Stopping},
		{server.StopFailed, server.Starting, server.Stopping},
		{server.Online, server.Online, server.Stopping},
		{server.Starting, server.Starting, server.Stopping},
		{server.Stopping, server.Stopping, server.Stopping},
	} {
		w.state(t, id, c.from)
		err := start()
		if c.from == server.Stopping {
			refusal(t, err, "InvalidRequestException", "STOPPING")
		} else if err != nil {
			t.Fatal(err)
		}
		if got := w.describe(t, id).State; got != types.State(c.started) {
			t.Errorf("StartServer: %s became %s, want %s", c.from, got, c.started)
		}
		w.state(t, id, c.from)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if got := w.describe(t, id).State; got != types.State(c.then) {
			t.Errorf("StopServer: %s became %s, want %s", c.from, got, c.then)
		}
	}
}

func TestUnknownServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, operation := range []string{"DescribeServer", "UpdateServer", "DeleteServer", "StartServer", "StopServer", "ListUsers"} {
		a := w.call(t, operation, `{"ServerId":"s-0123456789abcdef0"}`)
		a.refused(t, 400, "ResourceNotFoundException", "Unknown server")
		if !strings.Contains(a.Body, `"ResourceType":"Server"`) {
			t.Errorf("%s: %s", operation, a.Body)
		}
	}
	w.call(t, "CreateUser", `{"ServerId":"s-0123456789abcdef0","UserName":"anna","Role":"`+role+`"}`).refused(t, 400, "ResourceNotFoundException", "Unknown server")

	id := w.newServer(t)
	if _, err := w.sdk.DeleteServer(t.Context(), &transfer.DeleteServerInput{ServerId: &id}); err != nil {
		t.Fatal(err)
	}
	_, err := w.sdk.DescribeServer(t.Context(), &transfer.DescribeServerInput{ServerId: &id})
	refusal(t, err, "ResourceNotFoundException", id)
}

func TestListServersPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := map[string]bool{}
	for range 7 {
		want[w.newServer(t)] = true
	}
	sizes := []int{}
	pages := transfer.NewListServersPaginator(w.sdk, &transfer.ListServersInput{MaxResults: aws.Int32(3)})
	for pages.HasMorePages() {
		p := ok[*transfer.ListServersOutput](t)(pages.NextPage(t.Context()))
		sizes = append(sizes, len(p.Servers))
		for _, s := range p.Servers {
			if !want[*s.ServerId] || s.State != types.StateStarting || s.Domain != types.DomainS3 || *s.UserCount != 0 {
				t.Errorf("got %s", pretty(s))
			}
			delete(want, *s.ServerId)
		}
	}
	if len(want) > 0 || !reflect.DeepEqual(sizes, []int{3, 3, 1}) {
		t.Errorf("pages of %v, missing %v", sizes, want)
	}
	// A page that is just full has no next one.
	if p := ok[*transfer.ListServersOutput](t)(w.sdk.ListServers(t.Context(), &transfer.ListServersInput{MaxResults: aws.Int32(7)})); p.NextToken != nil {
		t.Errorf("token %s after the last page", *p.NextToken)
	}
}

// A token is good for the list it came from, and nobody makes one up.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id, other := w.newServer(t), w.newServer(t)
	for _, name := range []string{"anna", "bert"} {
		w.newUser(t, id, name)
	}
	token := *ok[*transfer.ListUsersOutput](t)(w.sdk.ListUsers(t.Context(), &transfer.ListUsersInput{ServerId: &id, MaxResults: aws.Int32(1)})).NextToken
	next := ok[*transfer.ListUsersOutput](t)(w.sdk.ListUsers(t.Context(), &transfer.ListUsersInput{ServerId: &id, NextToken: &token}))
	if len(next.Users) != 1 || *next.Users[0].UserName != "bert" || next.NextToken != nil {
		t.Errorf("second page %s", pretty(next))
	}
	for _, forged := range []string{"x", "", token[:len(token)-1], token + "A", token[1:] + token[:1], "!" + token[1:]} {
		_, err := w.sdk.ListUsers(t.Context(), &transfer.ListUsersInput{ServerId: &id, NextToken: &forged})
		if forged == "" {
			refusal(t, err, "ValidationException", "nextToken")
			continue
		}
		refusal(t, err, "InvalidNextTokenException")
	}
	_, err := w.sdk.ListUsers(t.Context(), &transfer.ListUsersInput{ServerId: &other, NextToken: &token})
	refusal(t, err, "InvalidNextTokenException")
	_, err = w.sdk.ListServers(t.Context(), &transfer.ListServersInput{NextToken: &token})
	refusal(t, err, "InvalidNextTokenException")
}
