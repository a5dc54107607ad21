package session

import (
	"io/fs"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/transferd/transferd/storage"
)

// Download is a file that a client has open for reading.
type Download struct {
	s    *Session
	path string // as the client sees it, absolute
	deed Deed   // as it began
	sent atomic.Int64
	told chan struct{} // closed when the recorder has the intent, or has refused it; nil if nobody wants it
	fail error         // why it was refused; read after told is closed

	mu     sync.RWMutex // held shared by ReadAt, so that the reader is not closed under it; guards what follows
	r      storage.Reader
	closed bool
}

// ReadAt reads bytes, in any order and from many goroutines.
//
// No byte goes out before the recorder has the intent. It is written while the client takes the answer to its OPEN.
func (d *Download) ReadAt(p []byte, off int64) (int, error) {
	if d.told != nil {
		if <-d.told; d.fail != nil {
			return 0, d.fail
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, fs.ErrClosed
	}
	n, err := d.r.ReadAt(p, off)
	if n > 0 {
		d.sent.Add(int64(n))
		d.s.bytesOut.Add(float64(n))
	}
	return n, err
}

// Stat describes the file as it stands at the path now.
func (d *Download) Stat() (fs.FileInfo, error) { return d.s.fs.Stat(d.s.ctx, d.path) }

// Path is the file's path as the client sees it.
func (d *Download) Path() string { return d.path }

// Close ends the download.
func (d *Download) Close() error {
	closed, err := d.close()
	if closed {
		return fs.ErrClosed
	}
	d.s.event("CLOSE", slog.String("path", d.deed.Path), d.bytesOut())
	d.record(false, err)
	return err
}

// tell gives the recorder the intent, if it wants it. The session holds the download already, whose end waits for this.
func (d *Download) tell() {
	if d.told == nil {
		return
	}
	d.s.m.spawn(func() {
		defer close(d.told)
		d.fail = d.s.intend(d.deed)
	})
}

// record tells how the download ended.
func (d *Download) record(cut bool, err error) {
	if d.told == nil {
		return
	}
	<-d.told
	deed := d.deed
	if d.fail != nil {
		deed.ID = "" // there is no intent
	}
	deed.Bytes, deed.Cut = d.sent.Load(), cut
	d.s.record(deed, err)
}

// Abandon is Close for a transfer that went wrong: the client has not got what it wanted.
func (d *Download) Abandon(evidence Evidence) { d.cut(evidence) }

// cut ends the download because the session or the transfer ended.
func (d *Download) cut(evidence Evidence) {
	closed, err := d.close()
	if closed {
		return
	}
	if err != nil {
		d.s.failed("CLOSE", d.path, err)
	}
	d.s.event("PARTIAL_CLOSE", slog.String("path", d.deed.Path), d.bytesOut(),
		slog.String("evidence", string(evidence)))
	d.record(true, nil)
}

func (d *Download) close() (before bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return true, nil
	}
	d.closed = true
	d.s.releaseDownload(d)
	return false, d.r.Close()
}

func (d *Download) bytesOut() slog.Attr {
	return slog.String("bytes-out", strconv.FormatInt(d.sent.Load(), 10))
}
