package sftpd_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/transferd/transferd/server/proxyproto"
	"github.com/transferd/transferd/server/sftpd"
)

// Behind a proxy the log says whose address source-ip is, and that a header told it.
func TestBehindProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig, _ *sftpd.Config) {
		r.wrap = func(ln net.Listener) net.Listener {
			return proxyproto.Wrap(ln, proxyproto.Config{
				Mode:    func() proxyproto.Mode { return proxyproto.Enforced },
				Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, HeaderTimeout: time.Minute,
			})
		}
	})
	conn := r.tcp(t)
	if _, err := io.WriteString(conn, "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x09\xc6\x33\x64\x07\x9c\x40\x00\x16"); err != nil {
		t.Fatal(err)
	}
	client, err := r.tryDial(conn, user, r.key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		t.Fatal(err)
	}
	in := r.log.Await(t, "CONNECTED")
	if in["source-ip"] != "192.0.2.9" || in["proxy-protocol-v2-header"] != "applied" {
		t.Errorf("CONNECTED %v", in)
	}
}
