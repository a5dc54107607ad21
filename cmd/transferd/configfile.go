package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/db"
)

// configFile is the configuration file of `transferd serve`. The comments of its fields are the manual: docs/configuration.md
// is made of them.
type configFile struct {
	// The folder of all state that is not in the object store: the database with servers, users, host keys and open
	// uploads. Made if it is missing, readable for the daemon's user alone. One daemon at a time.
	Data string `yaml:"data"`
	// A PostgreSQL database for that state, postgres://USER@HOST/NAME?sslmode=verify-full: daemons with the same one are a
	// cluster (docs/cluster.md). Empty is SQLite in data. With a password better in TRANSFERD_DATABASE.
	Database string `yaml:"database"`
	// The region that ARNs carry and that signatures of requests must name.
	Region string `yaml:"region"`
	// The account that ARNs carry: 12 digits.
	Account string `yaml:"account"`
	// The control API.
	API apiFile `yaml:"api"`
	// What monitoring asks.
	Metrics metricsFile `yaml:"metrics"`
	// What the SFTP front doors of all servers share.
	SFTP sftpFile `yaml:"sftp"`
	// The object store that servers with the domain S3 serve.
	S3 s3File `yaml:"s3"`
	// FTP and FTPS, which share one port. AWS lets only servers with an identity provider of their own speak FTP.
	FTP ftpFile `yaml:"ftp"`
	// The certificates of servers: for each ARN that a server may name as its Certificate, the files, as
	// ARN: {certificate: FILE, key: FILE}, PEM with the chain. Read again when they change.
	Certificates map[string]tlsFile `yaml:"certificates"`
	// The file systems that servers with the domain EFS serve, each by the id that homes name, as
	// fs-0123456789abcdef0: {directory: DIR}. Three more keys: durable (default true), a CLOSE is answered when the file is
	// on the disk; atomic_names (false), a file has its name only when it is whole; own_identity_only (false), for a daemon
	// that is not root: every user's PosixProfile must be the daemon's own uid and gid. See docs/efs.md.
	FileSystems map[string]fileSystemFile `yaml:"file_systems"`
	// Where users come from, apart from the control API, and what keeps others out.
	Identity identityFile `yaml:"identity"`
	// What roles stand for, by ARN: where the files of users and workflows with that role lie and with whose credentials
	// they are touched, as ARN: {endpoint: URL, access_key: ID} or ARN: {assume_role: {}}. All keys stand in docs/s3.md;
	// what a role does not say is as in s3, and roles that are not here are the daemon's own.
	// Requests to an API_GATEWAY provider whose InvocationRole is here with an access_key are signed (Signature Version 4,
	// execute-api); those of other roles are not. Secrets better stand in TRANSFERD_ROLE_KEYS.
	Roles map[string]roleFile `yaml:"roles"`
	// What CUSTOM steps of workflows call: for each Lambda ARN that is a Target, one of url, lambda or command, as
	// ARN: {url: URL, secret: SECRET}, ARN: {lambda: {endpoint: URL, access_key: ID, secret_key: SECRET}} or
	// ARN: {command: [PROGRAM, ARGUMENT]}. All their keys stand in docs/workflows.md.
	Functions map[string]functionFile `yaml:"functions"`
	// The keys of DECRYPT steps: for each secret, by its name in AWS Secrets Manager, the file with AWS's JSON, as
	// aws/transfer/SERVER-ID/USERNAME: FILE, or with @pgp-default for all users without one. Read each time. See
	// docs/workflows.md.
	Secrets map[string]string `yaml:"secrets"`
	// Who is told of uploads, downloads, renames and deletions. See docs/events.md.
	Events eventsFile `yaml:"events"`
	// The memory that the daemon may take, up to a thousand uploads to S3 at a time; half of it holds parts on their way, and
	// uploads beyond that wait. A session that uploads takes 0.2 MiB, so more than a thousand need more. Below 512MiB only
	// the parts are bounded by it: the daemon itself takes 300 MiB.
	Buffers byteCount `yaml:"buffers"`
	// When an upload is whole.
	Uploads uploadsFile `yaml:"uploads"`
	// How many workflow steps run at a time.
	Workers int `yaml:"workers"`
	// How long a stopping server or daemon lets open uploads go on before it cuts them; they are partial uploads then.
	Drain time.Duration `yaml:"drain"`
	// How long ended uploads and executions stay readable. 0: for ever.
	Retention time.Duration `yaml:"retention"`
	// Drop executions of a workflow that begin too fast, as AWS does, with ExecutionThrottled in the log. Off by default.
	Throttle throttleFile `yaml:"throttle"`
	// Quotas of the control API. Each is off while it is 0; what AWS has stands in parentheses.
	Limits limitsFile `yaml:"limits"`
	// The log: one JSON object a line, with the field names of AWS's structured log.
	Log logFile `yaml:"log"`
}

