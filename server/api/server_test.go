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

// server makes a server from the members of a request.
func (w *world) server(t testing.TB, members string) string {
	t.Helper()
	a := w.call(t, "CreateServer", "{"+members+"}")
	if a.Status != 200 {
		t.Fatalf("%s: %s", members, a.Body)
	}
	return decode[struct{ ServerId string }]([]byte(a.Body)).ServerId
}

// Members that go together.
const (
	gateway   = `"IdentityProviderType":"API_GATEWAY","IdentityProviderDetails":{"Url":"https://x.example/prod"}`
	lambda    = `"IdentityProviderType":"AWS_LAMBDA","IdentityProviderDetails":{"Function":"arn:aws:lambda:eu-central-1:123456789012:function:f"}`
	directory = `"IdentityProviderType":"AWS_DIRECTORY_SERVICE","IdentityProviderDetails":{"DirectoryId":"d-0123456789"}`
	acm       = `"Certificate":"arn:aws:acm:eu-central-1:123456789012:certificate/c"`
	vpc       = `"EndpointType":"VPC"`
)

// Everything that a server can be.
func TestServersThatCanBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, members := range []string{
		``,
		`"Domain":"EFS"`,
		gateway, lambda, directory,
		`"Protocols":["FTP"],` + vpc + `,` + gateway,
		`"Protocols":["FTPS"],` + vpc + `,` + lambda + `,` + acm,
		`"Protocols":["FTPS","SFTP","FTP"],` + vpc + `,` + directory + `,` + acm,
		vpc + `,"EndpointDetails":{"VpcId":"vpc-1","SubnetIds":["subnet-1","subnet-2"],"SecurityGroupIds":["sg-01234567"]}`,
		`"EndpointType":"VPC_ENDPOINT","EndpointDetails":{"VpcEndpointId":"vpce-0123456789abcdef0"}`,
		`"IpAddressType":"DUALSTACK"`,
		`"IdentityProviderType":"API_GATEWAY","IdentityProviderDetails":{"Url":"http://localhost:1","InvocationRole":"` + role + `","SftpAuthenticationMethods":"PUBLIC_KEY_AND_PASSWORD"}`,
		`"ProtocolDetails":{"SftpPorts":[{"SftpPort":22},{"SftpPort":2000,"CommunicationMode":"CLIENT_TALK_FIRST"},{"SftpPort":65535}]}`,
		`"ProtocolDetails":{"ProxyConfig":{"SftpMode":"PROXY_PROTOCOL_V2_ENFORCED"},"PassiveIp":"0.0.0.0"}`,
		acm, // it waits for FTPS
	} {
		w.server(t, members)
	}
}

