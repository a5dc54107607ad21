package doctor_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.uber.org/goleak"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/cmd/transferd/internal/doctor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// far serves connections with a script, each in its own goroutine, and ends with the test.
func far(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		running := make(chan struct{}, 64)
		for n := 0; ; n++ {
			conn, err := ln.Accept()
			if err != nil {
				for range n {
					<-running
				}
				return
			}
			go func() {
				stop := context.AfterFunc(t.Context(), func() { conn.Close() })
				defer stop()
				serve(conn)
				conn.Close()
				running <- struct{}{}
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

// says is a server that says something and then listens.
func says(text string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.WriteString(conn, text); err == nil {
			_, _ = io.Copy(io.Discard, conn) // until the client has enough
		}
	}
}

// answers is a server that greets and answers commands out of a table; those that are missing get 502.
func answers(table map[string]string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := io.WriteString(conn, "220 ready\r\n"); err != nil {
			return
		}
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			verb, _, _ := strings.Cut(lines.Text(), " ")
			reply, ok := table[verb]
			if !ok {
				reply = "502 no"
			}
			if _, err := io.WriteString(conn, reply+"\r\n"); err != nil {
				return
			}
		}
	}
}

func examine(t *testing.T, c doctor.Config) doctor.Report {
	t.Helper()
	c.Timeout = 30 * time.Second
	return doctor.Run(t.Context(), c)
}

// expect looks for a finding with a status whose words, or whose advice, have a text.
func expect(t *testing.T, r doctor.Report, check string, status doctor.Status, text string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Check == check && f.Status == status && strings.Contains(f.Says+" "+f.Mend, text) {
			return
		}
	}
	b, err := json.MarshalIndent(r, "", " ")
	t.Errorf("no finding %s %s %q in %s %v", check, status, text, b, err)
}

// TestHostile: whatever answers, the doctor ends, says what it is, and shows no control characters of it.
func TestHostile(t *testing.T) {
	t.Parallel()
	endless := func(conn net.Conn) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(conn, "220-"+strings.Repeat("x", 4000)+"\r\n")
		}
	}
	oneLine := func(conn net.Conn) {
		for err := error(nil); err == nil; {
			_, err = io.WriteString(conn, "220"+strings.Repeat("x", 4000))
		}
	}
	for name, c := range map[string]struct {
		serve       func(net.Conn)
		check, says string
		status      doctor.Status
	}{
		"ssh":         {says("SSH-2.0-OpenSSH_9.2\r\n"), "greeting", "port of SFTP", doctor.Wrong},
		"web":         {says("HTTP/1.1 400 Bad Request\r\n\r\n"), "greeting", "web server", doctor.Wrong},
		"binary":      {says("\x00\x01\x02\x03\x04\r\n"), "greeting", "does not speak FTP", doctor.Wrong},
		"endless":     {endless, "greeting", "without an end", doctor.Wrong},
		"one line":    {oneLine, "greeting", "without an end", doctor.Wrong},
		"closed":      {func(net.Conn) {}, "greeting", "transferd unban", doctor.Wrong},
		"full":        {says("421 Too many connections.\r\n"), "greeting", "max_sessions", doctor.Wrong},
		"other code":  {says("500 what?\r\n"), "greeting", "500 instead of 220", doctor.Wrong},
		"escapes":     {says("421 \x1b[31mred\x07\x9b\r\n"), "greeting", "red", doctor.Wrong},
		"then gone":   {func(conn net.Conn) { _, _ = io.WriteString(conn, "220 hi\r\n") }, "AUTH TLS", "", doctor.Wrong},
		"injection":   {answers(map[string]string{"AUTH": "234 go\r\n230 you are in"}), "AUTH TLS", "in the clear behind the 234", doctor.Wrong},
		"no TLS":      {answers(map[string]string{"AUTH": "502 no"}), "AUTH TLS", "add FTPS to the server's Protocols", doctor.Wrong},
		"TLS garbage": {answers(map[string]string{"AUTH": "234 go"}), "TLS", "handshake fails", doctor.Wrong},
		"no FEAT":     {answers(nil), "FEAT", "502", doctor.Warning},
		"bare FEAT":   {answers(map[string]string{"FEAT": "211-x\r\n UTF8\r\n211 end"}), "FEAT", "EPSV, SIZE", doctor.Warning},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := examine(t, doctor.Config{Address: far(t, c.serve), User: "anna", Password: "s3cr3t"})
			expect(t, r, c.check, c.status, c.says)
			if r.Well() {
				t.Error("it is found well")
			}
			for _, f := range r.Findings {
				if strings.IndexFunc(f.Says, unicode.IsControl) >= 0 || strings.Contains(fmt.Sprint(f), "s3cr3t") || len(f.Says) > 1000 {
					t.Errorf("shown: %q", f)
				}
			}
		})
	}
}

// TestSilent: a server that says nothing is given up, with what it may be waiting for.
func TestSilent(t *testing.T) {
	t.Parallel()
	r := doctor.Run(t.Context(), doctor.Config{Address: far(t, says("")), Timeout: 3 * time.Second})
	expect(t, r, "greeting", doctor.Wrong, "-implicit")
	r = examine(t, doctor.Config{Address: "127.0.0.1"})
	expect(t, r, "address", doctor.Wrong, "HOST:PORT")
}

