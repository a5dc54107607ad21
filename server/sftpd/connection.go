package sftpd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server/session"
)

// protocol is our name in the API.
const protocol = "SFTP"

// connection is one TCP connection and all that hangs on it.
type connection struct {
	*Server
	settings Settings
	rings    *rings
	net      *meter
	sourceIP string
	proxied  bool // a proxy's header told sourceIP

	// Set by the handshake.
	ssh   *ssh.ServerConn
	chans <-chan ssh.NewChannel
	reqs  <-chan *ssh.Request
	login login
	keys  *ring

	proven bool // the host keys were; only serve's goroutine touches it

	channels atomic.Int32 // open SFTP channels
	uploads  atomic.Int32 // open uploads, with those whose CLOSE is not answered
	draining atomic.Bool  // no new uploads; ends with the last one
	active   atomic.Int64 // when the last SFTP packet came or went, Unix nanoseconds

	why      sync.Once // guards evidence
	evidence atomic.Value
}

func newConnection(s *Server, raw net.Conn, settings Settings, r *rings) *connection {
	ip := raw.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(ip); err == nil {
		ip = host
	}
	c := &connection{Server: s, settings: settings, rings: r, net: &meter{Conn: raw}, sourceIP: ip, proxied: proxied(raw, ip)}
	c.touch()
	return c
}

// proxied says whether a header told who the client is. A proxy that speaks for itself is a client like any other.
func proxied(raw net.Conn, ip string) bool {
	through, ok := raw.(interface{ Proxy() netip.Addr })
	return ok && through.Proxy().String() != ip
}

// handshake makes a login of a TCP connection, within HandshakeTimeout.
func (c *connection) handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.HandshakeTimeout)
	defer cancel()
	config, err := c.sshConfig(ctx)
	if err != nil {
		c.fault(ctx, "handshake", err)
		return err
	}
	if err := c.net.SetDeadline(time.Now().Add(c.HandshakeTimeout)); err != nil {
		return err
	}
	c.ssh, c.chans, c.reqs, err = ssh.NewServerConn(c.net, config)
	if err != nil {
		return err
	}
	if err := c.net.SetDeadline(time.Time{}); err != nil {
		return errors.Join(err, c.ssh.Close())
	}
	c.login, _ = c.ssh.Permissions.ExtraData[loginKey{}].(login)
	c.touch()
	return nil
}

// serve answers channels and requests until the connection ends, and waits for all that came of them.
func (c *connection) serve(ctx context.Context) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { c.watch(ctx, done) })
	c.announce(ctx)
	chans, reqs := c.chans, c.reqs
	for chans != nil || reqs != nil {
		select {
		case offered, ok := <-chans:
			if !ok {
				chans = nil
			} else if accepted, requests := c.accept(ctx, offered); accepted != nil {
				wg.Go(func() {
					defer c.channels.Add(-1)
					c.serveChannel(ctx, accepted, requests)
				})
			}
		case r, ok := <-reqs:
			if !ok {
				reqs = nil
			} else {
				c.answer(ctx, r)
			}
		}
	}
	close(done)
	c.net.Close() // the library closed it; this is for its error paths
	wg.Wait()
}

// accept opens a session channel, or says why not.
func (c *connection) accept(ctx context.Context, offered ssh.NewChannel) (ssh.Channel, <-chan *ssh.Request) {
	var err error
	switch {
	case offered.ChannelType() != "session":
		err = offered.Reject(ssh.UnknownChannelType, "only session channels")
	case int(c.channels.Add(1)) > c.MaxChannels:
		c.channels.Add(-1)
		err = offered.Reject(ssh.ResourceShortage, "too many sessions in this connection")
	default:
		var accepted ssh.Channel
		var requests <-chan *ssh.Request
		narrow(offered)
		if accepted, requests, err = offered.Accept(); err == nil {
			return accepted, requests
		}
		c.channels.Add(-1)
	}
	if err != nil {
		c.Log.DebugContext(ctx, "channel", "source-ip", c.sourceIP, "error", err)
	}
	return nil, nil
}

// cut closes the connection for our own reason. The first reason is the one that counts.
func (c *connection) cut(reason session.Evidence) {
	c.why.Do(func() { c.evidence.Store(reason) })
	c.net.Close() // whoever reads sees the end; there is nobody to tell about an error
}

// reason is why the connection, or a channel of it, came to its end: by the client unless we cut it.
func (c *connection) reason() session.Evidence {
	if reason, ok := c.evidence.Load().(session.Evidence); ok {
		return reason
	}
	return session.Disconnect
}

// drain lets open uploads go on and ends the connection with the last one.
func (c *connection) drain() {
	c.draining.Store(true)
	if c.uploads.Load() == 0 {
		c.cut(session.ServerStop)
	}
}

// beginUpload counts an upload in, unless the connection is on its way out.
func (c *connection) beginUpload() bool {
	c.uploads.Add(1)
	if c.draining.Load() {
		c.endUpload()
		return false
	}
	return true
}

func (c *connection) endUpload() {
	if c.uploads.Add(-1) == 0 && c.draining.Load() {
		c.cut(session.ServerStop)
	}
}

// touch notes that the connection is in use.
func (c *connection) touch() { c.active.Store(c.Now().UnixNano()) }

// meter counts what comes in, so that a client that sends is not taken for a dead one because the answer to our probe
// stands in the queue behind its data.
type meter struct {
	net.Conn
	heard atomic.Uint64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.Conn.Read(p)
	m.heard.Add(uint64(n))
	return n, err
}