type apiFile struct {
	// Where the control API listens, host:port. Port 0 is any free one.
	Listen string `yaml:"listen"`
	// TLS. Without it the API speaks plain HTTP: requests are signed then, but everybody on the way can read them.
	TLS tlsFile `yaml:"tls"`
	// Who may call. At least one key, here or in TRANSFERD_ACCESS_KEYS, or the daemon does not start.
	AccessKeys []accessKeyFile `yaml:"access_keys"`
}

type tlsFile struct {
	// File with the certificate and its chain, PEM. Read again when it changes, so a renewed one needs no restart.
	Certificate string `yaml:"certificate"`
	// File with the certificate's private key, PEM. Read again when it changes.
	Key string `yaml:"key"`
}

type accessKeyFile struct {
	// The access key id that requests name.
	ID string `yaml:"id"`
	// The secret that signs them. Better not here but in the environment: TRANSFERD_ACCESS_KEYS=ID:SECRET.
	Secret string `yaml:"secret"`
	// The operations that the key may call: names, or patterns with * and ? such as Describe*. None: all.
	Operations []string `yaml:"operations"`
	// Let the key call Describe* and List* alone.
	ReadOnly bool `yaml:"read_only"`
	// How often the key may call, on average; what comes faster is answered with ThrottlingException. 0: no limit.
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	// How many calls it may make at once after a rest. 0: as many as a second allows.
	Burst int `yaml:"burst"`
}

type metricsFile struct {
	// Where /metrics, /healthz and /readyz listen, host:port. What
	// `transferd sessions`, `uploads`, `bans` and `unban` ask there answers to callers on the loopback interface alone.
	Listen string `yaml:"listen"`
}

type sftpFile struct {
	// The address that servers listen on which ask for none (tag transferd:sftp-address). "" is every interface.
	Host string `yaml:"host"`
	// The ports that servers get, FIRST-LAST, one each; 0 is any free one. A server keeps its port over restarts.
	Ports portRange `yaml:"ports"`
	// How often a silent client is asked whether it lives.
	Keepalive time.Duration `yaml:"keepalive"`
	// How many such questions may stay unanswered before the client counts as gone.
	KeepaliveMax int `yaml:"keepalive_max"`
	// How long a connection may go without an SFTP request.
	Idle time.Duration `yaml:"idle"`
	// How many connections a server takes at a time.
	MaxSessions int `yaml:"max_sessions"`
	// Networks of the proxies that servers with ProxyConfig.SftpMode PROXY_PROTOCOL_V2_ENFORCED believe, as [10.0.0.0/24].
	// Such a server takes connections from there alone, and each must begin with a PROXY header of version 2.
	ProxyProtocol []string `yaml:"proxy_protocol"`
}

