package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/transferd/transferd/storage"
)

// readWindow is how much of a file behind the stream's position is kept: clients ask for blocks in slightly scrambled
// order, at most a few MiB apart.
const readWindow = 2 * mib

// readStart is what the stream's first position is rounded down to: of the first reads, which come all at once, any may
// be the first to get here.
const readStart = 512 * kib

// reader reads one version of an object. Sequential reads, even scrambled ones, come from one GET that goes on as long
// as it is used; the bytes just read are kept in a ring, so that a block that is asked for late is still there. Once the
// stream has got some way, and while the Budget has memory, several GETs at a time read ahead of it; else the
// connection's own buffers are the read-ahead. Reads far from it are GETs of just their range, until some that follow
// each other show that the client goes on from there, and so are all reads of a reader that finds no memory for a ring.
type reader struct {
	store *Store
	at    object
	etag  *string // pins the version
	size  int64
	ctx   context.Context // Open's

	// lock, when it holds an element, guards all below. It is a channel because those serve in order of arrival; a
	// sync.Mutex lets a busy reader overtake the others until their blocks have left the ring.
	lock   chan struct{}
	body   feed  // nil before the first read and after an error
	from   int64 // where the stream began
	lone   bool  // reading ahead failed
	closed bool
	pos    int64  // where the stream is
	low    int64  // the first byte that ring holds; it holds [low, pos)
	ring   []byte // byte i of the file is at i % len(ring)
	far    int64  // where the last read far from the stream ended
	row    int    // how many far reads followed each other
}

// feed is a stream of a file's bytes from some place on.
type feed interface {
	io.Reader
	close()
}

// farReads is how many reads in a row move the stream.
const farReads = 3

// Open pins the version that is there now.
func (b *Backend) Open(ctx context.Context, name string) (storage.Reader, error) {
	if name == "" {
		return nil, fmt.Errorf("s3: open the root: %w", storage.ErrIsDirectory)
	}
	head, err := b.store.head(ctx, b.bucket, name)
	if errors.Is(err, fs.ErrNotExist) {
		if fi, statErr := b.Stat(ctx, name); statErr == nil && fi.IsDir() {
			return nil, fmt.Errorf("s3: open %q: %w", name, storage.ErrIsDirectory)
		}
	}
	if err != nil {
		return nil, err
	}
	return &reader{
		store: b.store, at: object{bucket: b.bucket, key: name}, etag: head.ETag,
		size: aws.ToInt64(head.ContentLength), ctx: ctx, lock: make(chan struct{}, 1),
	}, nil
}

