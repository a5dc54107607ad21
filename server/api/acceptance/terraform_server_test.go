package acceptance_test

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// serverBlock is what a configuration says of an aws_transfer_server: the resource's arguments.
type serverBlock struct {
	Certificate               string
	Domain                    string
	EndpointType              string
	Endpoint                  endpointBlock
	HostKey                   string // never read back
	IdentityProvider          string
	Provider                  types.IdentityProviderDetails
	LoggingRole               string
	PostBanner, PreBanner     string
	Protocol                  types.ProtocolDetails // computed: what is not said is whatever it is
	Protocols                 []string              // computed
	S3Listing                 string                // computed
	Policy                    string
	StructuredLogDestinations []string
	OnUpload, OnPartialUpload string // workflow ids; the role is always the same here
	Tags                      map[string]string
}

type endpointBlock struct {
	Addresses, SecurityGroups, Subnets []string
	Vpc                                string
}

// bareServer is a block without arguments: the provider's own defaults.
func bareServer() serverBlock {
	return serverBlock{Domain: "S3", EndpointType: "PUBLIC", IdentityProvider: "SERVICE_MANAGED", Policy: "TransferSecurityPolicy-2018-11"}
}

// createServer makes a server as the provider does: create, wait, and elastic addresses afterwards, offline.
func (tf terraform) createServer(b serverBlock) string {
	tf.t.Helper()
	in := &transfer.CreateServerInput{
		Certificate: unlessEmpty(b.Certificate), Domain: types.Domain(b.Domain), EndpointType: types.EndpointType(b.EndpointType),
		HostKey: unlessEmpty(b.HostKey), IdentityProviderType: types.IdentityProviderType(b.IdentityProvider),
		LoggingRole: unlessEmpty(b.LoggingRole), PostAuthenticationLoginBanner: unlessEmpty(b.PostBanner),
		PreAuthenticationLoginBanner: unlessEmpty(b.PreBanner), SecurityPolicyName: &b.Policy,
		Protocols: protocols(b.Protocols), StructuredLogDestinations: b.StructuredLogDestinations, Tags: tagList(b.Tags),
	}
	if b.Endpoint.Vpc != "" {
		in.EndpointDetails = &types.EndpointDetails{VpcId: &b.Endpoint.Vpc, SubnetIds: b.Endpoint.Subnets, SecurityGroupIds: b.Endpoint.SecurityGroups}
	}
	if b.Provider != (types.IdentityProviderDetails{}) {
		in.IdentityProviderDetails = &b.Provider
	}
	if !reflect.DeepEqual(b.Protocol, types.ProtocolDetails{}) {
		in.ProtocolDetails = &b.Protocol
	}
	if b.S3Listing != "" {
		in.S3StorageOptions = &types.S3StorageOptions{DirectoryListingOptimization: types.DirectoryListingOptimization(b.S3Listing)}
	}
	if b.OnUpload+b.OnPartialUpload != "" {
		in.WorkflowDetails = attachments(b)
	}
	id := *must[*transfer.CreateServerOutput](tf.t)(tf.sdk.CreateServer(tf.t.Context(), in)).ServerId
	waitState(tf.t, tf.sdk, id, types.StateOnline)
	if len(b.Endpoint.Addresses) > 0 {
		tf.offline(id, func() { tf.setAddresses(id, b.Endpoint.Addresses) })
	}
	return id
}

