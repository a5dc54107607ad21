package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The replies of PASV and EPSV (RFC 959, 4.1.2; RFC 2428, 3).
var (
	passiveReply  = regexp.MustCompile(`(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3}),(\d{1,3})`)
	extendedReply = regexp.MustCompile(`\((.)(.)(.)(\d{1,5})(.)\)`)
)

// Settings that mend addresses and ports.
const (
	mendAddress = "set the server's ProtocolDetails.PassiveIp to the address that clients reach (AUTO takes the one that they reached), or name it per network in ftp.passive_addresses"
	mendPorts   = "let the ports of ftp.passive_ports through every firewall, and publish them where a container or a NAT stands between"
)

// peer is where the control connection goes.
func (c *control) peer() netip.Addr {
	at, err := netip.ParseAddrPort(c.conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// addresses looks where PASV and EPSV send clients, and whether they can get there. False: there is no way to any data
// connection.
func (e *examination) addresses(ctx context.Context, c *control) bool {
	if c.peer().Is4() {
		e.passive(ctx, c)
	} else {
		e.add("PASV", Skipped, "tells IPv4 addresses alone, and this is IPv6", "")
	}
	port, err := c.extended()
	if err != nil {
		e.note("EPSV", err)
		return false
	}
	conn, err := e.dialData(ctx, netip.AddrPortFrom(c.peer(), port))
	if err != nil {
		e.add("EPSV", Wrong, fmt.Sprintf("port %d cannot be reached: %s", port, explain(err)), mendPorts)
		return false
	}
	_ = conn.Close() // nothing was to be sent
	e.add("EPSV", OK, fmt.Sprintf("port %d can be reached", port), "")
	return true
}

func (e *examination) dialData(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	return e.Dial(ctx, "tcp", to.String())
}

// passive judges PASV's address.
func (e *examination) passive(ctx context.Context, c *control) {
	const check = "PASV"
	code, text, err := c.command("PASV")
	m := passiveReply.FindStringSubmatch(text)
	switch {
	case err != nil:
		e.note(check, err)
		return
	case code == 425:
		e.add(check, Wrong, "the server knows no address to tell: "+clean(text), "is PassiveIp a name that does not resolve to IPv4? "+mendAddress)
		return
	case code != 227 || m == nil:
		e.add(check, Wrong, fmt.Sprintf("answered with %d %s", code, clean(text)), "if all ports are in use, ftp.passive_ports needs more")
		return
	}
	told, ok := passiveAddress(m[1:])
	if !ok {
		e.add(check, Wrong, "tells an address that is none: "+clean(text), "")
		return
	}
	e.judgeAddress(ctx, c, told)
}

func passiveAddress(numbers []string) (netip.AddrPort, bool) {
	var b [6]byte
	for i, s := range numbers {
		n, err := strconv.ParseUint(s, 10, 8)
		if err != nil {
			return netip.AddrPort{}, false
		}
		b[i] = byte(n)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(b[4])<<8|uint16(b[5])), true
}

// judgeAddress compares what PASV tells with where the control connection goes, and goes there.
func (e *examination) judgeAddress(ctx context.Context, c *control, told netip.AddrPort) {
	const check = "PASV"
	peer, ip := c.peer(), told.Addr()
	if ip.IsUnspecified() {
		e.add(check, Warning, "tells 0.0.0.0: most clients take the address that they have, but Perl's Net::FTP, PHP and ncftp cannot", mendAddress)
		return
	}
	conn, err := e.dialData(ctx, told)
	if err == nil {
		_ = conn.Close() // nothing was to be sent
	}
	switch {
	case ip == peer && err == nil:
		e.add(check, OK, "tells "+told.String()+", which can be reached", "")
	case ip == peer:
		e.add(check, Wrong, fmt.Sprintf("port %d cannot be reached: %s", told.Port(), explain(err)), mendPorts)
	case local(ip) && !local(peer):
		e.add(check, Wrong, fmt.Sprintf("tells %s, an address inside, to clients that reach the server at %s", ip, peer), mendAddress)
	case err == nil:
		e.add(check, OK, fmt.Sprintf("tells %s, another address than %s, and it can be reached", told, peer), "")
	default:
		e.elsewhere(ctx, c, told, err)
	}
}

// local says whether an address means something on some networks alone.
func local(ip netip.Addr) bool {
	return ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || netip.MustParsePrefix("100.64.0.0/10").Contains(ip) // RFC 6598
}

// elsewhere tells a wrong address from a closed port.
func (e *examination) elsewhere(ctx context.Context, c *control, told netip.AddrPort, cause error) {
	peer := c.peer()
	conn, err := e.dialData(ctx, netip.AddrPortFrom(peer, told.Port()))
	if err != nil {
		e.add("PASV", Wrong, fmt.Sprintf("tells %s, which cannot be reached (%s), nor can port %d at %s", told, explain(cause), told.Port(), peer), mendAddress+"; and "+mendPorts)
		return
	}
	_ = conn.Close() // nothing was to be sent
	e.add("PASV", Wrong, fmt.Sprintf("tells %s, which cannot be reached (%s); the same port at %s can", told.Addr(), explain(cause), peer), mendAddress)
}

// extended asks for a port (RFC 2428, 3).
func (c *control) extended() (uint16, error) {
	code, text, err := c.command("EPSV")
	if err != nil {
		return 0, err
	}
	m := extendedReply.FindStringSubmatch(text)
	if code != 229 || m == nil {
		return 0, wrong("EPSV", fmt.Sprintf("answered with %d %s", code, clean(text)), "if all ports are in use, ftp.passive_ports needs more")
	}
	port, err := strconv.ParseUint(m[4], 10, 16)
	if err != nil {
		return 0, wrong("EPSV", "tells a port that is none: "+clean(text), "")
	}
	return uint16(port), nil
}

// transfer is what came of one listing.
type transfer struct {
	resumed bool
	code    int // of the final reply
	text    string
}

// list makes a listing over a data connection, with TLS by this configuration unless it is nil.
func (c *control) list(ctx context.Context, config *tls.Config) (t transfer, err error) {
	port, err := c.extended()
	if err != nil {
		return t, err
	}
	raw, err := c.e.dialData(ctx, netip.AddrPortFrom(c.peer(), port))
	if err != nil {
		return t, wrong("EPSV", fmt.Sprintf("port %d cannot be reached: %s", port, explain(err)), mendPorts)
	}
	defer func() { _ = raw.Close() }() // again, after errors
	if t.code, t.text, err = c.command("LIST"); err != nil || t.code/100 != 1 {
		return t, err
	}
	var failed error
	if err := raw.SetDeadline(time.Now().Add(c.e.Timeout)); err != nil {
		return t, err
	}
	data := raw
	if config != nil {
		secured := tls.Client(raw, config)
		failed = secured.HandshakeContext(ctx)
		t.resumed = failed == nil && secured.ConnectionState().DidResume
		data = secured
	}
	if failed == nil {
		_, err = io.Copy(io.Discard, data) // a server that refuses may cut it; the reply says what it was
	}
	_ = data.Close()
	code, text, replied := c.reply()
	if replied != nil {
		return t, errors.Join(replied, failed, err)
	}
	t.code, t.text = code, text
	return t, nil
}

// resumption looks what the server makes of data connections that resume the control connection's TLS session, and of
// those that do not (API: TlsSessionResumptionMode).
func (e *examination) resumption(ctx context.Context, c *control, version uint16) {
	check := tls.VersionName(version) + ": resumption"
	with, err := c.list(ctx, c.config(version, c.cache))
	if err != nil {
		e.note(check, err)
		return
	}
	without, err := c.list(ctx, c.config(version, nil))
	if err != nil {
		e.note(check, err)
		return
	}
	accepts := func(t transfer) bool { return t.code/100 == 2 }
	const mode = "the server's ProtocolDetails.TlsSessionResumptionMode"
	switch {
	case with.resumed && accepts(with) && accepts(without):
		e.add(check, OK, "data connections may resume, and need not (ENABLED)", "")
	case with.resumed && accepts(with) && refusesFresh(without):
		e.add(check, OK, "data connections must resume, and do (ENFORCED); clients that cannot are refused: "+clean(without.text), "")
	case !with.resumed && accepts(with):
		e.add(check, Warning, "the server gives no ticket: nothing resumes, and clients that insist on it, as FileZilla may, fail (DISABLED)",
			"set "+mode+" to ENABLED or ENFORCED")
	case !with.resumed && refusesFresh(with):
		e.add(check, Wrong, "the server wants data connections to resume and gives no ticket to do it with: "+clean(with.text),
			"set "+mode+" to ENABLED, or see whether a proxy ends TLS in between")
	default:
		worse := with
		if accepts(with) {
			worse = without
		}
		e.add(check, Wrong, fmt.Sprintf("a listing failed with %d %s", worse.code, clean(worse.text)), "see the log; may the user list the home directory?")
	}
}

// refusesFresh: 522 is ours and RFC 2228's; vsftpd and others say 425 or 522 with a text about the session.
func refusesFresh(t transfer) bool {
	text := strings.ToLower(t.text)
	return t.code == 522 || t.code == 425 || t.code/100 == 5 && (strings.Contains(text, "session") || strings.Contains(text, "resum"))
}

// plainListing is a listing without TLS.
func (e *examination) plainListing(ctx context.Context, c *control) {
	t, err := c.list(ctx, nil)
	switch {
	case err != nil:
		e.note("listing", err)
	case t.code/100 != 2:
		e.add("listing", Wrong, fmt.Sprintf("failed with %d %s", t.code, clean(t.text)), "see the log; may the user list the home directory?")
	default:
		e.add("listing", OK, "arrived", "")
	}
}
