package ftpd_test

import (
	"bytes"
	"testing"

	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

func TestUploadDownloadList(t *testing.T) {
	t.Parallel()
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			p := r.login(t, version)
			data := doortest.Random(1 << 20)
			p.put("a", data)
			r.journal.Verdict(t, "home/a", session.Complete, session.Closed)
			if !bytes.Equal(r.store.Get("home/a"), data) {
				t.Error("other bytes")
			}
			if got := p.fetch("RETR a"); got != string(data) {
				t.Errorf("downloaded %d bytes", len(got))
			}
			p.put("empty", nil)
			r.journal.Verdict(t, "home/empty", session.Complete, session.Closed)
			p.cmd("350", "REST 1048570")
			if got := p.fetch("RETR a"); got != string(data[1048570:]) {
				t.Errorf("resumed with %d bytes", len(got))
			}
			t.Log(p.fetch("LIST -la"), p.fetch("NLST"), p.fetch("MLSD"))
			t.Log(p.cmd("212", "STAT ."), p.cmd("211", "STAT"), p.cmd("211", "FEAT"))
			p.cmd("221", "QUIT")
		})
	}
}
