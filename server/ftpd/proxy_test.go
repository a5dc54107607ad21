package ftpd_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/proxyproto"
	"github.com/transferd/transferd/server/session"
)

// header is what a proxy sends before the bytes of a client, in version 2.
func header(client, reached string) string {
	c, r := netip.MustParseAddrPort(client), netip.MustParseAddrPort(reached)
	family, block := byte(0x11), append(c.Addr().AsSlice(), r.Addr().AsSlice()...)
	if c.Addr().Is6() {
		family = 0x21
	}
	block = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(block, c.Port()), r.Port())
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21"), family)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(len(block))), block...))
}

// behind puts the server behind proxies of a network.
func behind(proxies, source string) option {
	return func(r *rig, _ *ftpd.Config) {
		r.source = source
		r.wrap = func(ln net.Listener) net.Listener {
			return proxyproto.Wrap(ln, proxyproto.Config{
				Mode:    func() proxyproto.Mode { return proxyproto.Enforced },
				Proxies: []netip.Prefix{netip.MustParsePrefix(proxies)}, HeaderTimeout: time.Minute,
			})
		}
	}
}

// through logs in as a client that came through a proxy.
func (r *rig) through(t *testing.T, client, reached string, version uint16) *peer {
	t.Helper()
	p := r.dial(t, header(client, reached))
	p.expect("220")
	return p.login(version)
}

// Behind a proxy everything sees the client: the identity provider, the log, the passive addresses, the verdict.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network := []ftpd.PassiveAddress{{Clients: netip.MustParsePrefix("192.0.2.0/24"), Address: "203.0.113.5"}}
			r := newRig(t, behind("127.0.0.1/32", "192.0.2.9"), config(func(c *ftpd.Config) { c.PassiveAddresses = network }))
			p := r.through(t, "192.0.2.9:40000", "198.51.100.7:21", version)
			if entry := r.log.Await(t, "CONNECTED"); entry["source-ip"] != "192.0.2.9" || entry["proxy-protocol-v2-header"] != "applied" {
				t.Errorf("log %v", entry)
			}
			if got, _ := pasvAddress(t, p.cmd("227", "PASV")); got != "203.0.113.5" {
				t.Errorf("PASV tells %s", got)
			}
			p.put("a", body)
			r.journal.Verdict(t, "home/a", session.Complete, session.Closed)
			if from := r.journal.Source("home/a"); from != "192.0.2.9" {
				t.Errorf("the upload came from %s", from)
			}
			d := p.open("STOR b")
			mustWrite(t, d, body)
			doortest.Eventually(t, "bytes at the store", func() bool { return r.journal.HasBegunWith("home/b") })
			p.tcp.Close()
			if v := r.journal.Wait(t, "home/b"); v.Outcome != session.Partial {
				t.Errorf("verdict %+v", v)
			}
		})
	}
}

// AUTO tells what the client reached, which is the proxy's address.
func TestPassiveAddressBehindProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t, behind("127.0.0.1/32", "192.0.2.9"))
	if got, _ := pasvAddress(t, r.through(t, "192.0.2.9:40000", "198.51.100.7:21", 0).cmd("227", "PASV")); got != "198.51.100.7" {
		t.Errorf("PASV tells %s", got)
	}
	six := newRig(t, behind("127.0.0.1/32", "2001:db8::9"))
	p := six.through(t, "[2001:db8::9]:40000", "[2001:db8::1]:21", 0)
	p.cmd("425", "PASV")
	p.cmd("522", "EPSV 1")
	p.put("a", body)
	six.journal.Verdict(t, "home/a", session.Complete, session.Closed)
}

// Whose data connection it is: see connection.theirs.
func TestDataConnectionsBehindProxy(t *testing.T) {
	t.Parallel()
	const client, reached = "127.0.0.5:40000", "198.51.100.7:21"
	for _, c := range []struct {
		name, from, header string
		data               bool // ProxyData
		refused            string
	}{
		{name: "past the proxy", from: "127.0.0.5"},
		{name: "past the proxy, headers expected", from: "127.0.0.5", data: true},
		{name: "through the proxy", from: "127.0.0.1"},
		{name: "elsewhere", from: "127.0.0.2", refused: "stranger"},
		{name: "elsewhere with a header", from: "127.0.0.2", header: header(client, reached), data: true, refused: "stranger"},
		{name: "through the proxy with the header", from: "127.0.0.1", header: header(client, reached), data: true},
		{name: "through the proxy with another's header", from: "127.0.0.1", header: header("127.0.0.6:1", reached), data: true, refused: "stranger"},
		{name: "through the proxy without its header", from: "127.0.0.1", header: "these are bytes of a file", data: true, refused: "proxy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, behind("127.0.0.1/32", "127.0.0.5"), config(func(f *ftpd.Config) { f.ProxyData = c.data }))
			p := r.through(t, client, reached, 0)
			p.pasv()
			d := p.dialFrom(c.from)
			mustWrite(t, d, []byte(c.header))
			p.send("STOR a")
			if c.refused != "" {
				doortest.Eventually(t, "the refusal", func() bool { return r.counter("transferd_ftp_passive_failures_total", c.refused) == 1 })
				d = p.dialFrom("127.0.0.5") // the transfer is still the client's
			}
			p.expect("150")
			mustWrite(t, d, body)
			d.Close()
			p.expect("226")
			if v := r.journal.Verdict(t, "home/a", session.Complete, session.Closed); v.Received != int64(len(body)) {
				t.Errorf("%d bytes", v.Received)
			}
		})
	}
}

