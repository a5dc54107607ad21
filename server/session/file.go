package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transferd/transferd/storage"
)

// errNoVerdict is Close's answer when the bytes are kept but the verdict could not be written.
var errNoVerdict = errors.New("the verdict could not be written")

// File is an upload that a client has open.
type File struct {
	s        *Session
	path     string // as the client sees it, absolute
	turn     int    // which of the session's files; set by hold
	declared int64  // the size that the client announced, 0 if it did not
	append   bool   // writes go to the end, wherever the client wants them
	excl     bool   // it must not replace a file

	size     atomic.Int64 // the end of the farthest byte, with those that stood before
	received atomic.Int64 // bytes taken, counted as often as they came
	stored   atomic.Bool  // by Commit: the file at its path is what the storage says

	// mu lets one goroutine at a time at the storage, as storage.Upload wants it, and guards what follows. Whoever ends
	// the upload holds it until the verdict is there.
	mu        sync.Mutex
	opens     int            // how often its client has it open
	up        storage.Upload // nil while undecided
	row       Upload         // read by everybody; changes before the journal has it, and then no more
	got       ranges         // of what it is to have; kept up with Config.Integrity alone
	undecided bool           // whether it changes what stands: the first write will tell
	begun     bool           // the journal has the row
	closed    bool           // Close, Commit or the session's end has come
	attrs     storage.Attrs  // what it is to have beside its bytes, without the size
	resized   *int64         // the size that it is to have, if its client said one
	shrunk    bool           // that was once smaller than it was
	untouched bool           // by Commit: nothing was written to a file that stands, so there is nothing to settle
	temp      *temp          // committed under a temporary name: its verdict waits for the rename
	waiting   *Commit        // committed, and Settle has not come yet
	released  bool           // a WriteAt was cut off by the session's end: its bytes are missing
	failure   error          // the first error of the storage or of Begin: final
	settled   chan struct{}  // set with failure: closed when abort and the verdict are done
}

// Path is the file's path as the client sees it.
func (f *File) Path() string { return f.path }

// Size is how far the file reaches so far: if it changes what stands, from the beginning on at least as far as that.
func (f *File) Size() int64 { return f.size.Load() }

// Readable tells whether the file at the path is what this upload is so far: because its bytes show there at once, or
// because it changes what stands and nothing was written yet.
func (f *File) Readable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.failure != nil {
		return false
	}
	if up, ok := f.up.(storage.Live); ok && up.Live() {
		return true
	}
	return f.row.Modify && !f.begun
}

// WriteAt takes bytes. It blocks while the storage's buffers are full; the end of the session releases it. After an
// error of the storage the upload is refused: every later WriteAt and Close gives that error.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.failure != nil:
		return 0, f.failure
	case f.closed:
		return 0, fs.ErrClosed
	case off < 0:
		return 0, fs.ErrInvalid
	case len(p) == 0:
		return 0, nil
	}
	if f.append {
		off = f.size.Load()
	}
	if !f.begun {
		if err := f.first(off, int64(len(p))); err != nil {
			f.fail("OPEN", err)
			return 0, err
		}
	}
	if err := f.grow(off, int64(len(p))); err != nil {
		f.fail("WRITE", err)
		return 0, err
	}
	n, err := f.s.write(f.up, p, off)
	if n > 0 {
		f.received.Add(int64(n))
		f.size.Store(max(f.size.Load(), off+int64(n))) // written under mu, read without
		if f.s.m.cfg.Integrity {
			f.got.add(off, off+int64(n))
		}
		f.s.bytesIn.Add(float64(n))
	}
	switch {
	case err == nil:
	case f.interrupted(err):
		f.released = true
	default:
		f.fail("WRITE", err)
	}
	return n, err
}

// open begins the storage's part.
func (f *File) open() error {
	up, err := f.s.fs.Create(f.s.ctx, f.path, storage.CreateOptions{
		ID: f.row.ID, Metadata: metadata(f.row), Modify: f.row.Modify, Exclusive: f.excl, Note: f.note, Yield: f.yield,
	})
	if err != nil {
		return err
	}
	f.up = up
	return nil
}

// first prepares the first write. mu is held.
func (f *File) first(off, received int64) error {
	if f.undecided {
		f.undecided = false
		if off == 0 { // written anew
			f.row.Modify, f.row.Base = false, 0
			f.size.Store(0)
			f.got = ranges{}
		}
		if err := f.open(); err != nil {
			return err
		}
	}
	return f.begin(received)
}