type s3File struct {
	// The store's URL. Empty is AWS's own for the region.
	Endpoint string `yaml:"endpoint"`
	// The store's region. Empty is the daemon's.
	Region string `yaml:"region"`
	// Put the bucket into the path instead of the host name, as stores without wildcard DNS need.
	PathStyle bool `yaml:"path_style"`
	// The access key id to use there, or TRANSFERD_S3_ACCESS_KEY.
	AccessKey string `yaml:"access_key"`
	// Its secret. Better not here but in the environment: TRANSFERD_S3_SECRET_KEY.
	SecretKey string `yaml:"secret_key"`
	// The token of temporary credentials, if they are; or TRANSFERD_S3_SESSION_TOKEN.
	SessionToken string `yaml:"session_token"`
	// Take the credentials from where AWS's tools find them: variables such as AWS_ACCESS_KEY_ID, shared files, the role of
	// the container or the machine. Instead of access_key.
	Environment bool `yaml:"environment"`
	// A role to borrow with these credentials, as {role_arn: ARN, external_id: ID, sts_endpoint: URL, duration: 1h}; role_arn
	// alone must be there. sts_endpoint is AWS's own for the region if it is empty.
	AssumeRole *assumeRoleFile `yaml:"assume_role"`
	// A role to borrow with an OpenID Connect token instead of credentials, as {role_arn: ARN, token_file: FILE,
	// sts_endpoint: URL, duration: 1h}. The file is read each time.
	WebIdentity *webIdentityFile `yaml:"web_identity"`
	// A file with certificates, PEM, that are trusted beside the system's, at the store and at the STS. It is read again when
	// it changes.
	CAFile string `yaml:"ca_file"`
	// The URL of an HTTP proxy on the way there. Empty is what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say.
	Proxy string `yaml:"proxy"`
	// How long a request is tried again before the store counts as unavailable.
	Retry time.Duration `yaml:"retry"`
	// Leave the bodies of requests out of the signature on plain http, which saves hashing them; only on a network that
	// nobody else can touch.
	UnsignedPayload bool `yaml:"unsigned_payload"`
}

type uploadsFile struct {
	// Patterns of names under which clients write a file that they rename when it is whole: the verdict waits for the
	// rename. []: none, as on AWS. See docs/temp-names.md.
	TempNames []string `yaml:"temp_names"`
	// How long it waits. Without a rename the upload is partial then.
	RenameTimeout time.Duration `yaml:"rename_timeout"`
	// How long it waits once the session has ended, for clients that come back.
	RenameGrace time.Duration `yaml:"rename_grace"`
	// Also calls a file partial that its client closed before it had the size that the client itself had announced, or with
	// a hole in it. AWS does not.
	Integrity bool `yaml:"integrity"`
}

type limitsFile struct {
	// Servers (AWS: 50).
	Servers int `yaml:"servers"`
	// Users of a server (AWS: 10000).
	UsersPerServer int `yaml:"users_per_server"`
	// SSH public keys of a user (AWS: 50).
	KeysPerUser int `yaml:"keys_per_user"`
	// Entries of a user's HomeDirectoryMappings (AWS: 2000).
	MappingsPerUser int `yaml:"mappings_per_user"`
	// Workflows (AWS: 10).
	Workflows int `yaml:"workflows"`
	// Accesses, that is groups of a directory, of a server (AWS: 100).
	AccessesPerServer int `yaml:"accesses_per_server"`
}

type throttleFile struct {
	// How many executions of a workflow may begin in a second, on average (AWS: 1). 0: any number. Each daemon counts its own.
	ExecutionsPerSecond float64 `yaml:"executions_per_second"`
	// How many may begin at once after a rest (AWS: 100).
	ExecutionsBurst int `yaml:"executions_burst"`
}

type logFile struct {
	// Where the log goes: a file to append to, or - for standard error.
	File string `yaml:"file"`
	// What it begins with: debug, info, warn or error.
	Level logLevel `yaml:"level"`
}

// The variables that hold secrets. What they say wins over the file.
const (
	envDatabase       = "TRANSFERD_DATABASE"
	envAccessKeys     = "TRANSFERD_ACCESS_KEYS" // ID:SECRET, several with spaces or commas between them
	envS3AccessKey    = "TRANSFERD_S3_ACCESS_KEY"
	envS3SecretKey    = "TRANSFERD_S3_SECRET_KEY"
	envS3SessionToken = "TRANSFERD_S3_SESSION_TOKEN"
	envRoleKeys       = "TRANSFERD_ROLE_KEYS" // ID:SECRET, several with spaces or commas between them
)

