package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

func TestBudgetTooSmall(t *testing.T) {
	t.Parallel()
	if _, err := NewBudget(minBudget-1, nil); err == nil {
		t.Error("a budget that no upload fits into was accepted")
	}
	b, err := NewBudget(minBudget, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if plan, err := b.plan(0); err != nil || plan.first != minPart || plan.last != minPart {
		t.Errorf("plan %+v, %v; want parts of 5 MiB", plan, err)
	}
	for _, size := range []int64{1, minPart - 1, 8 * mib} {
		if _, err := b.plan(size); err == nil {
			t.Errorf("part size %d was accepted", size)
		}
	}
}

// TestPartSizes: the sizes grow, and with the memory for them the largest file (docs/s3.md has the table).
func TestPartSizes(t *testing.T) {
	t.Parallel()
	s := sizes{first: 8 * mib, last: 4 * gib}
	for n, want := range map[int32]int{1: 8 * mib, 500: 8 * mib, 501: 16 * mib, 1001: 32 * mib, 4501: 4 * gib, 10000: 4 * gib} {
		if got := s.of(n); got != want {
			t.Errorf("part %d has %d bytes, want %d", n, got, want)
		}
	}
	const tib = 1 << 40
	for _, tt := range []struct{ budget, last, most int64 }{ // most in hundredths of a TiB
		{256 * mib, 96 * mib, 78}, {512 * mib, 192 * mib, 149}, {gib, 384 * mib, 280}, {2 * gib, 768 * mib, 524}, {16 * gib, 4 * gib, 2343},
	} {
		b, err := NewBudget(tt.budget, nil)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := b.plan(0)
		if err != nil || plan.last != tt.last || plan.most()*100/tib != tt.most {
			t.Errorf("%d MiB of buffers: parts up to %d MiB, files up to %d MiB, %v", tt.budget/mib, plan.last/mib, plan.most()/mib, err)
		}
		if (plan.most() >= maxObject) != (tt.budget >= 2*gib) {
			t.Errorf("%d MiB of buffers: files up to %d MiB", tt.budget/mib, plan.most()/mib)
		}
	}
}

// TestLastPart: a file that ends with part 10,000 is kept; one that does not is refused, and leaves nothing.
func TestLastPart(t *testing.T) {
	t.Parallel()
	budget, err := NewBudget(minBudget, nil) // parts of 5 MiB, all of them
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, sharedGateway(t).URL(), func(c *Config) { c.Budget = budget }), "last-part")
	for _, more := range []int{0, 1} {
		created, err := b.Create(t.Context(), "f", storage.CreateOptions{ID: fmt.Sprint("last ", more)})
		if err != nil {
			t.Fatal(err)
		}
		u, ok := created.(*upload)
		if !ok {
			t.Fatalf("%T", created)
		}
		u.part = maxParts - 1 // S3 wants the numbers in order, and no more
		content := storagetest.Bytes(145, 2*minPart+more)
		_, err = u.WriteAt(content, 0)
		if more == 0 {
			if _, commitErr := u.Commit(t.Context()); err != nil || commitErr != nil {
				t.Errorf("10,000 parts: %v, %v", err, commitErr)
			}
			continue
		}
		if !errors.Is(err, storage.ErrTooLarge) {
			t.Errorf("a byte more than 10,000 parts: %v", err)
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		if got := storagetest.Read(t, b, "f"); !bytes.Equal(got, content[:2*minPart]) {
			t.Error("the refused file replaced the other one")
		}
	}
	if left := dangling(t, b); left != 0 {
		t.Errorf("%d uploads left", left)
	}
}

func TestBudgetServesInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBudget(minBudget, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, second := b.tryPart(minPart), b.tryPart(minPart)
		if first == nil || second == nil || b.tryPart(minPart) != nil {
			t.Fatal("a budget of 14 MiB must hold two parts of 5 MiB and not three")
		}
		order := make(chan int, 3)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 3 {
			go func() {
				c := t.Context()
				if i == 1 {
					c = ctx
				}
				buf, err := b.part(c, minPart)
				if err != nil {
					order <- -i
					return
				}
				order <- i
				b.put(buf)
			}()
			synctest.Wait() // it is queued
		}
		cancel()
		if got := <-order; got != -1 {
			t.Fatalf("%d was first, want the cancelled one", got)
		}
		b.put(first)
		if one, two := <-order, <-order; one != 0 || two != 2 {
			t.Fatalf("served %d, %d; want 0, 2", one, two)
		}
		b.put(second)
		if b.parts.used != 0 || b.parts.peak > b.parts.limit || b.parts.idle > b.parts.limit {
			t.Errorf("used %d, peak %d, idle %d of %d", b.parts.used, b.parts.peak, b.parts.idle, b.parts.limit)
		}
	})
}

