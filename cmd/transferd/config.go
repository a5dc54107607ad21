package main

import (
	"io"
	"log/slog"
	"net/netip"
	"time"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/identity/gateway"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/s3"
	"github.com/transferd/transferd/workflow/steps"
)

// Config is everything that can be set about a daemon. `transferd dev` fills it from its flags, `transferd serve` from
// its file (type configFile, whose comments are the manual).
type Config struct {
	// Data is the folder of the daemon's state: the database, and in dev mode the S3 store, keys and dev.env.
	Data string
	// Database is the URL of a PostgreSQL database, which several daemons may share; "" is SQLite in Data.
	Database string
	// Realm is the region and account that ARNs carry and that signatures must name.
	Realm server.Realm
	// Keys are the access keys that the control API accepts.
	Keys []api.AccessKey
	// API and Metrics are the addresses to listen on, host:port; port 0 is any free one.
	API, Metrics string
	// Certificate is what the control API shows to its clients; without one it speaks plain HTTP.
	Certificate KeyPair
	// SFTP is what the front doors of all servers share.
	SFTP SFTPConfig
	// FTP is what the FTP and FTPS front doors of all servers share.
	FTP FTPConfig
	// Certificates are the files that the ARNs of servers' certificates stand for.
	Certificates map[string]certificates.Files
	// UsersFile names the file of users of the servers whose identity provider has the URL usersfile.URL; "" is none.
	UsersFile string
	// Guard is how patient the daemon is with wrong passwords.
	Guard GuardConfig
	// Roles are the credentials of roles, by ARN, that sign requests to identity providers.
	Roles map[string]gateway.Credentials
	// S3 is the object store, and S3Roles what takes its place for users and workflows with a role, by ARN.
	S3      S3Config
	S3Roles map[string]S3Config
	// FileSystems are the directories that ids of file systems stand for.
	FileSystems map[string]efs.Config
	// Buffers is the memory, in bytes, that the daemon may take: see shareMemory.
	Buffers int64
	// Uploads is what decides when an upload is whole.
	Uploads UploadsConfig
	// Workers is how many workflow steps run at a time.
	Workers int
	// Drain is how long a stopping server or daemon waits for sessions before it cuts them.
	Drain time.Duration
	// Functions are what CUSTOM steps call, by the ARN that is their Target.
	Functions map[string]functionFile
	// Secrets are the keys of DECRYPT steps.
	Secrets steps.Secrets
	// Events says who is told of what became of files.
	Events eventsFile
	// Retention is how long ended uploads and executions stay readable; 0 is for ever.
	Retention time.Duration
	// Throttle bounds how many executions of a workflow begin.
	Throttle db.Throttle
	// Limits are the quotas of the control API.
	Limits server.Limits
	// Log is where the JSON log goes, from Level on.
	Log   io.Writer
	Level slog.Level
}

// KeyPair names the files of a certificate, its chain included, and of its key. They are read again when they change.
type KeyPair struct{ Certificate, Key string }

// SFTPConfig is what the SFTP front doors of all servers share. A server that asks for no address of its own listens on
// Host and a port from First to Last; both 0 is any free one.
type SFTPConfig struct {
	Host        string
	First, Last int
	// Keepalive is how often a silent client is asked whether it lives; after KeepaliveMax unanswered questions it does not.
	Keepalive    time.Duration
	KeepaliveMax int
	// Idle ends a connection without any SFTP request; 0 is AWS's half an hour.
	Idle time.Duration
	// MaxSessions bounds the connections of one server; 0 is AWS's 10,000.
	MaxSessions int
	// Proxies are believed by servers that want a PROXY header.
	Proxies []netip.Prefix
}

// FTPConfig is what the FTP and FTPS front doors of all servers share. Host, First and Last are as those of SFTPConfig.
type FTPConfig struct {
	Host        string
	First, Last int
	// PassiveFirst to PassiveLast are the ports of data connections; both 0 is any free one.
	PassiveFirst, PassiveLast int
	// PassiveAddresses are told to clients of some networks while PassiveIp is AUTO.
	PassiveAddresses []ftpd.PassiveAddress
	// Proxies send a PROXY header; with ProxyData on data connections too. ProxyKeepsTCP: they do not end the client's TCP.
	Proxies                  []netip.Prefix
	ProxyData, ProxyKeepsTCP bool
	// Implicit begins every connection with TLS.
	Implicit bool
	// Idle ends a connection without any command, DataTimeout a transfer on which nothing moves, LoginDelay is what a wrong
	// password costs at least. 0 is the default of ftpd.
	Idle, DataTimeout, LoginDelay time.Duration
	// MaxSessions bounds the connections of one server; 0 is AWS's 10,000.
	MaxSessions int
	// MaxPerAddress bounds those of one address; 0 does not.
	MaxPerAddress int
}

// GuardConfig says how patient the daemon is with wrong passwords; see guard.Config. Zero is its default.
type GuardConfig struct {
	Window          time.Duration
	DelayAfter      int
	Delay, MaxDelay time.Duration
	BanAfter        int
	BanFor          time.Duration
	Exempt          []netip.Prefix
}

// S3Config is an S3 endpoint and the credentials to use there.
type S3Config struct {
	Endpoint     string // URL; "" is AWS's own for the region
	Region       string
	AccessKey    string
	SecretKey    string
	SessionToken string
	// PathStyle puts the bucket into the path instead of the host name.
	PathStyle bool
	// RetryBudget is how long one request is tried again before the store counts as unavailable.
	RetryBudget time.Duration
	// Unsigned leaves request bodies out of the signature on plain http, which saves hashing them; only sensible on
	// a network that nobody else can touch.
	Unsigned bool
	// Environment, Role, CAFile and Proxy are what s3.Config says.
	Environment bool
	Role        *s3.Role
	CAFile      string
	Proxy       string
}