// updateServer brings a server from one block to another with the requests that the provider makes: what has changed,
// the log destinations always, addresses apart, and offline what has to be.
func (tf terraform) updateServer(id string, from, to serverBlock) {
	tf.t.Helper()
	in := &transfer.UpdateServerInput{ServerId: &id, StructuredLogDestinations: append([]string{}, to.StructuredLogDestinations...)}
	in.Certificate = changed(from.Certificate, to.Certificate)
	in.LoggingRole = changed(from.LoggingRole, to.LoggingRole)
	in.PostAuthenticationLoginBanner = changed(from.PostBanner, to.PostBanner)
	in.PreAuthenticationLoginBanner = changed(from.PreBanner, to.PreBanner)
	in.SecurityPolicyName = changed(from.Policy, to.Policy)
	if from.HostKey != to.HostKey {
		in.HostKey = unlessEmpty(to.HostKey)
	}
	if from.Provider != to.Provider {
		in.IdentityProviderDetails = &to.Provider
	}
	if !reflect.DeepEqual(from.Protocol, to.Protocol) {
		in.ProtocolDetails = &to.Protocol
	}
	if !slices.Equal(from.Protocols, to.Protocols) {
		in.Protocols = protocols(to.Protocols)
	}
	if from.S3Listing != to.S3Listing {
		in.S3StorageOptions = &types.S3StorageOptions{DirectoryListingOptimization: types.DirectoryListingOptimization(to.S3Listing)}
	}
	if from.OnUpload != to.OnUpload || from.OnPartialUpload != to.OnPartialUpload {
		in.WorkflowDetails = attachments(to)
	}
	send := func() { must[*transfer.UpdateServerOutput](tf.t)(tf.sdk.UpdateServer(tf.t.Context(), in)) }
	if from.EndpointType == to.EndpointType && reflect.DeepEqual(from.Endpoint, to.Endpoint) {
		send()
		return
	}
	tf.moveEndpoint(id, in, from, to, send)
}

// moveEndpoint changes the endpoint of a server. Inside a VPC all of the details are sent but the security groups, which
// only EC2 can change; elastic addresses go before subnets can change and come back after.
func (tf terraform) moveEndpoint(id string, in *transfer.UpdateServerInput, from, to serverBlock, send func()) {
	tf.t.Helper()
	within := from.EndpointType == "VPC" && to.EndpointType == "VPC"
	if to.Endpoint.Vpc != "" {
		in.EndpointDetails = &types.EndpointDetails{VpcId: &to.Endpoint.Vpc, SubnetIds: to.Endpoint.Subnets, SecurityGroupIds: to.Endpoint.SecurityGroups}
	}
	if from.EndpointType != to.EndpointType {
		in.EndpointType = types.EndpointType(to.EndpointType)
	}
	later := to.Endpoint.Addresses
	if within {
		in.EndpointDetails.SecurityGroupIds = nil
		in.EndpointDetails.SubnetIds = append([]string{}, to.Endpoint.Subnets...)
		if len(from.Endpoint.Addresses) == 0 || slices.Equal(from.Endpoint.Subnets, to.Endpoint.Subnets) {
			in.EndpointDetails.AddressAllocationIds = append([]string{}, to.Endpoint.Addresses...)
			later = nil
		}
	}
	if within && slices.Equal(from.Endpoint.Addresses, to.Endpoint.Addresses) && len(from.Endpoint.Addresses) == 0 {
		send() // subnets alone: online
		return
	}
	tf.offline(id, func() {
		if within && later != nil {
			tf.setAddresses(id, []string{})
		}
		send()
		if len(later) > 0 {
			tf.setAddresses(id, later)
		}
	})
}

func (tf terraform) setAddresses(id string, addresses []string) {
	tf.t.Helper()
	must[*transfer.UpdateServerOutput](tf.t)(tf.sdk.UpdateServer(tf.t.Context(), &transfer.UpdateServerInput{
		ServerId: &id, EndpointDetails: &types.EndpointDetails{AddressAllocationIds: addresses},
	}))
}

// offline does something between StopServer and StartServer.
func (tf terraform) offline(id string, do func()) {
	tf.t.Helper()
	must[*transfer.StopServerOutput](tf.t)(tf.sdk.StopServer(tf.t.Context(), &transfer.StopServerInput{ServerId: &id}))
	waitState(tf.t, tf.sdk, id, types.StateOffline)
	do()
	must[*transfer.StartServerOutput](tf.t)(tf.sdk.StartServer(tf.t.Context(), &transfer.StartServerInput{ServerId: &id}))
	waitState(tf.t, tf.sdk, id, types.StateOnline)
}