// TestStalledBudgetRefuses: uploads of one session that wait for each other's buffers are not left waiting for ever, and
// a pool that moves, however slowly, refuses nobody.
func TestStalledBudgetRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, err := NewBudget(minBudget, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, err := b.part(t.Context(), minPart)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.part(t.Context(), minPart); err != nil {
			t.Fatal(err)
		}
		for range 3 { // one buffer goes from hand to hand, each time shortly before the limit
			waiting := make(chan error, 1)
			go func() {
				buf, err := b.part(t.Context(), minPart)
				first = buf
				waiting <- err
			}()
			time.Sleep(stall - time.Second)
			b.put(first)
			if err := <-waiting; err != nil {
				t.Fatalf("refused although buffers come back: %v", err)
			}
		}
		begun := time.Now()
		_, err = b.part(t.Context(), minPart)
		if waited := time.Since(begun); !errors.Is(err, storage.ErrUnavailable) || waited > 2*stall {
			t.Errorf("after %v without a buffer: %v; want %v", waited, err, storage.ErrUnavailable)
		}
		if n := b.parts.read(func(p *pool) int64 { return int64(p.queue.Len()) }); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
	})
}

func TestBudgetReusesAndEvicts(t *testing.T) {
	t.Parallel()
	b, err := NewBudget(minBudget, nil)
	if err != nil {
		t.Fatal(err)
	}
	buf := b.tryPart(minPart)
	buf[0] = 77
	b.put(buf)
	if again := b.tryPart(minPart); again[0] != 77 {
		t.Error("a free buffer was not used again")
	} else {
		b.put(again)
	}
	large := b.tryPart(10 * mib) // fits only if the idle buffer goes
	if large == nil || b.parts.idle != 0 || b.parts.used != 10*mib {
		t.Errorf("used %d, idle %d", b.parts.used, b.parts.idle)
	}
}

// TestManyUploadsUnderASmallBudget is the promise about memory: 48 uploads at once, of which few fit.
func TestManyUploadsUnderASmallBudget(t *testing.T) {
	t.Parallel()
	const total, largest = 32 * mib, 24 * mib
	gw := sharedGateway(t)
	budget, err := NewBudget(total, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget, c.RetryBudget = budget, time.Minute }), "many")
	source := storagetest.Bytes(7, largest)
	rnd := rand.New(rand.NewPCG(3, 4))
	var wg sync.WaitGroup
	for i := range 48 {
		f := rnd.Float64()
		content := source[:int(f*f*f*f*f*largest)]
		if i == 0 {
			content = source
		}
		name := fmt.Sprintf("f%02d", i)
		wg.Go(func() {
			u, err := b.Create(t.Context(), name, storage.CreateOptions{ID: name})
			if err != nil {
				t.Error(err)
				return
			}
			for off := 0; off < len(content); off += 32 * kib {
				if _, err := u.WriteAt(content[off:min(off+32*kib, len(content))], int64(off)); err != nil {
					t.Errorf("%s at %d: %v", name, off, err)
					return
				}
			}
			if _, err := u.Commit(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			got, err := os.ReadFile(filepath.Join(common.root, "many", name)) // what the store has on its disk
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(content))
			}
		})
	}
	wg.Wait()
	peak := budget.parts.peak + budget.chunks.peak
	t.Logf("peak %d MiB of %d", peak/mib, total/mib)
	if peak > total || budget.parts.used+budget.chunks.used != 0 {
		t.Errorf("peak %d of %d, used afterwards %d", peak, total, budget.parts.used+budget.chunks.used)
	}
}

// TestScrambledUploadsCannotLockEachOtherUp: each wants a second buffer and there are fewer than uploads.
func TestScrambledUploadsCannotLockEachOtherUp(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	budget, err := NewBudget(34*mib, nil) // three parts of 8 MiB
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget, c.PartSize = budget, 8*mib }), "scrambled")
	content := storagetest.Bytes(8, 17*mib)
	var wg sync.WaitGroup
	for i := range 5 {
		name := fmt.Sprint("f", i)
		wg.Go(func() {
			u, err := b.Create(t.Context(), name, storage.CreateOptions{ID: name})
			if err != nil {
				t.Error(err)
				return
			}
			const pair = 512 * kib // the later half of each pair comes first, and parts end inside of pairs
			for off := -pair / 2; off < len(content); off += pair {
				for _, at := range []int{off + pair/2, off} {
					from, to := max(0, at), min(at+pair/2, len(content))
					if from >= to {
						continue
					}
					if _, err := u.WriteAt(content[from:to], int64(from)); err != nil {
						t.Error(fmt.Errorf("%s at %d: %w", name, from, errors.Join(err, u.Abort(t.Context()))))
						return
					}
				}
			}
			if _, err := u.Commit(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			if got := storagetest.Read(t, b, name); !bytes.Equal(got, content) {
				t.Errorf("%s differs", name)
			}
		})
	}
	wg.Wait()
}

