package sftpd

import (
	"io"
	"reflect"
	"sync"
	"time"
	"unsafe" // for go:linkname too

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"
)

// A client may send as many bytes as the channel's window has room for before it waits for us. x/crypto/ssh's window is
// fixed at 2 MiB, so nobody uploads more than 2 MiB in a round trip: 25 MB/s at 80 ms. This file lets the window of a
// channel that uploads grow, without a fork of the library: it reads the channel's buffer itself, and hands back more
// than was read (RFC 4254, 5.2). The library's two names that it needs are held by TestWindowShim.
const (
	baseWindow = 2 << 20  // the library's
	maxWindow  = 16 << 20 // what OpenSSH's sftp keeps in flight: 64 requests of 255 KiB
	// creditAt is how much is handed back at once. The library does it after three packets; a grown window it would
	// adjust at each Read.
	creditAt = 128 << 10
	// A window's worth that arrives in less than minRoundTrip is no concern: a store that pauses between two parts takes
	// nearly as long. One that takes longer than maxRoundTrip is not held up by the window, of which a client sends at
	// least one in each round trip.
	minRoundTrip = 40 * time.Millisecond
	maxRoundTrip = time.Second
)

// adjustWindow hands bytes back to the client of an *ssh.channel.
//
//go:linkname adjustWindow golang.org/x/crypto/ssh.(*channel).adjustWindow
func adjustWindow(channel unsafe.Pointer, bytes uint32) error

// windowBudget is what all windows of a process may have grown together: bytes that clients may send and that wait in
// memory if a store stops taking them.
type windowBudget struct {
	gauge prometheus.Gauge

	mu   sync.Mutex // guards free
	free int
}

// take grants up to n bytes.
func (b *windowBudget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = max(0, min(n, b.free))
	b.free -= n
	b.gauge.Add(float64(n))
	return n
}

func (b *windowBudget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.gauge.Sub(float64(n))
}

// window reads a channel and keeps its window. Only the front's goroutine uses it.
type window struct {
	pending io.Reader          // the channel's buffer: what has arrived and was not read
	adjust  func(uint32) error // hands bytes back
	budget  *windowBudget
	now     func() time.Time

	size      int  // the window as the client has it, when nothing is under way
	credit    int  // read, and not yet handed back
	debt      int  // what is not handed back any more: the window shrinks by it as bytes come
	uploading bool // an upload is open

	// The window's worth that is being received.
	since   time.Time
	seen    int
	drained bool // the buffer was empty once: we keep up with the client
}

// newWindow takes over the reading of a channel; nil if the library is not the one that it knows.
func newWindow(ch ssh.Channel, budget *windowBudget, now func() time.Time) *window {
	v := reflect.ValueOf(ch)
	if v.Kind() != reflect.Pointer || v.Type().String() != "*ssh.channel" {
		return nil
	}
	field := v.Elem().FieldByName("pending")
	if !field.IsValid() {
		return nil
	}
	// The field is not exported; its type's method Read is.
	pending, ok := reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem().Interface().(io.Reader)
	if !ok {
		return nil
	}
	adjust := func(bytes uint32) error { return adjustWindow(v.UnsafePointer(), bytes) }
	return &window{pending: pending, adjust: adjust, budget: budget, now: now, size: baseWindow}
}

// bulk says before each Read whether uploads are open. The window of a channel without one shrinks as bytes come, and
// keeps its part of the budget until they do: what the client was promised cannot be taken back.
func (w *window) bulk(uploading bool) {
	if uploading == w.uploading {
		return
	}
	w.uploading = uploading
	w.debt = 0
	if !uploading {
		w.debt = w.size - baseWindow
	}
	w.next()
}

// next begins another window's worth.
func (w *window) next() { w.since, w.seen, w.drained = w.now(), 0, false }

// Read reads what has arrived, like the channel's own.
func (w *window) Read(p []byte) (int, error) {
	n, err := w.pending.Read(p)
	if n == 0 {
		return 0, err
	}
	w.credit += n
	w.pay()
	w.drained = w.drained || n < len(p)
	if w.seen += n; w.uploading && w.seen >= w.size {
		w.resize()
	}
	if w.credit < creditAt {
		return n, nil
	}
	// An error means that the connection is over. What has arrived is still to be read; its end comes then.
	_ = w.adjust(uint32(w.credit))
	w.credit = 0
	return n, nil
}

// pay keeps back what the window is to shrink by.
func (w *window) pay() {
	paid := min(w.debt, w.credit)
	if paid == 0 {
		return
	}
	w.debt -= paid
	w.credit -= paid
	w.size -= paid
	w.budget.give(paid)
}

// resize makes the window four times as large if it was what held the client up, so that it is at its largest after two
// round trips, and halves it if it is the store that is slow: then it only fills memory.
func (w *window) resize() {
	took := w.now().Sub(w.since)
	switch {
	case !w.drained:
		w.debt = min(w.size/2, w.size-baseWindow)
	case took >= minRoundTrip && took <= maxRoundTrip:
		w.debt = 0
		granted := w.budget.take(min(3*w.size, maxWindow-w.size))
		w.size += granted
		w.credit += granted
	}
	w.next()
}

// close gives back what the budget granted. The channel is not read any more.
func (w *window) close() {
	w.budget.give(w.size - baseWindow)
	w.size = baseWindow
}