// ReadAt may be called from many goroutines.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("s3: read at offset %d: %w", off, fs.ErrInvalid)
	}
	want := p[:max(0, min(int64(len(p)), r.size-off))]
	n := 0
	for n < len(want) {
		c, direct, err := r.fromStream(want[n:], off+int64(n))
		n += c
		if err == nil && direct {
			c, err = r.direct(want[n:], off+int64(n))
			n += c
		}
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fromStream takes what it can from the ring, after moving the stream on as far as that needs. It reports direct if
// off is not near the stream.
func (r *reader) fromStream(p []byte, off int64) (n int, direct bool, err error) {
	r.lock <- struct{}{}
	defer func() { <-r.lock }()
	if r.closed {
		return 0, false, fmt.Errorf("s3: read %q: %w", r.at.key, fs.ErrClosed)
	}
	if r.ring == nil {
		if r.ring = r.store.cfg.Budget.ring(r.size); r.ring == nil {
			return 0, true, nil
		}
		step := int64(min(readStart, len(r.ring)/2))
		r.low = off / step * step
		r.pos, r.from = r.low, r.low
	}
	if (off < r.low || off > r.pos+int64(len(r.ring))) && !r.moves(off, len(p)) {
		return 0, true, nil
	}
	for off >= r.pos {
		if err := r.fill(); err != nil {
			return 0, false, err
		}
	}
	if off < r.low { // the stream went past it while it was skipping
		return 0, true, nil
	}
	at := off % int64(len(r.ring))
	return copy(p, r.ring[at:min(int64(len(r.ring)), at+r.pos-off)]), false, nil
}

// moves notes a read far from the stream, and takes the stream there if the client seems to go on from there.
func (r *reader) moves(off int64, n int) bool {
	if off != r.far {
		r.row = 0
	}
	r.far = off + int64(n)
	if r.row++; r.row < farReads {
		return false
	}
	r.closeBody()
	r.low, r.pos, r.from, r.row = off, off, off, 0
	return true
}

// fill reads on into the ring; lock is held and pos is before the file's end.
func (r *reader) fill() error {
	if r.body == nil {
		body, err := r.feed()
		if err != nil {
			return err
		}
		r.body = body
	}
	at := r.pos % int64(len(r.ring))
	n, err := r.body.Read(r.ring[at:])
	r.pos += int64(n)
	r.low = max(r.low, r.pos-int64(len(r.ring)))
	if n > 0 {
		return nil // an error shows again, or a new stream mends it
	}
	r.closeBody()
	r.lone = r.lone || errors.Is(err, errAhead)
	if err != nil && !errors.Is(err, io.EOF) && r.ctx.Err() != nil {
		return failure("GetObject", r.at.key, context.Cause(r.ctx))
	}
	return nil // cut: fill opens it anew from pos, which fails when the retry budget is used up
}

// feed opens the stream at pos: a first GET of some length, then a read-ahead, or one GET of all that is left.
func (r *reader) feed() (feed, error) {
	to := r.size
	switch {
	case r.lone:
	case r.pos-r.from < aheadAfter:
		to = min(to, r.pos+aheadAfter)
	case r.size-r.pos > aheadAfter:
		if a := newAhead(r, r.pos); a != nil {
			return a, nil
		}
	}
	return r.get(r.pos, to)
}

// direct reads p with a GET of its own.
func (r *reader) direct(p []byte, off int64) (int, error) {
	body, err := r.get(off, off+int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer body.close()
	n, err := io.ReadFull(body, p)
	if err != nil && r.ctx.Err() != nil {
		return n, failure("GetObject", r.at.key, context.Cause(r.ctx))
	}
	return n, nil // what is missing is asked for again
}

// readRange reads what p holds from off on, of the version with this ETag.
func (s *Store) readRange(ctx context.Context, at object, etag *string, p []byte, off int64) error {
	r := &reader{store: s, at: at, etag: etag, ctx: ctx}
	for n := 0; n < len(p); {
		c, err := r.direct(p[n:], off+int64(n))
		if err != nil {
			return err
		}
		n += c
	}
	return nil
}

// get asks for [from, to) of the pinned version. The first byte is waited for here, so that an answer that is cut
// before it counts as a failed attempt and is retried.
func (r *reader) get(from, to int64) (*stream, error) {
	return request(r.ctx, r.store, call{op: "GetObject", name: r.at.key}, func(context.Context) (*stream, error) {
		// The attempt's deadline must not end the body; the stream has its own, for each read.
		st := &stream{timeout: r.store.cfg.AttemptTimeout}
		var ctx context.Context
		ctx, st.cancel = context.WithCancelCause(r.ctx)
		st.timer = time.AfterFunc(st.timeout, func() { st.cancel(errAttemptTimeout) })
		out, err := r.store.client.GetObject(ctx, &s3.GetObjectInput{
			Bucket: &r.at.bucket, Key: &r.at.key, IfMatch: r.etag,
			Range: aws.String(fmt.Sprintf("bytes=%d-%d", from, to-1)),
		})
		if err == nil {
			st.body = out.Body
			err = st.peek()
		}
		if err == nil {
			return st, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		st.close()
		return nil, err
	})
}

// Close ends the stream and gives its memory back.
func (r *reader) Close() error {
	r.lock <- struct{}{}
	defer func() { <-r.lock }()
	r.closed = true
	r.closeBody()
	if r.ring != nil {
		r.store.cfg.Budget.putRead(r.ring)
		r.ring = nil
	}
	return nil
}

func (r *reader) closeBody() {
	if r.body != nil {
		r.body.close()
		r.body = nil
	}
}

// stream is a GET's body that is given up when a read gets nothing for too long.
type stream struct {
	body    io.ReadCloser
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
	first   [1]byte // read ahead by peek
	peeked  bool
}

func (s *stream) peek() error {
	_, err := io.ReadFull(s.body, s.first[:])
	s.timer.Stop()
	s.peeked = err == nil
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read may return fewer bytes than asked for, as any reader.
func (s *stream) Read(p []byte) (int, error) {
	if s.peeked && len(p) > 0 {
		s.peeked = false
		p[0] = s.first[0]
		return 1, nil
	}
	s.timer.Reset(s.timeout)
	defer s.timer.Stop()
	return s.body.Read(p)
}

func (s *stream) close() {
	s.timer.Stop()
	s.cancel(nil)
	if s.body != nil {
		_ = s.body.Close() // read-only; nothing can be lost
	}
}
