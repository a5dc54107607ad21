package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// modify writes over a file from off on and returns the upload open.
func modify(t testing.TB, b *Backend, dead *storage.DeadUpload, off int64, content []byte) (storage.Upload, error) {
	t.Helper()
	u, err := b.Create(t.Context(), "f", storage.CreateOptions{
		ID: dead.ID, Modify: true, Metadata: map[string]string{"user-agent": "AWSTransfer"},
		Note: func(_ context.Context, token string) error { dead.Token = token; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(content); n += mib {
		if _, err := u.WriteAt(content[n:min(n+mib, len(content))], off+int64(n)); err != nil {
			return u, err
		}
	}
	return u, nil
}

// overlay is what a disk would show.
func overlay(old []byte, off int, content []byte) []byte {
	all := append(bytes.Clone(old[:min(len(old), max(off, 0))]), content...)
	if len(all) < len(old) {
		all = append(all, old[len(all):]...)
	}
	return all
}

func TestModifyBytes(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	s := testStore(t, gw.URL(), nil)
	for _, tt := range []struct{ old, off, n int }{
		{0, 0, 10}, {10, 10, 10}, {10, 0, 3}, {100, 50, 200_000}, {200_000, 70_000, 10}, {3 * mib, 3 * mib, 3 * mib}, {3 * mib, 10, 10},
		{5 * mib, 5 * mib, 1}, {5*mib + 1, 5 * mib, 1}, {5*mib + 1, 5*mib + 1, mib},
		{12 * mib, 0, 10}, {12 * mib, 6 * mib, 100}, {6 * mib, 6 * mib, 6 * mib}, {8*mib - 1, mib, 6 * mib},
	} {
		name := fmt.Sprintf("%d-%d-%d", tt.old, tt.off, tt.n)
		b := testBucket(t, s, "m-"+name)
		b.store.copyLimit = 6 * mib // many ranges
		old, content := storagetest.Bytes(70, tt.old), storagetest.Bytes(71, tt.n)
		storagetest.Write(t, b, "f", old)
		dead := &storage.DeadUpload{ID: "id", Begun: time.Now()}
		u, err := modify(t, b, dead, int64(tt.off), content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := overlay(old, tt.off, content)
		if obj, err := u.Commit(t.Context()); err != nil || obj.Size != int64(len(want)) {
			t.Fatalf("%s: commit: %+v, %v; want %d bytes", name, obj, err, len(want))
		}
		if got := storagetest.Read(t, b, "f"); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes differ from the %d wanted", name, len(got), len(want))
		}
		if obj, err := b.Resume(t.Context(), "f", *dead); err != nil || obj.Size != int64(len(want)) {
			t.Errorf("%s: resume of what was committed: %+v, %v", name, obj, err)
		}
		if used := b.store.cfg.Budget.parts.used + b.store.cfg.Budget.chunks.used; used != 0 || dangling(t, b) != 0 {
			t.Errorf("%s: %d bytes of buffers got lost, %d uploads are left", name, used, dangling(t, b))
		}
	}
}

// TestModifyInPieces: what lies between the pieces inside the old file stays.
func TestModifyInPieces(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "pieces")
	old := storagetest.Bytes(72, 16*mib)
	for i, start := range []int{0, 6 * mib} {
		storagetest.Write(t, b, "f", old)
		want := bytes.Clone(old)
		u, err := modify(t, b, &storage.DeadUpload{ID: fmt.Sprint("pieces", i)}, int64(start), nil)
		if err != nil {
			t.Fatal(err)
		}
		for off := start; off+mib < len(old); off += 3*mib + 12345 {
			piece := storagetest.Bytes(uint64(off), mib)
			copy(want[off:], piece)
			if _, err := u.WriteAt(piece, int64(off)); err != nil {
				t.Fatalf("write at %d: %v", off, err)
			}
		}
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(storagetest.Read(t, b, "f"), want) {
			t.Errorf("from %d: content differs", start)
		}
	}
}

func TestModifyRefusals(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "refusals")
	old := storagetest.Bytes(73, 12*mib)
	storagetest.Write(t, b, "f", old)
	before, err := b.Stat(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	u, err := modify(t, b, &storage.DeadUpload{ID: "beyond"}, int64(len(old))+1, storagetest.Bytes(76, 20*mib))
	if !errors.Is(err, storage.ErrRandomAccess) { // it has got too far for the byte that lacks
		t.Errorf("20 MiB behind a gap: %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if u, err = modify(t, b, &storage.DeadUpload{ID: "nothing"}, 0, nil); err != nil {
		t.Fatal(err)
	}
	if obj, err := u.Commit(t.Context()); err != nil || obj.ETag != before.Sys().(storage.Object).ETag {
		t.Errorf("commit without a write: %+v, %v", obj, err)
	}
	if u, err = modify(t, b, &storage.DeadUpload{ID: "back"}, 6*mib, []byte("xx")); err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte("y"), 6*mib-overtake-1); !errors.Is(err, storage.ErrRandomAccess) {
		t.Errorf("a write long before the first one: %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if u, err = modify(t, b, &storage.DeadUpload{ID: "changed"}, 6*mib, []byte("xx")); err != nil {
		t.Fatal(err)
	}
	storagetest.Write(t, b, "f", old[1:])
	if _, err := u.Commit(t.Context()); err == nil {
		t.Error("bytes of two versions became one file")
	}
	if !bytes.Equal(storagetest.Read(t, b, "f"), old[1:]) {
		t.Error("a refused change left something behind")
	}
	eventually(t, "no multipart upload is left", func() bool { return dangling(t, b) == 0 })
}

// TestModifyAfterAKill: whatever had reached the store, the old file is not replaced by a shorter one.
func TestModifyAfterAKill(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	old, more := storagetest.Bytes(74, 11*mib), storagetest.Bytes(75, 11*mib)
	for _, tt := range []struct {
		name   string
		off    int
		n      int
		copies bool // the copies of the old file's beginning succeed
		grows  bool
	}{
		{"append", 11 * mib, 11 * mib, true, true},
		{"append-without-head", 11 * mib, 11 * mib, false, false},
		{"inside", 5 * mib, 6 * mib, true, true},
		{"from-the-start", 0, 6 * mib, true, true},
		{"small", 11 * mib, 100, true, false},
	} {
		var stop atomic.Bool
		s := testStore(t, gw.URL(), func(c *Config) {
			c.RetryBudget, c.PartSize = 10*time.Millisecond, 5*mib
			c.Wrap = func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					if stop.Load() && r.Header.Get("x-amz-copy-source") != "" {
						return nil, errors.New("cut")
					}
					return next.RoundTrip(r)
				})
			}
		})
		s.copyLimit = 6 * mib
		b := testBucket(t, s, "k-"+tt.name)
		storagetest.Write(t, b, "f", old)
		stop.Store(!tt.copies)
		dead := &storage.DeadUpload{ID: "dead", Begun: time.Now()}
		u, err := modify(t, b, dead, int64(tt.off), more[:tt.n])
		if err != nil && tt.copies {
			t.Fatalf("%s: %v", tt.name, err)
		}
		u.(*upload).wg.Wait() // what was on its way arrives; the process dies before the commit
		stop.Store(false)
		for range 2 {
			obj, err := b.Resume(t.Context(), "f", *dead)
			if tt.name == "small" { // never noted: the journal knows that it was to change a file, and does not ask
				break
			}
			if err != nil || obj.Size < int64(len(old)) || (obj.Size > int64(len(old))) != (tt.grows && tt.off == len(old)) {
				t.Fatalf("%s: resume: %+v, %v", tt.name, obj, err)
			}
			got := storagetest.Read(t, b, "f")
			changed := overlay(old, tt.off, more[:tt.n])
			same := 0
			for same < len(got) && got[same] == changed[same] {
				same++
			}
			if same < tt.off || !bytes.Equal(got[same:], old[min(same, len(old)):]) {
				t.Errorf("%s: %d bytes of the change and then not the old file", tt.name, same)
			}
			if int64(len(got)) != obj.Size || tt.grows && same <= tt.off {
				t.Errorf("%s: %d bytes, of the change %d; Resume said %d", tt.name, len(got), same-tt.off, obj.Size)
			}
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		// A part that is cut while it is on its way may show up at the gateway after the abort: then it goes later.
		eventually(t, tt.name+": no multipart upload is left", func() bool { return dangling(t, b) == 0 })
	}
}

// TestTwentyCutsAndResumes is a client on a bad line: each connection goes on where the file ends.
func TestTwentyCutsAndResumes(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "cuts")
	content := storagetest.Bytes(76, 14*mib)
	rnd := rand.New(rand.NewPCG(7, 8))
	var have int64
	for i := range 20 {
		ctx, cut := context.WithCancel(t.Context())
		u, err := b.Create(ctx, "f", storage.CreateOptions{ID: fmt.Sprint("try-", i), Modify: true})
		if err != nil {
			t.Fatal(err)
		}
		to := have + rnd.Int64N(int64(len(content))/10)
		for off := have; off < min(to, int64(len(content))); {
			end := min(off+32*kib, to, int64(len(content)))
			if _, err := u.WriteAt(content[off:end], off); err != nil {
				t.Fatalf("cut %d: write at %d: %v", i, off, err)
			}
			off = end
		}
		cut()
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		fi, err := b.Stat(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		have = fi.Size() - rnd.Int64N(fi.Size()/20+1) // some clients go back a little
	}
	u, err := modify(t, b, &storage.DeadUpload{ID: "last"}, have, content[have:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(storagetest.Read(t, b, "f"), content) {
		t.Error("content differs")
	}
	head, err := b.store.head(t.Context(), "cuts", "f")
	if err != nil || head.Metadata[idKey] != "last" || head.Metadata["user-agent"] != "AWSTransfer" {
		t.Errorf("metadata %v, %v", head.Metadata, err)
	}
	if n := dangling(t, b); n != 0 {
		t.Errorf("%d multipart uploads left", n)
	}
}

func TestCopyPlan(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{1, minPart, copyRange, copyRange + 1, 5*gib + 1, 500 * gib, 500*gib + 1, 4<<40 + 12345, maxObject} {
		for _, from := range []int64{0, 7} {
			plan := copyPlan(span{from, from + size}, copyRange)
			at := from
			for i, r := range plan {
				n := r.to - r.from
				if r.from != at || n > 5*gib || n < min(minPart, size) {
					t.Fatalf("%d bytes: range %d is %+v after %d", size, i, r, at)
				}
				at = r.to
			}
			if at != from+size || len(plan) > 1281 {
				t.Errorf("%d bytes: %d ranges up to %d", size, len(plan), at)
			}
		}
	}
}

func TestModifiedToken(t *testing.T) {
	t.Parallel()
	m := modified{kept: 5 << 40, size: 1, etag: "d41d8cd9-2", upload: "VXBsb2FkSWQ.-_"}
	if got, ok := parseModified(m.token()); !ok || got != m {
		t.Errorf("%q became %+v", m.token(), got)
	}
	for _, other := range []string{"", "VXBsb2FkSWQ.-_", "modify", "modify x 1 e u", strings.Replace(m.token(), "1", "y", 1)} {
		if _, ok := parseModified(other); ok {
			t.Errorf("%q was taken", other)
		}
	}
}
