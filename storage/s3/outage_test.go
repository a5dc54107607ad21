package s3

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3/gateway"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
	"github.com/transferd/transferd/storage/storagetest"
)

// kill ends the store as a power failure would.
func kill(t *testing.T, gw *gateway.Process) {
	t.Helper()
	if err := gw.Kill(); err != nil {
		t.Fatal(err)
	}
}

func TestShortOutageGoesUnnoticed(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	gw := gatewaytest.StartAt(t, "127.0.0.1:0", root)
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.RetryBudget = 20 * time.Second }), "short")
	content := storagetest.Bytes(50, 30*mib)
	u, err := begin(t, b, "f", content[:12*mib])
	if err != nil {
		t.Fatal(err)
	}
	kill(t, gw)
	back := make(chan *gateway.Process, 1)
	go func() {
		<-time.After(700 * time.Millisecond) // the outage
		p, err := gatewaytest.Spawn(t.Context(), gw.Addr(), root)
		if err != nil {
			t.Error(err)
		}
		back <- p
	}()
	for off := 12 * mib; off < len(content); off += mib {
		if _, err := u.WriteAt(content[off:off+mib], int64(off)); err != nil {
			t.Fatalf("write at %d: %v", off, err)
		}
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := <-back; p != nil {
		defer kill(t, p)
	}
	if !bytes.Equal(storagetest.Read(t, b, "f"), content) {
		t.Error("content differs")
	}
	if n := dangling(t, b); n != 0 {
		t.Errorf("%d multipart uploads left", n)
	}
}

func TestLongOutageLeavesNothingHalfMade(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	gw := gatewaytest.StartAt(t, "127.0.0.1:0", root)
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.RetryBudget = 300 * time.Millisecond }), "long")
	storagetest.Write(t, b, "f", []byte("what stood there"))
	u, err := begin(t, b, "f", storagetest.Bytes(51, 13*mib))
	if err != nil {
		t.Fatal(err)
	}
	if n := dangling(t, b); n != 1 {
		t.Fatalf("%d multipart uploads under way, want 1", n)
	}
	small, err := begin(t, b, "small", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	kill(t, gw)
	for _, u := range []storage.Upload{u, small} {
		if _, err := u.Commit(t.Context()); !errors.Is(err, storage.ErrUnavailable) {
			t.Fatalf("commit during the outage: %v", err)
		}
	}
	if _, err := b.Stat(t.Context(), "f"); !errors.Is(err, storage.ErrUnavailable) {
		t.Fatalf("stat during the outage: %v", err)
	}
	gatewaytest.StartAt(t, gw.Addr(), root)
	eventually(t, "the refused uploads are removed", func() bool {
		b.store.sweeper.mu.Lock()
		defer b.store.sweeper.mu.Unlock()
		return len(b.store.sweeper.todo) == 0
	})
	if n := dangling(t, b); n != 0 {
		t.Errorf("%d multipart uploads left", n)
	}
	if got := storagetest.Read(t, b, "f"); string(got) != "what stood there" {
		t.Errorf("the file has %d other bytes", len(got))
	}
	if _, err := b.Stat(t.Context(), "small"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of the refused file: %v", err)
	}
	if used := b.store.cfg.Budget.parts.used + b.store.cfg.Budget.chunks.used; used != 0 {
		t.Errorf("%d bytes of buffers got lost", used)
	}
}

// TestAbortedUploadThatComesBack: a part that was on the wire makes something of an upload after its abort.
func TestAbortedUploadThatComesBack(t *testing.T) {
	t.Parallel()
	var there atomic.Bool
	var aborts atomic.Int32
	s := testStore(t, "http://back.invalid", func(c *Config) {
		c.Wrap = func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				was := there.Load()
				if isDelete(r) {
					aborts.Add(1)
					was = there.Swap(false)
				}
				switch {
				case !was:
					return answer(r, http.StatusNotFound, `<Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>`), nil
				case isDelete(r):
					return answer(r, http.StatusNoContent, ""), nil
				}
				return answer(r, http.StatusOK, `<ListPartsResult></ListPartsResult>`), nil
			})
		}
	})
	there.Store(true)
	if err := s.sweeper.clean(t.Context(), remains{by: s, at: object{bucket: "b", key: "f"}, upload: "u"}); err != nil {
		t.Fatal(err)
	}
	if there.Load() {
		t.Fatal("not aborted")
	}
	there.Store(true)
	eventually(t, "it is aborted again", func() bool { return !there.Load() })
	if n := s.sweeper.nextLook(time.Now().Add(time.Hour)); n.Before(time.Now()) {
		t.Errorf("the next look is due at %v", n)
	}
}

