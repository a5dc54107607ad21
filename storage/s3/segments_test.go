package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// TestSegmentsSideBySide: a client writes so many stretches of a file at a time, a block of each in turn.
func TestSegmentsSideBySide(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	for _, n := range []int{3} {
		b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.PartSize = 5 * mib }), fmt.Sprint("segments-", n))
		content := storagetest.Bytes(130, 21*mib+777)
		u, err := b.Create(t.Context(), "f", storage.CreateOptions{ID: "f"})
		if err != nil {
			t.Fatal(err)
		}
		stretch := (len(content) + n - 1) / n
		const block = 256 * kib
		for off := 0; off < stretch; off += block {
			for i := range n {
				from := i*stretch + off
				to := min(from+block, (i+1)*stretch, len(content))
				if from >= to {
					continue
				}
				if _, err := u.WriteAt(content[from:to], int64(from)); err != nil {
					t.Fatalf("%d segments: write at %d: %v", n, from, err)
				}
			}
		}
		if obj, err := u.Commit(t.Context()); err != nil || obj.Size != int64(len(content)) {
			t.Fatalf("%d segments: commit: %+v, %v", n, obj, err)
		}
		if !bytes.Equal(storagetest.Read(t, b, "f"), content) {
			t.Errorf("%d segments: content differs", n)
		}
		budget := b.store.cfg.Budget
		if most := int64(maxEarly + (4+1)*5*mib); budget.parts.peak > most || budget.parts.used+budget.chunks.used != 0 {
			t.Errorf("%d segments: peak %d of %d, %d left", n, budget.parts.peak, most, budget.parts.used)
		}
	}
}

// TestRandomOrderInsideTheWindow: blocks in any order at all, as long as the file is no longer than the window.
func TestRandomOrderInsideTheWindow(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.PartSize = 5 * mib }), "random")
	content := storagetest.Bytes(131, 17*mib+5)
	rnd := rand.New(rand.NewPCG(15, 16))
	for _, hole := range []int{-1, 0, 7} { // the block that never comes
		u, err := b.Create(t.Context(), "f", storage.CreateOptions{ID: fmt.Sprint("f", hole)})
		if err != nil {
			t.Fatal(err)
		}
		const block = mib
		for _, i := range rnd.Perm((len(content) + block - 1) / block) {
			if i == hole {
				continue
			}
			if _, err := u.WriteAt(content[i*block:min((i+1)*block, len(content))], int64(i*block)); err != nil {
				t.Fatalf("block %d: %v", i, err)
			}
		}
		want := content
		if hole >= 0 {
			want = content[:hole*block]
		}
		if obj, err := u.Commit(t.Context()); err != nil || obj.Size != int64(len(want)) {
			t.Fatalf("without block %d: commit: %+v, %v; want %d bytes", hole, obj, err, len(want))
		}
		if !bytes.Equal(storagetest.Read(t, b, "f"), want) {
			t.Errorf("without block %d: content differs", hole)
		}
	}
	if n := dangling(t, b); n != 0 {
		t.Errorf("%d multipart uploads left", n)
	}
}

func TestBeyondTheWindow(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.PartSize = 5 * mib }), "beyond")
	storagetest.Write(t, b, "f", []byte("old"))
	for _, off := range []int64{(maxNext + 1) * 5 * mib, gib, 4 << 40} {
		u, err := begin(t, b, "f", storagetest.Bytes(132, 7*mib))
		if err != nil {
			t.Fatal(err)
		}
		u.(*upload).wg.Wait()
		if _, err := u.WriteAt([]byte("x"), off+5*mib); !errors.Is(err, storage.ErrRandomAccess) {
			t.Errorf("at %d: %v", off, err)
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
	// What left early cannot be written again.
	u, err := begin(t, b, "f", storagetest.Bytes(133, mib))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt(storagetest.Bytes(134, 5*mib), 5*mib); err != nil {
		t.Fatal(err)
	}
	u.(*upload).wg.Wait() // a part that is cut while it is on its way may show up at the gateway after the abort
	if _, err := u.WriteAt([]byte("x"), 5*mib); !errors.Is(err, storage.ErrRandomAccess) {
		t.Errorf("again: %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if used := b.store.cfg.Budget.parts.used; used != 0 || dangling(t, b) != 0 || string(storagetest.Read(t, b, "f")) != "old" {
		t.Errorf("%d bytes of buffers, %d uploads are left", used, dangling(t, b))
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	p := prefix{end: 10, ahead: []span{{20, 30}, {40, 50}}}
	for _, tt := range []struct {
		from, to int64
		want     bool
	}{{0, 10, true}, {5, 11, false}, {20, 30, true}, {22, 28, true}, {19, 30, false}, {20, 31, false}, {30, 40, false}, {40, 50, true}, {30, 31, false}, {50, 51, false}} {
		if got := p.covers(tt.from, tt.to); got != tt.want {
			t.Errorf("covers [%d, %d): %v", tt.from, tt.to, got)
		}
	}
}

// TestLargePartsTakeMoreSlots: what is on its way for one upload stays within four times 64 MiB, but one part.
func TestLargePartsTakeMoreSlots(t *testing.T) {
	t.Parallel()
	u := &upload{slots: make(chan struct{}, 4)}
	for size, want := range map[int]int{1: 1, 64 * mib: 1, 64*mib + 1: 2, 128 * mib: 2, 256 * mib: 4, 4 * gib: 4} {
		if got := u.weight(size); got != want {
			t.Errorf("%d MiB: %d slots, want %d", size/mib, got, want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	u.sendCtx, u.stop, u.id = ctx, cancel, "id"
	if err := u.ready(ctx, 192*mib); err != nil || len(u.slots) != 3 {
		t.Fatalf("%v, %d slots taken, want 3", err, len(u.slots))
	}
	ended, end := context.WithCancel(ctx)
	end()
	if err := u.ready(ended, 128*mib); !errors.Is(err, context.Canceled) || len(u.slots) != 3 {
		t.Errorf("a wait that was given up: %v, %d slots taken, want 3", err, len(u.slots))
	}
	u.free(192 * mib)
	if len(u.slots) != 0 {
		t.Errorf("%d slots are left", len(u.slots))
	}
}