// planIsClean reads a server as the provider's refresh does and compares it with the block: a difference would be a plan.
func (tf terraform) planIsClean(id string, want serverBlock) {
	tf.t.Helper()
	s := must[*transfer.DescribeServerOutput](tf.t)(tf.sdk.DescribeServer(tf.t.Context(), &transfer.DescribeServerInput{ServerId: &id})).Server
	got := serverBlock{
		Certificate: text(s.Certificate), Domain: string(s.Domain), EndpointType: string(s.EndpointType), HostKey: want.HostKey,
		IdentityProvider: string(s.IdentityProviderType), LoggingRole: text(s.LoggingRole), PostBanner: text(s.PostAuthenticationLoginBanner),
		PreBanner: text(s.PreAuthenticationLoginBanner), Policy: text(s.SecurityPolicyName),
		StructuredLogDestinations: s.StructuredLogDestinations, Tags: tagMap(s.Tags),
	}
	if e := s.EndpointDetails; e != nil {
		got.Endpoint = endpointBlock{Addresses: e.AddressAllocationIds, SecurityGroups: e.SecurityGroupIds, Subnets: e.SubnetIds, Vpc: text(e.VpcId)}
		if want.Endpoint.Vpc == "" {
			tf.t.Errorf("EndpointDetails %+v are an endpoint_details block that nobody wrote", *e)
		}
		if s.EndpointType == types.EndpointTypeVpc && len(e.SecurityGroupIds) == 0 && len(want.Endpoint.SecurityGroups) > 0 {
			tf.t.Error("without security groups in the answer the provider asks EC2 for them")
		}
	}
	if s.IdentityProviderDetails != nil {
		got.Provider = *s.IdentityProviderDetails
	}
	if d := s.WorkflowDetails; d != nil {
		got.OnUpload, got.OnPartialUpload = attached(tf.t, d.OnUpload), attached(tf.t, d.OnPartialUpload)
		if got.OnUpload+got.OnPartialUpload == "" {
			tf.t.Error("empty WorkflowDetails are a workflow_details block that nobody wrote")
		}
	}
	got.takeComputed(s, want)
	if text(s.HostKeyFingerprint) == "" || text(s.Arn) == "" || s.ProtocolDetails == nil {
		tf.t.Errorf("a computed attribute is missing: %+v", s)
	}
	if !reflect.DeepEqual(got, want.normal()) {
		tf.t.Errorf("the plan is not empty:\nread %+v\nwant %+v", got, want.normal())
	}
}

// takeComputed takes the attributes that a block need not say: those that it does not say are as it wants them.
func (b *serverBlock) takeComputed(s *types.DescribedServer, want serverBlock) {
	if len(want.Protocols) > 0 {
		for _, p := range s.Protocols {
			b.Protocols = append(b.Protocols, string(p))
		}
		slices.Sort(b.Protocols)
	}
	if want.S3Listing != "" && s.S3StorageOptions != nil {
		b.S3Listing = string(s.S3StorageOptions.DirectoryListingOptimization)
	}
	if s.ProtocolDetails == nil {
		return
	}
	if want.Protocol.PassiveIp != nil {
		b.Protocol.PassiveIp = s.ProtocolDetails.PassiveIp
	}
	if want.Protocol.SetStatOption != "" {
		b.Protocol.SetStatOption = s.ProtocolDetails.SetStatOption
	}
	if want.Protocol.TlsSessionResumptionMode != "" {
		b.Protocol.TlsSessionResumptionMode = s.ProtocolDetails.TlsSessionResumptionMode
	}
}

// normal is a block as it is read: sets are sorted, and an empty one is none.
func (b serverBlock) normal() serverBlock {
	b.Protocols = slices.Sorted(slices.Values(b.Protocols))
	if len(b.Endpoint.Addresses) == 0 {
		b.Endpoint.Addresses = nil
	}
	if b.Tags == nil {
		b.Tags = map[string]string{}
	}
	return b
}

