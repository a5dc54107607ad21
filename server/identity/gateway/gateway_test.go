package gateway_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	role  = "arn:aws:iam::123456789012:role/users"
	grant = `{"Role":"` + role + `","HomeDirectory":"/bucket/anna"}`
)

// servers is a catalogue of one server.
type servers server.Server

func (s servers) Server(_ context.Context, id server.ID) (server.Server, error) {
	if id != s.ServerId {
		return server.Server{}, &server.NotFoundError{ResourceType: "Server", Resource: string(id)}
	}
	return server.Server(s), nil
}

func catalogue(url string) servers {
	return servers{ServerId: "s-0123456789abcdef0", IdentityProviderType: "API_GATEWAY",
		IdentityProviderDetails: &server.IdentityProviderDetails{Url: url, InvocationRole: role}}
}

// rig is a provider in front of an identity provider that answers by f.
type rig struct {
	*gateway.Provider
	server server.Server
	url    string
	log    *bytes.Buffer
}

func newRig(t *testing.T, change func(*gateway.Config), f http.HandlerFunc) rig {
	t.Helper()
	far := httptest.NewServer(f)
	t.Cleanup(far.Close)
	log := &bytes.Buffer{}
	known := catalogue(far.URL + "/prod/")
	c := gateway.Config{Servers: known, Client: far.Client(), Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: prometheus.NewRegistry()}
	if change != nil {
		change(&c)
	}
	return rig{Provider: gateway.New(c), server: server.Server(known), url: far.URL, log: log}
}

func attempt(password string) identity.Attempt {
	return identity.Attempt{Server: "s-0123456789abcdef0", UserName: "anna@example.com", Protocol: "FTPS", SourceIP: "2001:db8::1", Password: password}
}

func TestQuestion(t *testing.T) {
	t.Parallel()
	for password, plain := range map[string]string{
		"hunter2":      "hunter2",
		"a b%c":        "a b%c",
		" edges ":      "%20edges%20",
		"   ":          "%20%20%20",
		"grüße":        "gr%C3%BC%C3%9Fe",
		"line\r\nfeed": "line%0D%0Afeed",
	} {
		r := newRig(t, nil, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.URL.Path != "/prod/servers/s-0123456789abcdef0/users/anna@example.com/config" {
				t.Errorf("asked %s %s", r.Method, r.URL)
			}
			if q := r.URL.Query(); len(q) != 2 || q.Get("protocol") != "FTPS" || q.Get("sourceIp") != "2001:db8::1" {
				t.Errorf("query %s", r.URL.RawQuery)
			}
			if got := r.Header.Get("Password"); got != plain {
				t.Errorf("Password of %q is %q, want %q", password, got, plain)
			}
			if got, err := base64.StdEncoding.DecodeString(r.Header.Get("PasswordBase64")); string(got) != password || err != nil {
				t.Errorf("PasswordBase64 of %q is %q, %v", password, got, err)
			}
			if r.Header.Get("Authorization") != "" {
				t.Error("signed without credentials")
			}
			w.Write([]byte(grant))
		})
		g, err := r.Authenticate(t.Context(), attempt(password))
		if err != nil || g.UserName != "anna@example.com" || g.Role != role || g.HomeDirectory != "/bucket/anna" {
			t.Errorf("%q: granted %+v, %v", password, g, err)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Password", "PasswordBase64"} {
			if _, sent := r.Header[name]; sent {
				t.Errorf("a question for keys has a header %s", name)
			}
		}
		w.Write([]byte(`{"Role":"` + role + `","PublicKeys":["ssh-ed25519 ` + base64.StdEncoding.EncodeToString([]byte("first")) + `"]}`))
	})
	a := attempt("")
	a.PublicKey = []byte("first")
	if g, err := r.Authenticate(t.Context(), a); err != nil || g.Role != role {
		t.Errorf("granted %+v, %v", g, err)
	}
	a.PublicKey = []byte("second")
	if g, err := r.Authenticate(t.Context(), a); !errors.Is(err, identity.ErrDenied) {
		t.Errorf("granted %+v, %v", g, err)
	}
}

// TestNotAsked: what proves nothing, or is no name, is denied before anybody is asked.
func TestNotAsked(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, func(http.ResponseWriter, *http.Request) { t.Error("was asked") })
	for _, name := range []string{"anna@example.com", "an", "../anna", "-anna", "a/b/c", "anna\n", strings.Repeat("a", 101)} {
		a := attempt("pw")
		a.UserName = name
		if name == "anna@example.com" {
			a.Password = ""
		}
		if _, err := r.Authenticate(t.Context(), a); !errors.Is(err, identity.ErrDenied) {
			t.Errorf("%q: %v", name, err)
		}
	}
	a := attempt("pw")
	a.Server = "s-unknown"
	var unknown *server.NotFoundError
	if _, err := r.Authenticate(t.Context(), a); !errors.As(err, &unknown) || errors.Is(err, identity.ErrDenied) {
		t.Errorf("unknown server: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	for _, c := range []struct {
		name    string
		status  int
		body    string
		denied  bool
		message string // of Test
	}{
		{"no such user", 200, `{}`, true, ""},
		{"blank role", 200, `{"Role":""}`, true, ""},
		{"keys", 200, `{"Role":"x","PublicKeys":["a b"]}`, true, "PublicKeys"},
		{"forbidden", 403, grant, false, "status 200"},
		{"created", 201, grant, false, "status 200"},
		{"fault", 500, ``, false, "status 200"},
		{"redirect", 307, grant, false, "status 200"},
		{"nonsense", 200, `<html>`, false, "JSON"},
		{"empty", 200, ``, false, "JSON"},
		{"endless", 200, strings.Repeat(" ", 6<<20) + grant, false, "cannot be reached"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(c.status)
				w.Write([]byte(c.body))
			})
			g, err := r.Authenticate(t.Context(), attempt("s3cr3t-pw"))
			if err == nil || errors.Is(err, identity.ErrDenied) != c.denied || g.Role != "" {
				t.Errorf("granted %+v, %v", g, err)
			}
			answer, err2 := r.Test(t.Context(), r.server, attempt("s3cr3t-pw"))
			if err2 != nil || !strings.Contains(answer.Message, c.message) || c.message == "" && answer.Message != "" {
				t.Errorf("test: %+v, %v", answer, err2)
			}
			if want := r.url + "/prod/servers/s-0123456789abcdef0/users/anna@example.com/config"; answer.Url != want {
				t.Errorf("asked %s, want %s", answer.Url, want)
			}
			if c.name != "endless" && (answer.Response != c.body || answer.StatusCode != c.status) {
				t.Errorf("test: %+v", answer)
			}
			if said := err.Error() + answer.Message + r.log.String(); strings.Contains(said, "s3cr3t") {
				t.Errorf("the password is in %q", said)
			}
		})
	}
}

