package sftpd_test

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/transferd/transferd/server/internal/doortest"
)

// TestBridgeComesAndGoes: pkg/sftp's RequestServer ends with its last handle and comes back with the next, and its handles
// stay good next to what the front answers. TestIdleSessions counts its goroutines.
func TestBridgeComesAndGoes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.Put("home/file", []byte("content"))
	c := r.raw(t)
	for range 50 {
		c.request(3, str("file"), u32(1), u32(0)) // OPEN to read
		typ, body := c.answer()
		if typ != 102 {
			t.Fatalf("OPEN answered by %d", typ)
		}
		h := body[4:]
		c.request(17, str("file")) // STAT, meanwhile
		if typ, body := c.answer(); typ != 105 || binary.BigEndian.Uint64(body[8:]) != 7 {
			t.Fatalf("STAT answered by %d %x", typ, body)
		}
		c.request(5, h, u64(0), u32(100))
		if typ, body := c.answer(); typ != 103 || string(body[8:]) != "content" {
			t.Fatalf("READ answered by %d %q", typ, body)
		}
		c.expect(0, 4, h)
		c.expect(4, 4, h)                 // CLOSE again
		c.expect(4, 5, h, u64(0), u32(1)) // READ of what is closed
	}
}

// TestOrder: requests about one name are answered in the order in which they were sent, whoever answers them.
func TestOrder(t *testing.T) {
	t.Parallel()
	var first atomic.Bool
	g := newGate()
	r := newRig(t, backend(func(s *doortest.Store) {
		s.OnOpen = func(ctx context.Context, _ string) error {
			if first.CompareAndSwap(false, true) {
				return g.wait(ctx)
			}
			return nil
		}
	}))
	r.store.Put("home/file", []byte("content"))
	c := r.raw(t)
	open := c.request(3, str("file"), u32(1), u32(0)) // held by the gate
	<-g.came
	remove := c.request(13, str("file"))
	stat := c.request(17, str("file"))
	close(g.open)
	if typ, body := c.answer(); typ != 102 || binary.BigEndian.Uint32(body) != open {
		t.Fatalf("OPEN answered by %d %x", typ, body)
	}
	if id, code, _ := c.status(); id != remove || code != 0 {
		t.Errorf("REMOVE: %d %d", id, code)
	}
	if id, code, _ := c.status(); id != stat || code != 2 {
		t.Errorf("STAT after REMOVE: %d %d", id, code)
	}
}
