package s3

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
	"github.com/transferd/transferd/storage/storagetest"
)

func TestMain(m *testing.M) { os.Exit(gatewaytest.Main(m)) }

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
	return s.Bucket(name)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	gw := gatewaytest.Start(t)
	n := make(chan int, 1)
	n <- 0
	storagetest.Run(t, func(t *testing.T) storage.Backend {
		i := <-n
		n <- i + 1
		return testBucket(t, testStore(t, gw.URL(), nil), fmt.Sprintf("bucket-%d", i))
	})
}

// roundTripper lets a test look at and meddle with requests.
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls it.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
