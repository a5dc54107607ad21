package sftpd_test

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/sftpd"
)

// raw is a client that sends packets as a test writes them.
type raw struct {
	t *testing.T
	ssh.Channel
	id uint32
}

// raw opens a session and says INIT.
func (r *rig) raw(t *testing.T) *raw {
	t.Helper()
	c := r.bare(t)
	c.packet(1, u32(3))
	if typ, body := c.answer(); typ != 2 || !strings.Contains(string(body), "limits@openssh.com") ||
		!strings.Contains(string(body), "fsync@openssh.com") || !strings.Contains(string(body), "posix-rename@openssh.com") || !strings.Contains(string(body), "hardlink@openssh.com") {
		t.Fatalf("VERSION = %d %q", typ, body)
	}
	return c
}

// bare opens a session and says nothing.
func (r *rig) bare(t *testing.T) *raw {
	t.Helper()
	ch, reqs, err := r.dial(t).OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	ok, err := ch.SendRequest("subsystem", true, str("sftp"))
	if err != nil || !ok {
		t.Fatalf("subsystem: %v, %v", ok, err)
	}
	return &raw{t: t, Channel: ch}
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
func str(s string) []byte { return append(u32(uint32(len(s))), s...) }

func join(parts ...[]byte) []byte {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// packet sends a packet of these parts.
func (c *raw) packet(typ byte, parts ...[]byte) {
	c.t.Helper()
	body := join(parts...)
	if _, err := c.Write(join(u32(uint32(1+len(body))), []byte{typ}, body)); err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatal(err)
	}
}

// request sends a packet with a fresh id.
func (c *raw) request(typ byte, parts ...[]byte) uint32 {
	c.t.Helper()
	c.id++
	c.packet(typ, append([][]byte{u32(c.id)}, parts...)...)
	return c.id
}

// answer reads a packet.
func (c *raw) answer() (byte, []byte) {
	c.t.Helper()
	typ, body, err := c.read()
	if err != nil {
		c.t.Fatal(err)
	}
	return typ, body
}

func (c *raw) read() (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
	_, err := io.ReadFull(c, body)
	return head[4], body, err
}

// status reads a STATUS: id, code and text.
func (c *raw) status() (uint32, uint32, string) {
	c.t.Helper()
	typ, body := c.answer()
	if typ != 101 {
		c.t.Fatalf("packet type %d, want a status", typ)
	}
	n := binary.BigEndian.Uint32(body[8:])
	return binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:]), string(body[12 : 12+n])
}

// expect sends a request and checks the status that answers it.
func (c *raw) expect(code uint32, typ byte, parts ...[]byte) string {
	c.t.Helper()
	id := c.request(typ, parts...)
	gotID, got, text := c.status()
	if gotID != id || got != code {
		c.t.Fatalf("type %d: status %d %q for %d, want %d for %d", typ, got, text, gotID, code, id)
	}
	return text
}

// open opens a file for writing.
func (c *raw) open(name string) []byte {
	c.t.Helper()
	c.request(3, str(name), u32(0x1a), u32(0))
	typ, body := c.answer()
	if typ != 102 {
		c.t.Fatalf("OPEN answered by %d %q", typ, body)
	}
	return body[4:] // the handle with its length
}

// ended checks that the server ends the session.
func (c *raw) ended() {
	c.t.Helper()
	for {
		if _, _, err := c.read(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				c.t.Fatalf("session ended by %v", err)
			}
			return
		}
	}
}

