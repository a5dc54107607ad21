package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// dieIn runs a piece and dies in its note number n, as far as a goroutine can. It returns what was noted.
func dieIn(t *testing.T, b *Backend, p storage.PieceCopy, n int) (tokens []string) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		p.Note = func(_ context.Context, token string) error {
			if len(tokens)+1 == n {
				runtime.Goexit()
			}
			tokens = append(tokens, token)
			return nil
		}
		_, _, err := b.CopyPiece(t.Context(), p)
		t.Errorf("the piece ended: %v", err)
	})
	wg.Wait()
	return tokens
}

// TestPiecesAcrossProcesses: each piece in a process of its own, the first of which dies before it has noted its upload.
// No part is copied twice, and nothing is left.
func TestPiecesAcrossProcesses(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	var copied atomic.Int32
	process := func() *Backend {
		s := testStore(t, gw.URL(), func(c *Config) {
			inParts(c)
			c.Wrap = func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					if isCopy(r) {
						copied.Add(1)
					}
					return next.RoundTrip(r)
				})
			}
		})
		return testBucket(t, s, "piece-by-piece")
	}
	b := process()
	content := storagetest.Bytes(90, 33*mib)
	storagetest.Write(t, b, "src", content)
	tokens := dieIn(t, b, storage.PieceCopy{Src: "src", To: b, Dst: "dst"}, 2)
	if len(tokens) != 1 || dangling(t, b) != 1 {
		t.Fatalf("noted %q, %d uploads", tokens, dangling(t, b))
	}
	for pieces, done := 0, false; !done; pieces++ {
		b = process()
		var err error
		_, done, err = b.CopyPiece(t.Context(), storage.PieceCopy{Src: "src", To: b, Dst: "dst", Token: tokens[len(tokens)-1],
			Note: func(_ context.Context, token string) error { tokens = append(tokens, token); return nil }})
		if err != nil || done == (pieces < 2) || pieces > 3 {
			t.Fatalf("piece %d: done %v, %v", pieces, done, err)
		}
	}
	if got := storagetest.Read(t, b, "dst"); !bytes.Equal(got, content) {
		t.Error("the copy differs")
	}
	if want := int32(len(copyPlan(span{0, 33 * mib}, minPart))); copied.Load() != want || dangling(t, b) != 0 {
		t.Errorf("%d parts copied, want %d; %d uploads left", copied.Load(), want, dangling(t, b))
	}
}

// TestPiecesAreDropped: wherever a process dies, what was noted is enough to remove what it left.
func TestPiecesAreDropped(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), inParts), "dropped-pieces")
	storagetest.Write(t, b, "src", storagetest.Bytes(91, 16*mib))
	p := storage.PieceCopy{Src: "src", To: b, Dst: "dst"}
	tokens := dieIn(t, b, p, 2)
	var last string
	p.Note = func(_ context.Context, token string) error { last = token; return nil }
	if _, done, err := b.CopyPiece(t.Context(), p); done || err != nil {
		t.Fatal(done, err)
	}
	if n := dangling(t, b); n != 2 {
		t.Fatalf("%d uploads", n)
	}
	other := testBucket(t, testStore(t, gw.URL(), inParts), "dropped-pieces")
	for i, token := range append(tokens, last) {
		if err := other.DropCopy(t.Context(), "dst", token); err != nil {
			t.Fatal(err)
		}
		if n := dangling(t, b); n != 1-i {
			t.Errorf("%d uploads after token %d", n, i)
		}
	}
	if err := other.DropCopy(t.Context(), "dst", "nonsense"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a token of something else: %v", err)
	}
}

// TestPiecesTakeNoOtherFile: a file that comes while a copy that must not replace one is under way stays, and an answer that
// is lost does not make the copy another's.
func TestPiecesTakeNoOtherFile(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	for _, lost := range []bool{false, true} {
		var cut atomic.Bool
		s := testStore(t, gw.URL(), func(c *Config) {
			inParts(c)
			c.Wrap = func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					res, err := next.RoundTrip(r)
					if err == nil && r.Method == http.MethodPost && r.URL.Query().Has("uploadId") && cut.CompareAndSwap(true, false) {
						res.Body.Close()
						return nil, errors.New("the answer is lost")
					}
					return res, err
				})
			}
		})
		b := testBucket(t, s, fmt.Sprintf("taken-%v", lost))
		storagetest.Write(t, b, "src", storagetest.Bytes(92, 16*mib))
		var last string
		p := storage.PieceCopy{Src: "src", To: b, Dst: "dst", Note: func(_ context.Context, token string) error { last = token; return nil }}
		if _, done, err := b.CopyPiece(t.Context(), p); done || err != nil {
			t.Fatal(done, err)
		}
		p.Token = last
		if lost {
			cut.Store(true)
			if obj, done, err := b.CopyPiece(t.Context(), p); !done || err != nil || obj.Size != 16*mib || cut.Load() {
				t.Errorf("after a lost answer: %+v, %v, %v", obj, done, err)
			}
			continue
		}
		storagetest.Write(t, b, "dst", []byte("another file"))
		if _, done, err := b.CopyPiece(t.Context(), p); done || !errors.Is(err, fs.ErrExist) {
			t.Errorf("onto a file that came: %v, %v", done, err)
		}
		if err := b.DropCopy(t.Context(), "dst", last); err != nil || dangling(t, b) != 0 {
			t.Errorf("dropped: %v, %d uploads left", err, dangling(t, b))
		}
		if got := storagetest.Read(t, b, "dst"); string(got) != "another file" {
			t.Errorf("%d bytes stand", len(got))
		}
	}
}
