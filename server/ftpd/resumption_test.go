package ftpd_test

import (
	"context"
	"crypto/tls"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server/ftpd"
)

// What a refused data connection leaves in the log: who it was, with which software and TLS version, whether it offered a
// ticket, and what would help.
func TestResumeFailureLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		client, kind string
		version      uint16
		ticket       bool // a ticket of another control connection is offered
		help         string
	}{
		{"WinSCP-6.3", "winscp", tls.VersionTLS13, false, "must reuse the TLS session of the control connection"},
		{"WinSCP-6.3", "winscp", tls.VersionTLS12, true, "of another control connection"},
		{"curl/7.88", "curl", tls.VersionTLS12, false, "resumes in TLS 1.3 only"},
		{"curl/7.88", "curl", tls.VersionTLS13, false, "must reuse the TLS session"},
		{"something of my own", "other", tls.VersionTLS13, true, "of another control connection"},
	} {
		t.Run(c.client+" "+tls.VersionName(c.version), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, mode("ENFORCED"))
			p := r.login(t, c.version)
			p.cmd("200", "CLNT "+c.client)
			cache := tls.NewLRUClientSessionCache(1)
			if c.ticket {
				ticket, ok := r.login(t, c.version).config.ClientSessionCache.Get("ftp.test")
				if !ok {
					t.Fatal("no ticket")
				}
				cache.Put("ftp.test", ticket)
			}
			d := p.begin("LIST", fresh(c.version, cache))
			_, _ = io.Copy(io.Discard, d) // it may be cut
			if reply := p.expect("522"); !strings.Contains(reply, "TlsSessionResumptionMode ENFORCED") {
				t.Errorf("reply %q", reply)
			}
			entry := r.log.Await(t, "TLS_RESUME_FAILURE")
			for key, want := range map[string]string{
				"client": c.client, "tls-version": tls.VersionName(c.version), "ticket-offered": map[bool]string{true: "yes", false: "no"}[c.ticket],
				"user": user, "source-ip": "127.0.0.1", "resource-arn": "arn:aws:transfer:us-east-1:123456789012:server/s-1",
			} {
				if entry[key] != want {
					t.Errorf("%s = %v, want %s", key, entry[key], want)
				}
			}
			if message, _ := entry["message"].(string); !strings.Contains(message, c.help) || entry["session-id"] == "" {
				t.Errorf("log %v", entry)
			}
			if n := r.counter("transferd_ftp_tls_data_total", c.kind, tls.VersionName(c.version), "no"); n != 1 {
				t.Errorf("%v connections of %s did not resume", n, c.kind)
			}
		})
	}
}

// Before ENFORCED is set the metric says which software it would break, and nothing is refused.
func TestWhoWouldBreak(t *testing.T) {
	t.Parallel()
	for name, version := range tlsVersions() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, mode("ENABLED"))
			for client, kind := range map[string]string{"FileZilla": "filezilla", "WinSCP": "winscp"} {
				p := r.login(t, version)
				p.cmd("200", "CLNT "+client)
				config := p.config
				if kind == "winscp" {
					config = fresh(version, nil)
				}
				for range 3 {
					d := p.begin("LIST", config)
					if _, err := io.Copy(io.Discard, d); err != nil {
						t.Error(err)
					}
					d.Close()
					p.expect("226")
				}
			}
			for _, c := range []struct {
				kind, resumed string
				want          float64
			}{{"filezilla", "yes", 3}, {"filezilla", "no", 0}, {"winscp", "yes", 0}, {"winscp", "no", 3}} {
				if n := r.counter("transferd_ftp_tls_data_total", c.kind, tls.VersionName(version), c.resumed); n != c.want {
					t.Errorf("%s resumed %s: %v, want %v", c.kind, c.resumed, n, c.want)
				}
			}
			if strings.Contains(r.log.String(), "TLS_RESUME_FAILURE") {
				t.Error("a failure in the log")
			}
		})
	}
}

// An upload as text is as fast as any: its bytes go through the same buffers, in large writes.
func TestTypeAsciiIsNotSlow(t *testing.T) {
	t.Parallel()
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines := []byte(strings.Repeat("a line of text\r\nand another\n", 100_000))
			var texts, images int
			for _, command := range []string{"TYPE A", "TYPE I"} {
				writes := make(chan struct{}, len(lines))
				r := newRig(t, func(r *rig, c *ftpd.Config) {
					c.DataTimeout = time.Minute
					r.store.OnWrite = func(context.Context, string, int64) error {
						writes <- struct{}{}
						return nil
					}
				})
				p := r.login(t, version)
				p.cmd("200", command)
				p.put("README", lines)
				if string(r.store.Get("home/README")) != string(lines) {
					t.Errorf("%s: other bytes", command)
				}
				if command == "TYPE A" {
					texts = len(writes)
				} else {
					images = len(writes)
				}
			}
			// How the bytes come is the network's business; a write a line would be 200,000.
			if texts > len(lines)/1000 {
				t.Errorf("%d writes of text, %d of an image", texts, images)
			}
		})
	}
}