// TestHungStore: the connection stands, no answer comes.
func TestHungStore(t *testing.T) {
	t.Parallel()
	s := testStore(t, "http://hung.invalid", func(c *Config) {
		c.AttemptTimeout, c.RetryBudget = 30*time.Millisecond, 100*time.Millisecond
		c.Wrap = func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
		}
	})
	b := s.Bucket("b")
	if _, err := b.Stat(t.Context(), "f"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("stat: %v", err)
	}
	r := &reader{store: s, at: object{bucket: "b", key: "f"}, size: 10, ctx: t.Context(), lock: make(chan struct{}, 1)}
	if _, err := r.ReadAt(make([]byte, 5), 0); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("read: %v", err)
	}
}

// lostAnswers lets requests of one kind be carried out, and loses their answers while lose says so.
func lostAnswers(match func(*http.Request) bool, lose func() bool) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err != nil || !match(r) || !lose() {
				return resp, err
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				return nil, err
			}
			return nil, errors.Join(io.ErrUnexpectedEOF, resp.Body.Close())
		})
	}
}

func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}

func isPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Count(r.URL.Path, "/") > 1 && r.URL.RawQuery == "x-id=PutObject"
}

func TestLostAnswerIsAskedForAgain(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	var lost atomic.Int32
	s := testStore(t, gw.URL(), func(c *Config) {
		c.Wrap = lostAnswers(func(r *http.Request) bool { return isComplete(r) || isPut(r) },
			func() bool { return lost.Add(1)%2 == 1 }) // each first one
	})
	b := testBucket(t, s, "lost")
	for name, size := range map[string]int{"small": 100, "large": 11 * mib} {
		content := storagetest.Bytes(52, size)
		u, err := begin(t, b, name, content)
		if err != nil {
			t.Fatal(err)
		}
		if obj, err := u.Commit(t.Context()); err != nil || obj.Size != int64(size) {
			t.Fatalf("%s: %+v, %v", name, obj, err)
		}
		if !bytes.Equal(storagetest.Read(t, b, name), content) {
			t.Errorf("%s differs", name)
		}
	}
	if lost.Load() != 4 {
		t.Errorf("%d requests met the losing connection, want 4", lost.Load())
	}
}

// TestNoSuchUploadAfterLostAnswer: a store that forgets completed uploads answers so when it is asked again.
func TestNoSuchUploadAfterLostAnswer(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	var asked atomic.Int32
	s := testStore(t, gw.URL(), func(c *Config) {
		c.Wrap = func(next http.RoundTripper) http.RoundTripper {
			lossy := lostAnswers(isComplete, func() bool { return true })(next)
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if !isComplete(r) || asked.Add(1) == 1 {
					return lossy.RoundTrip(r)
				}
				body := `<?xml version="1.0"?><Error><Code>NoSuchUpload</Code><Message>gone</Message></Error>`
				return &http.Response{
					StatusCode: http.StatusNotFound, Header: http.Header{}, Request: r, ProtoMajor: 1, ProtoMinor: 1,
					Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
				}, nil
			})
		}
	})
	b := testBucket(t, s, "forgotten")
	content := storagetest.Bytes(53, 11*mib)
	u, err := begin(t, b, "f", content)
	if err != nil {
		t.Fatal(err)
	}
	if obj, err := u.Commit(t.Context()); err != nil || obj.Size != int64(len(content)) {
		t.Fatalf("commit: %+v, %v", obj, err)
	}
	if asked.Load() != 2 {
		t.Errorf("asked %d times to complete, want 2", asked.Load())
	}
}

// TestRefusedFileThatWasMade: the store did it, all its answers got lost, the client was told of an error.
func TestRefusedFileThatWasMade(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	s := testStore(t, gw.URL(), func(c *Config) {
		c.RetryBudget = 100 * time.Millisecond
		c.Wrap = lostAnswers(func(r *http.Request) bool {
			return (isComplete(r) || isPut(r)) && !strings.HasSuffix(r.URL.Path, "/keep")
		}, func() bool { return true })
	})
	b := testBucket(t, s, "refused")
	storagetest.Write(t, b, "keep", []byte("x"))
	for name, size := range map[string]int{"small": 100, "large": 11 * mib} {
		u, err := begin(t, b, name, storagetest.Bytes(54, size))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context()); !errors.Is(err, storage.ErrUnavailable) {
			t.Fatalf("%s: %v", name, err)
		}
		eventually(t, name+" is gone", func() bool {
			_, err := b.Stat(t.Context(), name)
			return errors.Is(err, fs.ErrNotExist)
		})
	}
	if _, err := b.Stat(t.Context(), "keep"); err != nil {
		t.Error(err)
	}
}