// defaultFile is what a file that says nothing says.
func defaultFile() configFile {
	return configFile{
		Data: "/var/lib/transferd", Region: "us-east-1", Account: "000000000000",
		API:     apiFile{Listen: "127.0.0.1:8470"},
		Metrics: metricsFile{Listen: "127.0.0.1:9470"},
		SFTP:    sftpFile{Ports: portRange{2200, 2299}, Keepalive: 60 * time.Second, KeepaliveMax: 5, Idle: 30 * time.Minute, MaxSessions: 10_000, ProxyProtocol: []string{}},
		FTP:     defaultFTP(), Identity: identityFile{Guard: defaultGuard()},
		S3:      s3File{PathStyle: true, Retry: 30 * time.Second},
		Buffers: 1 << 30, Uploads: defaultUploads(), Workers: 16, Drain: 10 * time.Second, Retention: 30 * 24 * time.Hour,
		Throttle: throttleFile{ExecutionsBurst: 100},
		Events:   eventsFile{Retention: eventRetention, DeadRetention: deadRetention},
		Log:      logFile{File: "-"},
	}
}

// byteCount is a number of bytes, written with a unit.
type byteCount int64

func (s *byteCount) UnmarshalYAML(n *yaml.Node) error {
	m := regexp.MustCompile(`^([0-9]{1,9})(|KiB|MiB|GiB)$`).FindStringSubmatch(n.Value)
	if n.Kind != yaml.ScalarNode || m == nil {
		return errors.New("must be a number of bytes such as 512MiB or 2GiB")
	}
	count, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return err
	}
	*s = byteCount(count << map[string]int{"": 0, "KiB": 10, "MiB": 20, "GiB": 30}[m[2]])
	return nil
}

