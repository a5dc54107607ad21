package ftpd_test

import (
	"crypto/tls"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

func tlsVersions() map[string]uint16 {
	return map[string]uint16{"tls12": tls.VersionTLS12, "tls13": tls.VersionTLS13}
}

// counting counts the tickets that a client gets.
type counting struct {
	tls.ClientSessionCache
	tickets atomic.Int32
}

func (c *counting) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		c.tickets.Add(1)
	}
	c.ClientSessionCache.Put(key, s)
}

func newCounting() *counting { return &counting{ClientSessionCache: tls.NewLRUClientSessionCache(4)} }

func fresh(version uint16, cache tls.ClientSessionCache) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ServerName: "ftp.test", ClientSessionCache: cache}
}

// begin opens a data connection with a TLS configuration of its own.
func (p *peer) begin(command string, config *tls.Config) *dataConn {
	p.t.Helper()
	p.pasv()
	d := p.dial()
	p.cmd("150", command)
	p.protect(d, config)
	return d
}

func resumed(d *dataConn) bool { return d.Conn.(*tls.Conn).ConnectionState().DidResume }

// A ticket of one session is worth nothing on another's data connection, though both are the same user's.
func TestTicketOfAnotherSession(t *testing.T) {
	t.Parallel()
	for name, version := range tlsVersions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, mode("ENFORCED"))
			a, b := r.login(t, version), r.login(t, version)
			stolen := tls.NewLRUClientSessionCache(1) // of its own: the thief may get a new ticket in exchange
			ticket, ok := a.config.ClientSessionCache.Get("ftp.test")
			if !ok {
				t.Fatal("no ticket")
			}
			stolen.Put("ftp.test", ticket)
			d := b.begin("STOR stolen", fresh(version, stolen))
			if resumed(d) {
				t.Error("resumed with another session's ticket")
			}
			_, _ = d.Write([]byte("data")) // may be refused already
			d.Close()
			if reply := b.expect("522"); !strings.Contains(reply, "must resume the TLS session") {
				t.Errorf("reply %q", reply)
			}
			entry := r.log.Await(t, "TLS_RESUME_FAILURE")
			if entry["ticket-offered"] != "yes" || entry["tls-version"] != tls.VersionName(version) || entry["user"] != user {
				t.Errorf("log %v", entry)
			}
			a.put("own", []byte("data"))
			r.journal.Verdict(t, "home/own", session.Complete, session.Closed)
			if r.journal.HasBegunWith("home/stolen") {
				t.Error("the upload began")
			}
			if n := r.counter("transferd_ftp_tls_data_total", "no"); n != 1 {
				t.Errorf("%v data connections that did not resume", n)
			}
		})
	}
}

// The three modes, with a client that resumes and one that does not.
func TestResumptionModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode            string
		reuse, resumes  bool
		storeRe, listRe string
	}{
		{"DISABLED", true, false, "226", "226"}, {"DISABLED", false, false, "226", "226"},
		{"ENABLED", true, true, "226", "226"}, {"ENABLED", false, false, "226", "226"},
		{"ENFORCED", true, true, "226", "226"}, {"ENFORCED", false, false, "522", "522"},
	} {
		for name, version := range tlsVersions() {
			t.Run(strings.Join([]string{c.mode, map[bool]string{true: "reuse", false: "fresh"}[c.reuse], name}, "/"), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, mode(c.mode))
				p := r.login(t, version)
				config := p.config
				if !c.reuse {
					config = fresh(version, nil)
				}
				for _, command := range []string{"STOR a", "STOR b", "LIST"} {
					d := p.begin(command, config)
					if resumed(d) != c.resumes {
						t.Errorf("%s: resumed %v", command, resumed(d))
					}
					want := c.storeRe
					if command == "LIST" {
						want = c.listRe
						_, _ = io.Copy(io.Discard, d)
					}
					d.Close()
					p.expect(want)
				}
			})
		}
	}
}

