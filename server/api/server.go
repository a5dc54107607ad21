package api

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// passiveAuto is the PassiveIp that stands for the server's own address.
const passiveAuto = "AUTO"

// serverSettings are the members that CreateServer and UpdateServer share. A nil is a member that was not sent: it
// leaves the setting as it is.
type serverSettings struct {
	Certificate                   *string
	ProtocolDetails               *protocolDetails
	EndpointDetails               *server.EndpointDetails
	EndpointType                  *string
	IdentityProviderDetails       *server.IdentityProviderDetails
	IdentityProviderType          *string
	LoggingRole                   *string
	PostAuthenticationLoginBanner *string
	PreAuthenticationLoginBanner  *string
	Protocols                     []string
	SecurityPolicyName            *string
	WorkflowDetails               *workflowDetails
	StructuredLogDestinations     *[]string
	S3StorageOptions              *server.S3StorageOptions
	IpAddressType                 *string
	HostKey                       *string
}

// protocolDetails are the stored ones, and those that the API's reference has and this service does not do yet.
type protocolDetails struct {
	server.ProtocolDetails
	SftpPorts   []struct{ SftpPort int }
	ProxyConfig struct{ SftpMode string }
}

// workflowDetails tells an empty list, which detaches a workflow, from none, which leaves it attached.
type workflowDetails struct {
	OnUpload        *[]server.WorkflowDetail
	OnPartialUpload *[]server.WorkflowDetail
}

type createServerRequest struct {
	serverSettings
	Domain *string
	Tags   []server.Tag
}

type updateServerRequest struct {
	serverSettings
	ServerId server.ID
}

type serverRequest struct{ ServerId server.ID }

type serverAnswer struct{ ServerId server.ID }

func (a *API) createServer(ctx context.Context, in createServerRequest) (*serverAnswer, error) {
	s := server.Server{
		ServerId: server.NewID(), State: server.Starting,
		Domain: "S3", EndpointType: "PUBLIC", IdentityProviderType: "SERVICE_MANAGED", Protocols: []string{"SFTP"},
		SecurityPolicyName: server.DefaultSecurityPolicy, IpAddressType: "IPV4",
		ProtocolDetails:  defaultProtocolDetails(),
		S3StorageOptions: &server.S3StorageOptions{DirectoryListingOptimization: "DISABLED"},
	}
	s.Arn = a.realm.ServerARN(s.ServerId)
	set(&s.Domain, in.Domain)
	if err := a.change(&s, in.serverSettings); err != nil {
		return nil, err
	}
	var err error
	if s.Tags, err = addTags(nil, in.Tags); err != nil {
		return nil, err
	}
	keys, err := a.hostKeys(in.HostKey)
	if err != nil {
		return nil, err
	}
	s.HostKeyFingerprint = keys[0].Fingerprint
	if err := a.servers.CreateServer(ctx, s, keys); err != nil {
		return nil, err
	}
	return &serverAnswer{s.ServerId}, nil
}

// hostKeys are the key that the caller brings, alone, so that clients which know it meet no other; or new ones.
func (a *API) hostKeys(pem *string) ([]hostkeys.Key, error) {
	if pem == nil || *pem == "" {
		keys, err := a.newHostKeys()
		if err == nil && len(keys) == 0 {
			err = errors.New("no host keys were made")
		}
		return keys, err
	}
	key, err := a.parseHostKey(*pem)
	if err != nil {
		return nil, invalid("HostKey: %s", err)
	}
	return []hostkeys.Key{key}, nil
}

func (a *API) describeServer(ctx context.Context, in serverRequest) (any, error) {
	s, err := a.servers.Server(ctx, in.ServerId)
	if err != nil {
		return nil, err
	}
	return struct{ Server server.Server }{s}, nil
}

func (a *API) updateServer(ctx context.Context, in updateServerRequest) (*serverAnswer, error) {
	if in.HostKey != nil && *in.HostKey != "" {
		return nil, unsupported("HostKey in UpdateServer")
	}
	err := a.servers.UpdateServer(ctx, in.ServerId, func(s *server.Server) error { return a.change(s, in.serverSettings) })
	if err != nil {
		return nil, err
	}
	return &serverAnswer{in.ServerId}, nil
}

func (a *API) deleteServer(ctx context.Context, in serverRequest) error {
	return a.servers.DeleteServer(ctx, in.ServerId)
}

