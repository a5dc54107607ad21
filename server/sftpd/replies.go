package sftpd

import (
	"encoding/binary"
	"io"
	"sync"
)

const (
	// flushAt is how many bytes of replies wait at most for the next flush.
	flushAt = 16 << 10
	// copyUpTo is the longest part of a reply that is worth copying to save a packet of its own.
	copyUpTo = 4 << 10
)

// replies merges what the front, its finishing goroutines and the bridge answer, one whole packet after the other.
type replies struct {
	dst  io.Writer
	sent func() // told of each flush

	mu  sync.Mutex // guards what follows, and dst
	buf []byte
	err error // dst's first error: nothing is sent any more
}

// status puts a STATUS reply in line (draft-ietf-secsh-filexfer-02, 7). It is sent by the next flush.
func (r *replies) status(id uint32, s status) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.begin(fxpStatus, id)
	b = binary.BigEndian.AppendUint32(b, s.code)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.text)))
	b = append(b, s.text...)
	b = binary.BigEndian.AppendUint32(b, 0) // no language
	return r.end(b)
}

// packet puts a reply with this body in line.
func (r *replies) packet(typ byte, id uint32, body ...byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end(append(r.begin(typ, id), body...))
}

func (r *replies) begin(typ byte, id uint32) []byte {
	b := append(r.buf, 0, 0, 0, 0, typ)
	return binary.BigEndian.AppendUint32(b, id)
}

// end fills in the length of the packet that was begun at the end of the line.
func (r *replies) end(b []byte) error {
	binary.BigEndian.PutUint32(b[len(r.buf):], uint32(len(b)-len(r.buf)-4))
	r.buf = b
	if len(r.buf) < flushAt {
		return r.err
	}
	return r.flushLocked()
}

// send sends a reply that is ready, in two parts, behind what is in line.
func (r *replies) send(head, body []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buf = append(r.buf, head...)
	if len(body) <= copyUpTo {
		r.buf = append(r.buf, body...)
		return r.flushLocked()
	}
	if err := r.flushLocked(); err != nil {
		return err
	}
	_, r.err = r.dst.Write(body)
	return r.err
}

// trim lets go of the memory that a burst of replies took, once they are sent.
func (r *replies) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.buf) == 0 && cap(r.buf) > idleBuffer {
		r.buf = nil
	}
}

// flush sends what is in line.
func (r *replies) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flushLocked()
}

func (r *replies) flushLocked() error {
	if len(r.buf) == 0 || r.err != nil {
		r.buf = r.buf[:0]
		return r.err
	}
	_, r.err = r.dst.Write(r.buf)
	r.buf = r.buf[:0]
	r.sent()
	return r.err
}
