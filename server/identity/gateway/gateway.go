// Package gateway is the identity provider of servers whose IdentityProviderType is API_GATEWAY: one GET for each attempt
// to the server's IdentityProviderDetails.Url, with the password in headers, and an answer in JSON (AWS user guide,
// "Using Amazon API Gateway to integrate your identity provider"). Nothing is cached, as on AWS.
//
// SftpAuthenticationMethods is not honoured here: which methods a client may use, and in which order, is the front
// door's to say, which has the server before it. Passwords go into the request and nowhere else.
package gateway

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/internal/response"
)

// providerType is the one IdentityProviderType that is served here.
const providerType = "API_GATEWAY"

// maxBody bounds an answer: AWS allows 2.1 MB of mappings (transfer-api 3.1), which are JSON in a JSON string.
const maxBody = 5 << 20

// Config is what a Provider needs. Servers is required.
type Config struct {
	Servers identity.Servers
	// Client asks; default: a client of our own. Redirects are not followed whatever it says, for they would carry the
	// password to somebody else.
	Client *http.Client
	// Credentials are those of a server's InvocationRole; false if there are none, and the request stays unsigned.
	// Default: none at all.
	Credentials func(ctx context.Context, role string) (Credentials, bool, error)
	// Region is what requests are signed for if the URL's host does not name one.
	Region string
	// Timeout bounds one question. Default 30 seconds: API Gateway itself gives up after 29.
	Timeout time.Duration
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: counted and shown nowhere
}

// Provider answers attempts by asking the server's URL.
type Provider struct {
	Config
	seconds *prometheus.HistogramVec
}

