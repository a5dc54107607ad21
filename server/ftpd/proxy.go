package ftpd

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/transferd/transferd/server/proxyproto"
)

// proxyOf is the proxy that a control connection came through, if its header told who the client is. A proxy that speaks
// for itself is a client like any other.
func proxyOf(raw net.Conn, remote netip.Addr) netip.Addr {
	through, ok := raw.(interface{ Proxy() netip.Addr })
	if !ok || through.Proxy() == remote {
		return netip.Addr{}
	}
	return through.Proxy()
}

// headerTimeout is how long a proxy may take to send the header of a data connection, which it has when it connects.
const headerTimeout = 5 * time.Second

// theirs says whether a data connection belongs to the control connection's client: "" if it does, else why not.
//
// What comes from the client's own address does. Behind a proxy the control connection's header told that address, and
// a data connection may come either way: straight from the client, if PassiveIp leads past the proxy or the proxy keeps
// addresses; or from the proxy, if the client was told the proxy's address (AUTO does that) and the proxy forwards the
// data ports. So the proxy's address is accepted too, that of this control connection's proxy and of no other. Without a
// header on it nobody knows which of the proxy's clients is there: one of them that guesses the port in time could take
// the place of another, as behind every FTP server that sees one address for all. Two settings keep it out: ProxyData,
// where the header of the data connection must name the same client, and TlsSessionResumptionMode ENFORCED, where the
// data connection must hold a ticket of this control connection.
func (c *connection) theirs(conn net.Conn) (reason string) {
	switch from := addressOf(conn.RemoteAddr().String()); {
	case from == c.remote:
		return ""
	case !c.proxy.IsValid() || from != c.proxy:
		return "stranger"
	case !c.ProxyData:
		return ""
	}
	header, err := c.dataHeader(conn)
	switch {
	case err != nil:
		c.Log.LogAttrs(c.ctx, slog.LevelWarn, "header of a data connection", slog.String("source-ip", c.sourceIP), slog.String("error", err.Error()))
		return "proxy"
	case header.Client.Addr().Unmap() != c.remote:
		return "stranger"
	}
	return ""
}

func (c *connection) dataHeader(conn net.Conn) (proxyproto.Header, error) {
	defer context.AfterFunc(c.ctx, func() { conn.Close() })()
	if err := conn.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return proxyproto.Header{}, err
	}
	header, err := proxyproto.Read(conn, true)
	if err != nil {
		return proxyproto.Header{}, err
	}
	return header, conn.SetReadDeadline(time.Time{})
}
