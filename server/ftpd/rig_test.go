package ftpd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/session"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	user     = "alice"
	password = "correct horse"
)

// certificate is that of every server here: making it takes longer than most tests.
var certificate = sync.OnceValues(func() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
})

// rig is a server with one user, on a port of its own.
type rig struct {
	t        testing.TB
	store    *store
	journal  *journal
	log      *logs
	registry *prometheus.Registry
	addr     string

	mu       sync.Mutex // guards settings
	settings ftpd.Settings

	integrity bool                            // the manager's mode
	source    string                          // where logins must come from
	wrap      func(net.Listener) net.Listener // what stands before the listener

	cancel context.CancelFunc
	served chan struct{}
}

type ftpdConfig = ftpd.Config

// option changes a rig before it starts.
type option func(*rig, *ftpd.Config)

func config(change func(*ftpd.Config)) option { return func(_ *rig, c *ftpd.Config) { change(c) } }

func settings(change func(*server.Server)) option {
	return func(r *rig, _ *ftpd.Config) { change(&r.settings.Server) }
}

func mode(resumption string) option {
	return settings(func(s *server.Server) { s.ProtocolDetails.TlsSessionResumptionMode = resumption })
}

func newRig(t testing.TB, options ...option) *rig {
	t.Helper()
	r := &rig{t: t, store: newStore(), journal: newJournal(), log: &logs{}, registry: prometheus.NewRegistry(), served: make(chan struct{}), source: "127.0.0.1"}
	r.settings = ftpd.Settings{Server: server.Server{
		Arn: "arn:aws:transfer:us-east-1:123456789012:server/s-1", ServerId: "s-1", Domain: "S3",
		SecurityPolicyName: server.DefaultSecurityPolicy, Protocols: []string{"FTP", "FTPS"}, Certificate: "arn:cert",
		ProtocolDetails: &server.ProtocolDetails{TlsSessionResumptionMode: "ENABLED"},
	}}
	logger := slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := ftpd.Config{Provider: r, Stores: r.store, Log: logger, Metrics: r.registry, PassivePorts: ftpd.PortRange{AnyPort: true},
		LoginDelay:   time.Millisecond,
		Certificates: func(string) (*tls.Certificate, error) { return certificate() }}
	for _, o := range options {
		o(r, &c)
	}
	c.Sessions = session.NewManager(session.Config{Node: "n", Journal: r.journal, Log: logger, Integrity: r.integrity})
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
		if err := ftpd.New(c).Serve(ctx, ln, r.current); err != nil {
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

func (r *rig) current() ftpd.Settings {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings
}

// Authenticate makes the rig its own identity provider.
func (r *rig) Authenticate(_ context.Context, a identity.Attempt) (identity.Grant, error) {
	if a.UserName != user || a.Password != password || a.Server != "s-1" || a.SourceIP != r.source {
		return identity.Grant{}, identity.ErrDenied
	}
	return identity.Grant{UserName: user, Role: "arn:aws:iam::123456789012:role/r", HomeDirectory: "/bucket/home"}, nil
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

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// await waits for an entry.
func (l *logs) await(t testing.TB, activity string) map[string]any {
	t.Helper()
	var found map[string]any
	eventually(t, activity+" in the log", func() bool {
		for line := range strings.Lines(l.String()) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) == nil && entry["activity-type"] == activity {
				found = entry
				return true
			}
		}
		return false
	})
	return found
}

// gauge is a metric that has no labels.
func (r *rig) gauge(name string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	r.t.Fatalf("no metric %s", name)
	return 0
}

// counter is a metric's value over all its labels that match.
func (r *rig) counter(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			text := m.String()
			all := true
			for _, l := range labels {
				all = all && strings.Contains(text, `"`+l+`"`)
			}
			if all {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// eventually polls until something is true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in time", what)
		}
	}
}

// run runs a client. It must be installed: make test sees to that.
func run(t testing.TB, stdin, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v (make test installs what the tests need)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
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

func write(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