// startServer wishes a server up. "No impact" on one that is up or coming up, says StartServer's page.
func (a *API) startServer(ctx context.Context, in serverRequest) error {
	return a.servers.UpdateServer(ctx, in.ServerId, func(s *server.Server) error {
		switch s.State {
		case server.Offline, server.StartFailed, server.StopFailed:
			s.State = server.Starting
		case server.Stopping:
			return invalid("Server %s is STOPPING: it can be started when it is OFFLINE", s.ServerId)
		}
		return nil
	})
}

// stopServer wishes a server down.
func (a *API) stopServer(ctx context.Context, in serverRequest) error {
	return a.servers.UpdateServer(ctx, in.ServerId, func(s *server.Server) error {
		if s.State != server.Offline {
			s.State = server.Stopping
		}
		return nil
	})
}

// listedServer is shape ListedServer.
type listedServer struct {
	Arn                  string
	Domain               string `json:",omitempty"`
	IdentityProviderType string `json:",omitempty"`
	EndpointType         string `json:",omitempty"`
	LoggingRole          string `json:",omitempty"`
	ServerId             server.ID
	State                server.State
	UserCount            int
}

type listServersAnswer struct {
	NextToken string `json:",omitempty"`
	Servers   []listedServer
}

func (a *API) listServers(ctx context.Context, in pageRequest) (*listServersAnswer, error) {
	all, next, err := page(a, list{operation: "ListServers"}, in,
		func(p server.Page) ([]server.Server, error) { return a.servers.Servers(ctx, p) },
		func(s server.Server) string { return string(s.ServerId) })
	if err != nil {
		return nil, err
	}
	out := &listServersAnswer{NextToken: next, Servers: make([]listedServer, 0, len(all))}
	for _, s := range all {
		out.Servers = append(out.Servers, listedServer{
			Arn: s.Arn, Domain: s.Domain, IdentityProviderType: s.IdentityProviderType, EndpointType: s.EndpointType,
			LoggingRole: s.LoggingRole, ServerId: s.ServerId, State: s.State, UserCount: s.UserCount,
		})
	}
	return out, nil
}

// change puts settings into a server and makes sure that the result is one that this service can run.
func (a *API) change(s *server.Server, in serverSettings) error {
	set(&s.EndpointType, in.EndpointType)
	set(&s.IdentityProviderType, in.IdentityProviderType)
	set(&s.LoggingRole, in.LoggingRole) // an empty one clears it (UpdateServer's page)
	set(&s.PostAuthenticationLoginBanner, in.PostAuthenticationLoginBanner)
	set(&s.PreAuthenticationLoginBanner, in.PreAuthenticationLoginBanner)
	set(&s.SecurityPolicyName, in.SecurityPolicyName)
	set(&s.IpAddressType, in.IpAddressType)
	set(&s.StructuredLogDestinations, in.StructuredLogDestinations)
	if in.Protocols != nil {
		s.Protocols = in.Protocols
	}
	if in.S3StorageOptions != nil && in.S3StorageOptions.DirectoryListingOptimization != "" {
		s.S3StorageOptions = in.S3StorageOptions
	}
	s.ProtocolDetails = mergeProtocolDetails(s.ProtocolDetails, in.ProtocolDetails)
	s.WorkflowDetails = mergeWorkflowDetails(s.WorkflowDetails, in.WorkflowDetails)
	return a.checkServer(*s, in)
}

// set puts a value where it belongs, if there is one.
func set[T any](where *T, value *T) {
	if value != nil {
		*where = *value
	}
}

// mergeProtocolDetails makes a new value: a member that was not sent keeps what it had.
func mergeProtocolDetails(old *server.ProtocolDetails, in *protocolDetails) *server.ProtocolDetails {
	if in == nil {
		return old
	}
	if old == nil {
		old = defaultProtocolDetails()
	}
	return &server.ProtocolDetails{
		PassiveIp:                cmp.Or(in.PassiveIp, old.PassiveIp),
		TlsSessionResumptionMode: cmp.Or(in.TlsSessionResumptionMode, old.TlsSessionResumptionMode),
		SetStatOption:            cmp.Or(in.SetStatOption, old.SetStatOption),
	}
}

// defaultProtocolDetails are what AWS shows even on a server that speaks SFTP alone (a bare CreateServer and its
// DescribeServer).
func defaultProtocolDetails() *server.ProtocolDetails {
	return &server.ProtocolDetails{PassiveIp: passiveAuto, TlsSessionResumptionMode: "ENFORCED", SetStatOption: "DEFAULT"}
}

