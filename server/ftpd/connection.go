package ftpd

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ftp "github.com/fclairamb/ftpserverlib"

	"github.com/transferd/transferd/server/session"
)

// rules are what a server's Protocols allow.
type rules struct{ ftp, ftps bool }

// connection is one control connection and all that hangs on it.
type connection struct {
	*Server
	settings Settings
	rules    rules
	control  *control
	keys     *keys
	ctx      context.Context // until the end of the connection
	cancel   context.CancelFunc
	began    time.Time
	sourceIP string
	local    netip.Addr    // the address that the client reached
	remote   netip.Addr    // the client's
	proxy    netip.Addr    // what it came through, if a proxy told the two above
	left     chan struct{} // closed when the library has done with it
	over     chan struct{} // closed by cut, or when all is done

	client client

	// The library's goroutine and the transfer that it waits for alone touch these, one after the other.
	name               string // USER
	tries              int    // wrong passwords
	session            *session.Session
	told               string // the address that the next PASV tells
	unique             string // the name that STOU made
	restart            int64  // REST, for the next transfer
	offset             int64  // where the transfer begins that is under way
	extendedOnly       bool   // EPSV ALL
	unwanted           unwanted
	tlsVersion, cipher string

	secure    atomic.Bool  // the control connection is TLS
	protected atomic.Bool  // PROT P
	declared  atomic.Int64 // ALLO, for the next upload

	judges sync.WaitGroup // uploads that await their verdict

	mu    sync.Mutex    // guards what follows
	news  chan struct{} // closed and replaced at each change
	state connectionState
}

// connectionState is what several goroutines of a connection must agree upon.
type connectionState struct {
	verb     string           // the last command
	override *failure         // what the next refusal really says
	renaming bool             // RNFR was accepted, and nothing has come since
	active   bool             // a transfer's final reply is owed
	aborting bool             // to a transfer that ABOR ends
	current  *upload          // the latest
	waiting  *upload          // committed, its final reply not written yet
	files    int              // that the library has open
	leaving  bool             // it must open no more
	session  *session.Session // the connection's, for other goroutines
	judging  int              // uploads without a verdict
	lines    int              // commands that have come
	used     time.Time        // when something last happened
	passive  net.Listener
	data     *data
	draining bool
	cut      session.Evidence // why we closed it, "" if we did not
	last     tcpState         // what the kernel knew when we did
}

func newConnection(s *Server, raw net.Conn, settings Settings) *connection {
	c := &connection{Server: s, settings: settings, began: s.Now(), news: make(chan struct{}), left: make(chan struct{}),
		over: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	protocols := settings.Server.Protocols
	c.rules = rules{ftp: slices.Contains(protocols, "FTP"), ftps: slices.Contains(protocols, "FTPS")}
	c.local, c.remote = addressOf(raw.LocalAddr().String()), addressOf(raw.RemoteAddr().String())
	c.sourceIP, c.proxy = c.remote.String(), proxyOf(raw, c.remote)
	c.control = newControl(c, newWire(raw))
	c.keys = newKeys(c)
	c.state.used = time.Now()
	return c
}

// serve runs the connection to its end: every upload has its verdict then.
func (c *connection) serve() {
	defer c.cancel()
	var helpers sync.WaitGroup
	if c.ImplicitTLS {
		config, err := c.keys.config(c.ctx)
		if err != nil {
			c.fault(c.ctx, "TLS", err)
			c.cut(session.Disconnect)
			return
		}
		c.handshake(config)
		c.protected.Store(true) // as all clients of port 990 take for granted
	}
	settled := make(chan struct{})
	helpers.Go(c.control.pump)
	helpers.Go(func() { c.linger(settled) })
	c.run()
	c.change(func(s *connectionState) { s.leaving = true })
	c.closeData()
	c.awaitFiles()
	c.judges.Wait()
	close(settled)
	if c.session != nil {
		c.session.End(c.reason())
		c.disconnected(c.ctx)
	}
	c.control.farewell()
	c.cut(session.Disconnect)
	helpers.Wait()
}

// cutLinger takes LingerTimeout's place when it was us who closed the connection.
const cutLinger = time.Second

// linger watches over the time after the connection's end: what the client had sent is still written, but a storage that
// takes nothing must not hold the connection for ever. The session's end releases a blocked write.
func (c *connection) linger(settled <-chan struct{}) {
	limit := c.LingerTimeout
	select {
	case <-settled:
		return
	case <-c.over:
		limit = cutLinger
	case <-c.control.ended:
	}
	over, timer := c.over, time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-settled:
			return
		case <-over:
			over = nil
			timer.Reset(min(limit, cutLinger))
		case <-timer.C:
			s, _ := c.look()
			if s.session == nil || s.files == 0 {
				return // nothing is written: it is a verdict that takes its time
			}
			s.session.End(c.reason())
			return
		}
	}
}

// run lets the library serve the connection. Its Serve ends at once, because there is nothing more to accept; what it
// has started goes on until ClientDisconnected.
func (c *connection) run() {
	lib := ftp.NewFtpServer(&driver{connection: c, listener: &oneShot{conn: c.control}})
	if err := lib.ListenAndServe(); err != nil {
		c.fault(c.ctx, "SERVE", err)
		return
	}
	<-c.left
}