// interrupted tells a WriteAt that the session's end released from one that the storage refused: what it had taken is
// still good.
func (f *File) interrupted(err error) bool {
	return f.s.ctx.Err() != nil && errors.Is(err, context.Canceled)
}

// Close ends the upload: the bytes are committed, the verdict is durable, then it returns. After an error of the storage
// nothing is kept and the verdict is refused. The verdict on a temporary name (Config.TempNames) comes later; then it is
// durable that the file is whole. A file that was opened several times ends with its last Close.
func (f *File) Close() error {
	return f.close(func() error {
		outcome, evidence := f.judged(Complete, Closed)
		if outcome != Complete || !f.s.m.cfg.temporary(f.row.Location) {
			defer f.s.release(f)
			return f.commit(outcome, evidence)
		}
		if err := f.keep(); err != nil {
			return err
		}
		return f.settle(outcome, evidence)
	})
}

// close ends the writing and lets finish do the rest, with mu held.
func (f *File) close(finish func() error) error {
	f.mu.Lock()
	if f.failure != nil {
		settled, err := f.settled, f.failure
		f.closed = true
		f.mu.Unlock()
		<-settled
		return err
	}
	defer f.mu.Unlock()
	if f.closed || f.released { // released: bytes are missing, so this is no whole file, whatever the client said
		return fs.ErrClosed
	}
	if f.opens > 1 {
		f.opens--
		return nil
	}
	f.closed = true
	if !f.begun && f.row.Modify {
		defer f.s.release(f)
		f.untouched = true
		return f.leave()
	}
	if !f.begun {
		if err := f.begin(0); err != nil {
			f.s.release(f)
			return errors.Join(err, f.abort())
		}
	}
	return finish()
}

// leave ends an upload that wrote nothing to what stands. mu is held.
func (f *File) leave() error {
	if err := f.abort(); err != nil {
		f.s.failed("CLOSE", f.path, err)
		return err
	}
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.CommitTimeout)
	defer cancel()
	f.dress(ctx, &storage.Object{Size: f.row.Base}, Complete)
	f.s.event("CLOSE", slog.String("path", f.row.Location.Path()), f.bytesIn(Verdict{}), slog.String("upload-id", f.row.ID))
	return nil
}

// judged is the verdict on a file that its client closed, as the manager's mode has it: Short if less came than the client
// declared, or if it left a hole.
func (f *File) judged(outcome Outcome, evidence Evidence) (Outcome, Evidence) {
	if outcome == Complete && f.s.m.cfg.Integrity && f.got.end < max(f.declared, f.size.Load()) {
		return Partial, Short
	}
	return outcome, evidence
}

// cut ends the upload because the session ended.
func (f *File) cut(evidence Evidence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil {
		<-f.settled
		return
	}
	if f.waiting != nil {
		// end has logged what went wrong.
		_ = f.settle(Partial, evidence)
		return
	}
	if f.closed {
		return
	}
	f.closed = true
	defer f.s.release(f)
	if f.begun {
		// commit has logged what went wrong, and nobody is left to be told.
		_ = f.commit(Partial, evidence)
		return
	}
	// Opened and cut before the first byte: nothing was received, so there is nothing to keep ("stores the received
	// portion", transfer-api 5.7) and no workflow would start. An empty file would only hide an older one.
	if err := f.abort(); err != nil {
		f.s.failed("CLOSE", f.path, err)
	}
	f.log("PARTIAL_CLOSE", Verdict{Outcome: Partial, Evidence: evidence})
}

// begin writes the journal's row: before the first byte goes to storage.
func (f *File) begin(received int64) error {
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.JournalTimeout)
	defer cancel()
	f.row.Received = received
	if err := f.s.m.cfg.Journal.Begin(ctx, f.row); err != nil {
		return fmt.Errorf("begin upload: %w", err)
	}
	f.begun = true
	return nil
}

// note keeps in the journal what storage needs to find the upload again. The session's end does not stop it: the upload
// would fail with it. The journal may be asked from a goroutine of the storage, so it reads nothing that changes.
func (f *File) note(ctx context.Context, token string) error {
	ctx, cancel := f.s.m.finishing(ctx, f.s.m.cfg.JournalTimeout)
	defer cancel()
	if err := f.s.m.cfg.Journal.Note(ctx, f.row.ID, token); err != nil {
		return fmt.Errorf("note upload: %w", err)
	}
	return nil
}