// What no server can be, and what this service does not do, is refused on a new server and on one that is there, and
// nothing is left behind.
func TestServerRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	before := w.describe(t, id)
	for _, c := range []struct{ operation, members, word string }{
		{"", `"Protocols":["AS2"]`, "AS2 is not supported yet"},
		{"", `"ProtocolDetails":{"As2Transports":["HTTP"]}`, "As2Transports"},
		{"", `"Protocols":["SFTP","SFTP"]`, "twice: SFTP, SFTP"},
		{"CreateServer", `"Protocols":["FTPS"],` + vpc + `,` + gateway, "Certificate must be set if Protocols includes FTPS"},
		{"", `"Protocols":["SFTP","FTPS"],` + acm + `,` + gateway, "EndpointType must be VPC if Protocols includes FTP or FTPS, not PUBLIC"},
		{"CreateServer", `"Protocols":["FTP"],` + vpc, "not SERVICE_MANAGED"},
		{"", `"IdentityProviderDetails":{"Url":"https://x"}`, "Must specify IdentityProviderType with IdentityProviderDetails"},
		{"", `"IdentityProviderType":"API_GATEWAY"`, "IdentityProviderDetails.Url must be set if IdentityProviderType is API_GATEWAY"},
		{"", `"IdentityProviderType":"API_GATEWAY","IdentityProviderDetails":{"Url":"x.example"}`, "absolute"},
		{"", `"IdentityProviderType":"API_GATEWAY","IdentityProviderDetails":{"Url":"ftp://x.example"}`, "absolute"},
		{"", `"IdentityProviderType":"AWS_LAMBDA"`, "Function must be set"},
		{"", `"IdentityProviderType":"AWS_DIRECTORY_SERVICE","IdentityProviderDetails":{}`, "DirectoryId must be set"},
		{"", strings.Replace(lambda, "{", `{"Url":"https://x.example",`, 1), "Url is unsupported for IdentityProviderType: AWS_LAMBDA"},
		{"", strings.Replace(lambda, "{", `{"InvocationRole":"`+role+`",`, 1), "InvocationRole is unsupported"},
		{"", strings.Replace(gateway, "{", `{"DirectoryId":"d-0123456789",`, 1), "DirectoryId is unsupported"},
		{"", strings.Replace(directory, "{", `{"Function":"arn:aws:lambda:x",`, 1), "Function is unsupported"},
		{"", strings.Replace(directory, "{", `{"SftpAuthenticationMethods":"PASSWORD",`, 1), "SftpAuthenticationMethods can be set only if IdentityProviderType is"},
		{"CreateServer", `"Protocols":["FTP"],` + vpc + `,` + strings.Replace(gateway, "{", `{"SftpAuthenticationMethods":"PASSWORD",`, 1), "SftpAuthenticationMethods can be set only if Protocols includes SFTP"},
		{"", `"EndpointDetails":{"VpcId":"vpc-1"}`, "EndpointDetails.VpcId is unsupported for EndpointType: PUBLIC"},
		{"CreateServer", `"EndpointDetails":{"AddressAllocationIds":["eipalloc-1"]}`, "AddressAllocationIds cannot be set in CreateServer"},
		{"CreateServer", vpc + `,"EndpointDetails":{"AddressAllocationIds":["eipalloc-1"]}`, "AddressAllocationIds cannot be set in CreateServer"},
		{"UpdateServer", `"EndpointDetails":{"AddressAllocationIds":["eipalloc-1"]}`, "EndpointDetails.AddressAllocationIds is unsupported"},
		{"", `"EndpointDetails":{"SubnetIds":["subnet-1"]}`, "EndpointDetails.SubnetIds"},
		{"", `"EndpointDetails":{"SecurityGroupIds":["sg-01234567"]}`, "EndpointDetails.SecurityGroupIds"},
		{"", `"EndpointDetails":{"VpcEndpointId":"vpce-0123456789abcdef0"}`, "VPC Endpoint ID unsupported for EndpointType: PUBLIC"},
		{"CreateServer", vpc + `,"EndpointDetails":{"VpcEndpointId":"vpce-0123456789abcdef0"}`, "VPC Endpoint ID unsupported for EndpointType: VPC"},
		{"CreateServer", `"EndpointType":"VPC_ENDPOINT"`, "VpcEndpointId must be set"},
		{"CreateServer", vpc + `,"ProtocolDetails":{"SftpPorts":[{"SftpPort":2222}]}`, "SftpPorts can be set only if EndpointType is PUBLIC, not VPC"},
		{"UpdateServer", vpc, "Server must be OFFLINE to change EndpointType"},
		{"UpdateServer", `"IpAddressType":"DUALSTACK"`, "Server must be OFFLINE to change IpAddressType"},
		{"", `"ProtocolDetails":{"SftpPorts":[{"SftpPort":1999}]}`, "SftpPort must be 22, or 2000 to 65535"},
		{"", `"ProtocolDetails":{"SftpPorts":[{"SftpPort":22},{"SftpPort":22}]}`, "twice"},
		{"", `"ProtocolDetails":{"PassiveIp":"::1"}`, "PassiveIp"},
		{"", `"ProtocolDetails":{"PassiveIp":"300.0.0.1"}`, "PassiveIp"},
		{"", `"SecurityPolicyName":"TransferSecurityPolicy-1999-01"`, "SecurityPolicyName: there is no such policy"},
		{"", `"StructuredLogDestinations":["arn:aws:logs:eu-central-1:123456789012:log-group:x"]`, ":*"},
		{"", `"StructuredLogDestinations":["arn:aws:s3:::a-bucket-of-mine:*"]`, "log groups"},
		{"", `"HostKey":"bad"`, "HostKey: "},
		{"CreateServer", `"Tags":[{"Key":"aws:x","Value":""}]`, "reserved"},
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
		`"IdentityProviderType":"SERVICE_MANAGED","EndpointType":"PUBLIC","IpAddressType":"IPV4","ProtocolDetails":{"SftpPorts":[],"ProxyConfig":{}}}`)
	if a.Status != 200 {
		t.Errorf("got %+v", a)
	}
	if after := w.describe(t, id); !reflect.DeepEqual(after, before) {
		t.Errorf("an update with what was so anyway changed %s to %s", pretty(before), pretty(after))
	}
}

