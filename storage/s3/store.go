// Package s3 keeps files in S3 and in every store that speaks its API.
//
// Uploads are hand-driven multipart uploads: the bytes go from the client into part buffers under one Budget and from
// there to the store, never to a disk; a file that fits into its first part is one PutObject. A directory is a key
// prefix, made visible by an empty object "name/" as AWS's own console and Transfer Family do.
//
// It knows nothing of protocols, sessions, servers, workflows or databases, and it is the only package that imports
// the AWS SDK's s3 client.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/storage"
)

// Config says which store, and how hard it may be used.
type Config struct {
	// Endpoint is the store's URL; empty is AWS's own for the region.
	Endpoint string
	// Region defaults to us-east-1.
	Region string
	// AccessKey, SecretKey and SessionToken are the credentials.
	AccessKey    string
	SecretKey    string
	SessionToken string
	// Environment takes the credentials from where the AWS SDK looks: variables, shared files, the container's or the
	// machine's role. Without a key and without it the store has the credentials of the one it is a role of.
	Environment bool
	// Role, if set, is borrowed with those credentials; requests are signed with what the STS lends.
	Role *Role
	// CAFile has certificates, PEM, that are trusted besides the system's. It is read again when it changes.
	CAFile string
	// Proxy is the URL of the HTTP proxy on the way to the store and to the STS; empty is what the environment says.
	Proxy string
	// PathStyle puts the bucket into the path instead of the host name, as stores without wildcard DNS need.
	PathStyle bool
	// UnsignedPayload leaves the body out of the signature on plain http, which saves half of the CPU of an upload.
	// Bodies keep their CRC32, but nothing on the way is kept from changing both. Over TLS bodies are never signed.
	UnsignedPayload bool
	// PartSize is the size of an upload's first 500 parts; 0 is 8 MiB, or less under a small budget.
	PartSize int64
	// Parallel is how many parts of one upload are on their way at a time; default 4.
	Parallel int
	// CopyLimit is the largest file that one request copies; 0 is S3's 5 GiB. Larger ones are copied in parts, of no more.
	CopyLimit int64
	// RetryBudget is how long an outage may last before requests fail; default 30 s.
	RetryBudget time.Duration
	// AttemptTimeout is how long one attempt may stay without an answer, besides the time its bytes need; default 30 s.
	AttemptTimeout time.Duration
	// Budget is the buffer memory, shared by all stores of the process.
	Budget *Budget
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
	Now        func() time.Time
	// Wrap, if set, goes around the connection pool; for tests that cut and count.
	Wrap func(http.RoundTripper) http.RoundTripper
}

// knownFor is how long a bucket that was seen is believed to be there.
const knownFor = 30 * time.Second

// Store is one S3 endpoint with one set of credentials. It implements storage.Stores for the domain "S3".
type Store struct {
	*endpoint
	client      *s3.Client
	credentials aws.CredentialsProvider
	copyLimit   int64 // the largest file that one CopyObject takes

	mu      sync.Mutex
	known   map[string]time.Time // buckets that these credentials see, and until when; guarded by mu
	renewed time.Time            // when the store last said that borrowed credentials are over; guarded by mu
}

// endpoint is what the stores of all sessions of a role have in common.
type endpoint struct {
	cfg       Config
	sizes     sizes
	transport *transport
	metrics   *metrics
	sweeper   *sweeper
	source    aws.CredentialsProvider // with which the role is borrowed, if there is one
	lent      lent

	// copySums is what is known of how the store takes copied parts into an upload whose parts have checksums.
	copySums atomic.Int32
	// partSums: the store refuses checksums of whole files of parts.
	partSums atomic.Bool

	alive sync.Mutex
	live  map[string]struct{} // multipart uploads of this process, by UploadId; guarded by alive
}

// New connects to nothing yet. Close the store when its uploads have ended.
func New(cfg Config) (*Store, error) {
	metrics, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	return newStore(cfg, metrics, nil)
}

