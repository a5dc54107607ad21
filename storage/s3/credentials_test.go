package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
	"github.com/transferd/transferd/storage/storagetest"
)

// fakeSTS speaks as much of STS as a client needs: it lends, refuses or fails, and keeps what it was asked.
type fakeSTS struct {
	*httptest.Server
	mu     sync.Mutex
	lends  func(r *http.Request) (access, secret string, life time.Duration) // "" refuses, "down" fails; guarded by mu
	asked  []url.Values                                                      // guarded by mu
	signed []string                                                          // Authorization of each; guarded by mu
}

func newSTS(t *testing.T, access, secret string, life time.Duration) *fakeSTS {
	t.Helper()
	f := &fakeSTS{}
	f.lend(access, secret, life)
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeSTS) lend(access, secret string, life time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lends = func(*http.Request) (string, string, time.Duration) { return access, secret, life }
}

// ServeHTTP answers as https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html has it.
func (f *fakeSTS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.asked = append(f.asked, r.PostForm)
	f.signed = append(f.signed, r.Header.Get("Authorization"))
	access, secret, life := f.lends(r)
	f.mu.Unlock()
	switch access {
	case "down":
		w.WriteHeader(http.StatusServiceUnavailable)
	case "":
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized to perform sts:AssumeRole</Message></Error></ErrorResponse>`)
	default:
		action := r.PostForm.Get("Action")
		fmt.Fprintf(w, `<%sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%sResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken></SessionToken><Expiration>%s</Expiration></Credentials></%sResult></%sResponse>`,
			action, action, access, secret, time.Now().Add(life).UTC().Format(time.RFC3339), action, action)
	}
}

func (f *fakeSTS) calls() []url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]url.Values(nil), f.asked...)
}

// roleUser is an account of the gateway beside the root account.
const (
	roleUser   = "AKIAROLEUSER"
	roleSecret = "role-user-secret"
)

// TestRoles: users with roles reach the buckets of their role's account and endpoint, and no other.
func TestRoles(t *testing.T) {
	t.Parallel()
	gw, other := gatewaytest.StartUsers(t, map[string]string{roleUser: roleSecret}), gatewaytest.Start(t)
	own := testStore(t, gw.URL(), nil)
	testBucket(t, own, "daemons")
	sts := newSTS(t, roleUser, roleSecret, time.Hour)
	roles := testRoles(t, own, map[string]Config{
		"arn:static":  {Endpoint: gw.URL(), PathStyle: true, AccessKey: roleUser, SecretKey: roleSecret},
		"arn:other":   {Endpoint: other.URL(), PathStyle: true}, // with the daemon's own credentials
		"arn:assumed": {Endpoint: gw.URL(), PathStyle: true, Role: &Role{ARN: "arn:aws:iam::1:role/r", ExternalID: "x", Endpoint: sts.URL, Duration: 20 * time.Minute}},
	})
	static := roles.roles["arn:static"]
	testBucket(t, static, "users")
	testBucket(t, roles.roles["arn:other"], "elsewhere")

	for _, c := range []struct {
		role, bucket string
		err          error
	}{
		{"", "daemons", nil},
		{"arn:unknown", "daemons", nil}, // the daemon's own
		{"arn:static", "users", nil},
		{"arn:static", "daemons", fs.ErrPermission},
		{"arn:static", "elsewhere", fs.ErrNotExist},
		{"arn:other", "elsewhere", nil},
		{"arn:other", "daemons", fs.ErrNotExist},
		{"arn:assumed", "users", nil},
		{"arn:assumed", "daemons", fs.ErrPermission},
	} {
		t.Run(c.role+" "+c.bucket, func(t *testing.T) {
			stores, err := roles.As(t.Context(), storage.Identity{Role: c.role, Session: "mary.0123@s-1 é", Policy: `{"Version":"2012-10-17"}`})
			if err != nil {
				t.Fatal(err)
			}
			b, err := stores.Backend(t.Context(), "S3", c.bucket)
			if err == nil {
				err = put(t, b, "f", []byte(c.role))
			}
			if !errors.Is(err, c.err) {
				t.Errorf("%v, want %v", err, c.err)
			}
		})
	}
	calls := sts.calls()
	if len(calls) != 1 {
		t.Fatalf("the STS was asked %d times for one session: %v", len(calls), calls)
	}
	for name, want := range map[string]string{
		"Action": "AssumeRole", "RoleArn": "arn:aws:iam::1:role/r", "RoleSessionName": "mary.0123@s-1--", "ExternalId": "x",
		"DurationSeconds": "1200", "Policy": `{"Version":"2012-10-17"}`,
	} {
		if got := calls[0].Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if !strings.Contains(sts.signed[0], "Credential="+gatewaytest.AccessKey+"/") {
		t.Errorf("the role was asked for with %q", sts.signed[0])
	}
	if got := gauge(t, own.metrics.sessions); got != 1 {
		t.Errorf("%v sessions are kept", got)
	}
}

// TestRoleRefused: a role that the STS does not lend is a refusal; an STS that is away is an outage. Neither is kept.
func TestRoleRefused(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.StartUsers(t, map[string]string{roleUser: roleSecret})
	own := testStore(t, gw.URL(), nil)
	sts := newSTS(t, "", "", 0)
	missing := filepath.Join(t.TempDir(), "token")
	roles := testRoles(t, own, map[string]Config{
		"arn:r": {Endpoint: gw.URL(), PathStyle: true, Role: &Role{ARN: "arn:r", Endpoint: sts.URL}},
		"arn:w": {Endpoint: gw.URL(), PathStyle: true, Role: &Role{ARN: "arn:w", Endpoint: sts.URL, TokenFile: missing}},
	})
	id := storage.Identity{Role: "arn:r", Session: "u.1@s"}
	if _, err := roles.As(t.Context(), id); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("refused: %v", err)
	}
	if _, err := roles.As(t.Context(), storage.Identity{Role: "arn:w"}); !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its token: %v", err)
	}
	sts.lend("down", "", 0)
	if _, err := roles.As(t.Context(), id); !errors.Is(err, storage.ErrUnavailable) || errors.Is(err, fs.ErrPermission) {
		t.Errorf("while the STS is away: %v", err)
	}
	sts.lend(roleUser, roleSecret, time.Hour)
	if _, err := roles.As(t.Context(), id); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := os.WriteFile(missing, []byte("token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.As(t.Context(), storage.Identity{Role: "arn:w"}); err != nil {
		t.Errorf("with its token: %v", err)
	}
	last := sts.calls()[len(sts.calls())-1]
	if last.Get("Action") != "AssumeRoleWithWebIdentity" || last.Get("WebIdentityToken") != "token" || sts.signed[len(sts.signed)-1] != "" {
		t.Errorf("asked with the token: %v, signed %q", last, sts.signed[len(sts.signed)-1])
	}
}

// TestRoleRefresh: what is borrowed is borrowed anew before it ends; while nothing is lent the old credentials go on.
func TestRoleRefresh(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.StartUsers(t, map[string]string{roleUser: roleSecret})
	own := testStore(t, gw.URL(), nil)
	sts := newSTS(t, roleUser, roleSecret, 2*time.Second) // half of it is its use
	roles := testRoles(t, own, map[string]Config{
		"arn:r": {Endpoint: gw.URL(), PathStyle: true, Role: &Role{ARN: "arn:r", Endpoint: sts.URL}},
	})
	testBucket(t, roles.roles["arn:r"], "refresh")
	stores, err := roles.As(t.Context(), storage.Identity{Role: "arn:r", Session: "u"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := stores.Backend(t.Context(), "S3", "refresh")
	if err != nil {
		t.Fatal(err)
	}
	asked := len(sts.calls())
	use := func() {
		if _, err := b.Stat(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Stat(t.Context(), "nothing"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	eventually(t, "new credentials", func() bool { use(); return len(sts.calls()) > asked })

	sts.lend(roleUser, roleSecret, time.Hour)
	fresh, err := roles.As(t.Context(), storage.Identity{Role: "arn:r", Session: "other"})
	if err != nil {
		t.Fatal(err)
	}
	cache := fresh.(*Store).credentials
	borrowed := &borrower{endpoint: fresh.(*Store).endpoint, lender: fresh.(*Store).credentials}
	first, err := borrowed.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := borrowed.HandleFailToRefresh(t.Context(), first, errors.New("away"))
	if err != nil || kept.AccessKeyID != roleUser || !kept.Expires.After(time.Now()) || kept.Expires.After(time.Now().Add(askAgain)) {
		t.Errorf("while nothing is lent: %v until %v, %v", kept.AccessKeyID, kept.Expires, err)
	}
	if c, err := borrowed.HandleFailToRefresh(t.Context(), aws.Credentials{}, errors.New("away")); err == nil {
		t.Errorf("credentials that were given up go on as %+v", c)
	}
	borrowed.until = time.Now()
	if _, err := borrowed.HandleFailToRefresh(t.Context(), first, errors.New("away")); err == nil {
		t.Error("credentials go on after their end")
	}
	if c, err := cache.Retrieve(t.Context()); err != nil || time.Until(c.Expires) > time.Hour-refreshAhead {
		t.Errorf("an hour's credentials end for us at %v, %v", c.Expires, err)
	}
}

// TestCredentialsOverEarly: in the midst of an upload the store takes credentials no more that should last for another
// hour. They are borrowed anew, once for all parts on their way, and the upload goes on.
func TestCredentialsOverEarly(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.StartUsers(t, map[string]string{roleUser: roleSecret})
	var over atomic.Bool
	var refused atomic.Int64
	sts := newSTS(t, roleUser, roleSecret, time.Hour)
	sts.lends = func(*http.Request) (string, string, time.Duration) {
		over.Store(false)
		return roleUser, roleSecret, time.Hour
	}
	own := testStore(t, gw.URL(), func(c *Config) {
		c.Wrap = func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if !over.Load() || !r.URL.Query().Has("partNumber") {
					return next.RoundTrip(r)
				}
				refused.Add(1)
				return &http.Response{StatusCode: http.StatusBadRequest, Header: http.Header{}, Request: r, Body: io.NopCloser(strings.NewReader(
					`<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>`))}, nil
			})
		}
	})
	roles := testRoles(t, own, map[string]Config{
		"arn:r": {Endpoint: gw.URL(), PathStyle: true, Role: &Role{ARN: "arn:r", Endpoint: sts.URL}},
	})
	testBucket(t, roles.roles["arn:r"], "early")
	stores, err := roles.As(t.Context(), storage.Identity{Role: "arn:r", Session: "u"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := stores.Backend(t.Context(), "S3", "early")
	if err != nil {
		t.Fatal(err)
	}
	before := len(sts.calls())
	over.Store(true)
	content := storagetest.Bytes(3, 20*mib)
	if err := put(t, b, "f", content); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(storagetest.Read(t, b, "f"), content) {
		t.Error("the file is another one")
	}
	if n := len(sts.calls()) - before; n != 1 || refused.Load() == 0 {
		t.Errorf("borrowed %d times anew, after %d refusals", n, refused.Load())
	}
}

// TestRoleSessionsAreBounded: the oldest ones are forgotten, and whoever has one goes on with it.
func TestRoleSessionsAreBounded(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.StartUsers(t, map[string]string{roleUser: roleSecret})
	own := testStore(t, gw.URL(), nil)
	var asked atomic.Int64
	sts := newSTS(t, roleUser, roleSecret, time.Hour)
	sts.lends = func(*http.Request) (string, string, time.Duration) {
		asked.Add(1)
		return roleUser, roleSecret, time.Hour
	}
	roles := testRoles(t, own, map[string]Config{
		"arn:r": {Endpoint: gw.URL(), PathStyle: true, Role: &Role{ARN: "arn:r", Endpoint: sts.URL}},
	})
	testBucket(t, roles.roles["arn:r"], "bounded")
	as := func(name string) storage.Stores {
		s, err := roles.As(t.Context(), storage.Identity{Role: "arn:r", Session: name})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := asked.Load()
	first := as("first")
	for i := range maxLent {
		as(fmt.Sprint("u", i))
	}
	if n := asked.Load() - before; n != maxLent+1 {
		t.Errorf("%d sessions were borrowed for, want %d", n, maxLent+1)
	}
	if n := gauge(t, own.metrics.sessions); n != maxLent {
		t.Errorf("%v sessions are kept, want %d", n, maxLent)
	}
	if _, err := first.Backend(t.Context(), "S3", "bounded"); err != nil {
		t.Errorf("a forgotten session: %v", err)
	}
	as("u1") // still there
	as("first")
	if n := asked.Load() - before; n != maxLent+2 {
		t.Errorf("%d sessions were borrowed for, want one more", n)
	}
}

// TestEnvironmentCredentials: what the AWS SDK finds around the process.
func TestEnvironmentCredentials(t *testing.T) {
	gw := sharedGateway(t)
	t.Setenv("AWS_ACCESS_KEY_ID", gatewaytest.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", gatewaytest.SecretKey)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	s := testStore(t, gw.URL(), func(c *Config) { c.AccessKey, c.SecretKey, c.Environment = "", "", true })
	b := testBucket(t, s, "environment")
	if err := put(t, b, "f", []byte("content")); err != nil {
		t.Fatal(err)
	}
}

// TestTLS: a store behind TLS is believed only with the CA that the configuration names, also through a proxy.
func TestTLS(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.Start(t)
	endpoint, ca := terminateTLS(t, gw.Addr())
	var through atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		through.Add(1)
		tunnel(w, r)
	}))
	t.Cleanup(proxy.Close)

	stranger := testStore(t, endpoint, func(c *Config) { c.RetryBudget = time.Millisecond })
	if _, err := stranger.Backend(t.Context(), "S3", "tls"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v", err)
	}
	s := testStore(t, endpoint, func(c *Config) { c.CAFile = ca })
	b := testBucket(t, s, "tls")
	content := storagetest.Bytes(1, 12*mib)
	if err := put(t, b, "f", content); err != nil {
		t.Fatal(err)
	}
	proxied := testStore(t, endpoint, func(c *Config) { c.CAFile, c.Proxy = ca, proxy.URL })
	if got := storagetest.Read(t, proxied.Bucket("tls"), "f"); !bytes.Equal(got, content) {
		t.Errorf("%d bytes differ", len(got))
	}
	if through.Load() == 0 {
		t.Error("nothing went through the proxy")
	}
}

func testRoles(t *testing.T, own *Store, cfgs map[string]Config) *Roles {
	t.Helper()
	roles, err := NewRoles(own, cfgs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := roles.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return roles
}

// gauge is what a gauge shows.
func gauge(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(g)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return all[0].GetMetric()[0].GetGauge().GetValue()
}

func put(t *testing.T, b storage.Backend, name string, content []byte) error {
	t.Helper()
	u, err := b.Create(t.Context(), name, storage.CreateOptions{ID: name})
	if err != nil {
		return err
	}
	if _, err := u.WriteAt(content, 0); err != nil {
		return errors.Join(err, u.Abort(t.Context()))
	}
	_, err = u.Commit(t.Context())
	return err
}

// terminateTLS is what stands before a store that speaks no TLS itself. It passes bytes on, so signatures stay true.
func terminateTLS(t *testing.T, to string) (endpoint, caFile string) {
	t.Helper()
	certificate, ca := authority(t, 1)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // closed
			}
			all.Go(func() { join(in, to) })
		}
	})
	return "https://" + l.Addr().String(), caFile
}

// join passes bytes on until either side ends.
func join(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(in, out) // the end of one side is the end of both
		_ = in.Close()
	})
	_, _ = io.Copy(out, in)
	_ = out.Close()
	back.Wait()
}

// tunnel is a proxy's CONNECT.
func tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		httputil.NewSingleHostReverseProxy(r.URL).ServeHTTP(w, r)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		slog.Error(err.Error())
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		_ = conn.Close()
		return
	}
	join(conn, r.Host)
}