// In TLS 1.3 only a data connection that resumed brings a new ticket. The trick stands on the order of calls in
// crypto/tls; this test is its guard.
func TestTicketsOnDataConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, tls.VersionTLS13)
	cache := newCounting()
	d := p.begin("LIST", fresh(tls.VersionTLS13, cache))
	_, _ = io.Copy(io.Discard, d)
	p.expect("226")
	if n := cache.tickets.Load(); n != 0 || resumed(d) {
		t.Errorf("%d tickets on a fresh data connection", n)
	}
	cache = newCounting()
	p.config.ClientSessionCache, cache.ClientSessionCache = cache, p.config.ClientSessionCache
	d = p.begin("LIST", p.config)
	_, _ = io.Copy(io.Discard, d)
	p.expect("226")
	if n := cache.tickets.Load(); n != 1 || !resumed(d) {
		t.Errorf("%d tickets on a resumed data connection", n)
	}
}

// A client that uploads and closes its socket without reading loses nothing.
func TestCloseWithoutReading(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, tls.VersionTLS13)
	for i := range 10 {
		d := p.begin("STOR "+named("f", i), fresh(tls.VersionTLS13, nil))
		mustWrite(t, d, body)
		d.tcp.Close()
		p.expect("226")
		if v := r.journal.Wait(t, named("home/f", i)); v.Received != int64(len(body)) || v.Evidence != session.NoCloseNotify {
			t.Errorf("verdict %+v", v)
		}
	}
}

func TestProtocols(t *testing.T) {
	t.Parallel()
	only := func(names ...string) option { return settings(func(s *server.Server) { s.Protocols = names }) }
	t.Run("FTPS alone", func(t *testing.T) {
		t.Parallel()
		p := newRig(t, only("FTPS")).connect(t)
		p.cmd("530", "USER "+user)
		p.cmd("503", "PASS "+password)
		p.cmd("530", "LIST")
		p.cmd("503", "PROT P")
		p.secure(tls.VersionTLS13)
		p.cmd("331", "USER "+user)
		p.cmd("230", "PASS "+password)
	})
	t.Run("FTP alone", func(t *testing.T) {
		t.Parallel()
		p := newRig(t, only("FTP")).connect(t)
		p.cmd("502", "AUTH TLS")
		if strings.Contains(p.cmd("211", "FEAT"), "AUTH") {
			t.Error("FEAT offers AUTH")
		}
		p.cmd("331", "USER "+user)
		p.cmd("230", "PASS "+password)
	})
	t.Run("PROT", func(t *testing.T) {
		t.Parallel()
		p := newRig(t).connect(t)
		p.cmd("504", "AUTH GSSAPI")
		p.secure(tls.VersionTLS12)
		p.cmd("503", "AUTH TLS")
		p.cmd("534", "PROT C")
		p.cmd("536", "PROT S")
		p.cmd("504", "PROT X")
		p.cmd("200", "PROT P")
	})
	t.Run("no PROT", func(t *testing.T) {
		t.Parallel()
		p := newRig(t).connect(t)
		p.cmd("234", "AUTH TLS")
		secured := tls.Client(p.tcp, fresh(tls.VersionTLS13, nil))
		p.conn = secured
		p.in.Reset(secured)
		p.cmd("331", "USER "+user)
		p.cmd("230", "PASS "+password)
		p.cmd("521", "EPSV")
		p.cmd("521", "STOR a")
	})
}

// What comes in the clear behind AUTH, before TLS is up, is not a command.
func TestInjection(t *testing.T) {
	t.Parallel()
	p := newRig(t).connect(t)
	p.send("AUTH TLS\r\nUSER " + user)
	if reply, err := p.reply(); err == nil && strings.HasPrefix(reply, "331") {
		t.Errorf("reply %q", reply)
	}
	secured := tls.Client(p.tcp, fresh(tls.VersionTLS13, nil))
	if err := secured.HandshakeContext(t.Context()); err == nil {
		t.Error("TLS after an injected command")
	}
}

func TestImplicitTLS(t *testing.T) {
	t.Parallel()
	r := newRig(t, mode("ENFORCED"), config(func(c *ftpd.Config) { c.ImplicitTLS = true }))
	out, err := doortest.Run(t, "", "curl", "-sS", "-k", "--user", user+":"+password, "-T", doortest.File(t, body), "ftps://"+r.addr+"/a")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.journal.Verdict(t, "home/a", session.Complete, session.Closed)
}
