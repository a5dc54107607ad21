package api

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/transferd/transferd/server"
)

// Values that rules name. The model has checked that a member has one of its values.
const (
	protocolSFTP, protocolFTP, protocolFTPS, protocolAS2 = "SFTP", "FTP", "FTPS", "AS2"

	endpointPublic, endpointVPC, endpointVPCEndpoint = "PUBLIC", "VPC", "VPC_ENDPOINT"

	providerGateway, providerLambda = "API_GATEWAY", "AWS_LAMBDA"

	ipv4, dualStack = "IPV4", "DUALSTACK"

	// maxAddresses is how many Elastic IP addresses an endpoint takes (EndpointType's page).
	maxAddresses = 3

	badLogGroup = "StructuredLogDestinations must be ARNs of log groups that end with :*"
)

// proposal is a server as a request would make it, beside what it was.
type proposal struct {
	server.Server
	was  *server.Server // nil: there is none yet
	sent serverSettings
}

// serverRule is one thing that no server can be. text is what the caller is told: AWS's own words where they are known,
// marked by "AWS:". The words EndpointType, IdentityProviderType and Protocols between braces stand for the values.
type serverRule struct {
	text   string
	broken func(p proposal) bool
}

// checkServer refuses what breaks a rule; of several the first one speaks.
func (a *API) checkServer(p proposal) error {
	for _, rules := range [][]serverRule{protocolRules(), providerRules(), endpointRules(), detailRules()} {
		for _, r := range rules {
			if r.broken(p) {
				return invalid("%s", strings.NewReplacer("{EndpointType}", p.EndpointType, "{IdentityProviderType}", p.IdentityProviderType,
					"{Protocols}", strings.Join(p.Protocols, ", ")).Replace(r.text))
			}
		}
	}
	if p.sent.SecurityPolicyName == nil {
		return nil
	}
	if err := a.knownPolicy(p.SecurityPolicyName); err != nil {
		return invalid("SecurityPolicyName: %s", err)
	}
	return nil
}

// protocolRules: Protocols' page.
func protocolRules() []serverRule {
	return []serverRule{
		{"Protocols: AS2 is not supported yet", func(p proposal) bool { return p.speaks(protocolAS2) }},
		{"ProtocolDetails.As2Transports (it serves AS2, which) is not supported yet", func(p proposal) bool {
			return p.sent.ProtocolDetails != nil && len(p.sent.ProtocolDetails.As2Transports) > 0
		}},
		{"Protocols has a protocol twice: {Protocols}", func(p proposal) bool { return repeats(p.Protocols) }},
		{"Certificate must be set if Protocols includes FTPS", func(p proposal) bool {
			return p.speaks(protocolFTPS) && p.Certificate == ""
		}},
		{"EndpointType must be VPC if Protocols includes FTP or FTPS, not {EndpointType}", func(p proposal) bool {
			return p.speaks(protocolFTP, protocolFTPS) && p.EndpointType != endpointVPC
		}},
		{"IdentityProviderType must be AWS_DIRECTORY_SERVICE, API_GATEWAY or AWS_LAMBDA if Protocols includes FTP or FTPS, not {IdentityProviderType}", func(p proposal) bool {
			return p.speaks(protocolFTP, protocolFTPS) && p.IdentityProviderType == serviceManaged
		}},
		{"AddressAllocationIds cannot be associated if Protocols includes FTP", func(p proposal) bool {
			return p.speaks(protocolFTP) && len(p.endpoint().AddressAllocationIds) > 0
		}},
	}
}

