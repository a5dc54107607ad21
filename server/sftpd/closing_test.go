package sftpd_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"testing"
	"time"
)

// TestRequestsAboutAClosingFile: what a client asks about a file after its CLOSE is answered after it (filexfer-02, 6.1),
// and what it asks about others is not held up.
func TestRequestsAboutAClosingFile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	gates := map[string]chan struct{}{}
	r.store.OnCommit = func(_ context.Context, name string) error {
		<-gates[name]
		return nil
	}
	asks := map[string]func(c *raw, name string) uint32{
		"STAT":            func(c *raw, name string) uint32 { return c.request(17, str(name)) },
		"LSTAT by detour": func(c *raw, name string) uint32 { return c.request(7, str("/bucket/home/x/../"+name)) },
		"OPEN":            func(c *raw, name string) uint32 { return c.request(3, str(name), u32(1), u32(0)) },
		"REMOVE":          func(c *raw, name string) uint32 { return c.request(13, str(name)) },
		"RENAME":          func(c *raw, name string) uint32 { return c.request(18, str(name), str(name+" new")) },
		"OPENDIR":         func(c *raw, _ string) uint32 { return c.request(11, str(".")) },
	}
	for kind := range asks {
		gates["home/"+kind] = make(chan struct{})
	}
	r.store.OnStat = func(name string) {
		if gate := gates[name]; gate != nil {
			select {
			case <-gate:
			default:
				t.Errorf("the store is asked about %s before its CLOSE is done", name)
			}
		}
	}
	for kind, ask := range asks {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := r.raw(t)
			handle := c.open(kind)
			c.expect(0, 6, handle, u64(0), str("words"))
			closed := c.request(4, handle)
			c.expect(2, 17, str("another")) // STAT, while the commit waits
			c.expect(2, 17, str(kind+" not it"))
			asked := ask(c, kind)
			time.AfterFunc(50*time.Millisecond, func() { close(gates["home/"+kind]) }) // time to do it wrong
			if id, code, text := c.status(); id != closed || code != 0 {
				t.Errorf("the answer to %d is %d %q, want CLOSE's first", id, code, text)
			}
			typ, body := c.answer()
			if id := binary.BigEndian.Uint32(body); id != asked || (typ == 101 && binary.BigEndian.Uint32(body[4:]) != 0) {
				t.Errorf("answered by %s, want success of %d", fmt.Sprintf("%d %q", typ, body), asked)
			}
		})
	}
}
