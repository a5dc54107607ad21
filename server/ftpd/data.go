package ftpd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// data is one data connection: TCP, or TLS over it. The library gets it as a plain one. TLS begins with the first byte,
// because clients begin it after the 150.
type data struct {
	net.Conn // TLS or TCP
	c        *connection
	raw      *dataWire
	tickets  *ticketing
	once     sync.Once // the handshake
	failed   error     // of the handshake
	out      *bufio.Writer
	entries  bool // what goes out is MLSD's

	mu      sync.Mutex // guards what follows
	moved   time.Time  // when the deadline was set last
	reading bool       // an upload takes from it, or is about to
	closing bool       // closed, as far as that goes while an upload takes from it
}

// lastBytes is how long an upload may go on taking what has already come when its data connection is closed, because of
// ABOR or because the control connection is gone: what was received is kept.
const lastBytes = 200 * time.Millisecond

// dataWire notes whether TCP has ended below TLS, which crypto/tls does not tell from TLS's own end when it comes between
// two records.
type dataWire struct {
	net.Conn
	ended   atomic.Bool
	records *records // nil without TLS; belongs to whoever reads
}

func (w *dataWire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if w.records != nil {
		w.records.pass(p[:n])
	}
	if err != nil {
		w.ended.Store(true)
	}
	return n, err
}

// connect makes a data connection of what has come.
func (c *connection) connect(conn net.Conn) (net.Conn, error) {
	d := &data{Conn: conn, c: c, raw: &dataWire{Conn: conn}}
	s, _ := c.look()
	d.reading = s.verb == "STOR" || s.verb == "STOU" || s.verb == "APPE"
	d.entries = s.verb == "MLSD"
	if c.protected.Load() {
		d.tickets = c.keys.data()
		d.raw.records = &records{}
		d.Conn = tls.Server(d.raw, d.tickets.config)
	}
	dead := false
	c.change(func(s *connectionState) {
		s.data, dead = d, s.cut != "" || s.aborting
	})
	if dead {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	return d, nil
}

// ready shakes hands if that is still to be done.
func (d *data) ready() error {
	d.once.Do(func() {
		secured, ok := d.Conn.(*tls.Conn)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(d.c.ctx, d.c.HandshakeTimeout)
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			d.c.metrics.handshakes.WithLabelValues("data", "failed").Inc()
			d.c.Log.LogAttrs(d.c.ctx, slog.LevelDebug, "data handshake",
				slog.String("source-ip", d.c.sourceIP), slog.String("error", err.Error()))
			d.failed = failure{425, "TLS on the data connection failed."}
			return
		}
		d.c.metrics.handshakes.WithLabelValues("data", "ok").Inc()
		d.failed = d.c.keys.resumed(secured.ConnectionState(), d.tickets)
	})
	return d.failed
}

// alive moves the deadline, not with every call: setting it costs about as much as a small read.
func (d *data) alive() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.closing || now.Sub(d.moved) < d.c.DataTimeout/16 {
		return nil
	}
	d.moved = now
	return d.SetDeadline(now.Add(d.c.DataTimeout))
}

// receive reads until p is full enough to be worth a write, or the stream ends.
func (d *data) receive(p []byte, enough int) (n int, err error) {
	for n < enough && err == nil {
		if err = d.alive(); err != nil {
			break
		}
		var m int
		m, err = d.Read(p[n:])
		n += m
	}
	if errors.Is(err, io.ErrUnexpectedEOF) && d.raw.records != nil && d.raw.records.farewell() {
		err = io.EOF // without close_notify, as far as anybody can tell
	}
	return n, err
}

// Close ends the connection, at once unless an upload takes from it.
func (d *data) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reading {
		d.closing = true
		return d.raw.SetReadDeadline(time.Now().Add(lastBytes))
	}
	return d.Conn.Close()
}

// taken says that the upload has all that it takes; true if the connection was closed meanwhile.
func (d *data) taken() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading = false
	if d.closing {
		d.Conn.Close() // whoever closed it had no use for its error either
	}
	return d.closing
}

// patience is how long a refused upload may go on, and how far.
const (
	patienceTime  = time.Second
	patienceBytes = 16 << 20
)

// discard lets a client whose upload is refused before its first byte finish if that is soon: many do not read the reply
// when the sending fails, and their user would not learn why.
func (d *data) discard() {
	if d.SetDeadline(time.Now().Add(patienceTime)) == nil {
		_, _ = io.CopyN(io.Discard, d.Conn, patienceBytes) // whatever comes
	}
}

// send writes what a download brings.
func (d *data) send(p []byte) error {
	if err := d.alive(); err != nil {
		return err
	}
	_, err := d.Conn.Write(p)
	return err
}

// closed says whether a TLS stream that has ended was ended by TLS.
func (d *data) closed() bool {
	_, secured := d.Conn.(*tls.Conn)
	return !secured || !d.raw.ended.Load()
}

// Write takes a listing, line by line.
func (d *data) Write(p []byte) (int, error) {
	if err := d.ready(); err != nil {
		return 0, d.c.refuse(err)
	}
	if d.out == nil {
		d.out = bufio.NewWriterSize(listing{d}, 16<<10)
	}
	line := string(p)
	if d.entries {
		line = d.c.unwanted.trim(line)
	}
	if _, err := d.out.WriteString(line); err != nil {
		return 0, d.c.refuse(d.c.broken(err))
	}
	return len(p), nil
}

// Flush is called by the library at the end of a transfer.
func (d *data) Flush() error {
	if d.out == nil {
		return nil
	}
	if err := d.out.Flush(); err != nil {
		return d.c.refuse(d.c.broken(err))
	}
	return nil
}

// listing is the data connection below its buffer.
type listing struct{ d *data }

func (l listing) Write(p []byte) (int, error) {
	if err := l.d.send(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// broken is what a client is told when its data connection failed.
func (c *connection) broken(err error) error {
	switch {
	case isTimeout(err):
		c.metrics.timeouts.WithLabelValues("data").Inc()
		return failure{426, "Nothing moved on the data connection for too long."}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return failure{426, "The data connection ended too early."}
	}
	return failure{426, "The data connection was closed; transfer aborted."}
}
