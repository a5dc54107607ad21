// Package proxyproto lets a front door stand behind a proxy that tells where each connection really comes from: the PROXY
// protocol, version 2, and version 1 where that is wanted (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//
// A Listener reads the header before anybody sees the connection. Whoever accepts one gets the client's address as its
// RemoteAddr, the address that the client reached as its LocalAddr, and the proxy's from Conn.Proxy. A header is an
// assertion about somebody else, so it is believed from networks that were named and from nobody else; and the protocol
// forbids to guess whether one comes, so whoever is trusted must send it.
//
// It knows nothing of what is spoken behind the header, of servers, or of anything of ours.
package proxyproto

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Mode is from whom headers are expected.
type Mode int

// The modes.
const (
	Off      Mode = iota // nobody sends one
	Trusted              // the trusted proxies send one; whoever else connects is a client that came by itself
	Enforced             // only trusted proxies may connect (API: SftpMode PROXY_PROTOCOL_V2_ENFORCED)
)

// Config says whom to believe.
type Config struct {
	// Mode is asked for each new connection.
	Mode func() Mode
	// Proxies are the networks of those that are believed.
	Proxies []netip.Prefix
	// Text takes version 1 too.
	Text bool
	// HeaderTimeout is how long a proxy may take to send the header, which it has when it connects: 5 s.
	HeaderTimeout time.Duration
	// Pending is how many connections may wait for their header at once; further ones wait in the kernel: 256.
	Pending int
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Wrap makes a listener of another. It owns ln from here on.
func Wrap(ln net.Listener, c Config) *Listener {
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 5*time.Second)
	c.Pending = cmp.Or(c.Pending, 256)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l := &Listener{
		Listener: ln, cfg: c, headers: counter(c.Metrics), ready: make(chan accepted), slots: make(chan struct{}, c.Pending),
		over: make(chan struct{}), waiting: map[net.Conn]struct{}{},
	}
	l.wg.Go(l.run)
	return l
}

// trusts says whether headers from an address are believed.
func (c Config) trusts(ip netip.Addr) bool {
	return slices.ContainsFunc(c.Proxies, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// Conn is a connection whose header has been read.
type Conn struct {
	net.Conn
	header Header
}

// NetConn is the connection to the proxy, for those who look for its descriptor.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Proxy is the address that the connection came through; the header told the rest.
func (c *Conn) Proxy() netip.Addr { return address(c.Conn.RemoteAddr()) }

// RemoteAddr is the client.
func (c *Conn) RemoteAddr() net.Addr {
	if c.header.Client.IsValid() {
		return net.TCPAddrFromAddrPort(c.header.Client)
	}
	return c.Conn.RemoteAddr()
}

// LocalAddr is what the client reached, at the proxy.
func (c *Conn) LocalAddr() net.Addr {
	if c.header.Reached.IsValid() {
		return net.TCPAddrFromAddrPort(c.header.Reached)
	}
	return c.Conn.LocalAddr()
}

// address is an endpoint's IP; IPv4 is IPv4 also where the socket speaks both.
func address(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// counter counts headers by what became of the connection. A second listener of the process finds the first's.
func counter(r prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "transferd_proxy_connections_total",
		Help: "Connections where PROXY headers are expected, by result: applied, local (the proxy itself), direct, " +
			"untrusted, bad, timeout, silent (gone before a byte: health checks).",
	}, []string{"result"})
	if r == nil {
		return c
	}
	var earlier prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &earlier) {
		if same, ok := earlier.ExistingCollector.(*prometheus.CounterVec); ok {
			return same
		}
	}
	return c
}
