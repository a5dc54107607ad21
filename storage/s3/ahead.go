package s3

import (
	"context"
	"errors"
	"io"
	"math/bits"
	"sync"
)

const (
	// aheadAfter is how far a stream must have got before it is read ahead: who looks at a file's head wants no more.
	aheadAfter = 4 * mib
	// A segment is what one GET of a read-ahead takes: a thirty-second of the memory for reading, within these. Less than
	// the smaller one costs more requests than it wins.
	minSegment = 1 * mib
	maxSegment = 8 * mib
	// A ring is from smallRing to readWindow, the less the more of the memory is in use.
	smallRing = 128 * kib
)

// ring takes the memory for a stream over a file of so many bytes; nil if there is none. The first streams get much,
// the many little.
func (b *Budget) ring(size int64) []byte {
	want := readWindow
	switch used := b.reads.read(func(p *pool) int64 { return p.used }); {
	case used > b.reads.limit*3/4:
		want = smallRing
	case used > b.reads.limit/2:
		want = 2 * smallRing
	case used > b.reads.limit/4:
		want = 4 * smallRing
	}
	for want/2 >= smallRing && int64(want/2) >= size {
		want /= 2
	}
	for ; want >= smallRing; want /= 2 {
		if buf := b.reads.try(want); buf != nil {
			return buf
		}
	}
	return nil
}

// segment takes the memory for a segment of a read-ahead; nil if others need what is left.
func (b *Budget) segment() []byte {
	n := min(maxSegment, 1<<(bits.Len64(uint64(b.reads.limit/32))-1))
	if n < minSegment || b.reads.read(func(p *pool) int64 { return p.used }) > b.reads.limit/2 {
		return nil
	}
	return b.reads.try(n)
}

// putRead gives a ring or a segment back.
func (b *Budget) putRead(buf []byte) { b.reads.put(buf) }

// ahead is a stream that several GETs at a time fill, each a segment of the file. It never waits for memory: with none
// for a single segment it ends, and the reader goes on with one GET.
type ahead struct {
	r        *reader
	ctx      context.Context
	cancel   context.CancelFunc
	next     int64 // where the segment begins that is asked for next
	segments []*segment
	wg       sync.WaitGroup
}

type segment struct {
	buf  []byte
	left []byte        // of buf, not yet read by the stream's reader
	err  error         // set before done is closed
	done chan struct{} // closed when buf is filled
}

// newAhead begins a stream at pos; nil if there is no memory for it.
func newAhead(r *reader, pos int64) *ahead {
	a := &ahead{r: r, next: pos}
	a.ctx, a.cancel = context.WithCancel(r.ctx)
	a.ask()
	if len(a.segments) == 0 {
		a.cancel()
		return nil
	}
	return a
}

// ask begins as many GETs as there may be.
func (a *ahead) ask() {
	for len(a.segments) < a.r.store.cfg.Parallel && a.next < a.r.size {
		buf := a.r.store.cfg.Budget.segment()
		if buf == nil {
			return
		}
		s := &segment{buf: buf, left: buf[:min(int64(len(buf)), a.r.size-a.next)], done: make(chan struct{})}
		off := a.next
		a.next += int64(len(s.left))
		a.segments = append(a.segments, s)
		a.wg.Go(func() {
			s.err = a.r.store.readRange(a.ctx, a.r.at, a.r.etag, s.left, off)
			close(s.done)
		})
	}
}

// Read gives what comes next, from one segment at a time.
func (a *ahead) Read(p []byte) (int, error) {
	a.ask()
	if len(a.segments) == 0 {
		return 0, io.EOF
	}
	s := a.segments[0]
	<-s.done // readRange has its own deadlines
	if s.err != nil {
		return 0, errors.Join(errAhead, s.err)
	}
	n := copy(p, s.left)
	if s.left = s.left[n:]; len(s.left) == 0 {
		a.segments = a.segments[1:]
		a.r.store.cfg.Budget.putRead(s.buf)
	}
	return n, nil
}

// errAhead says that a GET of a read-ahead failed; one GET then shows why.
var errAhead = errors.New("read ahead")

func (a *ahead) close() {
	a.cancel()
	a.wg.Wait()
	for _, s := range a.segments {
		a.r.store.cfg.Budget.putRead(s.buf)
	}
	a.segments = nil
}
