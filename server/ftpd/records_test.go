package ftpd_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/transferd/transferd/server/session"
)

// A stream that ends inside its close_notify has ended without one; one that ends inside a record of data was cut.
func TestEndInsideARecord(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		rest     []byte
		verdict  session.Outcome
		evidence session.Evidence
		reply    string
	}{
		{"nothing", nil, session.Complete, session.NoCloseNotify, "226"},
		{"header of anything", []byte{23, 3}, session.Complete, session.NoCloseNotify, "226"},
		{"alert of TLS 1.3", []byte{23, 3, 3, 0, 19, 1, 2, 3}, session.Complete, session.NoCloseNotify, "226"},
		{"alert of TLS 1.2", []byte{21, 3, 3, 0, 26, 0}, session.Complete, session.NoCloseNotify, "226"},
		{"header of data", []byte{23, 3, 3, 64, 17}, session.Partial, session.Reset, "426"},
		{"data", append([]byte{23, 3, 3, 64, 17}, make([]byte, 9000)...), session.Partial, session.Reset, "426"},
	} {
		for name, version := range tlsVersions() {
			t.Run(c.name+" "+name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, mode("DISABLED")) // no tickets that would have to be read
				p := r.login(t, version)
				d := p.begin("STOR a", fresh(version, nil))
				mustWrite(t, d, slices.Concat(body, body))
				if _, err := d.tcp.Write(c.rest); err != nil {
					t.Fatal(err)
				}
				if err := d.tcp.Close(); err != nil {
					t.Fatal(err)
				}
				p.expect(c.reply)
				if v := r.journal.Wait(t, "home/a"); v.Outcome != c.verdict || v.Evidence != c.evidence {
					t.Errorf("verdict %s %s", v.Outcome, v.Evidence)
				}
				if !bytes.Equal(r.store.Get("home/a"), slices.Concat(body, body)) {
					t.Error("the store has something else")
				}
			})
		}
	}
}
