package ftpd_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

func TestMFMTWhereItIsAllowed(t *testing.T) {
	t.Parallel()
	r := newRig(t, settings(func(s *server.Server) { s.ProtocolDetails.SetStatOption = "ENABLE_NO_OP" }))
	r.login(t, 0).cmd("213 Modify=20200101000000; a", "MFMT 20200101000000 a")
	r.log.Await(t, "SETSTAT")
}

// ALLO declares a size, for the next upload alone; the mode integrity holds the client to it.
func TestDeclaredSize(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig, _ *ftpd.Config) { r.integrity = true })
	p := r.login(t, 0)
	p.cmd("200", "ALLO 262145")
	p.put("short", body)
	p.put("free", body)
	p.cmd("200", "ALLO 262144")
	p.put("whole", body)
	r.journal.Verdict(t, "home/short", session.Partial, session.Short)
	r.journal.Verdict(t, "home/free", session.Complete, session.Closed)
	r.journal.Verdict(t, "home/whole", session.Complete, session.Closed)
}

func TestUniqueNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, 0)
	for range 2 {
		p.pasv()
		d := p.dial()
		reply := p.cmd("150 FILE: ", "STOU report")
		mustWrite(t, d, body)
		d.Close()
		p.expect("226")
		_, name, _ := strings.Cut(strings.TrimSpace(reply), "FILE: ")
		r.journal.Verdict(t, "home/"+name, session.Complete, session.Closed)
	}
}

// A name with a line break in it must not become a line of its own.
func TestListingOfStrangeNames(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/evil\r\nType=dir;Size=0; fake", []byte("x"))
	r.store.Put("home/good", []byte("x"))
	p := r.login(t, 0)
	for _, command := range []string{"LIST", "MLSD", "NLST"} {
		if got := p.fetch(command); strings.Contains(got, "fake") || !strings.Contains(got, "good") {
			t.Errorf("%s: %q", command, got)
		}
	}
	if got := p.fetch("NLST -la"); got != "good\r\n" {
		t.Errorf("NLST: %q", got)
	}
}

// Links are shown as what they lead to: a listing of FTP has no way to show them that all clients know.
func TestListingOfLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/file", []byte("0123456789"))
	r.store.Link("home/link", "file")
	r.store.Link("home/lost", "nowhere")
	p := r.login(t, 0)
	for _, name := range []string{"file", "link", "lost"} {
		found := ""
		for line := range strings.Lines(p.fetch("LIST")) {
			if strings.HasSuffix(line, " "+name+"\r\n") {
				found = line
			}
		}
		if !strings.HasPrefix(found, "-r") || strings.Contains(found, " 10 ") != (name != "lost") {
			t.Errorf("%s: %q", name, found)
		}
	}
	if got := p.fetch("MLSD"); !strings.Contains(got, "Type=file;Size=10;Modify=20231114221320; link\r\n") {
		t.Errorf("MLSD: %q", got)
	}
}

func TestBanners(t *testing.T) {
	t.Parallel()
	r := newRig(t, settings(func(s *server.Server) {
		s.PreAuthenticationLoginBanner, s.PostAuthenticationLoginBanner = "Private\nproperty", "Hello\nthere"
	}))
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 100)
	p := r.connect(t)
	if n, err := conn.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "220-Private\r\n") {
		t.Errorf("greeting %q, %v", b[:n], err)
	}
	p.cmd("331", "USER "+user)
	if got := p.cmd("230", "PASS "+password); got != "230-Hello\r\n230 there\r\n" {
		t.Errorf("login %q", got)
	}
}

// A wrong password is answered late and does not end the connection; the last one does.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *ftpd.Config) { c.LoginDelay, c.MaxAuthTries = 20*time.Millisecond, 3 }))
	p := r.connect(t)
	began := time.Now()
	p.cmd("331", "USER "+user)
	p.cmd("530 Login incorrect.", "PASS wrong")
	p.cmd("331", "USER "+user)
	p.cmd("230", "PASS "+password)
	if d := time.Since(began); d < 20*time.Millisecond {
		t.Errorf("answered in %v", d)
	}
	p = r.connect(t)
	p.cmd("331", "USER nobody")
	p.cmd("530", "PASS wrong")
	p.cmd("530", "PASS wrong")
	p.cmd("421", "PASS wrong")
	if reply, err := p.reply(); err == nil {
		t.Errorf("reply %q", reply)
	}
	if entry := r.log.Await(t, "AUTH_FAILURE"); entry["method"] != "password" || entry["user"] != user {
		t.Errorf("log %v", entry)
	}
}

