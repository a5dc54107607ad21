package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/server"
)

const serveConfig = `
data: %[1]s/data
account: "111122223333"
api:
  listen: 127.0.0.1:0
  tls: {certificate: %[2]s, key: %[3]s}
  access_keys:
    - id: OPERATOR
    - {id: READER, read_only: true}
    - {id: ONBOARDING, operations: [CreateUser, "Describe*"]}
    - {id: SLOW, requests_per_second: 0.001, burst: 1}
metrics: {listen: "127.0.0.1:0"}
sftp: {host: 127.0.0.1, ports: 0, keepalive: 30s}
s3: {endpoint: %[4]s, retry: 20s}
drain: 1s
limits: {servers: 2}
log: {file: %[1]s/transferd.log}
`

// startServe runs `transferd serve` as an operator would: a file, secrets in the environment, TLS, and a store that runs
// already. more is what the file says besides.
func startServe(t *testing.T, more ...string) (*proc, KeyPair) {
	t.Helper()
	dir := t.TempDir()
	pair := newKeyPair(t, dir, "transferd")
	const storeKey, storeSecret = "storekey", "storesecret"
	store := startStore(t, dir, storeKey, storeSecret)
	name := filepath.Join(dir, "transferd.yaml")
	text := fmt.Sprintf(serveConfig, dir, pair.Certificate, pair.Key, store) + strings.Join(more, "")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := spawn(t, startOptions{data: dir, args: []string{"serve", "-config", name}, env: []string{
		envAccessKeys + "=OPERATOR:secret1,READER:secret2,ONBOARDING:secret3,SLOW:secret4",
		envS3AccessKey + "=" + storeKey, envS3SecretKey + "=" + storeSecret,
	}})
	p.await("ready", func() bool { return strings.Contains(p.output(), "\nready\n") })
	p.env = map[string]string{"AWS_ACCESS_KEY_ID": storeKey, "AWS_SECRET_ACCESS_KEY": storeSecret, "AWS_REGION": "us-east-1", "S3_ENDPOINT": store}
	if _, err := p.s3().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(devBucket)}); err != nil {
		t.Fatal(err)
	}
	p.env["TRANSFER_ENDPOINT"] = regexp.MustCompile(`https://\S+`).FindString(p.output())
	p.env["AWS_ENDPOINT_URL_TRANSFER"] = p.env["TRANSFER_ENDPOINT"]
	p.env["METRICS_URL"] = regexp.MustCompile(`http://\S+/metrics`).FindString(p.output())
	p.env["AWS_CA_BUNDLE"] = pair.Certificate
	p.as("OPERATOR", "secret1")
	return p, pair
}

func (p *proc) as(id, secret string) {
	p.env["AWS_ACCESS_KEY_ID"], p.env["AWS_SECRET_ACCESS_KEY"] = id, secret
}

// TestServe: the aws CLI over TLS, with keys that may do everything, only read, only onboard, and little.
func TestServe(t *testing.T) {
	t.Parallel()
	p, pair := startServe(t)
	id := p.aws("create-server")["ServerId"].(string)
	p.await("the server is ONLINE", func() bool { return p.server(id)["State"] == "ONLINE" })
	if arn := p.server(id)["Arn"]; arn != "arn:aws:transfer:us-east-1:111122223333:server/"+id {
		t.Errorf("the ARN is %v", arn)
	}
	p.env["SFTP_HOST"], p.env["SFTP_PORT"] = splitPort(p.tag(id, "aws:transferd:sftp-address"))
	p.addUser(id, "alice", "/dev-bucket/alice")
	p.env["SFTP_USER"] = "alice"
	name, content := file(t, 1<<20)
	p.sftp("put " + name + " a.bin\n")
	stored := &proc{t: t, env: map[string]string{
		"AWS_ACCESS_KEY_ID": "storekey", "AWS_SECRET_ACCESS_KEY": "storesecret", "AWS_REGION": "us-east-1", "S3_ENDPOINT": p.env["S3_ENDPOINT"],
	}}
	if got := stored.object("alice/a.bin"); !bytes.Equal(got, content) {
		t.Errorf("the object is %s, want %s", sum(got), sum(content))
	}
	p.aws("create-server")
	p.refused("ServiceQuotaExceeded|quota", "create-server")

	p.as("READER", "secret2")
	p.server(id)
	p.refused("AccessDeniedException.*read-only", "delete-server", "--server-id", id)
	p.as("ONBOARDING", "secret3")
	p.server(id)
	p.refused("AccessDeniedException", "list-servers")
	p.as("SLOW", "secret4")
	p.server(id)
	p.refused("ThrottlingException", "describe-server", "--server-id", id)
	p.as("OPERATOR", "guess")
	p.refused("Signature|InvalidClientTokenId|UnrecognizedClient", "list-servers")
	p.as("OPERATOR", "secret1")

	newKeyPair(t, filepath.Dir(pair.Certificate), "renewed") // the new certificate counts from the next connection on
	p.server(id)
	p.env["AWS_CA_BUNDLE"] = newKeyPair(t, t.TempDir(), "stranger").Certificate
	p.refused("SSL|certificate", "list-servers")
	p.stop()
}

