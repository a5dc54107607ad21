package s3

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/storage"
)

// What S3 allows: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const (
	kib       = 1 << 10
	mib       = 1 << 20
	gib       = 1 << 30
	minPart   = 5 * mib // every part but the last
	maxPart   = 4 * gib // the limit is 5 GiB; sizes here double
	maxParts  = 10000
	maxObject = 5 << 40
)

const (
	// chunk is what an upload starts with. Most files of a transfer service are smaller, and then it is all they need.
	chunk = 64 * kib
	// firstPart is the size of an upload's first parts where the budget allows.
	firstPart = 8 * mib
	// stall is how long a pool may give nothing back before those who wait in it are refused. A client that fills its
	// part slowly is no stall while others do.
	stall = 2 * time.Minute
	// minBudget holds two of the smallest parts beside the other reserves: one on its way while one fills.
	minBudget = 14 * mib
)

// Budget is the memory that all uploads and downloads of a process together may hold files' bytes in.
//
// An eighth is set aside for chunks, one for each upload, and an eighth for downloads, which never wait for it: they go
// on without a buffer, in smaller steps. The rest is for whole parts. An upload asks for a part and
// waits only while it holds no part but those on their way to the store, which come back without it doing anything. So
// no upload that waits holds what another one waits for, and no number of uploads can lock each other up. Waiters are
// served in the order they came, and nobody gets a part without waiting while somebody waits.
//
// That is fair between sessions, not only between uploads: the uploads of one session share the goroutine that writes
// them, so a session waits in one place of the queue at a time, however many files it has open. Its other uploads, with
// what they hold, do not go on meanwhile. Whoever waits for longer than patience has the upload asked for its memory whose
// client has sent nothing for the longest time (CreateOptions.Yield). If a pool gives nothing back for as long as stall all
// the same, nobody in it can go on by himself, and the waiters are refused with storage.ErrUnavailable.
type Budget struct {
	chunks  pool
	parts   pool
	reads   pool // rings and segments of downloads
	waited  prometheus.Histogram
	yielded prometheus.Counter

	mu    sync.Mutex
	holds map[*hold]struct{} // the uploads that can be asked; guarded by mu
}

// NewBudget makes a budget of so many bytes, at least 14 MiB. reg may be nil.
func NewBudget(bytes int64, reg prometheus.Registerer) (*Budget, error) {
	if bytes < minBudget {
		return nil, fmt.Errorf("s3: buffer budget of %d bytes is below the %d that an upload needs", bytes, minBudget)
	}
	b := &Budget{holds: map[*hold]struct{}{}, yielded: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "transferd_s3_buffer_yields_total", Help: "Uploads that ended because their clients sent nothing while others waited for buffer memory.",
	}), waited: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "transferd_s3_buffer_wait_seconds", Help: "How long uploads waited for buffer memory, those that had to.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
	})}
	for _, p := range []*pool{&b.chunks, &b.parts} {
		p.stall, p.patience, p.relieve = stall, patience, func() { b.relieve(p) }
	}
	b.chunks.limit = bytes / 8 / chunk * chunk
	b.reads.limit = bytes / 8
	b.parts.limit = bytes - b.chunks.limit - b.reads.limit
	if reg == nil {
		return b, nil
	}
	gauge := func(name, help string, f func(*pool) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return float64(b.chunks.read(f) + b.parts.read(f) + b.reads.read(f))
		})
	}
	for _, c := range []prometheus.Collector{
		b.waited, b.yielded,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "transferd_s3_read_buffer_used_bytes", Help: "Buffer memory in use by downloads.",
		}, func() float64 { return float64(b.reads.read(func(p *pool) int64 { return p.used })) }),
		gauge("transferd_s3_buffer_limit_bytes", "The buffer budget.", func(p *pool) int64 { return p.limit }),
		gauge("transferd_s3_buffer_used_bytes", "Buffer memory in use.", func(p *pool) int64 { return p.used }),
		gauge("transferd_s3_buffer_idle_bytes", "Buffer memory kept for the next upload or download.", func(p *pool) int64 { return p.idle }),
		gauge("transferd_s3_buffer_peak_bytes", "Most buffer memory ever in use.", func(p *pool) int64 { return p.peak }),
		gauge("transferd_s3_buffer_waiters", "Uploads waiting for buffer memory.", func(p *pool) int64 { return int64(p.queue.Len()) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("s3: register the budget's metrics: %w", err)
		}
	}
	return b, nil
}

// sizes is the plan of an upload's parts: first bytes each, doubled every so many of them, but no more than last.
type sizes struct{ first, last int64 }

// doubled is after how many parts those that follow are twice as large. The fewer they are, the larger a file may be, and
// the sooner a large one takes memory from others: with 500 the parts have 64 MiB from 28 GiB on.
const doubled = 500

// plan fits the sizes into the budget. One upload alone must be able to fill a part while another one is on its way,
// so the largest part is half of the memory for parts. That also bounds the largest file, of 10,000 parts: sizes.most.
func (b *Budget) plan(first int64) (sizes, error) {
	if first == 0 {
		first = max(minPart, min(firstPart, b.parts.limit/8/chunk*chunk))
	}
	if first < minPart || first > maxPart || first > b.parts.limit/2 {
		return sizes{}, fmt.Errorf("s3: part size of %d bytes is not between %d and half of the buffer budget", first, minPart)
	}
	return sizes{first: first, last: max(first, min(maxPart, b.parts.limit/2/mib*mib))}, nil
}

