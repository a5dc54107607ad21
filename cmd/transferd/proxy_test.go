package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"testing"
	"time"
)

// TestBehindProxy: FTP behind a load balancer that sends PROXY headers shows the client's address, bans it and not the
// load balancer, and answers nobody who comes from there without a header.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	const right = "right pass"
	p, _ := startServe(t, fmt.Sprintf(`
ftp: {host: 127.0.0.1, ports: 0, passive_ports: 0, login_delay: 1ms, proxy_protocol: [127.0.0.1], proxy_keeps_tcp: true, max_per_address: 3}
identity: {users_file: %s, guard: {delay: 1ms, max_delay: 1ms, ban_after: 3}}
`, usersFile(t, right)))
	_, ftp := p.passwordServer()

	c := dialFTP(t, ftp, "PROXY TCP4 203.0.113.9 198.51.100.1 40000 21\r\n")
	for _, step := range []struct {
		say  string
		want int
	}{{"", 220}, {"USER carol", 331}, {"PASS " + right, 230}} {
		if step.say != "" {
			if err := c.PrintfLine("%s", step.say); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := c.ReadResponse(step.want); err != nil {
			t.Fatalf("%q: %v", step.say, err)
		}
	}
	out, errs, _ := p.transferd("sessions", "--json")
	var sessions []map[string]any
	if err := json.Unmarshal([]byte(out), &sessions); err != nil || !hasItem(sessions, map[string]any{"SourceIp": "203.0.113.9", "UserName": "carol"}) {
		t.Errorf("sessions %s%s, %v", out, errs, err)
	}

	for _, last := range []int{530, 530, 421} {
		c := dialFTP(t, ftp, "PROXY TCP4 203.0.113.66 198.51.100.1 40000 21\r\n")
		for _, step := range []string{"USER carol", "PASS guess"} {
			if err := c.PrintfLine("%s", step); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []int{220, 331, last} {
			if _, _, err := c.ReadResponse(want); err != nil {
				t.Fatal(err)
			}
		}
	}
	if bans := p.bans(); len(bans) != 1 || bans[0].Address != "203.0.113.66" {
		t.Errorf("bans %+v", bans)
	}
	if _, _, err := dialFTP(t, ftp, "PROXY TCP4 203.0.113.66 198.51.100.1 40000 21\r\n").ReadResponse(421); err != nil {
		t.Errorf("a banned address behind the proxy: %v", err)
	}
	if _, _, err := dialFTP(t, ftp, "PROXY TCP4 203.0.113.9 198.51.100.1 40001 21\r\n").ReadResponse(220); err != nil {
		t.Errorf("another address behind the proxy: %v", err)
	}
	if _, _, err := dialFTP(t, ftp, "PROXY TCP4 203.0.113.9 198.51.100.1 40002 21\r\n").ReadResponse(220); err != nil {
		t.Errorf("a third connection: %v", err)
	}
	if _, _, err := dialFTP(t, ftp, "PROXY TCP4 203.0.113.9 198.51.100.1 40003 21\r\n").ReadResponse(421); err != nil {
		t.Errorf("more than max_per_address: %v", err)
	}
	if code, text, err := dialFTP(t, ftp, "USER carol\r\nPASS x\r\nNOOP\r\n").ReadResponse(220); err == nil {
		t.Errorf("without a header: %d %s", code, text)
	}
}

// dialFTP opens a control connection that begins with some bytes of ours.
func dialFTP(t *testing.T, addr, begin string) *textproto.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, begin); err != nil {
		t.Fatal(err)
	}
	return textproto.NewConn(conn)
}