// commit keeps the bytes and writes the verdict. mu is held.
func (f *File) commit(outcome Outcome, evidence Evidence) error {
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.CommitTimeout)
	defer cancel()
	obj, err := f.up.Commit(ctx)
	if err == nil {
		f.dress(ctx, &obj, outcome)
	}
	v := Verdict{Outcome: outcome, Evidence: evidence, Object: obj, Received: f.received.Load(), Ended: f.s.m.cfg.Now()}
	if err == nil {
		return f.end(v)
	}
	f.s.failed("CLOSE", f.path, err, f.bytesIn(v), slog.String("upload-id", f.row.ID))
	if outcome == Partial && ctx.Err() != nil {
		// Time is up and nobody waits for an answer: the bytes may still lie at the far side, so recovery decides.
		f.s.m.cfg.Metrics.pending.Inc()
		return err
	}
	return errors.Join(err, f.end(f.refused()))
}

func (f *File) refused() Verdict {
	return Verdict{Outcome: Refused, Evidence: Storage, Received: f.received.Load(), Ended: f.s.m.cfg.Now()}
}

// fail makes an error final. Abort and the verdict go on in a goroutine: the client hears of the error at once, and
// Close or the session's end waits for them. mu is held.
func (f *File) fail(operation string, err error) {
	f.failure = err
	f.settled = make(chan struct{})
	begun, v := f.begun, f.refused()
	f.s.failed(operation, f.path, err, f.bytesIn(v), slog.String("upload-id", f.row.ID))
	f.s.m.spawn(func() {
		defer close(f.settled)
		defer f.s.release(f)
		if err := f.abort(); err != nil {
			f.s.failed("CLOSE", f.path, err)
		}
		if begun {
			// end has logged what went wrong; the client has its error already.
			_ = f.end(v)
		}
	})
}

func (f *File) abort() error {
	if f.up == nil {
		return nil
	}
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.CommitTimeout)
	defer cancel()
	return f.up.Abort(ctx)
}

// end writes the verdict. If the journal does not take it in time the row stays begun: Close gives an error although the
// bytes are kept, and recovery will call the upload partial. That errs on the safe side, since a client that was told of
// an error sends the file again.
func (f *File) end(v Verdict) error {
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.JournalTimeout)
	defer cancel()
	elsewhere := false
	err := persist(ctx, func() error {
		err := f.s.m.cfg.Journal.End(ctx, f.row, v)
		if elsewhere = errors.Is(err, ErrElsewhere); elsewhere {
			return nil
		}
		return err
	})
	if elsewhere {
		return nil
	}
	if err != nil {
		f.s.m.cfg.Metrics.pending.Inc()
		f.s.log.Error("no verdict in the journal: recovery will end this upload as partial", "operation", "CLOSE",
			"path", f.row.Location.Path(), "upload-id", f.row.ID, "verdict", string(v.Outcome),
			"evidence", string(v.Evidence), "error", err.Error())
		return errors.Join(errNoVerdict, err)
	}
	f.s.m.cfg.Metrics.ended(f.row, v)
	switch v.Outcome {
	case Complete:
		f.log("CLOSE", v)
	case Partial:
		f.log("PARTIAL_CLOSE", v)
	case Refused:
		f.log("ERROR", v, slog.String("operation", "CLOSE"), slog.String("message", "Upload refused"))
	}
	return nil
}

// persist tries until it works or ctx is over: ten milliseconds' wait at first, then twice as long each time.
func persist(ctx context.Context, try func() error) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func (f *File) bytesIn(v Verdict) slog.Attr {
	return slog.String("bytes-in", strconv.FormatInt(v.Received, 10))
}

func (f *File) log(activity string, v Verdict, attrs ...slog.Attr) {
	f.s.event(activity, append(attrs, slog.String("path", v.At(f.row).Path()), f.bytesIn(v),
		slog.String("upload-id", f.row.ID), slog.String("verdict", string(v.Outcome)),
		slog.String("evidence", string(v.Evidence)))...)
}

// uploadInfo describes a file that is being uploaded.
type uploadInfo struct {
	name  string
	size  int64
	began time.Time
}

func (i uploadInfo) Name() string       { return i.name }
func (i uploadInfo) Size() int64        { return i.size }
func (i uploadInfo) Mode() fs.FileMode  { return 0o644 }
func (i uploadInfo) ModTime() time.Time { return i.began }
func (i uploadInfo) IsDir() bool        { return false }
func (i uploadInfo) Sys() any           { return nil }
