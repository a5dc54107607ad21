package sftpd_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
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
	"github.com/transferd/transferd/server/internal/doortest"
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
	store   *doortest.Store
	journal *doortest.Journal
	log     *doortest.Logs
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

func backend(change func(*doortest.Store)) option {
	return func(r *rig, _ *sftpd.Config) { change(r.store) }
}

func newRig(t *testing.T, options ...option) *rig {
	t.Helper()
	keys, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: doortest.NewStore(), journal: doortest.NewJournal(), log: &doortest.Logs{}, served: make(chan struct{})}
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
	case <-time.After(60 * time.Second):
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