// providerRules: IdentityProviderDetails' page. What belongs to another type of provider is refused, because nobody
// would ask it.
func providerRules() []serverRule {
	only := func(types ...string) func(p proposal) bool {
		return func(p proposal) bool { return !slices.Contains(types, p.IdentityProviderType) }
	}
	gateway, lambda, directory := only(providerGateway), only(providerLambda), only(providerDirectory)
	custom := only(providerGateway, providerLambda)
	return []serverRule{
		// AWS: the text up to the colon.
		{"Must specify IdentityProviderType with IdentityProviderDetails: SERVICE_MANAGED has none", func(p proposal) bool {
			return p.IdentityProviderType == serviceManaged && p.provider() != server.IdentityProviderDetails{}
		}},
		{"IdentityProviderDetails.Url must be set if IdentityProviderType is API_GATEWAY", func(p proposal) bool {
			return !gateway(p) && p.provider().Url == ""
		}},
		{"IdentityProviderDetails.Url must be an absolute http or https URL", func(p proposal) bool {
			return p.provider().Url != "" && !absoluteURL(p.provider().Url)
		}},
		{"IdentityProviderDetails.Function must be set if IdentityProviderType is AWS_LAMBDA", func(p proposal) bool {
			return !lambda(p) && p.provider().Function == ""
		}},
		{"IdentityProviderDetails.DirectoryId must be set if IdentityProviderType is AWS_DIRECTORY_SERVICE", func(p proposal) bool {
			return !directory(p) && p.provider().DirectoryId == ""
		}},
		{"IdentityProviderDetails.Url is unsupported for IdentityProviderType: {IdentityProviderType}", func(p proposal) bool {
			return gateway(p) && p.provider().Url != ""
		}},
		{"IdentityProviderDetails.InvocationRole is unsupported for IdentityProviderType: {IdentityProviderType}", func(p proposal) bool {
			return gateway(p) && p.provider().InvocationRole != ""
		}},
		{"IdentityProviderDetails.Function is unsupported for IdentityProviderType: {IdentityProviderType}", func(p proposal) bool {
			return lambda(p) && p.provider().Function != ""
		}},
		{"IdentityProviderDetails.DirectoryId is unsupported for IdentityProviderType: {IdentityProviderType}", func(p proposal) bool {
			return directory(p) && p.provider().DirectoryId != ""
		}},
		{"SftpAuthenticationMethods can be set only if IdentityProviderType is API_GATEWAY or AWS_LAMBDA, not {IdentityProviderType}", func(p proposal) bool {
			return custom(p) && p.provider().SftpAuthenticationMethods != ""
		}},
		{"SftpAuthenticationMethods can be set only if Protocols includes SFTP, not for {Protocols}", func(p proposal) bool {
			in := p.sent.IdentityProviderDetails
			return in != nil && in.SftpAuthenticationMethods != "" && !p.speaks(protocolSFTP)
		}},
	}
}

// endpointRules: EndpointDetails', EndpointType's and IpAddressType's pages.
func endpointRules() []serverRule {
	notVPC := func(p proposal) bool { return p.EndpointType != endpointVPC }
	return []serverRule{
		// AWS: this text.
		{"Server must be OFFLINE to change EndpointType", func(p proposal) bool {
			return p.runs() && p.EndpointType != p.was.EndpointType
		}},
		{"Server must be OFFLINE to change IpAddressType", func(p proposal) bool {
			return p.runs() && p.IpAddressType != p.was.IpAddressType
		}},
		// AWS: this text, of CreateServer.
		{"AddressAllocationIds cannot be set in CreateServer", func(p proposal) bool {
			return p.was == nil && len(p.endpoint().AddressAllocationIds) > 0
		}},
		{"EndpointDetails.AddressAllocationIds is unsupported for EndpointType: {EndpointType}", func(p proposal) bool {
			return notVPC(p) && len(p.endpoint().AddressAllocationIds) > 0
		}},
		{"EndpointDetails.SubnetIds is unsupported for EndpointType: {EndpointType}", func(p proposal) bool {
			return notVPC(p) && len(p.endpoint().SubnetIds) > 0
		}},
		{"EndpointDetails.VpcId is unsupported for EndpointType: {EndpointType}", func(p proposal) bool {
			return notVPC(p) && p.endpoint().VpcId != ""
		}},
		{"EndpointDetails.SecurityGroupIds is unsupported for EndpointType: {EndpointType}", func(p proposal) bool {
			return notVPC(p) && len(p.endpoint().SecurityGroupIds) > 0
		}},
		// AWS: this text, of a VPC endpoint.
		{"VPC Endpoint ID unsupported for EndpointType: {EndpointType}", func(p proposal) bool {
			return p.EndpointType != endpointVPCEndpoint && p.endpoint().VpcEndpointId != ""
		}},
		{"EndpointDetails.VpcEndpointId must be set if EndpointType is VPC_ENDPOINT", func(p proposal) bool {
			return p.EndpointType == endpointVPCEndpoint && p.endpoint().VpcEndpointId == ""
		}},
		// AWS: this text.
		{"Cannot specify AddressAllocationIds when updating server to EndpointType: VPC", func(p proposal) bool {
			return p.was != nil && p.was.EndpointType != endpointVPC && len(p.endpoint().AddressAllocationIds) > 0
		}},
		// AWS: this text.
		{"Server must be OFFLINE to change AddressAllocationIds", func(p proposal) bool {
			return p.runs() && !sameSet(p.endpoint().AddressAllocationIds, p.before().AddressAllocationIds)
		}},
		// AWS: this text.
		{"AddressAllocationIds must be removed before SubnetIds can be modified", func(p proposal) bool {
			return p.stays(endpointVPC) && len(p.before().AddressAllocationIds) > 0 && !sameSet(p.endpoint().SubnetIds, p.before().SubnetIds)
		}},
		// AWS: this text.
		{"Changing Security Group is not supported", func(p proposal) bool {
			return p.stays(endpointVPC) && !sameSet(p.endpoint().SecurityGroupIds, p.before().SecurityGroupIds)
		}},
		{"EndpointDetails cannot have more than 3 AddressAllocationIds, and none twice", func(p proposal) bool {
			ids := p.endpoint().AddressAllocationIds
			return len(ids) > maxAddresses || repeats(ids)
		}},
		{"AddressAllocationIds cannot be set if IpAddressType is DUALSTACK", func(p proposal) bool {
			return p.IpAddressType == dualStack && len(p.endpoint().AddressAllocationIds) > 0
		}},
	}
}

