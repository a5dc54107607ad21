package s3

import (
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// TestWhoIsAsked: the one that rests for the longest time, who holds memory of the pool that is short, and the next one
// if that one says no. Whoever is being written to, or has been a moment ago, is not.
func TestWhoIsAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBudget(minBudget, nil)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 10)
		held := [][]byte{b.tryPart(minPart), b.tryPart(minPart)}
		enter := func(name string, p *pool, rests bool, yields bool) *hold {
			h := &hold{yield: func(idle time.Duration) bool {
				if idle < patience {
					t.Errorf("%s is asked after %v", name, idle)
				}
				asked <- name
				if yields {
					b.put(held[0])
				}
				return yields
			}}
			h.pool.Store(p)
			if rests {
				h.rested.Store(time.Now().UnixNano())
			}
			b.enter(h)
			time.Sleep(time.Second)
			return h
		}
		enter("busy", &b.parts, false, true)
		enter("small", &b.chunks, true, true)
		enter("empty", nil, true, true)
		enter("no", &b.parts, true, false)
		first := enter("first", &b.parts, true, true)
		enter("second", &b.parts, true, true)
		b.leave(enter("gone", &b.parts, true, true))

		begun := time.Now()
		buf, err := b.part(t.Context(), minPart)
		if err != nil || time.Since(begun) > patience {
			t.Fatalf("after %v: %v", time.Since(begun), err)
		}
		if a, c := <-asked, <-asked; a != "no" || c != "first" || len(asked) != 0 {
			t.Errorf("asked %s, %s and %d more", a, c, len(asked))
		}
		held[0] = buf
		if first.rested.Load() != 0 {
			t.Error("who gives way is asked again")
		}
		if _, err := b.part(t.Context(), minPart); err != nil { // the next one is asked
			t.Fatal(err)
		}
		if <-asked != "no" || <-asked != "second" {
			t.Error("the second was not asked")
		}
	})
}

// TestStalledUploadGivesWay: uploads whose clients send nothing hold all memory. One of them ends, what it got is kept,
// and another upload goes on.
func TestStalledUploadGivesWay(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	budget, err := NewBudget(minBudget, nil)
	if err != nil {
		t.Fatal(err)
	}
	budget.parts.patience = 20 * time.Millisecond
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget = budget }), "stalled")
	content := storagetest.Bytes(5, 12*mib)
	uploads := map[string]storage.Upload{}
	gave := make(chan string, 1)
	var asked atomic.Bool // the other one may be asked while the first is on its way to the store
	for _, name := range []string{"first", "second"} {
		u, err := b.Create(t.Context(), name, storage.CreateOptions{ID: name, Yield: func(time.Duration) bool {
			if asked.Swap(true) {
				return false
			}
			go func() {
				if _, err := uploads[name].Commit(t.Context()); err != nil {
					t.Error(err)
				}
				gave <- name
			}()
			return true
		}})
		if err != nil {
			t.Fatal(err)
		}
		uploads[name] = u
		if _, err := u.WriteAt(content[:300*kib], 0); err != nil {
			t.Fatal(err)
		}
	}
	if budget.tryPart(minPart) != nil {
		t.Fatal("there is memory left")
	}
	if err := put(t, b, "third", content); err != nil {
		t.Fatal(err)
	}
	name := <-gave
	for name, want := range map[string][]byte{name: content[:300*kib], "third": content} {
		if got, err := os.ReadFile(filepath.Join(common.root, "stalled", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
		}
	}
	delete(uploads, name)
	for _, u := range uploads {
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if budget.parts.used+budget.chunks.used != 0 || len(budget.holds) != 0 {
		t.Errorf("%d bytes and %d uploads are left", budget.parts.used+budget.chunks.used, len(budget.holds))
	}
}