// mergeWorkflowDetails makes a new value. "To remove an associated workflow from a server, you can provide an empty
// OnUpload object" (UpdateServer's page); a list that was not sent stays as it was. No workflow at all is no details.
func mergeWorkflowDetails(old *server.WorkflowDetails, in *workflowDetails) *server.WorkflowDetails {
	if in == nil {
		return old
	}
	var merged server.WorkflowDetails
	if old != nil {
		merged = *old
	}
	set(&merged.OnUpload, in.OnUpload)
	set(&merged.OnPartialUpload, in.OnPartialUpload)
	if len(merged.OnUpload)+len(merged.OnPartialUpload) == 0 {
		return nil
	}
	return &merged
}

// checkServer refuses what this service cannot do yet, by name, and what no server can be.
func (a *API) checkServer(s server.Server, in serverSettings) error {
	if err := checkProtocols(s.Protocols); err != nil {
		return err
	}
	switch {
	case s.Domain != "S3":
		return unsupported("Domain " + s.Domain)
	case s.IdentityProviderType != "SERVICE_MANAGED":
		return unsupported("IdentityProviderType " + s.IdentityProviderType)
	case in.IdentityProviderDetails != nil && *in.IdentityProviderDetails != server.IdentityProviderDetails{}:
		return invalid("Must specify IdentityProviderType with IdentityProviderDetails: SERVICE_MANAGED has none")
	case s.EndpointType != "PUBLIC":
		return unsupported("EndpointType " + s.EndpointType)
	case s.IpAddressType != "IPV4":
		// The addresses of a server come from the configuration, so DUALSTACK would be a promise that nobody keeps.
		return unsupported("IpAddressType " + s.IpAddressType)
	case in.Certificate != nil && *in.Certificate != "":
		return unsupported("Certificate (it serves FTPS, which)")
	}
	if err := checkEndpointDetails(in.EndpointDetails); err != nil {
		return err
	}
	if err := checkProtocolDetails(in.ProtocolDetails); err != nil {
		return err
	}
	if in.SecurityPolicyName == nil {
		return nil
	}
	if err := a.knownPolicy(s.SecurityPolicyName); err != nil {
		return invalid("SecurityPolicyName: %s", err)
	}
	return nil
}

func checkProtocols(protocols []string) error {
	for i, p := range protocols {
		if p != "SFTP" {
			return unsupported("Protocols: " + p)
		}
		if slices.Contains(protocols[:i], p) {
			return invalid("Protocols has %s twice", p)
		}
	}
	return nil
}

// checkEndpointDetails refuses VPC settings on a PUBLIC endpoint, which is the only type there is yet; each belongs to
// one type (EndpointDetails' page).
func checkEndpointDetails(d *server.EndpointDetails) error {
	if d == nil {
		return nil
	}
	for _, m := range []struct {
		name string
		set  bool
	}{
		{"AddressAllocationIds", len(d.AddressAllocationIds) > 0},
		{"SubnetIds", len(d.SubnetIds) > 0},
		{"VpcEndpointId", d.VpcEndpointId != ""},
		{"VpcId", d.VpcId != ""},
		{"SecurityGroupIds", len(d.SecurityGroupIds) > 0},
	} {
		if m.set {
			return invalid("EndpointDetails.%s is unsupported for EndpointType: PUBLIC", m.name)
		}
	}
	return nil
}

// checkProtocolDetails checks what was sent. "Enter a single IPv4 address"; AUTO and 0.0.0.0 are special values
// (ProtocolDetails' page).
func checkProtocolDetails(d *protocolDetails) error {
	switch {
	case d == nil:
		return nil
	case len(d.As2Transports) > 0:
		return unsupported("ProtocolDetails.As2Transports (it serves AS2, which)")
	case len(d.SftpPorts) > 0:
		return unsupported("ProtocolDetails.SftpPorts")
	case d.ProxyConfig.SftpMode != "" && d.ProxyConfig.SftpMode != "NONE":
		return unsupported("ProtocolDetails.ProxyConfig.SftpMode " + d.ProxyConfig.SftpMode)
	case d.PassiveIp == "" || d.PassiveIp == passiveAuto:
		return nil
	}
	if ip, err := netip.ParseAddr(d.PassiveIp); err != nil || !ip.Is4() {
		return invalid("ProtocolDetails.PassiveIp must be AUTO or an IPv4 address")
	}
	return nil
}