func (s byteCount) String() string {
	for shift, unit := range map[int]string{30: "GiB", 20: "MiB", 10: "KiB"} {
		if n := int64(s) >> shift; n > 0 && n < 1024 && n<<shift == int64(s) {
			return strconv.FormatInt(n, 10) + unit
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// portRange is FIRST-LAST, or one port.
type portRange struct{ First, Last int }

func (r *portRange) UnmarshalYAML(n *yaml.Node) error {
	first, last, several := strings.Cut(n.Value, "-")
	if !several {
		last = first
	}
	var err1, err2 error
	r.First, err1 = strconv.Atoi(strings.TrimSpace(first))
	r.Last, err2 = strconv.Atoi(strings.TrimSpace(last))
	if n.Kind != yaml.ScalarNode || err1 != nil || err2 != nil || r.First < 0 || r.Last < r.First || r.Last > 65535 || r.First == 0 && r.Last != 0 {
		return errors.New("must be ports such as 2200-2299, or one port")
	}
	return nil
}

func (r portRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// logLevel is one of slog's levels.
type logLevel slog.Level

func (l *logLevel) UnmarshalYAML(n *yaml.Node) error {
	var level slog.Level
	if !regexp.MustCompile(`^(debug|info|warn|error)$`).MatchString(n.Value) || level.UnmarshalText([]byte(n.Value)) != nil {
		return errors.New("must be debug, info, warn or error")
	}
	*l = logLevel(level)
	return nil
}

func (l logLevel) String() string { return strings.ToLower(slog.Level(l).String()) }

// loadFile reads and judges a configuration file and the secrets in the environment. All errors come at once.
func loadFile(name string, getenv func(string) string) (configFile, error) {
	f := defaultFile()
	b, err := os.ReadFile(name)
	if err != nil {
		return f, err
	}
	node, err := yamlstrict.Parse(b)
	if err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	lines, err := yamlstrict.Decode(node, &f)
	if err == nil {
		err = errors.Join(f.addSecrets(getenv), f.addFunctionSecrets(getenv), f.addEventSecrets(getenv), f.judge(lines))
	}
	if err != nil {
		return f, fmt.Errorf("%s:\n%w", name, err)
	}
	return f, nil
}

// addSecrets puts what the environment holds over what the file holds.
func (f *configFile) addSecrets(getenv func(string) string) error {
	f.Database = cmp.Or(getenv(envDatabase), f.Database)
	f.S3.AccessKey = cmp.Or(getenv(envS3AccessKey), f.S3.AccessKey)
	f.S3.SecretKey = cmp.Or(getenv(envS3SecretKey), f.S3.SecretKey)
	f.S3.SessionToken = cmp.Or(getenv(envS3SessionToken), f.S3.SessionToken)
	return errors.Join(eachSecret(envAccessKeys, getenv, f.setSecret), eachSecret(envRoleKeys, getenv, f.setRoleSecret))
}

// eachSecret reads a variable of pairs ID:SECRET.
func eachSecret(name string, getenv func(string) string, set func(id, secret string)) error {
	separator := func(r rune) bool { return r == ' ' || r == ',' || r == '\n' }
	for i, pair := range strings.FieldsFunc(getenv(name), separator) {
		id, secret, ok := strings.Cut(pair, ":")
		if !ok || id == "" || secret == "" {
			return fmt.Errorf("%s: entry %d is not ID:SECRET", name, i+1)
		}
		set(id, secret)
	}
	return nil
}

// setSecret completes a key of the file, or adds one that may do everything.
func (f *configFile) setSecret(id, secret string) {
	for i := range f.API.AccessKeys {
		if f.API.AccessKeys[i].ID == id {
			f.API.AccessKeys[i].Secret = secret
			return
		}
	}
	f.API.AccessKeys = append(f.API.AccessKeys, accessKeyFile{ID: id, Secret: secret})
}

// judge says what cannot be true, with the lines where it stands.
func (f *configFile) judge(at yamlstrict.Lines) error {
	var errs []error
	require := func(ok bool, key, reason string) {
		if !ok {
			errs = append(errs, at.At(key, reason))
		}
	}
	require(f.Data != "", "data", "must name a folder")
	require(f.Database == "" || databaseURL(f.Database), "database", "must be a URL such as postgres://transferd@db.example.com/transferd")
	require(regexp.MustCompile(`^[a-z0-9-]{1,32}$`).MatchString(f.Region), "region", "must be a name such as us-east-1")
	require(regexp.MustCompile(`^[0-9]{12}$`).MatchString(f.Account), "account", "must have 12 digits")
	require(hostPort(f.API.Listen), "api.listen", "must be host:port")
	require(hostPort(f.Metrics.Listen), "metrics.listen", "must be host:port")
	require((f.API.TLS.Certificate == "") == (f.API.TLS.Key == ""), "api.tls", "needs both certificate and key")
	require(f.SFTP.Host == "" || net.ParseIP(f.SFTP.Host) != nil || hostName(f.SFTP.Host), "sftp.host", "must be an address or a name, without a port")
	require(f.SFTP.Keepalive > 0, "sftp.keepalive", "must be more than 0")
	require(f.SFTP.KeepaliveMax > 0, "sftp.keepalive_max", "must be at least 1")
	require(f.SFTP.Idle > 0, "sftp.idle", "must be more than 0")
	require(f.SFTP.MaxSessions > 0, "sftp.max_sessions", "must be at least 1")
	require(f.S3.Endpoint == "" || webURL(f.S3.Endpoint), "s3.endpoint", "must be a URL such as https://s3.example.com")
	require(f.S3.Retry > 0, "s3.retry", "must be more than 0")
	require(f.Buffers >= 64<<20, "buffers", "must be at least 64MiB")
	require(f.Workers > 0, "workers", "must be at least 1")
	require(f.Drain >= 0, "drain", "must not be negative")
	require(f.Retention >= 0, "retention", "must not be negative")
	require(f.Throttle.ExecutionsPerSecond >= 0, "throttle.executions_per_second", "must not be negative")
	require(f.Throttle.ExecutionsBurst > 0, "throttle.executions_burst", "must be at least 1")
	for key, n := range map[string]int{
		"servers": f.Limits.Servers, "users_per_server": f.Limits.UsersPerServer, "keys_per_user": f.Limits.KeysPerUser,
		"mappings_per_user": f.Limits.MappingsPerUser, "workflows": f.Limits.Workflows, "accesses_per_server": f.Limits.AccessesPerServer,
	} {
		require(n >= 0, "limits."+key, "must not be negative")
	}
	require(f.Log.File != "", "log.file", "must name a file, or be - for standard error")
	return errors.Join(append(errs, f.judgeKeys(at), f.judgeTLS(at), f.judgeFTP(at), f.judgeFileSystems(at), f.judgeUploads(at), f.judgeIdentity(at), f.judgeStores(at), judgeFunctions(f.Functions, at), f.judgeSecrets(at), f.judgeEvents(at))...)
}

func (f *configFile) judgeKeys(at yamlstrict.Lines) error {
	if len(f.API.AccessKeys) == 0 {
		return at.At("api.access_keys", "is empty: without an access key nobody could call the control API; add one or set "+envAccessKeys+"=ID:SECRET")
	}
	var errs []error
	seen := map[string]bool{}
	for i, k := range f.API.AccessKeys {
		key := fmt.Sprintf("api.access_keys[%d]", i)
		switch {
		case k.ID == "":
			errs = append(errs, at.At(key, "needs an id"))
		case k.Secret == "":
			errs = append(errs, at.At(key, "needs a secret: "+envAccessKeys+"="+k.ID+":SECRET in the environment, or the key secret here"))
		case seen[k.ID]:
			errs = append(errs, at.At(key+".id", "stands here a second time"))
		default:
			if err := api.CheckKeys(api.AccessKey(k)); err != nil {
				errs = append(errs, at.At(key, err.Error()))
			}
		}
		seen[k.ID] = true
	}
	return errors.Join(errs...)
}

func (f *configFile) judgeTLS(at yamlstrict.Lines) error {
	if f.API.TLS.Certificate == "" || f.API.TLS.Key == "" {
		return nil
	}
	if _, err := newCertificate(f.keyPair(), nil); err != nil {
		return at.At("api.tls", err.Error())
	}
	return nil
}

func (f *configFile) keyPair() KeyPair { return KeyPair(f.API.TLS) }

// config is the file as the daemon wants it, all but the log's writer.
func (f *configFile) config() Config {
	keys := make([]api.AccessKey, len(f.API.AccessKeys))
	for i, k := range f.API.AccessKeys {
		keys[i] = api.AccessKey(k)
	}
	return Config{
		Data: f.Data, Database: f.Database, Realm: server.Realm{Region: f.Region, Account: f.Account}, Keys: keys,
		API: f.API.Listen, Metrics: f.Metrics.Listen, Certificate: f.keyPair(),
		SFTP: SFTPConfig{
			Host: f.SFTP.Host, First: f.SFTP.Ports.First, Last: f.SFTP.Ports.Last,
			Keepalive: f.SFTP.Keepalive, KeepaliveMax: f.SFTP.KeepaliveMax, Idle: f.SFTP.Idle, MaxSessions: f.SFTP.MaxSessions, Proxies: networks(f.SFTP.ProxyProtocol),
		},
		FTP: f.FTP.config(), Guard: f.Identity.Guard.config(), Roles: f.roles(), Functions: f.Functions, Events: f.Events, Secrets: secretFiles(f.Secrets),
		Throttle:     db.Throttle{PerSecond: f.Throttle.ExecutionsPerSecond, Burst: f.Throttle.ExecutionsBurst},
		Certificates: f.certificates(), UsersFile: f.Identity.UsersFile,
		FileSystems: f.fileSystems(),
		S3:          f.store(), S3Roles: f.roleStores(),
		Buffers: int64(f.Buffers), Uploads: f.Uploads.config(), Workers: f.Workers, Drain: f.Drain,
		Retention: f.Retention, Limits: server.Limits(f.Limits), Level: slog.Level(f.Log.Level),
	}
}

func hostPort(s string) bool {
	_, port, err := net.SplitHostPort(s)
	n, bad := strconv.Atoi(port)
	return err == nil && bad == nil && n >= 0 && n <= 65535
}

func hostName(s string) bool { return regexp.MustCompile(`^[A-Za-z0-9.-]+$`).MatchString(s) }

func databaseURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql")
}

func webURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}