func TestSlideWhenThereIsNoSecondBuffer(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	budget, err := NewBudget(24*mib, nil) // two parts of 8 MiB
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget, c.PartSize = budget, 8*mib }), "slide")
	other := budget.tryPart(8 * mib) // somebody else's
	content := storagetest.Bytes(9, 14*mib)
	u, err := begin(t, b, "f", content[:6*mib])
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []span{{7 * mib, 9 * mib}, {6 * mib, 7 * mib}, {9 * mib, 14 * mib}} {
		if _, err := u.WriteAt(content[at.from:at.to], at.from); err != nil {
			t.Fatalf("write at %d: %v", at.from, err)
		}
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(storagetest.Read(t, b, "f"), content) {
		t.Error("content differs")
	}
	u, err = begin(t, b, "far", content[:mib])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte("x"), 9*mib); !errors.Is(err, storage.ErrRandomAccess) {
		t.Errorf("far ahead: %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	budget.put(other)
	if budget.parts.used+budget.chunks.used != 0 {
		t.Error("buffers got lost")
	}
}

func TestCancelledWaitKeepsWhatArrived(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	budget, err := NewBudget(minBudget, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget = budget }), "wait")
	one, two := budget.tryPart(minPart), budget.tryPart(minPart)
	ctx, cancel := context.WithCancel(t.Context())
	u, err := b.Create(ctx, "f", storage.CreateOptions{ID: "f"})
	if err != nil {
		t.Fatal(err)
	}
	content := storagetest.Bytes(10, chunk+1)
	if _, err := u.WriteAt(content[:chunk], 0); err != nil {
		t.Fatal(err)
	}
	go func() {
		for budget.parts.read(func(p *pool) int64 { return int64(p.queue.Len()) }) == 0 {
			<-time.After(time.Millisecond)
		}
		cancel()
	}()
	if _, err := u.WriteAt(content[chunk:], chunk); !errors.Is(err, context.Canceled) {
		t.Fatalf("write without memory: %v", err)
	}
	if obj, err := u.Commit(t.Context()); err != nil || obj.Size != chunk {
		t.Fatalf("commit: %+v, %v; want the %d bytes that were taken", obj, err, chunk)
	}
	budget.put(one)
	budget.put(two)
}

// TestSequentialWritesDoNotAllocate is not parallel: AllocsPerRun counts what the whole process allocates.
func TestSequentialWritesDoNotAllocate(t *testing.T) {
	s := testStore(t, "http://127.0.0.1:1", func(c *Config) { c.PartSize = 8 * mib })
	u, err := s.Bucket("b").Create(t.Context(), "f", storage.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 32*kib)
	var off int64
	write := func() {
		if _, err := u.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		off += int64(len(p))
	}
	for range 4 { // out of the chunk and into the part
		write()
	}
	if n := testing.AllocsPerRun(200, write); n != 0 {
		t.Errorf("%v allocations a write", n)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPrefixAgainstABitmap(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		const size = 300
		var p prefix
		var have [size + 1]bool
		for range 60 {
			from := rnd.IntN(size)
			to := min(size, from+1+rnd.IntN(20))
			if !p.add(int64(from), int64(to)) {
				t.Fatal("too many spans in a file this small")
			}
			for i := from; i < to; i++ {
				have[i] = true
			}
			end := 0
			for have[end] {
				end++
			}
			if p.end != int64(end) {
				t.Fatalf("prefix %d, want %d", p.end, end)
			}
			for i, s := range p.ahead {
				if s.from <= p.end || s.from >= s.to || i > 0 && p.ahead[i-1].to >= s.from {
					t.Fatalf("spans %v behind %d are not sorted and apart", p.ahead, p.end)
				}
			}
		}
	}
	var p prefix
	for i := range int64(2 * maxSpans) {
		if !p.add(2*i+1, 2*i+2) {
			return
		}
	}
	t.Error("a file in thousands of pieces was kept track of")
}
