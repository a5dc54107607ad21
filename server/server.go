// Package server holds the nouns of the service and their rules: Server, User, host and user keys, workflow
// attachments, tags, ids, ARNs, security policies. The JSON names are the API's own member names, so that one struct is
// what the wire shows, what the catalogue stores and what the fleet reads.
//
// It listens to nothing, stores nothing, and imports nothing of ours.
package server

// State is a server's state. The API writes STARTING and STOPPING, the fleet makes them ONLINE and OFFLINE.
type State string

// The states of a server.
const (
	Offline     State = "OFFLINE"
	Online      State = "ONLINE"
	Starting    State = "STARTING"
	Stopping    State = "STOPPING"
	StartFailed State = "START_FAILED"
	StopFailed  State = "STOP_FAILED"
)

// Server is a server as DescribeServer shows it (shape DescribedServer), plus what the catalogue keeps beside it.
type Server struct {
	Arn                           string
	Certificate                   string                   `json:",omitempty"`
	ProtocolDetails               *ProtocolDetails         `json:",omitempty"`
	Domain                        string                   `json:",omitempty"`
	EndpointDetails               *EndpointDetails         `json:",omitempty"`
	EndpointType                  string                   `json:",omitempty"`
	HostKeyFingerprint            string                   `json:",omitempty"`
	IdentityProviderDetails       *IdentityProviderDetails `json:",omitempty"`
	IdentityProviderType          string                   `json:",omitempty"`
	LoggingRole                   string                   `json:",omitempty"`
	PostAuthenticationLoginBanner string                   `json:",omitempty"`
	PreAuthenticationLoginBanner  string                   `json:",omitempty"`
	Protocols                     []string                 `json:",omitempty"`
	SecurityPolicyName            string                   `json:",omitempty"`
	ServerId                      ID
	State                         State
	Tags                          []Tag             `json:",omitempty"`
	UserCount                     int               // filled in when read
	WorkflowDetails               *WorkflowDetails  `json:",omitempty"`
	StructuredLogDestinations     []string          `json:",omitempty"`
	S3StorageOptions              *S3StorageOptions `json:",omitempty"`
	IpAddressType                 string            `json:",omitempty"`
}

// ProtocolDetails are the protocol settings of a server.
type ProtocolDetails struct {
	PassiveIp                string       `json:",omitempty"` // AUTO, 0.0.0.0 or an address
	TlsSessionResumptionMode string       `json:",omitempty"` // DISABLED, ENABLED or ENFORCED
	SetStatOption            string       `json:",omitempty"` // DEFAULT or ENABLE_NO_OP
	As2Transports            []string     `json:",omitempty"`
	SftpPorts                []SftpPort   `json:",omitempty"` // none: port 22, where the server talks first
	ProxyConfig              *ProxyConfig `json:",omitempty"`
}

// SftpPort is a port of a PUBLIC endpoint that speaks SFTP, and who sends the first bytes on it.
type SftpPort struct {
	SftpPort          int    // 22, or 2000 to 65535
	CommunicationMode string `json:",omitempty"` // SERVER_TALK_FIRST (default) or CLIENT_TALK_FIRST
}

// ProxyConfig says whether connections come through a proxy that tells the client's address.
type ProxyConfig struct {
	SftpMode string `json:",omitempty"` // NONE (default) or PROXY_PROTOCOL_V2_ENFORCED
}

// EndpointDetails are the VPC settings of a server: kept and echoed.
type EndpointDetails struct {
	AddressAllocationIds []string `json:",omitempty"`
	SubnetIds            []string `json:",omitempty"`
	VpcEndpointId        string   `json:",omitempty"`
	VpcId                string   `json:",omitempty"`
	SecurityGroupIds     []string `json:",omitempty"`
}

// IdentityProviderDetails say where users come from if not from the catalogue.
type IdentityProviderDetails struct {
	Url                       string `json:",omitempty"`
	InvocationRole            string `json:",omitempty"`
	DirectoryId               string `json:",omitempty"`
	Function                  string `json:",omitempty"`
	SftpAuthenticationMethods string `json:",omitempty"`
}

// WorkflowDetails attach workflows to a server. Each list has at most one element.
type WorkflowDetails struct {
	OnUpload        []WorkflowDetail `json:",omitempty"`
	OnPartialUpload []WorkflowDetail `json:",omitempty"`
}

// WorkflowDetail names a workflow and the role it runs with.
type WorkflowDetail struct {
	WorkflowId    string
	ExecutionRole string
}

// S3StorageOptions are the S3 settings of a server.
type S3StorageOptions struct {
	DirectoryListingOptimization string `json:",omitempty"`
}

// Tag is a key and a value.
type Tag struct {
	Key   string
	Value string
}
