package proxyproto

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Listener gives connections whose header has been read. A proxy that is slow with one holds up nobody else.
type Listener struct {
	net.Listener
	cfg     Config
	headers *prometheus.CounterVec
	ready   chan accepted
	slots   chan struct{} // one is taken by each connection that is not given out yet
	over    chan struct{} // closed by Close
	once    sync.Once
	err     error // of closing

	wg      sync.WaitGroup
	mu      sync.Mutex // guards what follows
	closed  bool
	waiting map[net.Conn]struct{} // whose header is awaited
}

type accepted struct {
	conn net.Conn
	err  error
}

// run accepts until the listener below is closed.
func (l *Listener) run() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.over:
			return
		}
		conn, err := l.Listener.Accept()
		switch {
		case err == nil && l.hold(conn):
			l.wg.Go(func() {
				defer func() { <-l.slots }()
				given, err := l.admit(conn)
				l.release(conn)
				l.give(given, err)
			})
			continue
		case err == nil:
			conn.Close() // closed meanwhile; nobody is there to hear an error
		default:
			l.give(nil, err)
		}
		<-l.slots
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// give hands out a connection or an error. Nothing is handed out of a connection that was refused.
func (l *Listener) give(conn net.Conn, err error) {
	if conn == nil && err == nil {
		return
	}
	select {
	case l.ready <- accepted{conn, err}:
	case <-l.over:
		if conn != nil {
			conn.Close() // nobody takes it any more
		}
	}
}

func (l *Listener) hold(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.waiting[conn] = struct{}{}
	}
	return !l.closed
}

func (l *Listener) release(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, conn)
}

// Accept gives the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.ready:
		return a.conn, a.err
	case <-l.over:
		return nil, net.ErrClosed
	}
}

// Close closes the listener below and what waits for its header. It returns when nothing of the Listener runs any more.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.over)
		l.err = l.Listener.Close()
		l.mu.Lock()
		l.closed = true
		for conn := range l.waiting {
			conn.Close() // their reading ends with it
		}
		l.mu.Unlock()
	})
	l.wg.Wait()
	return l.err
}

// admit makes of a connection what the door sees of it. Nil and no error: it was refused and closed.
func (l *Listener) admit(conn net.Conn) (net.Conn, error) {
	mode := l.cfg.Mode()
	if mode == Off {
		return conn, nil
	}
	from := address(conn.RemoteAddr())
	if !l.cfg.trusts(from) {
		if mode == Enforced {
			l.refuse(conn, "untrusted", errors.New("it does not come from a trusted proxy"))
			return nil, nil
		}
		l.headers.WithLabelValues("direct").Inc()
		return conn, nil
	}
	header, err := l.read(conn)
	switch {
	case err == nil && header.Client.IsValid():
		l.headers.WithLabelValues("applied").Inc()
	case err == nil:
		l.headers.WithLabelValues("local").Inc()
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.refuse(conn, "timeout", errors.New("no PROXY header came in time"))
		return nil, nil
	case errors.Is(err, ErrHeader):
		l.refuse(conn, "bad", err)
		return nil, nil
	default: // it is gone, as the health checks of load balancers are
		l.refuse(conn, "silent", nil)
		return nil, nil
	}
	return &Conn{Conn: conn, header: header}, nil
}

func (l *Listener) read(conn net.Conn) (Header, error) {
	if err := conn.SetReadDeadline(time.Now().Add(l.cfg.HeaderTimeout)); err != nil {
		return Header{}, err
	}
	header, err := Read(conn, l.cfg.Text)
	if err != nil {
		return Header{}, err
	}
	return header, conn.SetReadDeadline(time.Time{})
}

// refuse closes a connection unanswered: before its header nobody knows who is there. A nil cause is nobody's fault.
func (l *Listener) refuse(conn net.Conn, result string, cause error) {
	conn.Close()
	select {
	case <-l.over: // it was us
		return
	default:
	}
	if cause != nil {
		l.cfg.Log.Warn("connection refused", "from", conn.RemoteAddr().String(), "listener", l.Addr().String(), "error", cause.Error())
	}
	l.headers.WithLabelValues(result).Inc()
}