func attachments(b serverBlock) *types.WorkflowDetails {
	one := func(id string) []types.WorkflowDetail {
		if id == "" {
			return []types.WorkflowDetail{}
		}
		return []types.WorkflowDetail{{WorkflowId: &id, ExecutionRole: new(role)}}
	}
	return &types.WorkflowDetails{OnUpload: one(b.OnUpload), OnPartialUpload: one(b.OnPartialUpload)}
}

func attached(t testing.TB, list []types.WorkflowDetail) string {
	t.Helper()
	if len(list) == 0 {
		return ""
	}
	if text(list[0].ExecutionRole) != role {
		t.Errorf("role %s", text(list[0].ExecutionRole))
	}
	return text(list[0].WorkflowId)
}

func protocols(names []string) []types.Protocol {
	var list []types.Protocol
	for _, n := range names {
		list = append(list, types.Protocol(n))
	}
	return list
}

// TestTerraformServer walks an aws_transfer_server through a life with every argument that can change in place.
func TestTerraformServer(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	first, second := tf.newWorkflow(), tf.newWorkflow()
	vars := variables(t)
	block := bareServer()
	id := tf.createServer(block)
	tf.planIsClean(id, block)

	update := func(name string, change func(*serverBlock)) {
		t.Helper()
		next := block
		next.Tags = maps.Clone(block.Tags)
		change(&next)
		tf.updateServer(id, block, next)
		if t.Failed() {
			t.Fatal(name)
		}
		tf.planIsClean(id, next)
		if t.Failed() {
			t.Fatal(name)
		}
		block = next
	}
	update("logging role", func(b *serverBlock) { b.LoggingRole = role })
	update("another logging role", func(b *serverBlock) { b.LoggingRole = role2 })
	update("banners", func(b *serverBlock) { b.PreBanner, b.PostBanner = "before\n", "after" })
	update("no logging role, one banner", func(b *serverBlock) { b.LoggingRole, b.PreBanner = "", "" })
	update("security policy", func(b *serverBlock) { b.Policy = "TransferSecurityPolicy-2023-05" })
	update("protocol details", func(b *serverBlock) {
		b.Protocol = types.ProtocolDetails{PassiveIp: new("10.0.0.1"), SetStatOption: "ENABLE_NO_OP", TlsSessionResumptionMode: "ENABLED"}
	})
	update("protocols", func(b *serverBlock) { b.Protocols = []string{"SFTP"} })
	update("log destinations", func(b *serverBlock) {
		b.StructuredLogDestinations = []string{"arn:aws:logs:" + region + ":" + account + ":log-group:transfer:*"}
	})
	update("listing", func(b *serverBlock) { b.S3Listing = "ENABLED" })
	update("listing off, log destinations kept", func(b *serverBlock) { b.S3Listing = "DISABLED" })
	update("no log destinations", func(b *serverBlock) { b.StructuredLogDestinations = nil })
	update("a workflow", func(b *serverBlock) { b.OnUpload = first })
	update("two workflows", func(b *serverBlock) { b.OnUpload, b.OnPartialUpload = second, first })
	update("one workflow", func(b *serverBlock) { b.OnUpload = "" })
	update("no workflow", func(b *serverBlock) { b.OnPartialUpload = "" })
	update("host key", func(b *serverBlock) { b.HostKey = vars["pem_ed25519"] })
	tf.hasHostKey(id, vars["fingerprint_ed25519"])
	tf.retag("server/"+id, nil, map[string]string{"a": "1", "b": "2"})
	block.Tags = map[string]string{"a": "1", "b": "2"}
	tf.planIsClean(id, block)
	tf.retag("server/"+id, block.Tags, map[string]string{"b": "3"})
	block.Tags = map[string]string{"b": "3"}
	tf.planIsClean(id, block)

	tf.destroyServer(id, true)
	tf.destroyServer(id, false) // somebody else was quicker
}

