package ftpd

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The values of PassiveIp that are no address (API: ProtocolDetails).
const (
	passiveAuto = "AUTO"
	passiveSame = "0.0.0.0" // the client takes the address that it has
)

// resolveTimeout bounds the look for a DNS name in PassiveIp.
const resolveTimeout = 5 * time.Second

// passiveAddress is what PASV tells this client.
func (c *connection) passiveAddress() (string, error) {
	wish := ""
	if d := c.settings.Server.ProtocolDetails; d != nil {
		wish = d.PassiveIp
	}
	if wish == "" || wish == passiveAuto {
		wish = c.local.String()
		for _, network := range c.PassiveAddresses {
			if network.Clients.Contains(c.remote) {
				wish = network.Address
				break
			}
		}
	}
	if wish == passiveSame {
		return wish, nil
	}
	if ip, err := netip.ParseAddr(wish); err == nil {
		if ip = ip.Unmap(); !ip.Is4() {
			return "", fmt.Errorf("passive address %s: not IPv4", wish)
		}
		return ip.String(), nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, resolveTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", wish)
	if err != nil {
		return "", fmt.Errorf("passive address: %w", err)
	}
	return found[0].Unmap().String(), nil
}

// ports goes round a range from a random port on, so that the library's tries miss no free one.
type ports struct {
	PortRange
	next int
}

func newPorts(r PortRange) *ports {
	return &ports{PortRange: r, next: rand.IntN(r.Last - r.First + 1)}
}

// FetchNext is the library's question for a port.
func (p *ports) FetchNext() (exposed, listened int, ok bool) {
	port := p.First + p.next
	p.next = (p.next + 1) % p.NumberAttempts()
	return port, port, true
}

// NumberAttempts is how many ports there are.
func (p *ports) NumberAttempts() int { return p.Last - p.First + 1 }

// passiveListener waits for the one data connection of a PASV or EPSV. It takes only the control connection's client,
// frees the port once that is there, and does not wait for ever.
type passiveListener struct {
	net.Listener
	c     *connection
	once  sync.Once
	timer *time.Timer
	err   error
}

// listen takes over a listener of the library's.
func (c *connection) listen(ln net.Listener) net.Listener {
	l := &passiveListener{Listener: ln, c: c}
	l.timer = time.AfterFunc(2*c.ConnectTimeout, func() { l.Close() })
	dead := false
	c.change(func(s *connectionState) {
		if s.passive != nil {
			s.passive.Close() // a second PASV: the first is void
		}
		s.passive, dead = l, s.cut != ""
	})
	if dead {
		l.Close()
	}
	return l
}

// Accept takes the first connection that is the client's. Others are sent away; they end no transfer.
func (l *passiveListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		reason := l.c.theirs(conn)
		if reason == "" {
			l.Close()
			return l.c.connect(conn)
		}
		l.c.metrics.passive.WithLabelValues(reason).Inc()
		l.c.Log.LogAttrs(l.c.ctx, slog.LevelWarn, "data connection from elsewhere", slog.String("source-ip", l.c.sourceIP),
			slog.String("stranger", conn.RemoteAddr().String()), slog.String("reason", reason))
		conn.Close()
	}
}

// Close may be called again.
func (l *passiveListener) Close() error {
	l.once.Do(func() {
		l.timer.Stop()
		l.err = l.Listener.Close()
	})
	return l.err
}
