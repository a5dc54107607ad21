package ftpd_test

import (
	"crypto/tls"
	"testing"
)

// A client that resumes with the control connection's ticket every time gets no other one: lftp closes without reading it,
// and loses what it had not sent yet.
func TestNoTicketForClientsThatKeepTheirs(t *testing.T) {
	t.Parallel()
	for client, tickets := range map[string]int32{"lftp/4.9.2": 0, "curl/8": 1} {
		for name, version := range tlsVersions() {
			t.Run(client+" "+name, func(t *testing.T) {
				t.Parallel()
				p := newRig(t, mode("ENFORCED")).login(t, version)
				p.cmd("200", "CLNT "+client)
				ticket, ok := p.config.ClientSessionCache.Get("ftp.test")
				if !ok {
					t.Fatal("no ticket on the control connection")
				}
				for range 2 { // with the same ticket, as lftp does
					cache := newCounting()
					cache.ClientSessionCache.Put("ftp.test", ticket)
					d := p.begin("STOR a", fresh(version, cache))
					mustWrite(t, d, body)
					d.Close()
					p.expect("226")
					if !resumed(d) {
						t.Error("not resumed")
					}
				}
				cache := newCounting()
				cache.ClientSessionCache.Put("ftp.test", ticket)
				d := p.begin("RETR a", fresh(version, cache)) // reading brings the ticket to light
				if _, err := d.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				d.Close()
				if n := cache.tickets.Load(); version == tls.VersionTLS13 && n != tickets {
					t.Errorf("%d tickets, want %d", n, tickets)
				}
			})
		}
	}
}