// The members that no SDK knows yet come back as they were sent.
func TestNewestMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const details = `"SftpPorts":[{"SftpPort":2222,"CommunicationMode":"CLIENT_TALK_FIRST"},{"SftpPort":22}],"ProxyConfig":{"SftpMode":"PROXY_PROTOCOL_V2_ENFORCED"}`
	id := w.server(t, `"ProtocolDetails":{`+details+`}`)
	update := func(members string) string {
		t.Helper()
		if a := w.call(t, "UpdateServer", `{"ServerId":"`+id+`",`+members+`}`); a.Status != 200 {
			t.Fatalf("%s: %s", members, a.Body)
		}
		return w.call(t, "DescribeServer", `{"ServerId":"`+id+`"}`).Body
	}
	if got := update(`"ProtocolDetails":{"SetStatOption":"ENABLE_NO_OP"}`); !strings.Contains(got, details) {
		t.Errorf("got %s", got)
	}
	got := update(`"ProtocolDetails":{"SftpPorts":[],"ProxyConfig":{"SftpMode":"NONE"}}`)
	if strings.Contains(got, "SftpPorts") || !strings.Contains(got, `"ProxyConfig":{"SftpMode":"NONE"}`) {
		t.Errorf("got %s", got)
	}
}

// An endpoint in a VPC changes by the order of steps that the service asks for, and Terraform makes.
func TestEndpointChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	update := func(members string) answer { return w.call(t, "UpdateServer", `{"ServerId":"`+id+`",`+members+`}`) }
	fine := func(members string) types.EndpointDetails {
		t.Helper()
		if a := update(members); a.Status != 200 {
			t.Errorf("%s: %s", members, a.Body)
		}
		if d := w.describe(t, id).EndpointDetails; d != nil {
			return *d
		}
		return types.EndpointDetails{}
	}
	refused := func(members, word string) {
		t.Helper()
		update(members).refused(t, 400, "InvalidRequestException", word)
	}
	const inVPC = `"EndpointDetails":{"VpcId":"vpc-1","SubnetIds":["subnet-1"],"SecurityGroupIds":["sg-01234567"]}`
	w.state(t, id, server.Online)
	refused(vpc+`,`+inVPC, "Server must be OFFLINE to change EndpointType")
	w.state(t, id, server.Offline)
	refused(vpc+`,"EndpointDetails":{"VpcId":"vpc-1","AddressAllocationIds":["eipalloc-1"]}`, "Cannot specify AddressAllocationIds when updating server to EndpointType: VPC")
	if d := fine(vpc + `,` + inVPC); *d.VpcId != "vpc-1" || d.SubnetIds[0] != "subnet-1" || d.SecurityGroupIds[0] != "sg-01234567" {
		t.Errorf("got %s", pretty(d))
	}
	w.state(t, id, server.Online)
	refused(`"EndpointDetails":{"AddressAllocationIds":["eipalloc-1"]}`, "Server must be OFFLINE to change AddressAllocationIds")
	refused(`"EndpointDetails":{"SecurityGroupIds":["sg-76543210"]}`, "Changing Security Group is not supported")
	fine(`"EndpointDetails":{"AddressAllocationIds":[],"SecurityGroupIds":["sg-01234567"]}`) // both as they are
	if d := fine(`"EndpointDetails":{"SubnetIds":["subnet-2","subnet-1"]}`); len(d.SubnetIds) != 2 || d.SubnetIds[0] != "subnet-2" {
		t.Errorf("got %s", pretty(d))
	}
	w.state(t, id, server.Offline)
	refused(`"EndpointDetails":{"AddressAllocationIds":["a","b","c","d"]}`, "more than 3")
	refused(`"EndpointDetails":{"AddressAllocationIds":["a","a"]}`, "none twice")
	refused(`"IpAddressType":"DUALSTACK","EndpointDetails":{"AddressAllocationIds":["a"]}`, "DUALSTACK")
	refused(`"Protocols":["FTP"],`+gateway+`,"EndpointDetails":{"AddressAllocationIds":["a"]}`, "cannot be associated if Protocols includes FTP")
	if d := fine(`"EndpointDetails":{"AddressAllocationIds":["a","b"]}`); len(d.AddressAllocationIds) != 2 || *d.VpcId != "vpc-1" || len(d.SubnetIds) != 2 {
		t.Errorf("got %s", pretty(d))
	}
	refused(`"IpAddressType":"DUALSTACK"`, "AddressAllocationIds cannot be set if IpAddressType is DUALSTACK")
	refused(`"EndpointDetails":{"AddressAllocationIds":[],"SubnetIds":["subnet-3"]}`, "AddressAllocationIds must be removed before SubnetIds can be modified")
	w.state(t, id, server.Online)
	fine(`"EndpointDetails":{"AddressAllocationIds":["b","a"],"SubnetIds":["subnet-1","subnet-2"]}`) // the same in another order
	w.state(t, id, server.Offline)
	if d := fine(`"EndpointDetails":{"AddressAllocationIds":[]}`); d.AddressAllocationIds != nil {
		t.Errorf("got %s", pretty(d))
	}
	fine(`"EndpointDetails":{"SubnetIds":["subnet-3"]}`)
	if d := fine(`"EndpointType":"PUBLIC","IpAddressType":"DUALSTACK"`); d.VpcId != nil {
		t.Errorf("what the old endpoint had is left: %s", pretty(d))
	}
}

