package sftpd_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/sftpd"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/memory"
)

// habit is how a client writes a file.
type habit struct {
	older int // how long a file is that stands at the name; 0: none
	do    func(c *raw, name string, data []byte)
	// ends is how many uploads that is, partial ones included.
	ends int
}

const (
	toWrite  = 0x02
	toCreate = 0x0a
	toCut    = 0x1a
)

func (c *raw) openAs(name string, flags uint32) []byte {
	c.t.Helper()
	c.request(3, str(name), u32(flags), u32(0))
	return c.handle()
}

// blocks sends blocks of a file in some order without waiting, through the handles in turn.
func (c *raw) blocks(data []byte, size int, order []int, handles ...[]byte) {
	c.t.Helper()
	for i, block := range order {
		off := block * size
		c.request(6, handles[i%len(handles)], u64(uint64(off)), str(string(data[off:min(off+size, len(data))])))
	}
	for range order {
		if _, code, text := c.status(); code != 0 {
			c.t.Fatalf("WRITE: %d %q", code, text)
		}
	}
}

func inOrder(data []byte, size int) []int {
	order := make([]int, (len(data)+size-1)/size)
	for i := range order {
		order[i] = i
	}
	return order
}

// shuffled mixes blocks with their neighbours, as clients with many requests on their way do.
func shuffled(data []byte, size, window int) []int {
	order := inOrder(data, size)
	for from := 0; from < len(order); from += window {
		part := order[from:min(from+window, len(order))]
		rand.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	return order
}

func habits() map[string]habit {
	const small, large = 16 << 10, 32 << 10
	return map[string]habit{
		"FileZilla": {0, func(c *raw, name string, data []byte) { // 16 KiB, the time after CLOSE
			h := c.openAs(name, toCut)
			c.blocks(data, small, inOrder(data, small), h)
			c.expect(0, 4, h)
			c.expect(0, 9, str(name), u32(8), u32(1_600_000_000), u32(1_600_000_000))
		}, 1},
		"out of order": {0, func(c *raw, name string, data []byte) {
			h := c.openAs(name, toCut)
			c.blocks(data, small, shuffled(data, small, 32), h)
			c.expect(0, 4, h)
		}, 1},
		"scp": {900 << 10, func(c *raw, name string, data []byte) { // no TRUNC, over a longer file
			h := c.openAs(name, toCreate)
			c.blocks(data, large, inOrder(data, large), h)
			c.expect(0, 10, h, u32(1), u64(uint64(len(data))))
			c.expect(0, 4, h)
		}, 1},
		"lftp": {0, func(c *raw, name string, data []byte) { // size and time before CLOSE
			h := c.openAs(name, toCut)
			c.blocks(data, large, inOrder(data, large), h)
			c.expect(0, 10, h, u32(9), u64(uint64(len(data))), u32(1_600_000_000), u32(1_600_000_000))
			c.expect(0, 4, h)
		}, 1},
		"sshfs": {900 << 10, func(c *raw, name string, data []byte) { // cuts the file through the handle, and may look before
			h := c.openAs(name, toWrite)
			c.expect(0, 10, h, u32(1), u64(0))
			c.blocks(data, large, inOrder(data, large), h)
			c.expect(0, 200, str("fsync@openssh.com"), h)
			c.expect(0, 4, h)
		}, 1},
		"segments": {0, func(c *raw, name string, data []byte) { // four handles, each every fourth block
			handles := [][]byte{c.openAs(name, toCreate), c.openAs(name, toWrite), c.openAs(name, toWrite), c.openAs(name, toWrite)}
			c.blocks(data, large, inOrder(data, large), handles...)
			for _, h := range handles {
				c.expect(0, 4, h)
			}
		}, 1},
		"resumed": {0, func(c *raw, name string, data []byte) { // in another session, from where the file ends
			half := len(data)/2 + 3
			h := c.openAs(name, toCut)
			c.stream(h, 0, data[:half], small)
			c.expect(0, 4, h)
			h = c.openAs(name, toWrite)
			c.stream(h, half, data[half:], small)
			c.expect(0, 4, h)
		}, 2},
	}
}

// TestHabits: whatever the order of a client's packets, the file is what it sent.
func TestHabits(t *testing.T) {
	t.Parallel()
	noOp := settings(func(s *server.Server) { s.ProtocolDetails = &server.ProtocolDetails{SetStatOption: "ENABLE_NO_OP"} })
	for domain, start := range map[string]func(*testing.T) (*rig, func(name string, put []byte) []byte){
		"S3": func(t *testing.T) (*rig, func(string, []byte) []byte) {
			store := memory.New(memory.Config{PartSize: 512 << 10, Misuse: func(what string) { t.Error(what) }})
			r := newRig(t, noOp, config(func(c *sftpd.Config) { c.Stores = store }))
			return r, func(name string, put []byte) []byte {
				if put != nil {
					sendFile(t, r, name, put)
				}
				content, _, _, _ := store.Content("home/" + name)
				return content
			}
		},
		"EFS":        onEFS(false),
		"EFS atomic": onEFS(true),
	} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			r, file := start(t)
			for name, h := range habits() {
				data := doortest.Random(640<<10 + 77)
				before := 0
				if h.older > 0 {
					file(name, doortest.Random(h.older))
					before = len(r.journal.Verdicts("home/" + name))
				}
				h.do(r.raw(t), name, data)
				if got := file(name, nil); !bytes.Equal(got, data) {
					t.Errorf("%s: %d bytes came, %d were sent", name, len(got), len(data))
				}
				ends := r.journal.Verdicts("home/" + name)[before:]
				if len(ends) != h.ends || ends[len(ends)-1].Outcome != session.Complete {
					t.Errorf("%s: %d verdicts, want %d: %+v", name, len(ends), h.ends, ends)
				}
			}
		})
	}
}