// detailRules: ProtocolDetails' and StructuredLogDestinations' pages.
func detailRules() []serverRule {
	ports := func(p proposal) []server.SftpPort { return p.ProtocolDetails.SftpPorts }
	return []serverRule{
		{"ProtocolDetails.PassiveIp must be AUTO or an IPv4 address", func(p proposal) bool {
			at := p.ProtocolDetails.PassiveIp
			ip, err := netip.ParseAddr(at)
			return at != "" && at != passiveAuto && (err != nil || !ip.Is4())
		}},
		{"ProtocolDetails.SftpPorts can be set only if EndpointType is PUBLIC, not {EndpointType}", func(p proposal) bool {
			return len(ports(p)) > 0 && p.EndpointType != endpointPublic
		}},
		{"ProtocolDetails.SftpPorts: SftpPort must be 22, or 2000 to 65535", func(p proposal) bool {
			return slices.ContainsFunc(ports(p), func(s server.SftpPort) bool { return s.SftpPort != 22 && s.SftpPort < 2000 })
		}},
		{"ProtocolDetails.SftpPorts has a port twice", func(p proposal) bool {
			var numbers []int
			for _, s := range ports(p) {
				numbers = append(numbers, s.SftpPort)
			}
			return repeats(numbers)
		}},
		{badLogGroup, func(p proposal) bool {
			return slices.ContainsFunc(p.StructuredLogDestinations, func(arn string) bool { return !logGroup(arn) })
		}},
	}
}

// speaks says whether the server has one of the protocols.
func (p proposal) speaks(protocols ...string) bool {
	return slices.ContainsFunc(p.Protocols, func(has string) bool { return slices.Contains(protocols, has) })
}

// runs says whether the server is there and in any state but OFFLINE.
func (p proposal) runs() bool { return p.was != nil && p.was.State != server.Offline }

// stays says whether the server had this type of endpoint and keeps it.
func (p proposal) stays(endpointType string) bool {
	return p.was != nil && p.was.EndpointType == endpointType && p.EndpointType == endpointType
}

// provider are the details of the identity provider, empty if there are none.
func (p proposal) provider() server.IdentityProviderDetails { return orZero(p.IdentityProviderDetails) }

// endpoint are the details of the endpoint, empty if there are none.
func (p proposal) endpoint() server.EndpointDetails { return orZero(p.EndpointDetails) }

// before are the details of the endpoint that was.
func (p proposal) before() server.EndpointDetails { return orZero(orZero(p.was).EndpointDetails) }

func orZero[T any](v *T) T {
	if v == nil {
		var zero T
		return zero
	}
	return *v
}

// sameSet compares lists whose order means nothing.
func sameSet(a, b []string) bool { return slices.Equal(sorted(a), sorted(b)) }

func sorted[T string | int](list []T) []T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// repeats says whether a list has something twice.
func repeats[T string | int](list []T) bool {
	return len(slices.Compact(sorted(list))) < len(list)
}

func absoluteURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

// logGroup says whether an ARN is of the form that StructuredLogDestinations' page asks for:
// arn:<partition>:logs:<region>:<account>:log-group:<name>:*
func logGroup(arn string) bool {
	parts := strings.SplitN(arn, ":", 7)
	return len(parts) == 7 && parts[2] == "logs" && parts[5] == "log-group" && strings.HasSuffix(parts[6], ":*") && len(parts[6]) > len(":*")
}