func TestMalformedPackets(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	write := func(lie uint32) func(c *raw) {
		return func(c *raw) { c.request(6, c.open("lie"), u64(0), u32(lie), []byte("data")) }
	}
	attacks := map[string]func(c *raw){
		"length zero":             func(c *raw) { c.Write(u32(0)) },
		"length over 256 KiB":     func(c *raw) { c.Write(u32(256<<10 + 1)) },
		"length of all ones":      func(c *raw) { c.Write(u32(1<<32 - 1)) },
		"long OPENDIR":            func(c *raw) { c.request(11, str(strings.Repeat("a", 40<<10))) },
		"unknown type":            func(c *raw) { c.request(99, str("x")) },
		"a reply":                 func(c *raw) { c.request(101, str("x")) },
		"WRITE with more to come": write(400),
		"WRITE of all ones":       write(1<<32 - 1),
		"cut WRITE":               func(c *raw) { c.packet(6, u32(1), u32(2)) },
		"WRITE of nothing":        func(c *raw) { c.packet(6) },
		"cut OPEN":                func(c *raw) { c.request(3, str("x")) },
		"OPEN without attributes": func(c *raw) { c.request(3, str("x"), u32(0x1a)) },
		"cut RENAME":              func(c *raw) { c.request(18, str("x")) },
		"cut READ":                func(c *raw) { c.request(5, str("1"), u64(0)) },
		"cut extension":           func(c *raw) { c.request(200, u32(100)) },
		"cut posix-rename":        func(c *raw) { c.request(200, str("posix-rename@openssh.com"), str("x")) },
		"cut statvfs":             func(c *raw) { c.request(200, str("statvfs@openssh.com")) },
		"cut fsync":               func(c *raw) { c.request(200, str("fsync@openssh.com")) },
		"INIT twice":              func(c *raw) { c.packet(1, u32(3)) },
		"cut packet":              func(c *raw) { c.Write(join(u32(100), []byte{6})); c.CloseWrite() },
	}
	t.Run("attacks", func(t *testing.T) {
		for name, attack := range attacks {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := r.raw(t)
				attack(c)
				c.ended()
			})
		}
		for name, typ := range map[string]byte{"no INIT": 16, "version 2": 1} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c := r.bare(t)
				c.packet(typ, u32(2), str("."))
				c.ended()
			})
		}
	})
	c := r.raw(t) // the daemon lives
	c.request(16, str("."))
	if typ, _ := c.answer(); typ != 104 {
		t.Errorf("REALPATH answered by %d", typ)
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/file", []byte("x"))
	c := r.raw(t)
	bad := str("no such handle")
	c.expect(4, 6, bad, u64(0), str("data"))            // WRITE
	c.expect(4, 4, bad)                                 // CLOSE
	c.expect(4, 8, bad)                                 // FSTAT
	c.expect(4, 10, bad, u32(0))                        // FSETSTAT
	c.expect(4, 5, bad, u64(0), u32(10))                // READ
	c.expect(4, 12, bad)                                // READDIR
	c.expect(4, 200, str("fsync@openssh.com"), bad)     //
	c.expect(8, 200, str("statvfs@openssh.com"), bad)   //
	c.expect(8, 200, str("unheard-of@example.com"))     //
	c.expect(8, 20, str("a"), str("b"))                 // SYMLINK
	c.expect(8, 19, str("file"))                        // READLINK
	c.expect(2, 17, str("missing"))                     // STAT
	c.expect(2, 7, str("missing"))                      // LSTAT
	c.expect(2, 11, str("missing"))                     // OPENDIR
	c.expect(2, 3, str("missing"), u32(1), u32(0))      // OPEN to read
	c.expect(2, 3, str("missing"), u32(2), u32(0))      // OPEN to write without CREAT
	c.expect(8, 3, str("file"), u32(0x0b), u32(0))      // READ|WRITE|CREAT of what stands: to be changed in place
	c.expect(8, 3, str("file"), u32(0x18), u32(0))      // CREAT|TRUNC without WRITE
	c.expect(4, 3, str("file"), u32(0x2a), u32(0))      // EXCL
	c.expect(8, 3, str("file"), u32(0x0e), u32(0))      // APPEND to what has bytes
	c.expect(3, 3, str("forbidden"), u32(0x1a), u32(0)) // the store says no
	c.expect(4, 3, str(""), u32(0), u32(0))             // no flags at all
	c.expect(4, 18, str("file"), str("file"))           // RENAME onto what stands
	c.expect(4, 14, str("/bucket/home"), u32(0))        // MKDIR of what stands
	long := strings.Repeat("a/", 2049)
	c.expect(4, 18, str("file"), str(long))
	c.expect(4, 200, str("posix-rename@openssh.com"), str("file"), str(long))
	for _, path := range []string{long, "../../other/file", "/etc/passwd", "/bucket/../../etc/passwd", "/other", "\x00"} {
		c.request(17, str(path))
		if _, code, text := c.status(); code == 0 || strings.Contains(text, "passwd") || strings.Contains(text, "bucket") {
			t.Errorf("STAT %q: %d %q", path, code, text)
		}
		c.request(3, str(path), u32(0x1a), u32(0))
		if _, code, text := c.status(); code == 0 || strings.Contains(text, "passwd") {
			t.Errorf("OPEN %q: %d %q", path, code, text)
		}
	}
	// An upload that was refused says so to everything that follows.
	h := c.open("gap")
	c.expect(0, 6, h, u64(0), str("data"))
	c.expect(0, 6, h, u64(4), str(""))
	if text := c.expect(8, 6, h, u64(1<<40), str("data")); !strings.Contains(text, "random access") {
		t.Errorf("text %q", text)
	}
	c.expect(8, 6, h, u64(4), str("data"))
	c.expect(8, 200, str("fsync@openssh.com"), h)
	c.expect(8, 4, h)
	r.journal.Verdict(t, "home/gap", session.Refused, session.Storage)
	if r.store.Get("home/gap") != nil {
		t.Error("a refused upload left a file")
	}
	h = c.open("far")
	c.expect(8, 6, h, u64(1<<64-1), str("data"))
	c.expect(8, 4, h)
}

