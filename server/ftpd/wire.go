package ftpd

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// wire is the TCP connection below a control. It remembers how its reading ended: the evidence for verdicts.
type wire struct {
	net.Conn

	mu    sync.Mutex // guards what follows
	ended chan struct{}
	err   error // the first error of Read, io.EOF for a FIN
}

func newWire(conn net.Conn) *wire { return &wire{Conn: conn, ended: make(chan struct{})} }

// NetConn is the connection itself, for those who look for its descriptor.
func (w *wire) NetConn() net.Conn { return w.Conn }

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && !isTimeout(err) {
		w.end(err)
	}
	return n, err
}

// end notes the first error.
func (w *wire) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		close(w.ended)
	}
}

// ending is how the connection ended, nil if it lives.
func (w *wire) ending() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// drain reads until the TCP connection itself ends, or for a while. TLS says its own goodbye before that; only what TCP
// says tells whether a reply was read.
func (w *wire) drain(d time.Duration) {
	if err := w.SetReadDeadline(time.Now().Add(d)); err != nil {
		w.end(err)
		return
	}
	_, err := io.Copy(io.Discard, struct{ io.Reader }{w})
	if err == nil || isTimeout(err) {
		w.end(io.EOF) // the client has said goodbye, and nothing worse has come since
	}
}

// isTimeout tells our own deadlines from the kernel's ETIMEDOUT, after which the connection is dead.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
