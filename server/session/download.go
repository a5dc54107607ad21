package session

import (
	"io/fs"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transferd/transferd/storage"
)

// Download is a file that a client has open for reading.
type Download struct {
	s           *Session
	path        string // as the client sees it, absolute
	backendPath string
	began       time.Time
	sent        atomic.Int64

	mu     sync.RWMutex // held shared by ReadAt, so that the reader is not closed under it; guards what follows
	r      storage.Reader
	closed bool
}

// ReadAt reads bytes, in any order and from many goroutines.
func (d *Download) ReadAt(p []byte, off int64) (int, error) {
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
	d.s.event("CLOSE", slog.String("path", d.backendPath), d.bytesOut())
	d.s.record(d.deed(), err)
	return err
}

func (d *Download) deed() Deed {
	return Deed{Kind: Downloaded, Path: d.backendPath, Bytes: d.sent.Load(), Began: d.began}
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
	d.s.event("PARTIAL_CLOSE", slog.String("path", d.backendPath), d.bytesOut(),
		slog.String("evidence", string(evidence)))
	deed := d.deed()
	deed.Cut = true
	d.s.record(deed, nil)
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