// server describes a server as the AWS CLI would, which takes a second of CPU to start; tests ask this all the time.
func (p *proc) server(id string) map[string]any {
	p.t.Helper()
	out, err := p.api().DescribeServer(p.t.Context(), &transfer.DescribeServerInput{ServerId: aws.String(id)})
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := json.Marshal(out.Server)
	if err != nil {
		p.t.Fatal(err)
	}
	var described map[string]any
	if err := json.Unmarshal(text, &described); err != nil {
		p.t.Fatal(err)
	}
	return described
}

func (p *proc) tag(id, key string) string {
	p.t.Helper()
	for _, t := range p.server(id)["Tags"].([]any) {
		if tag := t.(map[string]any); tag["Key"] == key {
			return tag["Value"].(string)
		}
	}
	return ""
}

// addUser makes a user with a fresh key, which becomes SFTP_KEY, and returns the key's file.
func (p *proc) addUser(id, name, home string) string {
	p.t.Helper()
	key := newSSHKey(p.t)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.api().CreateUser(p.t.Context(), &transfer.CreateUserInput{ServerId: aws.String(id), UserName: aws.String(name),
		Role: aws.String(devRole), HomeDirectory: aws.String(home), SshPublicKeyBody: aws.String(string(public))}); err != nil {
		p.t.Fatal(err)
	}
	p.env["SFTP_KEY"] = key
	return key
}

func newSSHKey(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "id")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return key
}

// refused expects that the aws CLI fails and says why.
func (p *proc) refused(want string, args ...string) {
	p.t.Helper()
	p.env["AWS_MAX_ATTEMPTS"] = "1"
	defer delete(p.env, "AWS_MAX_ATTEMPTS")
	stdout, stderr, err := p.tryAWS(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !regexp.MustCompile(want).MatchString(stderr) {
		p.t.Errorf("aws %s: %v, %s%s; want an error like %s", strings.Join(args, " "), err, stdout, stderr, want)
	}
}

// TestServeCheck: -check says what is wrong and starts nothing; serve without a key does not start.
func TestServeCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "t.yaml")
	for _, c := range []struct {
		text, want string
		code       int
	}{
		{"data: " + dir + "/d\ns3: {access_key: a, secret_key: b}\napi: {access_keys: [{id: A, secret: s}]}\n", " is valid", 0},
		{"data: " + dir + "/d\ns3: {access_key: a, secret_key: b}\n", "api.access_keys: is empty: without an access key nobody could call", 1},
		{"dta: x\n", "line 1: dta: unknown key; is it data?", 1},
		{"data: [", "line 1", 1},
	} {
		if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if code := run(t.Context(), process{stdout: &out, stderr: &out}, []string{"serve", "-config", name, "-check"}); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%q: status %d, %s; want %d and %q", c.text, code, out.String(), c.code, c.want)
		}
	}
	if err := os.WriteFile(name, []byte("data: "+dir+"/d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run(t.Context(), process{stdout: &out, stderr: &out}, []string{"serve", "-config", name}); code != 1 || !strings.Contains(out.String(), "access_keys") {
		t.Errorf("without a key: status %d, %s", code, out.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "d")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("-check made the data folder: %v", err)
	}
}

// TestViews: what the read-only commands show of a daemon at work, as tables and as JSON.
func TestViews(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, _ := p.attachWorkflows()
	name, _ := file(t, 1000)
	p.sftp("put " + name + " done.bin\n")
	p.awaitExecution(whole, "done.bin")
	conn := p.putPart(t, "open.bin", noise(1000))
	defer conn.Close() // the daemon may close it first

	for _, c := range []struct {
		command string
		want    map[string]any // of one item
	}{
		{"servers", map[string]any{"ServerId": p.env["SERVER_ID"], "Name": "dev", "State": "ONLINE", "UserCount": 1.0, "Address": p.env["SFTP_HOST"] + ":" + p.env["SFTP_PORT"]}},
		{"sessions", map[string]any{"UserName": devUser, "Protocol": "SFTP", "OpenFiles": 1.0}},
		{"uploads", map[string]any{"File": "/dev-bucket/done.bin", "Outcome": "complete", "Evidence": "closed", "Received": 1000.0}},
		{"uploads", map[string]any{"File": "/dev-bucket/open.bin"}},
		{"executions", map[string]any{"WorkflowId": whole, "Status": "COMPLETED", "File": "/dev-bucket/done.bin", "UserName": devUser}},
	} {
		stdout, stderr, code := p.transferd(c.command, "--json")
		var items []map[string]any
		if err := json.Unmarshal([]byte(stdout), &items); err != nil || code != 0 || !hasItem(items, c.want) {
			t.Errorf("transferd %s --json: status %d, %v, no %v in\n%s%s", c.command, code, err, c.want, stdout, stderr)
		}
		table, _, _ := p.transferd(c.command)
		if lines := strings.Split(strings.TrimSpace(table), "\n"); len(lines) != len(items)+1 {
			t.Errorf("transferd %s prints %d lines for %d items:\n%s", c.command, len(lines), len(items), table)
		}
	}
}

