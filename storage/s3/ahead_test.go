package s3

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/storage/storagetest"
)

// rangeStart is where a GET of a range begins, -1 for other requests.
func rangeStart(r *http.Request) int64 {
	from, _, ok := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	off, err := strconv.ParseInt(from, 10, 64)
	if !ok || err != nil || r.Method != http.MethodGet {
		return -1
	}
	return off
}

// TestReadAheadIsParallel: no GET beyond the first stretch is answered before four of them have been asked.
func TestReadAheadIsParallel(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	four := make(chan struct{})
	var mu sync.Mutex
	asked := 0
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) {
		c.AttemptTimeout = time.Minute
		c.Wrap = func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if rangeStart(r) >= aheadAfter {
					mu.Lock()
					if asked++; asked == 4 {
						close(four)
					}
					mu.Unlock()
					select {
					case <-four:
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
				}
				return next.RoundTrip(r)
			})
		}
	}), "ahead")
	content := storagetest.Bytes(110, 16*mib+1)
	storagetest.Write(t, b, "f", content)
	if !bytes.Equal(storagetest.Read(t, b, "f"), content) {
		t.Error("content differs")
	}
}

// TestReadAheadAndJumps: reads elsewhere, back and forth, while a read-ahead is under way.
func TestReadAheadAndJumps(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "jumps")
	content := storagetest.Bytes(111, 14*mib)
	storagetest.Write(t, b, "f", content)
	r, err := b.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(13, 14))
	p := make([]byte, 300*kib)
	check := func(off int) {
		n, err := r.ReadAt(p, int64(off))
		if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], content[off:min(len(content), off+len(p))]) {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		}
	}
	for off := 0; off < len(content); off += len(p) {
		check(off)
		if rnd.IntN(6) == 0 {
			check(rnd.IntN(len(content)))
		}
	}
	for range farReads + 5*mib/len(p) + 20 { // long enough for a second read-ahead
		check(mib)
	}
	for off := 2 * mib; off < 12*mib; off += len(p) {
		check(off)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if used := b.store.cfg.Budget.reads.used; used != 0 {
		t.Errorf("%d bytes of buffers got lost", used)
	}
	if _, err := r.ReadAt(p, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("read after the close: %v", err)
	}
}

// TestReadAheadPinsTheVersion: a file that is replaced while it is read is not two files in one.
func TestReadAheadPinsTheVersion(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "replaced")
	content := storagetest.Bytes(112, 24*mib)
	storagetest.Write(t, b, "f", content)
	r, err := b.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, mib)
	for off := int64(0); ; off += mib {
		n, err := r.ReadAt(p, off)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("at %d: %v", off, err)
			}
			break
		}
		if !bytes.Equal(p[:n], content[off:off+mib]) {
			t.Fatalf("at %d: bytes of another version", off)
		}
		if off == 5*mib {
			storagetest.Write(t, b, "f", storagetest.Bytes(113, 24*mib))
		}
		if off > 22*mib {
			t.Fatal("the replaced file was read to its end")
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestManyDownloadsUnderASmallBudget: with memory for few, all go on.
func TestManyDownloadsUnderASmallBudget(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	budget, err := NewBudget(minBudget, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget, c.RetryBudget = budget, time.Minute }), "downloads")
	content := storagetest.Bytes(114, 2*mib/2+5)
	storagetest.Write(t, b, "f", content)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			r, err := b.Open(t.Context(), "f")
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(len(content))))
			if err != nil || !bytes.Equal(got, content) {
				t.Error(fmt.Errorf("download %d: %d bytes, %w", i, len(got), err))
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if budget.reads.used != 0 || budget.reads.peak > budget.reads.limit {
		t.Errorf("peak %d of %d, used afterwards %d", budget.reads.peak, budget.reads.limit, budget.reads.used)
	}
}