func TestUploadInFlight(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.raw(t)
	h := c.open("file")
	c.expect(0, 6, h, u64(0), str("12345"))
	for _, request := range [][]byte{join([]byte{8}, u32(9), h), join([]byte{17}, u32(9), str("file"))} { // FSTAT and STAT
		c.packet(request[0], request[1:])
		typ, body := c.answer()
		if typ != 105 || binary.BigEndian.Uint64(body[8:]) != 5 {
			t.Errorf("type %d: %d %x", request[0], typ, body)
		}
	}
	c.expect(0, 200, str("fsync@openssh.com"), h)
	c.expect(8, 10, h, u32(1), u64(5))        // FSETSTAT
	c.expect(8, 10, h, u32(0xf), []byte("x")) // FSETSTAT with cut attributes
	c.expect(8, 9, str("file"), u32(0xf))     // SETSTAT with cut attributes
	c.request(200, str("limits@openssh.com"))
	if typ, body := c.answer(); typ != 201 || binary.BigEndian.Uint64(body[4:]) != 256<<10 ||
		binary.BigEndian.Uint64(body[20:]) != 255<<10 || binary.BigEndian.Uint64(body[28:]) != 1024 {
		t.Errorf("limits: %d %x", typ, body)
	}
	c.expect(0, 4, h)
	r.journal.Verdict(t, "home/file", session.Complete, session.Closed)
	c.expect(4, 6, h, u64(5), str("late"))
	if got := string(r.store.Get("home/file")); got != "12345" {
		t.Errorf("file = %q", got)
	}
}

func TestSetstatNoOp(t *testing.T) {
	t.Parallel()
	r := newRig(t, settings(func(s *server.Server) {
		s.ProtocolDetails = &server.ProtocolDetails{SetStatOption: "ENABLE_NO_OP"}
	}))
	c := r.raw(t)
	h := c.open("file")
	c.expect(0, 10, h, u32(0xf), []byte("x"))
	c.expect(0, 9, str("/bucket/home/file"), u32(0xf))
	c.expect(0, 4, h)
	if got := r.log.Entries("SETSTAT"); len(got) != 2 || got[0]["path"] != "/bucket/home/file" {
		t.Errorf("SETSTAT entries %v", got)
	}
}

