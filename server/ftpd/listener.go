package ftpd

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/transferd/transferd/server/internal/door"
	"github.com/transferd/transferd/server/session"
)

// listener is one Serve: the connections of one server.
type listener struct {
	*Server
	current func() Settings

	wg   sync.WaitGroup
	mu   sync.Mutex // guards what follows
	open map[*connection]struct{}
	from map[netip.Addr]int // how many of them come from an address
}

// Serve accepts connections until ctx is cancelled, and returns when the last has ended and each of its uploads has its
// verdict. Transfers that are open then may go on for DrainTimeout; uploads that are open after that become partial, with
// evidence server-stop. current is asked at each new connection.
func (s *Server) Serve(ctx context.Context, ln net.Listener, current func() Settings) error {
	l := &listener{Server: s, current: current, open: map[*connection]struct{}{}, from: map[netip.Addr]int{}}
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
	c := newConnection(l.Server, raw, l.current())
	if reason, text := l.enter(c); reason != "" {
		l.metrics.refused.WithLabelValues(reason).Inc()
		l.Log.WarnContext(ctx, "connection refused", "source-ip", c.sourceIP, "reason", reason)
		l.wg.Go(func() {
			if !l.ImplicitTLS && raw.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
				_, _ = io.WriteString(raw, "421 "+text+"\r\n") // a courtesy
			}
			c.cut(session.Disconnect)
		})
		return
	}
	l.metrics.connections.Inc()
	l.wg.Go(func() {
		defer l.metrics.connections.Dec()
		defer l.ended(c)
		c.serve()
	})
}

// enter counts a connection in, or says why not: in a word, and in the words that the client gets (RFC 959, 5.4: 421 may
// stand in place of the greeting).
func (l *listener) enter(c *connection) (reason, text string) {
	if l.Banned != nil {
		if until, banned := l.Banned(c.sourceIP); banned {
			return "banned", bannedText(until)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.open) >= l.MaxSessions:
		return "limit", "Too many connections."
	case l.MaxPerAddress > 0 && l.from[c.remote] >= l.MaxPerAddress:
		return "address-limit", "Too many connections from your address."
	}
	l.open[c] = struct{}{}
	l.from[c.remote]++
	return "", ""
}

func bannedText(until time.Time) string {
	return "Too many failed logins from your address: try again after " + until.UTC().Format(time.RFC3339) + "."
}

func (l *listener) ended(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, c)
	if l.from[c.remote]--; l.from[c.remote] == 0 {
		delete(l.from, c.remote)
	}
}

// stop ends every connection and waits for it: at once those without a transfer, the others as soon as they have none,
// all of them after DrainTimeout.
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