// TestPassive: what PASV and EPSV may tell, over plain FTP.
func TestPassive(t *testing.T) {
	t.Parallel()
	open := far(t, says(""))
	_, port, err := net.SplitHostPort(open)
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	at := func(address string) string { return fmt.Sprintf("227 (%s,%d,%d)", address, number>>8, number&255) }
	extended := fmt.Sprintf("229 (|||%d|)", number)
	for name, c := range map[string]struct {
		pasv, epsv, check, says string
		status                  doctor.Status
	}{
		"right":       {at("127,0,0,1"), extended, "PASV", "can be reached", doctor.OK},
		"anywhere":    {at("0,0,0,0"), extended, "PASV", "Net::FTP", doctor.Warning},
		"elsewhere":   {at("192,0,2,1"), extended, "PASV", "the same port at 127.0.0.1 can", doctor.Wrong},
		"nonsense":    {at("999,0,2,1"), extended, "PASV", "an address that is none", doctor.Wrong},
		"no address":  {"425 none", extended, "PASV", "PassiveIp", doctor.Wrong},
		"no numbers":  {"227 here", extended, "PASV", "227 here", doctor.Wrong},
		"closed port": {at("127,0,0,1"), "229 (|||9|)", "EPSV", "ftp.passive_ports", doctor.Wrong},
		"no port":     {at("127,0,0,1"), "425 no ports", "EPSV", "ftp.passive_ports needs more", doctor.Wrong},
		"port 99999":  {at("127,0,0,1"), "229 (|||99999|)", "EPSV", "a port that is none", doctor.Wrong},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := far(t, answers(map[string]string{"USER": "331 pw", "PASS": "230 in", "PASV": c.pasv, "EPSV": c.epsv, "LIST": "550 no"}))
			known := map[string]bool{addr: true, open: true}
			r := examine(t, doctor.Config{Address: addr, User: "anna", Password: "pw", Plain: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if !known[address] {
					return nil, errors.New("blocked by the test")
				}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}})
			expect(t, r, c.check, c.status, c.says)
		})
	}
}

// TestInside: a server that is reached at a public address and tells a private one is wrong even where that one can be
// reached: from here it can, from elsewhere it cannot.
func TestInside(t *testing.T) {
	t.Parallel()
	addr := far(t, answers(map[string]string{"USER": "331 pw", "PASS": "230 in", "PASV": "227 (10,0,0,5,1,1)", "EPSV": "229 (|||257|)", "LIST": "550 no"}))
	r := examine(t, doctor.Config{Address: addr, User: "anna", Password: "pw", Plain: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return public{conn}, nil
	}})
	expect(t, r, "PASV", doctor.Wrong, "an address inside, to clients that reach the server at 203.0.113.7")
}

// public is a connection to a public address.
type public struct{ net.Conn }

func (public) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 21} }

// TestPasswordStays: no password goes where TLS is not, unless that is wanted.
func TestPasswordStays(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 100)
	addr := far(t, func(conn net.Conn) {
		if _, err := io.WriteString(conn, "220 hi\r\n"); err != nil {
			return
		}
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			heard <- lines.Text()
			if _, err := io.WriteString(conn, "502 no\r\n"); err != nil {
				return
			}
		}
	})
	expect(t, examine(t, doctor.Config{Address: addr, User: "anna", Password: "s3cr3t"}), "login", doctor.Skipped, "-plain")
	for len(heard) > 0 {
		if line := <-heard; strings.HasPrefix(line, "USER") || strings.HasPrefix(line, "PASS") {
			t.Errorf("sent %q", line)
		}
	}
}

// TestCertificates: dates, names, keys and chains, from servers of implicit TLS.
func TestCertificates(t *testing.T) {
	t.Parallel()
	made, host := time.Now(), "127.0.0.1"
	pair := func(names ...string) tls.Certificate {
		cert, key, err := certificates.SelfSigned(made, names...)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	for name, c := range map[string]struct {
		names       []string
		now         time.Time
		check, says string
		status      doctor.Status
	}{
		"right name": {[]string{host}, made, "certificate: names", "is for 127.0.0.1", doctor.OK},
		"wrong name": {[]string{"ftp.example.com"}, made, "certificate: names", "is for ftp.example.com, and not for 127.0.0.1", doctor.Wrong},
		"ended":      {[]string{host}, made.AddDate(20, 0, 0), "certificate: validity", "ended on", doctor.Wrong},
		"early":      {[]string{host}, made.AddDate(-20, 0, 0), "certificate: validity", "begins only on", doctor.Wrong},
		"valid":      {[]string{host}, made, "certificate: validity", "until", doctor.OK},
		"signed":     {[]string{host}, made, "certificate: chain", "signed by itself", doctor.Wrong},
		"key":        {[]string{host}, made, "certificate: key", "P-256", doctor.OK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := &tls.Config{Certificates: []tls.Certificate{pair(c.names...)}, MinVersion: tls.VersionTLS12}
			addr := far(t, func(conn net.Conn) { answers(nil)(tls.Server(conn, config)) })
			r := examine(t, doctor.Config{Address: addr, Implicit: true, Now: func() time.Time { return c.now }})
			expect(t, r, c.check, c.status, c.says)
			expect(t, r, "TLS 1.2", doctor.OK, "shakes hands")
			expect(t, r, "TLS 1.3", doctor.OK, "shakes hands")
		})
	}
}

// TestOneVersion: a server without TLS 1.3 is told about, with whom it hurts.
func TestOneVersion(t *testing.T) {
	t.Parallel()
	cert, key, err := certificates.SelfSigned(time.Now(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}
	addr := far(t, func(conn net.Conn) { answers(nil)(tls.Server(conn, config)) })
	expect(t, examine(t, doctor.Config{Address: addr, Implicit: true}), "TLS 1.3", doctor.Warning, "SecurityPolicyName")
}