// oneShot is a listener with one connection.
type oneShot struct {
	conn net.Conn
	done bool
}

func (l *oneShot) Accept() (net.Conn, error) {
	if l.done {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	l.done = true
	return l.conn, nil
}

func (l *oneShot) Close() error   { return nil }
func (l *oneShot) Addr() net.Addr { return l.conn.LocalAddr() }

// next is the library's next command. Its errors end the connection.
func (c *connection) next() (string, error) {
	for {
		line, err := c.await()
		if err != nil {
			return "", err
		}
		if out, pass := c.filter(line); pass {
			return out, nil
		}
	}
}

// await waits for a command, and ends a connection that is idle. Transfers have a timeout of their own.
func (c *connection) await() (string, error) {
	for {
		wait := c.idle()
		if wait <= 0 {
			c.metrics.timeouts.WithLabelValues("control").Inc()
			c.idled()
			c.answer(421, "Nothing was asked for too long.")
			c.cut(session.Timeout)
			return "", io.EOF
		}
		timer := time.NewTimer(wait)
		select {
		case line, ok := <-c.control.lines:
			timer.Stop()
			if !ok {
				return "", io.EOF
			}
			return line, nil
		case <-c.over:
			timer.Stop()
			return "", io.EOF
		case <-timer.C:
		}
	}
}

// idle is how long the client may stay silent from now on.
func (c *connection) idle() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	limit := c.IdleTimeout
	if c.session == nil {
		limit = min(limit, c.LoginTimeout)
	}
	if c.state.active {
		return limit
	}
	return time.Until(c.state.used.Add(limit))
}

// change changes the state and tells everybody who waits for it.
func (c *connection) change(f func(s *connectionState)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.state)
	close(c.news)
	c.news = make(chan struct{})
}

// look gives a copy of the state, and what is closed when it changes.
func (c *connection) look() (connectionState, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.news
}

// arrived notes that a command has come. Logins do not extend the time for a login.
func (c *connection) arrived() {
	c.change(func(s *connectionState) {
		s.lines++
	})
}

// begin notes which command is being dealt with.
func (c *connection) begin(verb string) {
	c.change(func(s *connectionState) {
		if !s.active {
			s.verb, s.override = verb, nil
		}
		s.renaming = s.renaming && verb == "RNTO"
		if c.session != nil {
			s.used = time.Now()
		}
	})
}

// beginTransfer notes that a final reply will be owed; false if no transfer may begin any more.
func (c *connection) beginTransfer() (ok bool) {
	c.change(func(s *connectionState) {
		ok = !s.draining
		s.active, s.aborting = ok, false
	})
	return ok
}

// awaitTransfer waits until no reply is owed to a transfer.
func (c *connection) awaitTransfer() {
	for {
		s, news := c.look()
		if !s.active {
			return
		}
		select {
		case <-news:
		case <-c.over:
			return
		case <-c.control.ended:
			return
		}
	}
}

// open counts a file in, unless the connection is over.
func (c *connection) open() (ok bool) {
	c.change(func(s *connectionState) {
		if ok = !s.leaving; ok {
			s.files++
		}
	})
	return ok
}

func (c *connection) closed() { c.change(func(s *connectionState) { s.files-- }) }

// awaitFiles waits until the library has closed all files: it goes on with a transfer after the connection.
func (c *connection) awaitFiles() {
	for s, news := c.look(); s.files > 0; s, news = c.look() {
		<-news
	}
}

// abort ends the transfer that is under way, and waits until it has had its reply.
func (c *connection) abort() {
	active := false
	c.change(func(s *connectionState) {
		active, s.aborting = s.active, s.active
		if active && s.current != nil && !s.current.replied {
			s.current.aborted = true
		}
	})
	if active {
		c.closeData()
		c.awaitTransfer()
	}
}

// cut closes the connection for our own reason. The first reason is the one that counts.
func (c *connection) cut(reason session.Evidence) {
	first := false
	c.change(func(s *connectionState) {
		if first = s.cut == ""; first {
			s.cut, s.last = reason, inspect(c.control.wire)
			close(c.over)
		}
	})
	if first {
		c.closeData()
		c.cancel()
		c.control.wire.Close() // whoever reads sees the end; there is nobody to tell about an error
	}
}

// reason is why the connection came to its end: by the client unless we cut it.
func (c *connection) reason() session.Evidence {
	if s, _ := c.look(); s.cut != "" {
		return s.cut
	}
	return session.Disconnect
}

// closeData ends the data connection, or the waiting for one.
func (c *connection) closeData() {
	s, _ := c.look()
	if s.passive != nil {
		s.passive.Close()
	}
	if s.data != nil {
		s.data.Close()
	}
}

// drain lets a transfer go on and ends the connection after it.
func (c *connection) drain() {
	c.change(func(s *connectionState) { s.draining = true })
	c.drained()
}

// drained ends a connection that is being drained and has nothing left to do.
func (c *connection) drained() {
	if s, _ := c.look(); s.draining && !s.active && s.judging == 0 {
		c.cut(session.ServerStop)
	}
}
