package sftpd

import (
	"math/rand/v2"
	"testing"
	"time"
)

// library is what x/crypto/ssh does with a channel's window: it keeps what it is given to itself while the client still may
// send about 2 MiB.
type library struct {
	window   uint32 // what may still arrive
	consumed uint32 // given back by us, and not told to the client
	pending  int    // arrived and not read
}

func (l *library) adjust(n uint32) error {
	l.consumed += n
	if baseWindow-l.window > 3*(32<<10) || l.window < baseWindow/2 { // the first is true above baseWindow too: it wraps
		l.window += l.consumed
		l.consumed = 0
	}
	return nil
}

func (l *library) Read(p []byte) (int, error) {
	n := min(l.pending, len(p))
	l.pending -= n
	return n, nil
}

// TestWindowNeverCloses: whatever arrives and is read in whatever order, a client of whom everything was read may go on.
func TestWindowNeverCloses(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		random := rand.New(rand.NewPCG(seed, 1))
		budget, _ := newTestBudget(1 << random.IntN(27))
		ticks := &clock{step: time.Duration(random.IntN(100)) * time.Millisecond}
		lib := &library{window: smallWindow}
		w := &window{pending: lib, adjust: lib.adjust, budget: budget, now: ticks.now, size: smallWindow}
		p := make([]byte, longBuffer)
		for range 2000 {
			w.bulk(random.IntN(50) > 0)
			if arrives := uint32(random.IntN(4 << 20)); random.IntN(2) == 0 {
				arrives = min(arrives, lib.window)
				lib.window -= arrives
				lib.pending += int(arrives)
			}
			for reads := random.IntN(16); reads > 0 && lib.pending > 0; reads-- {
				if _, err := w.Read(p[:1+random.IntN(len(p))]); err != nil {
					t.Fatal(err)
				}
			}
			if lib.pending == 0 && lib.window == 0 {
				t.Fatalf("seed %d: the client may not send any more: window of %d bytes, %d not handed back, %d kept by the library, %d to shrink by",
					seed, w.size, w.credit, lib.consumed, w.debt)
			}
			if out := int(lib.window+lib.consumed) + lib.pending + w.credit; out != w.size {
				t.Fatalf("seed %d: %d bytes are out, and the window is %d", seed, out, w.size)
			}
		}
	}
}
