package sftpd_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

// stream sends a file in blocks without waiting, as clients do, and then takes the answers.
func (c *raw) stream(handle []byte, off int, data []byte, block int) {
	c.t.Helper()
	asked := 0
	for ; len(data) > 0; asked++ {
		n := min(block, len(data))
		c.request(6, handle, u64(uint64(off)), str(string(data[:n])))
		data, off = data[n:], off+n
	}
	for range asked {
		if _, code, text := c.status(); code != 0 {
			c.t.Fatalf("WRITE: %d %q", code, text)
		}
	}
}

// TestFilepart does what WinSCP does with a file above 100 KB: writes NAME.filepart, closes it, deletes NAME if it stands,
// renames, and sets the time.
func TestFilepart(t *testing.T) {
	t.Parallel()
	r := newRig(t, settings(func(s *server.Server) {
		s.ProtocolDetails = &server.ProtocolDetails{SetStatOption: "ENABLE_NO_OP"}
	}))
	r.store.Put("home/file", []byte("older"))
	data := doortest.Random(1<<20 + 5)
	c := r.raw(t)
	h := c.open("file.filepart")
	c.stream(h, 0, data, 32<<10)
	c.expect(0, 4, h)
	if v := r.journal.Verdicts("home/file.filepart"); len(v) != 0 {
		t.Errorf("verdict before the rename: %+v", v)
	}
	c.expect(0, 13, str("file"))
	c.expect(0, 18, str("/bucket/home/file.filepart"), str("/bucket/home/file"))
	c.expect(0, 9, str("file"), u32(8), u32(1_600_000_000), u32(1_600_000_000))
	if v := r.journal.Verdict(t, "home/file", session.Complete, session.Closed); v.Received != int64(len(data)) || v.Location == nil {
		t.Errorf("%+v", v)
	}
	if !bytes.Equal(r.store.Get("home/file"), data) {
		t.Error("the file differs")
	}
	// A file that is cut is partial at once, under the name that it has.
	h = c.open("cut.filepart")
	c.stream(h, 0, data[:1000], 100)
	c.Close()
	r.journal.Verdict(t, "home/cut.filepart", session.Partial, session.Disconnect)
}

func TestFilepartOpenSSH(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	data := doortest.Random(300 << 10)
	if out, err := r.batch(t, fmt.Sprintf("put %q file.filepart", doortest.File(t, data)), "rename file.filepart file"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.journal.Verdict(t, "home/file", session.Complete, session.Closed)
	if v := r.journal.Verdicts("home/file.filepart"); len(v) != 0 || !bytes.Equal(r.store.Get("home/file"), data) {
		t.Errorf("%+v", v)
	}
}

// handle takes the answer to an OPEN.
func (c *raw) handle() []byte {
	c.t.Helper()
	typ, body := c.answer()
	if typ != 102 {
		c.t.Fatalf("OPEN answered by %d %q", typ, body)
	}
	return str(string(body[8 : 8+binary.BigEndian.Uint32(body[4:])]))
}