func hasItem(items []map[string]any, want map[string]any) bool {
	for _, item := range items {
		found := true
		for k, v := range want {
			found = found && item[k] == v
		}
		if found {
			return true
		}
	}
	return false
}

// TestLocalOnly: /debug answers callers on the loopback interface that use its own name, and nobody else.
func TestLocalOnly(t *testing.T) {
	t.Parallel()
	h := localOnly(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for _, c := range []struct {
		from, host string
		want       int
	}{
		{"127.0.0.1:5", "127.0.0.1:9470", 200}, {"[::1]:5", "[::1]:9470", 200}, {"[::ffff:127.0.0.1]:5", "localhost", 200},
		{"10.0.0.1:5", "127.0.0.1:9470", 403}, {"[fe80::1]:5", "localhost:1", 403}, {"127.0.0.1:5", "evil.example:9470", 403},
		{"", "localhost", 403}, {"127.0.0.1:5", "", 403},
	} {
		r := httptest.NewRequest(http.MethodGet, "/debug/sessions", nil)
		r.RemoteAddr, r.Host = c.from, c.host
		w := httptest.NewRecorder()
		h(w, r)
		if w.Code != c.want {
			t.Errorf("from %q to %q: %d, want %d", c.from, c.host, w.Code, c.want)
		}
	}
}

// TestUnsupported: what this build cannot serve is named, and what it can is not.
func TestUnsupported(t *testing.T) {
	t.Parallel()
	can := server.Server{Protocols: []string{"SFTP"}, Domain: "S3", IdentityProviderType: "SERVICE_MANAGED", ProtocolDetails: &server.ProtocolDetails{
		SftpPorts: []server.SftpPort{{SftpPort: 2222}}, ProxyConfig: &server.ProxyConfig{SftpMode: "NONE"},
	}}
	if err := supports(can); err != nil {
		t.Error(err)
	}
	can.Protocols, can.IdentityProviderType = []string{"SFTP", "FTPS", "FTP"}, "API_GATEWAY"
	if err := supports(can); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*server.Server){
		"Protocol AS2 is not supported yet":                    func(s *server.Server) { s.Protocols = []string{"SFTP", "AS2"} },
		"IdentityProviderType AWS_LAMBDA is not supported yet": func(s *server.Server) { s.IdentityProviderType = "AWS_LAMBDA" },
		"SftpPorts with CommunicationMode CLIENT_TALK_FIRST is not supported yet": func(s *server.Server) {
			s.ProtocolDetails = &server.ProtocolDetails{SftpPorts: []server.SftpPort{{SftpPort: 22, CommunicationMode: "CLIENT_TALK_FIRST"}}}
		},
	} {
		s := can
		change(&s)
		if err := supports(s); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestServable: an FTPS server whose certificate nobody configured does not start, nor one of SFTP behind a proxy that
// nobody configured.
func TestServable(t *testing.T) {
	t.Parallel()
	set, err := certificates.New(certificates.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := server.Server{Protocols: []string{"SFTP", "FTPS"}, Certificate: "arn:aws:acm:us-east-1:000000000000:certificate/x"}
	if err := servable(set, false)(s); err == nil || !strings.Contains(err.Error(), s.Certificate) {
		t.Errorf("without its certificate: %v", err)
	}
	s.Protocols = []string{"SFTP"}
	if err := servable(set, false)(s); err != nil {
		t.Errorf("without FTPS: %v", err)
	}
	s.ProtocolDetails = &server.ProtocolDetails{ProxyConfig: &server.ProxyConfig{SftpMode: "PROXY_PROTOCOL_V2_ENFORCED"}}
	if err := servable(set, false)(s); err == nil || !strings.Contains(err.Error(), "sftp.proxy_protocol") {
		t.Errorf("behind a proxy that nobody named: %v", err)
	}
	if err := servable(set, true)(s); err != nil {
		t.Errorf("behind a proxy: %v", err)
	}
}
