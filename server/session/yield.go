package session

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/transferd/transferd/storage"
)

const (
	// blocked is how long a WriteAt takes that had to wait for memory.
	blocked = time.Second
	// patience is how long a client has after that to go on with its other files.
	patience = time.Minute
	// hoarded is how long a file may lie open without a byte while others wait, whatever its session does meanwhile.
	hoarded = 10 * patience
)

// errYielded is what the client of an upload hears that was ended because it sent nothing.
var errYielded = fmt.Errorf("the client sent nothing while other uploads waited for memory: %w", storage.ErrUnavailable)

// yield is storage.CreateOptions.Yield. A session that waits in one file cannot send to another, so that is no idleness.
func (f *File) yield(idle time.Duration) bool {
	s := f.s
	free := time.Duration(time.Now().UnixNano() - s.unblocked.Load())
	if idle < hoarded && (s.writing.Load() > 0 || free < patience) {
		return false
	}
	received := f.received.Load()
	s.m.spawn(func() { f.giveWay(received) })
	return true
}

// giveWay ends the upload as the end of an idle session does: what came is kept, and partial. The session goes on, and
// the client hears of it with its next WRITE or CLOSE of the file.
func (f *File) giveWay(received int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failure != nil || f.closed || !f.begun || f.received.Load() != received {
		return
	}
	defer f.s.release(f)
	f.failure, f.settled = errYielded, make(chan struct{})
	defer close(f.settled)
	f.s.failed("WRITE", f.path, errYielded, slog.String("upload-id", f.row.ID))
	// commit has logged what went wrong, and nobody is waiting to be told.
	_ = f.commit(Partial, Timeout)
}

// write hands bytes to an upload of this session, and keeps count for yield.
func (s *Session) write(up storage.Upload, p []byte, off int64) (int, error) {
	s.writing.Add(1)
	begun := time.Now()
	n, err := up.WriteAt(p, off)
	if now := time.Now(); now.Sub(begun) >= blocked {
		s.unblocked.Store(now.UnixNano())
	}
	s.writing.Add(-1)
	return n, err
}