// TestReadWriteHandle: a file made anew may be opened for reading too, as many libraries do, but on S3 not read before CLOSE.
func TestReadWriteHandle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.raw(t)
	c.request(3, str("file"), u32(0x1b), u32(0)) // READ|WRITE|CREAT|TRUNC
	typ, body := c.answer()
	if typ != 102 {
		t.Fatalf("OPEN answered by %d %q", typ, body)
	}
	h := body[4:] // the handle with its length
	c.expect(0, 6, h, u64(0), str("data"))
	c.expect(8, 5, h, u64(0), u32(4))
	c.expect(0, 4, h)
	if got := string(r.store.Get("home/file")); got != "data" {
		t.Errorf("file = %q", got)
	}
}

// TestManyOpens asks for 200,000 handles of one session, of all three kinds.
func TestManyOpens(t *testing.T) {
	t.Parallel()
	const limit, asked = 100, 200_000
	// Most of them ask for uploads; what goes over the bridge is slow under the race detector.
	r := newRig(t, config(func(c *sftpd.Config) { c.MaxHandles = limit }))
	r.store.Put("home/file", []byte("x"))
	c := r.raw(t)
	go func() {
		for i := range asked {
			var p []byte
			switch i % 40 {
			default:
				p = join([]byte{3}, u32(uint32(i)), str("upload"), u32(0x1a), u32(0))
			case 1:
				p = join([]byte{3}, u32(uint32(i)), str("file"), u32(1), u32(0))
			case 2:
				p = join([]byte{11}, u32(uint32(i)), str("."))
			}
			if _, err := c.Write(join(u32(uint32(len(p))), p)); err != nil {
				return // the reader will say
			}
		}
	}()
	granted := 0
	for range asked {
		switch typ, body := c.answer(); {
		case typ == 102:
			granted++
		case typ != 101 || binary.BigEndian.Uint32(body[4:]) != 4 || !strings.Contains(string(body), "Too many open files"):
			t.Fatalf("answer %d %q", typ, body)
		}
	}
	if granted != limit {
		t.Errorf("%d handles granted, want %d", granted, limit)
	}
}

func TestManyOpensAndCloses(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.MaxHandles = 2 }))
	r.store.Put("home/file", []byte("x"))
	c := r.raw(t)
	for range 20 {
		for _, open := range [][]byte{join([]byte{3}, u32(1), str("upload"), u32(0x1a), u32(0)),
			join([]byte{3}, u32(1), str("file"), u32(1), u32(0)), join([]byte{11}, u32(1), str("."))} {
			c.packet(open[0], open[1:])
			typ, body := c.answer()
			if typ != 102 {
				t.Fatalf("OPEN answered by %d %q", typ, body)
			}
			c.expect(0, 4, body[4:])
		}
	}
}

func TestRenameExtension(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/a", []byte("a"))
	r.store.Put("home/b", []byte("b"))
	c := r.raw(t)
	c.expect(4, 200, str("posix-rename@openssh.com"), str("a"), str("b"))
	c.expect(0, 200, str("posix-rename@openssh.com"), str("a"), str("c"))
	if string(r.store.Get("home/c")) != "a" || string(r.store.Get("home/b")) != "b" {
		t.Error("posix-rename replaced a file or did not rename")
	}
}

// TestPanic lets the store panic under pkg/sftp's workers, which have no recover of their own.
func TestPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t, backend(func(s *doortest.Store) {
		s.OnStat = func(name string) {
			if name == "home/bomb" {
				panic("secret")
			}
		}
	}))
	c := r.raw(t)
	if text := c.expect(4, 17, str("bomb")); strings.Contains(text, "secret") {
		t.Errorf("text %q", text)
	}
	c.expect(2, 17, str("missing"))
	r.log.Await(t, "ERROR")
}

// TestWriteWithMore: what follows the data of a WRITE is passed over, as OpenSSH does it. rclone sends the end of a file
// in a packet of full size.
func TestWriteWithMore(t *testing.T) {
	t.Parallel()
	c := newRig(t).raw(t)
	handle := c.open("short")
	c.expect(0, 6, handle, u64(0), u32(4), []byte("data and what was in the buffer"))
	c.expect(0, 4, handle)
}
