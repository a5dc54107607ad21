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
// RequestServer thinks it has.
type bridge struct {
	out  *replies
	done chan struct{} // closed when RequestServer has ended

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	waiting []byte // packets on their way to RequestServer
	read    int    // how much of them it has read
	closed  bool

	// Only RequestServer's sending goroutine touches these.
	head    []byte // the beginning of a reply that is not here whole
	missing int    // how much of it is to come
}

// newBridge starts a RequestServer over the handlers. Relative paths start from dir.
func newBridge(out *replies, h sftp.Handlers, dir string) *bridge {
	b := &bridge{out: out, done: make(chan struct{})}
	b.changed.L = &b.mu
	rs := sftp.NewRequestServer(b, h, sftp.WithStartDirectory(dir), sftp.WithRSMaxTxPacket(maxData))
	go func() {
		defer close(b.done)
		// It ends when we close it, and for nothing else: the front lets no malformed packet through.
		_ = rs.Serve()
		_ = b.Close()
	}()
	return b
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
	b.waiting = binary.BigEndian.AppendUint32(b.waiting, uint32(len(packet)))
	b.waiting = append(b.waiting, packet...)
	b.changed.Broadcast()
	return nil
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

// Write is RequestServer's: it writes a reply in one piece or in two, the first of which begins with the length.
func (b *bridge) Write(p []byte) (int, error) {
	if b.missing == 0 {
		if len(p) < 4 {
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
	if err := b.out.send(head, p); err != nil {
		return 0, err
	}
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
