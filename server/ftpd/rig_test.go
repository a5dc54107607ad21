package ftpd_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/internal/doortest"
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
	store    *doortest.Store
	journal  *doortest.Journal
	log      *doortest.Logs
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
	r := &rig{t: t, store: doortest.NewStore(), journal: doortest.NewJournal(), log: &doortest.Logs{}, registry: prometheus.NewRegistry(), served: make(chan struct{}), source: "127.0.0.1"}
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
