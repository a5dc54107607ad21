package sftpd

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/transferd/transferd/server/internal/door"
	"github.com/transferd/transferd/server/session"
)

// listener is one Serve: the connections of one server.
type listener struct {
	*Server
	current func() Settings
	rings   rings

	wg         sync.WaitGroup
	mu         sync.Mutex // guards open and handshakes
	open       map[*connection]struct{}
	handshakes int
}

// Serve accepts connections until ctx is cancelled, and returns when the last has ended and each of its uploads has its
// verdict. Uploads that are open then may go on for DrainTimeout; what is open after that becomes partial, with evidence
// server-stop. current is asked at each new connection.
func (s *Server) Serve(ctx context.Context, ln net.Listener, current func() Settings) error {
	l := &listener{Server: s, current: current, open: map[*connection]struct{}{}}
	closing := context.AfterFunc(ctx, func() { ln.Close() }) // its error would be the one of Accept
	defer closing()

	err := door.Accept(ctx, ln, l.Log, l.admit)
	l.stop()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// admit starts a connection if there is room for it.
func (l *listener) admit(ctx context.Context, raw net.Conn) {
	c := newConnection(l.Server, raw, l.current(), &l.rings)
	l.mu.Lock()
	full := len(l.open) >= l.MaxSessions || l.handshakes >= l.MaxHandshakes
	if !full {
		l.open[c] = struct{}{}
		l.handshakes++
	}
	l.mu.Unlock()
	if full {
		l.metrics.handshakes.WithLabelValues("limit").Inc()
		l.Log.WarnContext(ctx, "connection limit reached", "source-ip", c.sourceIP)
		c.cut(session.Disconnect)
		return
	}
	l.metrics.connections.Inc()
	l.wg.Go(func() {
		defer l.metrics.connections.Dec()
		defer l.ended(c)
		l.serve(ctx, c)
	})
}

// serve runs a connection to its end. A session outlives ctx: its uploads need their verdicts.
func (l *listener) serve(ctx context.Context, c *connection) {
	err := c.handshake(ctx)
	l.mu.Lock()
	l.handshakes--
	l.mu.Unlock()
	if err != nil {
		c.handshakeFailed(ctx, err)
		c.cut(session.Disconnect)
		return
	}
	l.metrics.handshakes.WithLabelValues("ok").Inc()
	c.serve(context.WithoutCancel(ctx))
}

func (l *listener) ended(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
}

// stop ends every connection and waits for it: at once those without an open upload, the others as soon as they have
// none, all of them after DrainTimeout.
func (l *listener) stop() {
	l.each((*connection).drain)
	deadline := time.AfterFunc(l.DrainTimeout, func() {
		l.each(func(c *connection) { c.cut(session.ServerStop) })
	})
	defer deadline.Stop()
	l.wg.Wait()
}

// each calls do for each open connection, outside the lock.
func (l *listener) each(do func(*connection)) {
	l.mu.Lock()
	all := make([]*connection, 0, len(l.open))
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		do(c)
	}
}