func TestTest(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Password") == "pw" {
			w.Write([]byte(grant))
			return
		}
		w.Write([]byte(`{}`))
	})
	for password, want := range map[string]string{"pw": grant, "no": `{}`, "": `{}`} {
		if got, err := r.Test(t.Context(), r.server, attempt(password)); err != nil || got.Response != want || got.StatusCode != 200 || got.Message != "" {
			t.Errorf("%q: %+v, %v", password, got, err)
		}
	}
	other := r.server
	other.IdentityProviderType = "AWS_LAMBDA"
	if _, err := r.Test(t.Context(), other, attempt("pw")); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("lambda: %v", err)
	}
	for _, url := range []string{"http://127.0.0.1:1", "ftp://host", "://"} {
		broken := server.Server(catalogue(url))
		got, err := r.Test(t.Context(), broken, attempt("pw"))
		if err != nil || got.StatusCode != 500 || !strings.Contains(got.Message, "cannot be reached") || strings.Contains(got.Message, "127.0.0.1") {
			t.Errorf("%s: %+v, %v", url, got, err)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "127.0.0.1:1") {
		t.Errorf("the log has no cause: %s", log)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *gateway.Config) { c.Timeout = 20 * time.Millisecond }, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})
	if _, err := r.Authenticate(t.Context(), attempt("pw")); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, identity.ErrDenied) {
		t.Errorf("got %v", err)
	}
	if got, err := r.Test(t.Context(), r.server, attempt("pw")); err != nil || !strings.Contains(got.Message, "in time") {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestSignature computes the signature anew from what arrived.
func TestSignature(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	creds := gateway.Credentials{AccessKeyID: "AKID", SecretKey: "SECRET", SessionToken: "TOKEN"}
	r := newRig(t, func(c *gateway.Config) {
		c.Region, c.Now = "eu-central-1", func() time.Time { return now }
		c.Credentials = func(_ context.Context, asked string) (gateway.Credentials, bool, error) {
			return creds, asked == role, nil
		}
	}, func(w http.ResponseWriter, r *http.Request) {
		again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
		if err != nil {
			t.Error(err)
		}
		for _, name := range []string{"Password", "PasswordBase64"} {
			again.Header.Set(name, r.Header.Get(name))
		}
		const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
		err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "SECRET", SessionToken: "TOKEN"},
			again, empty, "execute-api", "eu-central-1", now)
		if got := r.Header.Get("Authorization"); err != nil || got != again.Header.Get("Authorization") || r.Header.Get("X-Amz-Security-Token") != "TOKEN" {
			t.Errorf("Authorization %q, want %q (%v)", got, again.Header.Get("Authorization"), err)
		}
		w.Write([]byte(grant))
	})
	if _, err := r.Authenticate(t.Context(), attempt("pw")); err != nil {
		t.Error(err)
	}
}

// TestRegion: the region in an API Gateway host goes before the configured one.
func TestRegion(t *testing.T) {
	t.Parallel()
	seen := ""
	p := gateway.New(gateway.Config{
		Servers: catalogue("https://a1b2c3.execute-api.us-east-2.amazonaws.com/prod"), Region: "eu-central-1",
		Client: &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			seen = r.Header.Get("Authorization")
			return nil, errors.New("far side away")
		})},
		Credentials: func(context.Context, string) (gateway.Credentials, bool, error) {
			return gateway.Credentials{AccessKeyID: "AKID", SecretKey: "SECRET"}, true, nil
		},
	})
	if _, err := p.Authenticate(t.Context(), attempt("pw")); err == nil || !strings.Contains(seen, "/us-east-2/execute-api/aws4_request") {
		t.Errorf("Authorization %q, %v", seen, err)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestCredentialsAway(t *testing.T) {
	t.Parallel()
	away := errors.New("no credentials now")
	r := newRig(t, func(c *gateway.Config) {
		c.Credentials = func(context.Context, string) (gateway.Credentials, bool, error) {
			return gateway.Credentials{}, false, away
		}
	}, func(http.ResponseWriter, *http.Request) { t.Error("was asked unsigned") })
	if _, err := r.Authenticate(t.Context(), attempt("pw")); !errors.Is(err, away) {
		t.Errorf("got %v", err)
	}
}
