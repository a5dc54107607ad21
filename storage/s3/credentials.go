package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/transferd/transferd/storage"
)

const (
	// refreshAhead is how long before their end credentials are borrowed anew.
	refreshAhead = 5 * time.Minute
	// askAgain is how soon an STS is asked again that did not lend while the old credentials still count.
	askAgain = 15 * time.Second
	// borrowWithin is how long a login waits for the STS.
	borrowWithin = 15 * time.Second
	// maxToken bounds an OpenID Connect token; AWS takes 20,000 characters.
	maxToken = 64 * kib
)

// Role is what an STS lends: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
type Role struct {
	ARN string
	// ExternalID is what the role's owner may ask for.
	ExternalID string
	// TokenFile names a file with an OpenID Connect token, which is shown instead of credentials. It is read anew each
	// time. https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
	TokenFile string
	// Endpoint is the STS's URL; empty is AWS's own for the region.
	Endpoint string
	// Duration is how long credentials are borrowed for, from 15 minutes to 12 hours; 0 is an hour, which every role
	// allows.
	Duration time.Duration
}

// ownSession names requests of a borrowed role that are nobody's but the daemon's.
var ownSession = storage.Identity{Session: "transferd"}

// Check says what cannot be true, without asking anybody.
func (cfg Config) Check() error {
	if cfg.Environment && cfg.AccessKey != "" {
		return errors.New("credentials come from an access key or from the environment, not from both")
	}
	if (cfg.AccessKey == "") != (cfg.SecretKey == "") {
		return errors.New("an access key needs its secret key, and a secret key its access key")
	}
	if r := cfg.Role; r != nil {
		switch {
		case r.ARN == "":
			return errors.New("a role needs its ARN")
		case r.Duration != 0 && (r.Duration < 15*time.Minute || r.Duration > 12*time.Hour):
			return errors.New("a role is borrowed for 15 minutes to 12 hours")
		case r.TokenFile != "" && (cfg.AccessKey != "" || cfg.Environment):
			return errors.New("a role for a web identity needs no other credentials")
		}
	}
	_, _, err := cfg.network()
	return err
}

// network is the way to the store: through which proxy, and whom to trust there.
func (cfg Config) network() (func(*http.Request) (*url.URL, error), *tls.Config, error) {
	proxy := http.ProxyFromEnvironment
	if cfg.Proxy != "" {
		u, err := url.Parse(cfg.Proxy)
		if err != nil || u.Host == "" {
			return nil, nil, errors.New("the proxy is no URL") // it may hold a password
		}
		proxy = http.ProxyURL(u)
	}
	if cfg.CAFile == "" {
		return proxy, nil, nil
	}
	pem, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("certificates to trust: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, nil, fmt.Errorf("certificates that the system trusts: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s has no certificate in PEM", cfg.CAFile)
	}
	return proxy, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// own are the credentials that the configuration names, or the inherited ones.
func (cfg Config) own(inherited aws.CredentialsProvider) aws.CredentialsProvider {
	switch {
	case cfg.Environment:
		return aws.NewCredentialsCache(environment{})
	case cfg.AccessKey == "" && inherited != nil:
		return inherited
	}
	return credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, cfg.SessionToken)
}

// environment are the credentials that the AWS SDK finds around the process. They are looked for when they are needed
// and again when they end.
type environment struct{}

// Retrieve makes it an aws.CredentialsProvider.
func (environment) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	return found.Credentials.Retrieve(ctx)
}

// As implements storage.Impersonator. A role is borrowed for each session, with the session's name and policy, and at
// once, so that a login is refused and not the first file. Credentials that are not borrowed are the same for everybody.
func (s *Store) As(ctx context.Context, id storage.Identity) (storage.Stores, error) {
	if s.cfg.Role == nil {
		return s, nil
	}
	key := session{name: id.Session, policy: id.Policy}
	view := s.lent.get(key, func() *Store { return s.store(s.provider(id)) })
	ctx, cancel := context.WithTimeout(ctx, borrowWithin)
	defer cancel()
	_, err := view.credentials.Retrieve(ctx)
	if err == nil {
		return view, nil
	}
	s.lent.drop(key)
	if ctx.Err() != nil || retryable(err) {
		return nil, fmt.Errorf("s3: borrow role %s: %w: %w", s.cfg.Role.ARN, storage.ErrUnavailable, err)
	}
	// What it wraps besides, a file that is missing perhaps, says nothing about the session's files.
	return nil, fmt.Errorf("s3: borrow role %s: %w: %v", s.cfg.Role.ARN, fs.ErrPermission, err)
}