// of is the size of part n, counted from 1.
func (s sizes) of(n int32) int {
	size := s.first
	for range (n - 1) / doubled {
		if size *= 2; size >= s.last {
			return int(s.last)
		}
	}
	return int(size)
}

// most is the largest file that fits into the parts, S3's own limit aside.
func (s sizes) most() (sum int64) {
	for n := int32(1); n <= maxParts; n++ {
		sum += int64(s.of(n))
	}
	return sum
}

// chunk waits for a chunk.
func (b *Budget) chunk(ctx context.Context) ([]byte, error) { return b.get(ctx, &b.chunks, chunk) }

// part waits for a part's buffer of n bytes.
func (b *Budget) part(ctx context.Context, n int) ([]byte, error) { return b.get(ctx, &b.parts, n) }

// tryPart is part for whoever must not wait; nil if there is none free.
func (b *Budget) tryPart(n int) []byte { return b.parts.try(n) }

// put gives a buffer of chunk, part or tryPart back.
func (b *Budget) put(buf []byte) {
	if cap(buf) == chunk {
		b.chunks.put(buf)
		return
	}
	b.parts.put(buf)
}

func (b *Budget) get(ctx context.Context, p *pool, n int) ([]byte, error) {
	if buf := p.try(n); buf != nil {
		return buf, nil
	}
	start := time.Now()
	buf, err := p.wait(ctx, n)
	b.waited.Observe(time.Since(start).Seconds())
	return buf, err
}

// pool hands out buffers, at most limit bytes at a time.
type pool struct {
	limit    int64
	stall    time.Duration
	patience time.Duration
	relieve  func() // has somebody asked for memory who does not use it

	mu    sync.Mutex // guards all below
	moved time.Time  // when a buffer last came back
	used  int64      // bytes handed out
	peak  int64      // the most that used has been
	idle  int64      // bytes in free; used + idle stays within limit
	free  [][]byte
	queue list.List // of *waiter, first come first served
}

type waiter struct {
	n     int
	ready chan []byte // capacity 1, so that whoever grants never waits
}

func (p *pool) read(f func(*pool) int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f(p)
}

func (p *pool) try(n int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queue.Len() > 0 || p.used+int64(n) > p.limit {
		return nil
	}
	return p.take(n)
}

func (p *pool) wait(ctx context.Context, n int) ([]byte, error) {
	w := &waiter{n: n, ready: make(chan []byte, 1)}
	p.mu.Lock()
	place := p.queue.PushBack(w)
	p.grant()
	p.mu.Unlock()
	stalled := time.NewTimer(p.stall)
	defer stalled.Stop()
	impatient := time.NewTicker(p.patience)
	defer impatient.Stop()
	for begun := time.Now(); ; {
		select {
		case buf := <-w.ready:
			return buf, nil
		case <-ctx.Done():
			return p.leave(place, w, context.Cause(ctx))
		case <-impatient.C:
			p.relieve()
			continue
		case <-stalled.C:
		}
		still := time.Since(p.lastMoved(begun))
		if still >= p.stall {
			return p.leave(place, w, fmt.Errorf("none came free for %v: %w", p.stall, storage.ErrUnavailable))
		}
		stalled.Reset(p.stall - still)
	}
}

// lastMoved is when a buffer last came back, or since, whichever is later.
func (p *pool) lastMoved(since time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.moved.After(since) {
		return p.moved
	}
	return since
}

// leave gives up waiting, and gives back what was granted in the meantime.
func (p *pool) leave(place *list.Element, w *waiter, cause error) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.Remove(place) // nothing happens if it was granted in the meantime
	select {
	case buf := <-w.ready:
		p.release(buf)
	default:
	}
	p.grant()
	return nil, fmt.Errorf("s3: wait for buffer memory: %w", cause)
}

func (p *pool) put(buf []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(buf)
	p.grant()
}

// take hands out n bytes; mu is held and they fit.
func (p *pool) take(n int) []byte {
	p.used += int64(n)
	p.peak = max(p.peak, p.used)
	for i := len(p.free) - 1; i >= 0; i-- {
		if buf := p.free[i]; cap(buf) == n {
			p.drop(i)
			return buf[:n]
		}
	}
	for len(p.free) > 0 && p.used+p.idle > p.limit { // buffers of another size give way
		p.drop(0)
	}
	return make([]byte, n)
}

// drop takes buffer i off the free list; mu is held.
func (p *pool) drop(i int) {
	last := len(p.free) - 1
	p.idle -= int64(cap(p.free[i]))
	p.free[i], p.free[last] = p.free[last], nil
	p.free = p.free[:last]
}

// release takes a buffer back; mu is held.
func (p *pool) release(buf []byte) {
	p.moved = time.Now()
	p.used -= int64(cap(buf))
	p.idle += int64(cap(buf))
	p.free = append(p.free, buf[:cap(buf)])
}

// grant serves those who wait, in order; mu is held.
func (p *pool) grant() {
	for e := p.queue.Front(); e != nil; e = p.queue.Front() {
		w, ok := e.Value.(*waiter)
		if !ok || p.used+int64(w.n) > p.limit {
			return
		}
		p.queue.Remove(e)
		w.ready <- p.take(w.n)
	}
}
