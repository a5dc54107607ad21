package sftpd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/sftpd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostKeys are the keys of every server here: making them takes longer than most tests.
var hostKeys = sync.OnceValues(func() ([]hostkeys.Key, error) { return hostkeys.Generate(time.Now()) })

const user = "alice"

// rig is a server with one user, on a port of its own.
type rig struct {
	t       *testing.T
	store   *store
	journal *journal
	log     *logs
	grant   identity.Grant
	key     ssh.Signer
	keyFile string
	addr    string
	manager *session.Manager
	wrap    func(net.Listener) net.Listener // nil: nothing

	mu       sync.Mutex // guards settings
	settings sftpd.Settings

	cancel context.CancelFunc
	served chan struct{}
}

// option changes a rig before it starts.
type option func(*rig, *sftpd.Config)

func config(change func(*sftpd.Config)) option { return func(_ *rig, c *sftpd.Config) { change(c) } }

func settings(change func(*server.Server)) option {
	return func(r *rig, _ *sftpd.Config) { change(&r.settings.Server) }
}

func backend(change func(*store)) option { return func(r *rig, _ *sftpd.Config) { change(r.store) } }

func newRig(t *testing.T, options ...option) *rig {
	t.Helper()
	keys, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: newStore(), journal: newJournal(), log: &logs{}, served: make(chan struct{})}
	r.grant = identity.Grant{UserName: user, Role: "arn:aws:iam::123456789012:role/r", HomeDirectory: "/bucket/home"}
	r.key, r.keyFile = newKey(t)
	r.settings = sftpd.Settings{HostKeys: keys, Server: server.Server{
		Arn: "arn:aws:transfer:us-east-1:123456789012:server/s-1", ServerId: "s-1", Domain: "S3",
		SecurityPolicyName: server.DefaultSecurityPolicy,
	}}
	logger := slog.New(slog.NewJSONHandler(r.log, nil))
	c := sftpd.Config{Provider: r, Stores: r.store, Log: logger, Metrics: prometheus.NewRegistry(), Now: time.Now}
	for _, o := range options {
		o(r, &c)
	}
	r.manager = session.NewManager(session.Config{Node: "n", Journal: r.journal, Log: logger, Now: time.Now})
	c.Sessions = r.manager

	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	if r.wrap != nil {
		ln = r.wrap(ln)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.served)
		if err := sftpd.New(c).Serve(ctx, ln, r.current); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	t.Cleanup(r.stop)
	return r
}

// stop ends the server and waits for it.
func (r *rig) stop() {
	r.cancel()
	select {
	case <-r.served:
	case <-time.After(20 * time.Second):
		r.t.Error("Serve does not return")
	}
}

func (r *rig) current() sftpd.Settings {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings
}

func (r *rig) change(f func(*server.Server)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.settings.Server)
}

// Authenticate makes the rig its own identity provider.
func (r *rig) Authenticate(_ context.Context, a identity.Attempt) (identity.Grant, error) {
	if a.UserName != user || !bytes.Equal(a.PublicKey, r.key.PublicKey().Marshal()) || a.Server != "s-1" || a.Protocol != "SFTP" {
		return identity.Grant{}, identity.ErrDenied
	}
	return r.grant, nil
}

// newKey makes a user's key, and a file of it for other people's clients.
func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".pub", ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer, file
}

// logs is a log that tests can wait on.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) entries(activity string) []map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for line := range bytes.Lines(l.buf.Bytes()) {
		var entry map[string]any
		if json.Unmarshal(line, &entry) == nil && entry["activity-type"] == activity {
			found = append(found, entry)
		}
	}
	return found
}

// await waits for an entry.
func (l *logs) await(t *testing.T, activity string) map[string]any {
	t.Helper()
	var found []map[string]any
	eventually(t, activity+" in the log", func() bool { found = l.entries(activity); return len(found) > 0 })
	return found[0]
}

// eventually polls until something is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}

// dial makes an SSH connection over a TCP connection of the test's own.
func (r *rig) dial(t *testing.T) *ssh.Client {
	t.Helper()
	client, err := r.tryDial(r.tcp(t), user, r.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (r *rig) tcp(t *testing.T) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (r *rig) tryDial(conn net.Conn, name string, key ssh.Signer) (*ssh.Client, error) {
	c, chans, reqs, err := ssh.NewClientConn(conn, r.addr, &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, chans, reqs), nil
}

// sftp makes a session with pkg/sftp's client.
func (r *rig) sftp(t *testing.T) *sftp.Client {
	t.Helper()
	client, err := sftp.NewClient(r.dial(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// create opens a file for writing; pkg/sftp's own Create asks for reading too.
func create(t *testing.T, c *sftp.Client, name string) *sftp.File {
	t.Helper()
	f, err := c.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// host and port of the rig.
func (r *rig) hostPort(t *testing.T) (string, string) {
	t.Helper()
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// sshOptions are those that every OpenSSH client here gets: nothing from the machine's own configuration.
func (r *rig) sshOptions(more ...string) []string {
	options := []string{"-F", "none", "-i", r.keyFile, "-oIdentitiesOnly=yes", "-oIdentityAgent=none", "-oBatchMode=yes",
		"-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oGlobalKnownHostsFile=/dev/null", "-oLogLevel=INFO"}
	for _, o := range more {
		options = append(options, "-o"+o)
	}
	return options
}

// run runs a client. It must be installed: make test sees to that.
func run(t *testing.T, stdin, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v (make test installs what the tests need)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "SSH_AUTH_SOCK=")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// random is a file's content.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func write(t *testing.T, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