func onEFS(atomic bool) func(*testing.T) (*rig, func(string, []byte) []byte) {
	return func(t *testing.T) (*rig, func(string, []byte) []byte) {
		dir := t.TempDir()
		r := newRig(t, onDisk(t, dir, func(c *efs.Config) { c.AtomicNames = atomic }))
		return r, func(name string, put []byte) []byte {
			path := filepath.Join(dir, "home", name)
			if put != nil {
				r.stand(t, path, string(put))
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			return content
		}
	}
}

// sendFile puts a file by way of the protocol.
func sendFile(t *testing.T, r *rig, name string, data []byte) {
	t.Helper()
	c := r.raw(t)
	h := c.openAs(name, toCut)
	c.stream(h, 0, data, 32<<10)
	c.expect(0, 4, h)
}

// Segments that lie farther apart than the store's window are refused as a whole, and say so.
func TestSegmentsTooFarApart(t *testing.T) {
	t.Parallel()
	store := memory.New(memory.Config{PartSize: 1 << 10, Misuse: func(what string) { t.Error(what) }})
	r := newRig(t, config(func(c *sftpd.Config) { c.Stores = store }))
	c := r.raw(t)
	h1, h2 := c.openAs("file", toCreate), c.openAs("file", toWrite)
	c.expect(0, 6, h1, u64(0), str("here"))
	c.expect(8, 6, h2, u64(1<<20), str("there"))
	c.expect(8, 4, h2)
	c.expect(8, 4, h1)
	r.journal.Verdict(t, "home/file", session.Refused, session.Storage)
	if _, _, _, ok := store.Content("home/file"); ok {
		t.Error("half a file is there")
	}
}

// TestResumedTwentyTimes cuts an upload at random points and goes on as OpenSSH's reput (APPEND and absolute offsets) and
// as FileZilla (offsets alone) do: in the end the file is whole, and only the last part of it is a complete upload.
func TestResumedTwentyTimes(t *testing.T) {
	t.Parallel()
	for domain, start := range map[string]func(*testing.T) (*rig, func(string, []byte) []byte){
		"S3": func(t *testing.T) (*rig, func(string, []byte) []byte) {
			store := memory.New(memory.Config{PartSize: 50_000, Misuse: func(what string) { t.Error(what) }})
			return newRig(t, config(func(c *sftpd.Config) { c.Stores = store })), func(name string, _ []byte) []byte {
				content, _, _, _ := store.Content("home/" + name)
				return content
			}
		},
		"EFS": onEFS(false),
	} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			const cuts, block = 20, 4 << 10
			r, file := start(t)
			data := doortest.Random(1<<20 + 11)
			for cut := range cuts {
				c := r.raw(t)
				n := c.size("file")
				h := c.openAs("file", []uint32{toWrite | 8, toWrite | 8 | 4}[cut%2])
				left := cuts - cut // each gets a byte at least
				part := data[n:min(len(data)-left, n+1+rand.IntN(2*(len(data)-n)/left+1))]
				c.stream(h, n, part, block)
				c.Close()
				doortest.Eventually(t, "a verdict", func() bool { return len(r.journal.Verdicts("home/file")) == cut+1 })
			}
			c := r.raw(t)
			n := c.size("file")
			h := c.openAs("file", toWrite)
			c.stream(h, n, data[n:], block)
			c.expect(0, 4, h)
			if got := file("file", nil); !bytes.Equal(got, data) {
				t.Errorf("%d bytes came, %d were sent", len(got), len(data))
			}
			var received int64
			for i, v := range r.journal.Verdicts("home/file") {
				received += v.Received
				if want := i == cuts; (v.Outcome == session.Complete) != want || !want && v.Outcome != session.Partial {
					t.Errorf("verdict %d: %+v", i, v)
				}
			}
			if received != int64(len(data)) {
				t.Errorf("%d bytes received of %d", received, len(data))
			}
		})
	}
}

// size is that of a file, 0 if there is none.
func (c *raw) size(name string) int {
	c.t.Helper()
	c.request(17, str(name))
	typ, body := c.answer()
	if typ != 105 {
		return 0
	}
	return int(binary.BigEndian.Uint64(body[8:]))
}