// A host key of UpdateServer is one more, once.
func TestUpdateServerAddsAHostKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	update := func(members string) answer { return w.call(t, "UpdateServer", `{"ServerId":"`+id+`",`+members+`}`) }
	update(`"HostKey":"good","Protocols":["FTP"]`).refused(t, 400, "InvalidRequestException")
	if n := w.keyCount(server.ID(id)); n != 1 {
		t.Errorf("a refused update left %d keys", n)
	}
	for range 2 { // the second time as if the first answer had been lost
		if a := update(`"HostKey":"good","LoggingRole":"` + role + `"`); a.Status != 200 {
			t.Errorf("got %s", a.Body)
		}
		if n := w.keyCount(server.ID(id)); n != 2 {
			t.Errorf("%d keys, want 2", n)
		}
	}
	if s := w.describe(t, id); *s.LoggingRole != role {
		t.Errorf("got %s", pretty(s))
	}
}

// The details of a provider go with its type, and change member by member.
func TestProviderChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	w.state(t, id, server.Online)
	update := func(members string) *types.IdentityProviderDetails {
		t.Helper()
		if a := w.call(t, "UpdateServer", `{"ServerId":"`+id+`",`+members+`}`); a.Status != 200 {
			t.Errorf("%s: %s", members, a.Body)
		}
		return w.describe(t, id).IdentityProviderDetails
	}
	update(gateway)
	d := update(`"IdentityProviderDetails":{"SftpAuthenticationMethods":"PASSWORD"}`)
	if *d.Url != "https://x.example/prod" || d.SftpAuthenticationMethods != types.SftpAuthenticationMethodsPassword {
		t.Errorf("got %s", pretty(d))
	}
	if d = update(lambda); d.Url != nil || d.SftpAuthenticationMethods != "" || d.Function == nil {
		t.Errorf("got %s", pretty(d))
	}
	if d = update(directory); d.Function != nil || *d.DirectoryId != "d-0123456789" {
		t.Errorf("got %s", pretty(d))
	}
	if d = update(`"IdentityProviderType":"SERVICE_MANAGED"`); d != nil {
		t.Errorf("got %s", pretty(d))
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
