package s3

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// patience is how long one waits for memory before uploads whose clients send nothing are asked to give theirs back. It is
// shorter than stall: nobody is refused while there is somebody to ask.
const patience = time.Minute

// hold is what the budget knows of an upload: in which pool it holds memory, and since when its client sends nothing.
type hold struct {
	yield  func(idle time.Duration) bool // storage.CreateOptions.Yield
	pool   atomic.Pointer[pool]          // nil while it holds nothing
	rested atomic.Int64                  // when the last WriteAt returned, in nanoseconds; 0 while one is under way
}

// enter takes in an upload that can be asked.
func (b *Budget) enter(h *hold) {
	if h.yield == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds[h] = struct{}{}
}

func (b *Budget) leave(h *hold) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.holds, h)
}

// relieve asks the uploads that hold memory of a pool and rest, the longest first, until one gives its memory back. They
// take locks of their own, so they are asked without mu. Who is asked counts as busy, so that nobody else asks too.
func (b *Budget) relieve(p *pool) {
	resting := map[*hold]int64{}
	now := time.Now().UnixNano()
	b.mu.Lock()
	for h := range b.holds {
		since := h.rested.Load()
		if since != 0 && h.pool.Load() == p && now-since >= int64(p.patience) {
			resting[h] = since
		}
	}
	b.mu.Unlock()
	for _, h := range slices.SortedFunc(maps.Keys(resting), func(x, y *hold) int { return cmp.Compare(resting[x], resting[y]) }) {
		since := resting[h]
		if !h.rested.CompareAndSwap(since, 0) {
			continue
		}
		if h.yield(time.Duration(now - since)) {
			b.yielded.Inc()
			return
		}
		h.rested.CompareAndSwap(0, since)
	}
}

// holds is the pool that the upload holds memory of, nil if of none.
func (u *upload) holds() *pool {
	switch b := u.store.cfg.Budget; {
	case len(u.cur) == chunk:
		return &b.chunks
	case u.cur != nil || len(u.next) > 0:
		return &b.parts
	}
	return nil
}
