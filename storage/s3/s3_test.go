package s3

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3/gateway"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
	"github.com/transferd/transferd/storage/storagetest"
)

// elsewhere is another S3 store; its keys are in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
var elsewhere = flag.String("s3-url", "", "run TestConformanceElsewhere on the S3 store at this URL")

func TestMain(m *testing.M) {
	if gatewaytest.IsChild() {
		os.Exit(gatewaytest.Main(m))
	}
	goleak.VerifyTestMain(&run{m})
}

// common is the store that all tests share that do not kill theirs: a process costs more than most of them. Each has
// buckets of its own.
var common struct {
	once sync.Once
	root string
	gw   *gateway.Process
	err  error
}

// run is the tests, and the end of the store that they shared.
type run struct{ m *testing.M }

// Run runs them.
func (r *run) Run() int {
	code := r.m.Run()
	if common.gw == nil {
		return code
	}
	if err := errors.Join(common.gw.Kill(), os.RemoveAll(common.root)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// sharedGateway is the store that the tests share.
func sharedGateway(t testing.TB) *gateway.Process {
	t.Helper()
	common.once.Do(func() {
		if common.root, common.err = os.MkdirTemp("", "s3-test-"); common.err == nil {
			common.gw, common.err = gatewaytest.Spawn(context.Background(), "127.0.0.1:0", common.root)
		}
	})
	if common.err != nil {
		t.Fatal(common.err)
	}
	return common.gw
}

// testStore is a store over the gateway at endpoint, with short patience. change may be nil.
func testStore(t testing.TB, endpoint string, change func(*Config)) *Store {
	t.Helper()
	cfg := Config{
		Endpoint: endpoint, PathStyle: true, AccessKey: gatewaytest.AccessKey, SecretKey: gatewaytest.SecretKey,
		UnsignedPayload: true, RetryBudget: 5 * time.Second, AttemptTimeout: 10 * time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	if cfg.PartSize == 0 {
		cfg.PartSize = minPart // the more parts, the fewer bytes a test needs
	}
	if cfg.Budget == nil {
		budget, err := NewBudget(512*mib, nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Budget = budget
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func testBucket(t testing.TB, s *Store, name string) *Backend {
	t.Helper()
	if err := s.CreateBucket(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if gw := common.gw; gw != nil && s.cfg.Endpoint == gw.URL() {
		t.Cleanup(func() { // what is gone early is never written to the disk
			// The store may still be aborting uploads there; what that leaves goes with the whole folder at the end.
			_ = os.RemoveAll(filepath.Join(common.root, name))
		})
	}
	return s.Bucket(name)
}

// inParts has files copied in parts of which a test's have a few, two at a time.
func inParts(c *Config) { c.CopyLimit, c.Parallel = minPart, 2 }

func TestConformance(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	n := make(chan int, 1)
	n <- 0
	run := time.Now().UnixNano() // of a run before, something may be left: see testBucket
	storagetest.Run(t, func(t *testing.T) storage.Backend {
		i := <-n
		n <- i + 1
		return testBucket(t, testStore(t, gw.URL(), inParts), fmt.Sprintf("bucket-%d-%d", run, i))
	})
}

// TestConformanceElsewhere is the second opinion: the same suite on a store that somebody else runs, MinIO for one.
func TestConformanceElsewhere(t *testing.T) {
	t.Parallel()
	if *elsewhere == "" {
		t.Skip("no -s3-url given: TestConformance runs the suite on versitygw")
	}
	n := make(chan int, 1)
	n <- 0
	run := time.Now().UnixNano()
	storagetest.Run(t, func(t *testing.T) storage.Backend {
		i := <-n
		n <- i + 1
		s := testStore(t, *elsewhere, func(c *Config) {
			c.AccessKey, c.SecretKey = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
			inParts(c)
		})
		return testBucket(t, s, fmt.Sprintf("transferd-test-%d-%d", run, i))
	})
}

// roundTripper lets a test look at and meddle with requests.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls it.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// eventually polls until ok, for at most a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// dangling counts the multipart uploads of a bucket.
func dangling(t testing.TB, b *Backend) int {
	t.Helper()
	out, err := b.store.client.ListMultipartUploads(context.WithoutCancel(t.Context()), &s3.ListMultipartUploadsInput{Bucket: &b.bucket})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}

// begin starts an upload of content and returns it open.
func begin(t testing.TB, b *Backend, name string, content []byte) (storage.Upload, error) {
	t.Helper()
	u, err := b.Create(t.Context(), name, storage.CreateOptions{ID: "id of " + name})
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(content); off += mib {
		if _, err := u.WriteAt(content[off:min(off+mib, len(content))], int64(off)); err != nil {
			return u, err
		}
	}
	return u, nil
}

// answer is a store's answer that no store gave.
func answer(r *http.Request, status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{}, Request: r, ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}
