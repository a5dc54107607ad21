package sftpd

import (
	"encoding/binary"
	"io"
	"sync"

	"github.com/pkg/sftp"
)

// maxWaiting is how many bytes of packets may wait for pkg/sftp; then the front waits too, and with it the client.
const maxWaiting = 64 << 10

// bridge hands packets to pkg/sftp's RequestServer and brings back what it answers: it is the connection that
// RequestServer thinks it has. Once every packet is answered and no handle is open it ends by itself, so that an idle
// session does not keep RequestServer's dozen goroutines; the next packet starts another.
type bridge struct {
	out *replies

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	waiting []byte // packets on their way to RequestServer
	read    int    // how much of them it has read
	owed    int    // packets without an answer
	handles map[string]struct{}
	retired bool // ended by itself
	closed  bool

	// Only RequestServer's sending goroutine touches these.
	head    []byte // the beginning of a reply that is not here whole
	missing int    // how much of it is to come
}

// newBridge starts a RequestServer over the handlers, which serving waits for. Relative paths start from dir.
func newBridge(out *replies, h sftp.Handlers, dir string, serving *sync.WaitGroup) *bridge {
	b := &bridge{out: out, handles: map[string]struct{}{}}
	b.changed.L = &b.mu
	rs := sftp.NewRequestServer(b, h, sftp.WithStartDirectory(dir), sftp.WithRSMaxTxPacket(maxData))
	serving.Go(func() {
		// It ends when we close it, and for nothing else: the front lets no malformed packet through.
		_ = rs.Serve()
		_ = b.Close()
	})
	return b
}

// busy says whether an answer is still owed.
func (b *bridge) busy() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.owed > 0
}

// over says whether the bridge has ended by itself, or was never there.
func (b *bridge) over() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.retired
}

// forward puts a packet in line for RequestServer. It blocks while the line is long.
func (b *bridge) forward(packet []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting)-b.read > maxWaiting && !b.closed {
		b.changed.Wait()
	}
	if b.closed {
		return errOver
	}
	if packet[0] == fxpClose {
		d := fields{rest: packet[5:]}
		delete(b.handles, string(d.bytes()))
	}
	b.owed++
	b.waiting = binary.BigEndian.AppendUint32(b.waiting, uint32(len(packet)))
	b.waiting = append(b.waiting, packet...)
	b.changed.Broadcast()
	return nil
}

// opened notes the handle in a reply before it goes out: the client may close it before we have turned around.
func (b *bridge) opened(reply []byte) {
	if reply[4] != fxpHandle {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := fields{rest: reply[9:]}
	b.handles[string(d.bytes())] = struct{}{}
}

// answered notes that a reply has gone out.
func (b *bridge) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owed--; b.owed == 0 && len(b.handles) == 0 {
		b.retired, b.closed = true, true
		b.changed.Broadcast()
	}
}

// Read is RequestServer's.
func (b *bridge) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.read == len(b.waiting) && !b.closed {
		b.changed.Wait()
	}
	if b.closed {
		return 0, io.EOF
	}
	n := copy(p, b.waiting[b.read:])
	b.read += n
	if b.read == len(b.waiting) {
		b.waiting, b.read = b.waiting[:0], 0
	}
	b.changed.Broadcast()
	return n, nil
}

// Write is RequestServer's: it writes a reply in one piece or in two, the first of which begins with the length and the
// id.
func (b *bridge) Write(p []byte) (int, error) {
	if b.missing == 0 {
		if len(p) < 9 {
			return 0, io.ErrShortWrite
		}
		b.head = b.head[:0]
		b.missing = 4 + int(binary.BigEndian.Uint32(p))
	}
	if len(p) > b.missing {
		return 0, io.ErrShortWrite
	}
	b.missing -= len(p)
	if b.missing > 0 {
		b.head = append(b.head, p...)
		return len(p), nil
	}
	head := b.head
	b.head = b.head[:0]
	if len(head) == 0 {
		b.opened(p) // a handle comes in one piece
	}
	if err := b.out.send(head, p); err != nil {
		return 0, err
	}
	b.answered()
	return len(p), nil
}

// Close ends RequestServer's input. What it works on it still answers.
func (b *bridge) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.changed.Broadcast()
	return nil
}
