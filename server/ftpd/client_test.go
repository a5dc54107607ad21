package ftpd_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// peer is an FTP client that does what a test says, down to the socket.
type peer struct {
	t       testing.TB
	tcp     *net.TCPConn
	conn    net.Conn // TLS or TCP
	in      *bufio.Reader
	config  *tls.Config // nil: plain
	passive string      // where the next data connection goes
}

// version is what a peer speaks: 0 for plain FTP.
var versions = map[string]uint16{"plain": 0, "tls12": tls.VersionTLS12, "tls13": tls.VersionTLS13}

// connect makes a control connection that has read the greeting.
func (r *rig) connect(t testing.TB) *peer {
	t.Helper()
	p := r.dial(t, "")
	p.expect("220")
	return p
}

// dial makes a control connection that begins with a header, and waits for nothing.
func (r *rig) dial(t testing.TB, header string) *peer {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, header); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, tcp: conn.(*net.TCPConn), conn: conn, in: bufio.NewReader(conn)}
}

// login makes a session.
func (r *rig) login(t testing.TB, version uint16) *peer {
	t.Helper()
	return r.connect(t).login(version)
}

// login makes a session of a control connection.
func (p *peer) login(version uint16) *peer {
	p.t.Helper()
	if version != 0 {
		p.secure(version)
	}
	p.cmd("331", "USER "+user)
	p.cmd("230", "PASS "+password)
	return p
}

func (p *peer) secure(version uint16) {
	p.t.Helper()
	p.config = &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
		ServerName: "ftp.test", ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	p.cmd("234", "AUTH TLS")
	secured := tls.Client(p.tcp, p.config)
	if err := secured.HandshakeContext(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.conn, p.in = secured, bufio.NewReader(secured)
	p.cmd("200", "PBSZ 0")
	p.cmd("200", "PROT P")
}

// send sends a command and waits for nothing.
func (p *peer) send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, line+"\r\n"); err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
}

// reply reads a whole reply.
func (p *peer) reply() (string, error) {
	var all strings.Builder
	for first := ""; ; {
		line, err := p.in.ReadString('\n')
		if err != nil {
			return all.String(), err
		}
		all.WriteString(line)
		if first == "" {
			first = line[:min(3, len(line))]
		}
		if strings.HasPrefix(line, first+" ") {
			return all.String(), nil
		}
	}
}

// expect reads a reply that must begin with code.
func (p *peer) expect(code string) string {
	p.t.Helper()
	reply, err := p.reply()
	if err != nil || !strings.HasPrefix(reply, code) {
		p.t.Fatalf("reply %q, %v, want %s", reply, err, code)
	}
	return reply
}

func (p *peer) cmd(code, line string) string {
	p.t.Helper()
	p.send(line)
	reply, err := p.reply()
	if err != nil || !strings.HasPrefix(reply, code) {
		p.t.Fatalf("%s: reply %q, %v, want %s", line, reply, err, code)
	}
	return reply
}

// pasv prepares a data connection.
func (p *peer) pasv() {
	p.t.Helper()
	reply := p.cmd("229", "EPSV")
	port := strings.Split(reply, "|")[3]
	host, _, err := net.SplitHostPort(p.tcp.RemoteAddr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.passive = net.JoinHostPort(host, port)
}

// dataConn is a data connection, with the socket below TLS.
type dataConn struct {
	net.Conn
	tcp *net.TCPConn
}

func (p *peer) dial() *dataConn {
	p.t.Helper()
	return p.dialFrom("")
}

// dialFrom makes a data connection from an address of the loopback network.
func (p *peer) dialFrom(from string) *dataConn {
	p.t.Helper()
	d := &net.Dialer{}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conn, err := d.DialContext(p.t.Context(), "tcp", p.passive)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		p.t.Fatal(err)
	}
	return &dataConn{conn, conn.(*net.TCPConn)}
}

// open begins a transfer: its 150 is read, and TLS is up if it is wanted.
func (p *peer) open(command string) *dataConn {
	p.t.Helper()
	p.pasv()
	d := p.dial()
	p.cmd("150", command)
	p.protect(d, p.config)
	return d
}

// protect puts TLS over a data connection. Resuming is the client's default.
func (p *peer) protect(d *dataConn, config *tls.Config) {
	p.t.Helper()
	if config == nil {
		return
	}
	secured := tls.Client(d.tcp, config)
	if err := secured.HandshakeContext(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	d.Conn = secured
}

// put uploads a file as one should.
func (p *peer) put(name string, data []byte) {
	p.t.Helper()
	d := p.open("STOR " + name)
	if _, err := d.Write(data); err != nil {
		p.t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.expect("226")
}

// fetch reads what a command sends.
func (p *peer) fetch(command string) string {
	p.t.Helper()
	d := p.open(command)
	all, err := io.ReadAll(d)
	if err != nil {
		p.t.Fatalf("%s: %v", command, err)
	}
	d.Close()
	p.expect("226")
	return string(all)
}

// reset closes a socket with a RST.
func reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Error(err)
	}
	c.Close()
}

// unread is how many bytes wait in a socket.
func unread(c *net.TCPConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		b := make([]byte, 64<<10)
		n, _, _ = syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return n
}

// pasvAddress is what PASV tells.
func pasvAddress(t testing.TB, reply string) (string, int) {
	t.Helper()
	_, list, _ := strings.Cut(reply, "(")
	list, _, _ = strings.Cut(list, ")")
	f := strings.Split(list, ",")
	if len(f) != 6 {
		t.Fatalf("PASV: %q", reply)
	}
	hi, _ := strconv.Atoi(f[4])
	lo, _ := strconv.Atoi(f[5])
	return strings.Join(f[:4], "."), hi<<8 | lo
}

func named(prefix string, i int) string { return fmt.Sprintf("%s%d", prefix, i) }