// TestTerraformServerEndpoint walks an aws_transfer_server into a VPC and out of it.
func TestTerraformServerEndpoint(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	block := bareServer()
	id := tf.createServer(block)
	update := func(name string, change func(*serverBlock)) {
		t.Helper()
		next := block
		change(&next)
		tf.updateServer(id, block, next)
		tf.planIsClean(id, next)
		if t.Failed() {
			t.Fatal(name)
		}
		block = next
	}
	const vpc = "vpc-0123456789abcdef0"
	groups := []string{"sg-01234567"}
	update("into a VPC, with addresses", func(b *serverBlock) {
		b.EndpointType, b.Endpoint = "VPC", endpointBlock{Vpc: vpc, Subnets: []string{"subnet-1"}, SecurityGroups: groups, Addresses: []string{"eipalloc-1"}}
	})
	update("other addresses", func(b *serverBlock) { b.Endpoint.Addresses = []string{"eipalloc-2"} })
	update("other subnets under addresses", func(b *serverBlock) {
		b.Endpoint.Subnets, b.Endpoint.Addresses = []string{"subnet-1", "subnet-2"}, []string{"eipalloc-2", "eipalloc-3"}
	})
	update("no addresses", func(b *serverBlock) { b.Endpoint.Addresses = nil })
	update("other subnets", func(b *serverBlock) { b.Endpoint.Subnets = []string{"subnet-3"} })
	update("out again", func(b *serverBlock) { b.EndpointType, b.Endpoint = "PUBLIC", endpointBlock{} })
	tf.destroyServer(id, false)

	block = bareServer()
	block.EndpointType = "VPC"
	block.Endpoint = endpointBlock{Vpc: vpc, Subnets: []string{"subnet-1"}, SecurityGroups: groups, Addresses: []string{"eipalloc-1"}}
	id = tf.createServer(block)
	tf.planIsClean(id, block)
	tf.destroyServer(id, true)
}

// TestTerraformServerProviders makes servers with each other kind of identity provider, domain and protocol.
func TestTerraformServerProviders(t *testing.T) {
	t.Parallel()
	tf := newTerraform(t)
	const lambda = "arn:aws:lambda:" + region + ":" + account + ":function:idp"
	for name, c := range map[string]struct{ change, update func(*serverBlock) }{
		"API_GATEWAY": {
			func(b *serverBlock) {
				b.Provider = types.IdentityProviderDetails{Url: new("https://idp.example.com/prod"), InvocationRole: new(role)}
			},
			func(b *serverBlock) {
				b.Provider.Url, b.Provider.InvocationRole = new("https://idp.example.com/test"), new(role2)
			},
		},
		"AWS_LAMBDA": {
			func(b *serverBlock) {
				b.Provider = types.IdentityProviderDetails{Function: new(lambda), SftpAuthenticationMethods: "PUBLIC_KEY_AND_PASSWORD"}
			},
			func(b *serverBlock) {
				b.Provider.Function, b.Provider.SftpAuthenticationMethods = new(lambda+"2"), "PASSWORD"
			},
		},
		"AWS_DIRECTORY_SERVICE": {
			func(b *serverBlock) { b.Provider = types.IdentityProviderDetails{DirectoryId: new("d-0123456789")} },
			func(b *serverBlock) { b.Provider = types.IdentityProviderDetails{DirectoryId: new("d-9876543210")} },
		},
	} {
		for _, domain := range []string{"S3", "EFS"} {
			block := bareServer()
			block.IdentityProvider, block.Domain = name, domain
			block.EndpointType = "VPC"
			block.Endpoint = endpointBlock{Vpc: "vpc-0123456789abcdef0", Subnets: []string{"subnet-1"}, SecurityGroups: []string{"sg-01234567"}}
			block.Protocols = []string{"FTP", "FTPS", "SFTP"}
			block.Certificate = "arn:aws:acm:" + region + ":" + account + ":certificate/one"
			c.change(&block)
			id := tf.createServer(block)
			tf.planIsClean(id, block)
			next := block
			c.update(&next)
			next.Certificate = strings.Replace(block.Certificate, "one", "two", 1)
			tf.updateServer(id, block, next)
			tf.planIsClean(id, next)
			last := next
			last.Protocols, last.Certificate = []string{"SFTP"}, ""
			tf.updateServer(id, next, last)
			tf.planIsClean(id, last)
			tf.destroyServer(id, false)
		}
	}
}