// provider are the credentials of a session: those of the endpoint, or what the STS lends.
func (e *endpoint) provider(id storage.Identity) aws.CredentialsProvider {
	role := e.cfg.Role
	if role == nil {
		return e.source
	}
	opt := sts.Options{
		Region: e.cfg.Region, Credentials: e.source,
		HTTPClient: &http.Client{Transport: e.transport, Timeout: borrowWithin},
	}
	if role.Endpoint != "" {
		opt.BaseEndpoint = aws.String(role.Endpoint)
	}
	b := &borrower{endpoint: e}
	var policy *string
	if id.Policy != "" {
		policy = aws.String(id.Policy)
	}
	if role.TokenFile != "" {
		opt.Credentials = aws.AnonymousCredentials{}
		b.lender = stscreds.NewWebIdentityRoleProvider(sts.New(opt), role.ARN, tokenFile(role.TokenFile), func(o *stscreds.WebIdentityRoleOptions) {
			o.RoleSessionName, o.Duration, o.Policy = sessionName(id.Session), role.Duration, policy
		})
	} else {
		b.lender = stscreds.NewAssumeRoleProvider(sts.New(opt), role.ARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName, o.Duration, o.Policy = sessionName(id.Session), role.Duration, policy
			if role.ExternalID != "" {
				o.ExternalID = aws.String(role.ExternalID)
			}
		})
	}
	return aws.NewCredentialsCache(b)
}

// sessionName is a name with the characters that an STS takes, up to 64 of them.
func sessionName(name string) string {
	if name == "" {
		return ownSession.Session
	}
	name = strings.Map(func(r rune) rune {
		if strings.ContainsRune("=,.@-_", r) || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, name)
	return name[:min(64, len(name))]
}

// tokenFile is a file with an OpenID Connect token.
type tokenFile string

// GetIdentityToken makes it an stscreds.IdentityTokenRetriever.
func (f tokenFile) GetIdentityToken() ([]byte, error) {
	b, err := os.ReadFile(string(f))
	if err != nil {
		return nil, err
	}
	if len(b) > maxToken {
		return nil, fmt.Errorf("%s is no token: it is too long", string(f))
	}
	return []byte(strings.TrimSpace(string(b))), nil
}

// borrower asks an STS for credentials. To the cache around it they end early, so that new ones are there in time; while
// the STS does not lend, the old ones go on to their true end.
type borrower struct {
	endpoint *endpoint
	lender   aws.CredentialsProvider

	mu    sync.Mutex
	until time.Time // the true end of the last credentials; guarded by mu
}

// Retrieve makes it an aws.CredentialsProvider.
func (b *borrower) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := b.lender.Retrieve(ctx)
	if err != nil {
		b.endpoint.metrics.borrowed.WithLabelValues(result(err)).Inc()
		return c, err
	}
	b.endpoint.metrics.borrowed.WithLabelValues("ok").Inc()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until = c.Expires
	c.Expires = c.Expires.Add(-min(refreshAhead, c.Expires.Sub(b.endpoint.cfg.Now())/2)) // when they are borrowed anew
	return c, nil
}

// HandleFailToRefresh is what the cache asks when Retrieve failed: whether the old credentials still do.
func (b *borrower) HandleFailToRefresh(ctx context.Context, old aws.Credentials, err error) (aws.Credentials, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.endpoint.cfg.Now()
	if !now.Before(b.until) || !old.HasKeys() { // without keys they were given up (Store.renew)
		return aws.Credentials{}, err
	}
	b.endpoint.metrics.borrowed.WithLabelValues("kept").Inc()
	b.endpoint.cfg.Logger.WarnContext(ctx, "a role is not lent again, its old credentials go on to their end",
		"role", b.endpoint.cfg.Role.ARN, "until", b.until, "error", err.Error())
	old.Expires = now.Add(min(askAgain, b.until.Sub(now)))
	return old, nil
}

// renew is about credentials that were borrowed or found, and that the store says are over before the time that was told: our
// clock is behind the store's, say. They are asked for anew, once for all requests that find out at a time, and the request
// is worth another try.
func (s *Store) renew(err error) bool {
	cache, borrowed := s.credentials.(*aws.CredentialsCache)
	if !borrowed || errorCode(err) != "ExpiredToken" {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.cfg.Now(); now.Sub(s.renewed) >= askAgain {
		s.renewed = now
		cache.Invalidate()
	}
	return true
}