// A connection on which nothing is asked ends, sooner before the login; a transfer may take longer.
func TestIdle(t *testing.T) {
	t.Parallel()
	hasty := newRig(t, config(func(c *ftpd.Config) { c.LoginTimeout = 100 * time.Millisecond }))
	hasty.connect(t).expect("421")
	r := newRig(t, config(func(c *ftpd.Config) { c.IdleTimeout = 3 * time.Second }))
	p := r.login(t, 0)
	d := p.open("STOR a")
	mustWrite(t, d, body[:1000])
	time.AfterFunc(4*time.Second, func() { d.Close() })
	p.expect("226")
	p.expect("421")
	if n := r.counter("transferd_ftp_timeouts_total", "control"); n != 1 {
		t.Errorf("%v timeouts", n)
	}
	if entry := r.log.Await(t, "EXIT_REASON"); entry["message"] != "client is idle" || entry["user"] == "" || entry["session-id"] == "" {
		t.Errorf("the log says %v", entry)
	}
}

func TestPassiveAddress(t *testing.T) {
	t.Parallel()
	network := []ftpd.PassiveAddress{{Clients: netip.MustParsePrefix("127.0.0.0/8"), Address: "192.0.2.7"}}
	for _, c := range []struct {
		passive string
		network []ftpd.PassiveAddress
		want    string
	}{
		{"", nil, "127.0.0.1"}, {"AUTO", nil, "127.0.0.1"}, {"0.0.0.0", nil, "0.0.0.0"}, {"198.51.100.2", network, "198.51.100.2"},
		{"AUTO", network, "192.0.2.7"}, {"localhost", nil, "127.0.0.1"}, {"2001:db8::1", nil, "425"}, {"no.such.name.invalid", nil, "425"},
	} {
		t.Run(c.passive, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, settings(func(s *server.Server) { s.ProtocolDetails.PassiveIp = c.passive }),
				config(func(f *ftpd.Config) { f.PassiveAddresses = c.network }))
			p := r.login(t, 0)
			if c.want == "425" {
				p.cmd("425", "PASV")
				p.pasv() // needs no address
				return
			}
			if got, _ := pasvAddress(t, p.cmd("227", "PASV")); got != c.want {
				t.Errorf("PASV tells %s, want %s", got, c.want)
			}
		})
	}
}

// When all ports wait for a data connection the client is told so, not sent away; a port is free again as soon as its
// connection is there.
func TestPorts(t *testing.T) {
	t.Parallel()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	r := newRig(t, config(func(c *ftpd.Config) { c.PassivePorts = ftpd.PortRange{First: port, Last: port} }))
	a, b := r.login(t, 0), r.login(t, 0)
	d := a.open("STOR a")
	b.pasv() // a's upload goes on
	a.send("NOOP")
	mustWrite(t, d, body)
	d.Close()
	a.expect("226")
	a.expect("200")
	a.cmd("425", "EPSV")
	if n := r.counter("transferd_ftp_passive_failures_total", "exhausted"); n != 1 {
		t.Errorf("%v exhaustions", n)
	}
	b.dial().Close()
	b.cmd("150", "LIST")
	if _, err := b.reply(); err != nil { // whatever became of the listing
		t.Error(err)
	}
	a.pasv()
}

// A stranger on the port neither gets the data nor ends the transfer.
func TestStranger(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, 0)
	p.pasv()
	_, port, err := net.SplitHostPort(p.passive)
	if err != nil {
		t.Fatal(err)
	}
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	stranger, err := from.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	d := p.dial()
	p.cmd("150", "STOR a")
	mustWrite(t, d, body)
	d.Close()
	p.expect("226")
	r.journal.Verdict(t, "home/a", session.Complete, session.Closed)
	if r.counter("transferd_ftp_passive_failures_total", "stranger") != 1 {
		t.Error("the stranger was not counted")
	}
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *ftpd.Config) { c.MaxSessions = 1 }))
	first := r.connect(t)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := make([]byte, 100)
	if n, err := conn.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "421 ") {
		t.Errorf("%q, %v", b[:n], err)
	}
	first.cmd("221", "QUIT")
}

// FileZilla sends files without an extension as text: they arrive as they are, and come back so.
func TestTypeAscii(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, 0)
	p.cmd("200", "TYPE A")
	data := append([]byte("one\r\ntwo\nthree\r"), doortest.Random(100_000)...)
	p.put("Makefile", data)
	if got := r.store.Get("home/Makefile"); string(got) != string(data) {
		t.Errorf("%d bytes stored, other ones", len(got))
	}
	if got := p.fetch("RETR Makefile"); got != string(data) {
		t.Errorf("%d bytes came back, other ones", len(got))
	}
}

// A client that takes nothing of its download is found out, and its session goes on.
func TestStalledDownload(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *ftpd.Config) { c.DataTimeout = 500 * time.Millisecond }))
	r.store.Put("home/big", make([]byte, 32<<20))
	p := r.login(t, 0)
	p.open("RETR big")
	p.expect("426")
	p.cmd("200", "NOOP")
	if entry := r.log.Await(t, "PARTIAL_CLOSE"); entry["path"] != "/bucket/home/big" || entry["evidence"] != string(session.Reset) {
		t.Errorf("the log says %v", entry)
	}
}