// newStore makes a store that counts into metrics and has its credentials from those given, unless it has its own.
func newStore(cfg Config, metrics *metrics, inherited aws.CredentialsProvider) (*Store, error) {
	if cfg.Budget == nil || cfg.Logger == nil {
		return nil, errors.New("s3: Config needs a Budget and a Logger")
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	sizes, err := cfg.Budget.plan(cfg.PartSize)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	e := &endpoint{
		cfg: cfg, sizes: sizes, transport: transport, metrics: metrics, source: cfg.own(inherited),
		lent: newLent(metrics), live: make(map[string]struct{}),
	}
	e.sweeper = startSweeper(e)
	return e.store(e.provider(ownSession)), nil
}

func (cfg Config) withDefaults() Config {
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = 4
	}
	if cfg.CopyLimit <= 0 {
		cfg.CopyLimit = 5 * gib
	}
	if cfg.RetryBudget <= 0 {
		cfg.RetryBudget = 30 * time.Second
	}
	if cfg.AttemptTimeout <= 0 {
		cfg.AttemptTimeout = 30 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

// store is the endpoint for somebody with these credentials.
func (e *endpoint) store(c aws.CredentialsProvider) *Store {
	s := &Store{endpoint: e, credentials: c, copyLimit: e.cfg.CopyLimit, known: make(map[string]time.Time)}
	s.client = s.newClient()
	return s
}

func (s *Store) newClient() *s3.Client {
	var rt http.RoundTripper = s.transport
	if s.cfg.Wrap != nil {
		rt = s.cfg.Wrap(rt)
	}
	opt := s3.Options{
		Region:       s.cfg.Region,
		Credentials:  s.credentials,
		UsePathStyle: s.cfg.PathStyle,
		HTTPClient: &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
		Retryer: aws.NopRetryer{}, // see request
		// We bring our own CRC32 where bodies are large; the SDK would hash them once more.
		RequestChecksumCalculation:   aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation:   aws.ResponseChecksumValidationWhenRequired,
		ContinueHeaderThresholdBytes: -1, // costs a round trip a part
	}
	if s.cfg.Endpoint != "" {
		opt.BaseEndpoint = aws.String(s.cfg.Endpoint)
	}
	return s3.New(opt)
}

// bodyOptions are for requests that carry file bytes.
func (s *Store) bodyOptions(o *s3.Options) {
	if s.cfg.UnsignedPayload {
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}
}

// Bucket is a bucket, whether it exists or not.
func (s *Store) Bucket(name string) *Backend { return &Backend{store: s, bucket: name} }

// Backend finds a bucket. It asks the store, at most once in a while.
func (s *Store) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	if domain != "S3" {
		return nil, fmt.Errorf("s3: domain %q: %w", domain, fs.ErrNotExist)
	}
	s.mu.Lock()
	fresh := s.cfg.Now().Before(s.known[store])
	s.mu.Unlock()
	if !fresh {
		_, err := request(ctx, s, call{op: "HeadBucket", name: store}, func(ctx context.Context) (*s3.HeadBucketOutput, error) {
			return s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &store})
		})
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.known[store] = s.cfg.Now().Add(knownFor)
		s.mu.Unlock()
	}
	return s.Bucket(store), nil
}

// CreateBucket makes a bucket, if it is not there already and ours.
func (s *Store) CreateBucket(ctx context.Context, name string) error {
	in := &s3.CreateBucketInput{Bucket: &name}
	if s.cfg.Region != "us-east-1" { // which is the default and must not be named
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{
			LocationConstraint: types.BucketLocationConstraint(s.cfg.Region),
		}
	}
	_, err := request(ctx, s, call{op: "CreateBucket", name: name}, func(ctx context.Context) (*s3.CreateBucketOutput, error) {
		return s.client.CreateBucket(ctx, in)
	})
	if err != nil && errorCode(err) != codeBucketIsOurs {
		return err
	}
	return nil
}

// Close ends the store after its uploads have ended: what could not be cleaned up so far is tried once more, within
// ctx, and its error tells what stays behind.
func (s *Store) Close(ctx context.Context) error {
	err := s.sweeper.close(ctx)
	s.transport.CloseIdleConnections()
	return err
}

// metrics are what the store counts.
type metrics struct {
	requests *prometheus.CounterVec
	pending  prometheus.Gauge
	borrowed *prometheus.CounterVec
	sessions prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_s3_requests_total", Help: "Attempts of S3 requests by operation and result (ok, refused, unavailable).",
		}, []string{"op", "result"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_s3_cleanups_pending", Help: "Refused uploads whose remains at the store could not be removed yet.",
		}),
		borrowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_s3_role_requests_total", Help: "Roles asked of an STS, by result (ok, kept: the old credentials still count, refused, unavailable).",
		}, []string{"result"}),
		sessions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "transferd_s3_role_sessions", Help: "Sessions of roles whose credentials are kept.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.pending, m.borrowed, m.sessions} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("s3: register metrics: %w", err)
		}
	}
	return m, nil
}
