package api

import (
	"cmp"
	"context"
	"errors"

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
	EndpointDetails               *endpointDetails
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

// protocolDetails tells an empty list of ports, which is the default one, from none.
type protocolDetails struct {
	PassiveIp                string
	TlsSessionResumptionMode string
	SetStatOption            string
	As2Transports            []string
	SftpPorts                *[]server.SftpPort
	ProxyConfig              *server.ProxyConfig
}

// endpointDetails tells an empty list, which clears one, from none.
type endpointDetails struct {
	AddressAllocationIds *[]string
	SubnetIds            *[]string
	VpcEndpointId        *string
	VpcId                *string
	SecurityGroupIds     *[]string
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
		Domain: domainS3, EndpointType: endpointPublic, IdentityProviderType: serviceManaged, Protocols: []string{protocolSFTP},
		SecurityPolicyName: server.DefaultSecurityPolicy, IpAddressType: ipv4,
		ProtocolDetails: defaultProtocolDetails(),
	}
	s.Arn = a.realm.ServerARN(s.ServerId)
	set(&s.Domain, in.Domain)
	if s.Domain == domainS3 {
		s.S3StorageOptions = &server.S3StorageOptions{DirectoryListingOptimization: "DISABLED"}
	}
	if err := a.change(&s, nil, in.serverSettings); err != nil {
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

// updateServer changes settings. A HostKey is one key more, as from ImportHostKey ("You can add multiple host keys",
// HostKey's page): clients see it once it is the oldest of its type. It is added last, so that a request which breaks
// a rule adds nothing; a server that has it already has what was asked for.
func (a *API) updateServer(ctx context.Context, in updateServerRequest) (*serverAnswer, error) {
	var key *hostkeys.Key
	if in.HostKey != nil && *in.HostKey != "" {
		parsed, err := a.parseHostKey(*in.HostKey)
		if err != nil {
			return nil, invalid("HostKey: %s", err)
		}
		key = &parsed
	}
	err := a.servers.UpdateServer(ctx, in.ServerId, func(s *server.Server) error {
		was := *s
		return a.change(s, &was, in.serverSettings)
	})
	if err != nil {
		return nil, err
	}
	if key != nil {
		err := a.keys.AddHostKey(ctx, in.ServerId, *key)
		if _, known := errors.AsType[*server.ExistsError](err); err != nil && !known {
			return nil, err
		}
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

// change puts settings into a server and makes sure that the result is one that can be; was is the server as it was,
// nil for a new one. It changes nothing that s and was share.
func (a *API) change(s, was *server.Server, in serverSettings) error {
	set(&s.Certificate, in.Certificate)
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
	if in.EndpointType != nil && *in.EndpointType != s.EndpointType {
		// What belongs to one type means nothing to another.
		s.EndpointType, s.EndpointDetails, s.ProtocolDetails = *in.EndpointType, nil, withoutPorts(s.ProtocolDetails)
	}
	if in.IdentityProviderType != nil && *in.IdentityProviderType != s.IdentityProviderType {
		s.IdentityProviderType, s.IdentityProviderDetails = *in.IdentityProviderType, nil // the same
	}
	s.EndpointDetails = mergeEndpointDetails(s.EndpointDetails, in.EndpointDetails)
	s.IdentityProviderDetails = mergeProviderDetails(s.IdentityProviderDetails, in.IdentityProviderDetails)
	s.ProtocolDetails = mergeProtocolDetails(s.ProtocolDetails, in.ProtocolDetails)
	s.WorkflowDetails = mergeWorkflowDetails(s.WorkflowDetails, in.WorkflowDetails)
	return a.checkServer(proposal{Server: *s, was: was, sent: in})
}

// set puts a value where it belongs, if there is one.
func set[T any](where *T, value *T) {
	if value != nil {
		*where = *value
	}
}

// mergeEndpointDetails makes a new value: a member that was not sent keeps what it had, an empty list clears it.
func mergeEndpointDetails(old *server.EndpointDetails, in *endpointDetails) *server.EndpointDetails {
	if in == nil {
		return old
	}
	merged := orZero(old)
	set(&merged.AddressAllocationIds, in.AddressAllocationIds)
	set(&merged.SubnetIds, in.SubnetIds)
	set(&merged.VpcEndpointId, in.VpcEndpointId)
	set(&merged.VpcId, in.VpcId)
	set(&merged.SecurityGroupIds, in.SecurityGroupIds)
	if len(merged.AddressAllocationIds)+len(merged.SubnetIds)+len(merged.SecurityGroupIds) == 0 && merged.VpcEndpointId == "" && merged.VpcId == "" {
		return nil
	}
	return &merged
}

// mergeProviderDetails makes a new value: a member that was not sent keeps what it had.
func mergeProviderDetails(old, in *server.IdentityProviderDetails) *server.IdentityProviderDetails {
	if in == nil {
		return old
	}
	had := orZero(old)
	merged := server.IdentityProviderDetails{
		Url:                       cmp.Or(in.Url, had.Url),
		InvocationRole:            cmp.Or(in.InvocationRole, had.InvocationRole),
		DirectoryId:               cmp.Or(in.DirectoryId, had.DirectoryId),
		Function:                  cmp.Or(in.Function, had.Function),
		SftpAuthenticationMethods: cmp.Or(in.SftpAuthenticationMethods, had.SftpAuthenticationMethods),
	}
	if merged == (server.IdentityProviderDetails{}) {
		return nil
	}
	return &merged
}

// mergeProtocolDetails makes a new value: a member that was not sent keeps what it had.
func mergeProtocolDetails(old *server.ProtocolDetails, in *protocolDetails) *server.ProtocolDetails {
	if old == nil {
		old = defaultProtocolDetails()
	}
	if in == nil {
		return old
	}
	merged := &server.ProtocolDetails{
		PassiveIp:                cmp.Or(in.PassiveIp, old.PassiveIp, passiveAuto),
		TlsSessionResumptionMode: cmp.Or(in.TlsSessionResumptionMode, old.TlsSessionResumptionMode),
		SetStatOption:            cmp.Or(in.SetStatOption, old.SetStatOption),
		SftpPorts:                old.SftpPorts,
		ProxyConfig:              old.ProxyConfig,
	}
	set(&merged.SftpPorts, in.SftpPorts)
	if in.ProxyConfig != nil && in.ProxyConfig.SftpMode != "" {
		merged.ProxyConfig = in.ProxyConfig
	}
	return merged
}

// withoutPorts makes a new value without the ports of a PUBLIC endpoint.
func withoutPorts(old *server.ProtocolDetails) *server.ProtocolDetails {
	if old == nil {
		return nil
	}
	rest := *old
	rest.SftpPorts = nil
	return &rest
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
	merged := orZero(old)
	set(&merged.OnUpload, in.OnUpload)
	set(&merged.OnPartialUpload, in.OnPartialUpload)
	if len(merged.OnUpload)+len(merged.OnPartialUpload) == 0 {
		return nil
	}
	return &merged
}