// A proxy that waits with a data connection's header holds no server that stops.
func TestStopDuringDataHeader(t *testing.T) {
	t.Parallel()
	r := newRig(t, behind("127.0.0.1/32", "192.0.2.9"), config(func(f *ftpd.Config) { f.ProxyData = true }))
	p := r.through(t, "192.0.2.9:40000", "198.51.100.7:21", 0)
	p.pasv()
	p.dial()
	p.send("STOR a")
	r.stop()
}

// A real proxy: haproxy tells the client's address, with a checksum over it, and lftp uploads through it.
func TestHAProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t, behind("127.0.0.77/32", "127.0.0.1"), settings(func(s *server.Server) { s.ProtocolDetails.PassiveIp = "127.0.0.1" }))
	addr := haproxy(t, r.addr)
	file := doortest.File(t, body)
	out, err := doortest.Run(t, "", "lftp", "-c", fmt.Sprintf(`set ftp:ssl-allow no; set net:max-retries 1; set net:timeout 30; set cmd:fail-exit yes;
		open -u %s,"%s" ftp://%s; put %s -o one; put %[4]s -o two; cls -l; bye`, user, password, addr, file))
	if err != nil || !strings.Contains(out, "two") {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"one", "two"} {
		if v := r.journal.Wait(t, "home/"+name); v.Outcome != session.Complete || r.journal.Source("home/"+name) != "127.0.0.1" {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// A client that is killed behind haproxy, which ends its TCP, is found out all the same.
func TestKillsBehindHAProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t, behind("127.0.0.77/32", "127.0.0.1"), settings(func(s *server.Server) { s.ProtocolDetails.PassiveIp = "127.0.0.1" }))
	via := &rig{t: t, addr: haproxy(t, r.addr)}
	for protocol := range versions {
		for _, point := range []string{"early", "closed", "reply unread"} {
			for i := range max(1, *verdicts/2) {
				file := strings.ReplaceAll(named(protocol+point, i), " ", "-")
				kill(t, via, protocol, point, file)
				if v := r.journal.Wait(t, "home/"+file); v.Outcome != session.Partial {
					t.Errorf("%s, %s: %s %s", protocol, point, v.Outcome, v.Evidence)
				}
			}
		}
		p := via.login(t, versions[protocol])
		p.put(protocol, body)
		p.cmd("221", "QUIT")
		r.journal.Verdict(t, "home/"+protocol, session.Complete, session.Closed)
	}
}

// haproxy runs one before addr, from 127.0.0.77, and gives its address.
func haproxy(t *testing.T, addr string) string {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path = "/usr/sbin/haproxy" // which is on no user's path
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed below
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(`defaults
	mode tcp
	timeout connect 30s
	timeout client 60s
	timeout server 60s
listen ftp
	bind fd@3
	server s %s send-proxy-v2 proxy-v2-options crc32c source 127.0.0.77
`, addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "-db", "-f", conf)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make test installs what the tests need)", err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("haproxy: %v", err)
		}
		_ = cmd.Wait() // it was killed
	})
	return ln.Addr().String()
}

// Who is banned is told so before anything else, and a ban that comes during guesses ends the connection.
func TestBanned(t *testing.T) {
	t.Parallel()
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	banned := make(chan bool, 1)
	banned <- true
	r := newRig(t, config(func(c *ftpd.Config) {
		c.Banned = func(ip string) (time.Time, bool) {
			b := <-banned
			banned <- b
			return until, b && ip == "127.0.0.1"
		}
	}))
	p := r.dial(t, "")
	if reply := p.expect("421"); !strings.Contains(reply, "2030-01-02T03:04:05Z") {
		t.Errorf("greeting %q", reply)
	}
	if reply, err := p.reply(); err == nil {
		t.Errorf("then %q", reply)
	}
	if n := r.counter("transferd_ftp_refused_total", "banned"); n != 1 {
		t.Errorf("%v banned connections", n)
	}
	<-banned
	banned <- false
	p = r.connect(t)
	p.cmd("331", "USER "+user)
	p.cmd("530", "PASS wrong")
	<-banned
	banned <- true
	p.cmd("331", "USER "+user)
	p.cmd("421", "PASS wrong")
	if reply, err := p.reply(); err == nil {
		t.Errorf("then %q", reply)
	}
}

// So many connections of one address, and no more: until one of them ends.
func TestTooManyOfOneAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t, behind("127.0.0.1/32", "192.0.2.9"), config(func(c *ftpd.Config) { c.MaxPerAddress = 1 }))
	first := r.through(t, "192.0.2.9:1", "198.51.100.7:21", 0)
	r.dial(t, header("192.0.2.9:2", "198.51.100.7:21")).expect("421 Too many connections from your address.")
	r.dial(t, header("192.0.2.10:1", "198.51.100.7:21")).expect("220")
	first.cmd("221", "QUIT")
	doortest.Eventually(t, "room", func() bool {
		reply, err := r.dial(t, header("192.0.2.9:3", "198.51.100.7:21")).reply()
		return err == nil && strings.HasPrefix(reply, "220")
	})
}