// New makes a Provider.
func New(c Config) *Provider {
	client := http.Client{}
	if c.Client != nil {
		client = *c.Client
	} else {
		// HTTP/1 keeps the case of header names, which mapping templates of API Gateway may look for.
		only := &http.Protocols{}
		only.SetHTTP1(true)
		client.Transport = &http.Transport{
			Proxy: http.ProxyFromEnvironment, Protocols: only, TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second,
		}
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.Client = &client
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Credentials == nil {
		c.Credentials = func(context.Context, string) (Credentials, bool, error) { return Credentials{}, false, nil }
	}
	p := &Provider{Config: c, seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "transferd_identity_gateway_seconds", Help: "Questions to API_GATEWAY identity providers, by how they ended.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"result"})}
	if c.Metrics != nil {
		c.Metrics.MustRegister(p.seconds)
	}
	return p
}

// Authenticate grants what the server's provider says. A provider that cannot be reached, or does not answer with 200, or
// talks nonsense, is an error and no refusal.
func (p *Provider) Authenticate(ctx context.Context, a identity.Attempt) (identity.Grant, error) {
	// Without a password header the question would be one for keys, and its answer no proof of anything.
	if len(a.PublicKey) == 0 && a.Password == "" || !identity.ValidUserName(a.UserName) {
		return identity.Grant{}, identity.ErrDenied
	}
	began := p.Now()
	grant, err := p.authenticate(ctx, a)
	result := "granted"
	switch {
	case errors.Is(err, identity.ErrDenied):
		result = "denied"
	case err != nil:
		result = "error"
	}
	p.seconds.WithLabelValues(result).Observe(p.Now().Sub(began).Seconds())
	return grant, err
}

func (p *Provider) authenticate(ctx context.Context, a identity.Attempt) (identity.Grant, error) {
	s, err := p.Servers.Server(ctx, a.Server)
	if err != nil {
		return identity.Grant{}, fmt.Errorf("find server: %w", err)
	}
	told, err := p.ask(ctx, s, a)
	if err != nil {
		return identity.Grant{}, fmt.Errorf("ask identity provider: %w", err)
	}
	if told.status != http.StatusOK {
		return identity.Grant{}, fmt.Errorf("identity provider %s answered with status %d", told.url, told.status)
	}
	r, err := response.Parse(told.body)
	if err != nil {
		return identity.Grant{}, fmt.Errorf("identity provider %s: %w", told.url, err)
	}
	return r.Grant(a)
}

// Test asks as a login would and shows what came back (transfer-api 4.6). What went wrong on the way is a message in
// words of ours; the log has the cause.
func (p *Provider) Test(ctx context.Context, s server.Server, a identity.Attempt) (identity.Answer, error) {
	if s.IdentityProviderType != providerType {
		return identity.Answer{}, fmt.Errorf("identity provider type %s: %w", s.IdentityProviderType, errors.ErrUnsupported)
	}
	if !identity.ValidUserName(a.UserName) {
		return identity.Answer{Response: "{}", StatusCode: http.StatusOK, Message: "No user can have this name"}, nil
	}
	told, err := p.ask(ctx, s, a)
	if err != nil {
		if ctx.Err() != nil { // whoever asked us went away
			return identity.Answer{}, err
		}
		p.Log.WarnContext(ctx, "identity provider test", slog.String("server", string(s.ServerId)), slog.String("error", err.Error()))
		reason := "it cannot be reached"
		if errors.Is(err, context.DeadlineExceeded) {
			reason = "it did not answer in time"
		}
		return identity.Answer{StatusCode: http.StatusInternalServerError, Message: unable + reason, Url: told.url}, nil
	}
	answer := identity.Answer{Response: string(told.body), StatusCode: told.status, Url: told.url}
	if told.status != http.StatusOK {
		answer.Message = unable + "it must answer with status 200 always"
		return answer, nil
	}
	r, err := response.Parse(told.body)
	if err != nil {
		answer.Message = unable + err.Error()
		return answer, nil
	}
	var denied *identity.DeniedError
	if _, err := r.Grant(a); errors.As(err, &denied) {
		answer.Message = denied.Reason
	}
	return answer, nil
}

const unable = "Unable to call identity provider: "

// reply is what came back. The URL is without its query, as AWS shows it.
type reply struct {
	status int
	body   []byte
	url    string
}

func (p *Provider) ask(ctx context.Context, s server.Server, a identity.Attempt) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	r, err := request(ctx, s, a)
	if err != nil {
		return reply{}, err
	}
	told := reply{url: r.URL.Scheme + "://" + r.URL.Host + r.URL.EscapedPath()}
	if err := p.sign(ctx, r, s.IdentityProviderDetails.InvocationRole); err != nil {
		return told, err
	}
	got, err := p.Client.Do(r)
	if err != nil {
		return told, err
	}
	told.status = got.StatusCode
	told.body, err = io.ReadAll(io.LimitReader(got.Body, maxBody+1))
	if err := errors.Join(err, got.Body.Close()); err != nil {
		return told, fmt.Errorf("read %s: %w", told.url, err)
	}
	if len(told.body) > maxBody {
		return told, fmt.Errorf("read %s: the answer is longer than %d bytes", told.url, maxBody)
	}
	return told, nil
}

// request is the documented question (transfer-api 4.1).
func request(ctx context.Context, s server.Server, a identity.Attempt) (*http.Request, error) {
	if s.IdentityProviderType != providerType || s.IdentityProviderDetails == nil || s.IdentityProviderDetails.Url == "" {
		return nil, fmt.Errorf("server %s has no API_GATEWAY identity provider", s.ServerId)
	}
	base, err := url.Parse(s.IdentityProviderDetails.Url)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("server %s: IdentityProviderDetails.Url must be an absolute http or https URL", s.ServerId)
	}
	u := base.JoinPath("servers", url.PathEscape(string(s.ServerId)), "users", url.PathEscape(a.UserName), "config")
	u.Fragment = ""
	u.RawQuery = url.Values{"protocol": {a.Protocol}, "sourceIp": {a.SourceIP}}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if len(a.PublicKey) == 0 && a.Password != "" {
		r.Header.Set("Password", headerSafe(a.Password))
		// Not by Set, which would write it Passwordbase64.
		r.Header["PasswordBase64"] = []string{base64.StdEncoding.EncodeToString([]byte(a.Password))}
	}
	return r, nil
}

// headerSafe is a password as the Password header carries it. Where no header can carry it as it is, the header is still
// sent, escaped: a provider that knows Password alone must take the attempt for one with a wrong password, and never for
// one without a password. PasswordBase64 has it right.
func headerSafe(password string) string {
	for i := range len(password) {
		if password[i] < ' ' || password[i] > '~' {
			return url.PathEscape(password)
		}
	}
	if strings.TrimSpace(password) != password {
		return url.PathEscape(password)
	}
	return password
}
