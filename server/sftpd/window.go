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

// A client may send as many bytes as the channel's window has room for before it waits for us, and until the store takes
// them they wait in our memory. x/crypto/ssh's window is fixed at 2 MiB: too much if a thousand clients are ahead of the
// store, and too little for one that is far away, who uploads no more than 2 MiB in a round trip, 25 MB/s at 80 ms. This
// file gives a channel a small window, and one that uploads a larger one as far as a common budget goes, without a fork
// of the library: it sets the window before the channel is accepted, reads the channel's buffer itself, and hands back
// more than was read (RFC 4254, 5.2). The library's names that it needs are held by TestWindowShim.
const (
	// smallWindow is what each channel has: two of the library's packets, so that one can be on its way.
	smallWindow = 64 << 10
	// baseWindow is what an upload begins with while half of the budget is free: the library's own, and OpenSSH's.
	baseWindow = 2 << 20
	maxWindow  = 16 << 20 // what OpenSSH's sftp keeps in flight: 64 requests of 255 KiB
	// creditAt is how much is handed back at once, or half of a smaller window. The library does it after three packets;
	// a grown window it would adjust at each Read.
	creditAt = 256 << 10
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

// windowBudget is what all windows of a process may be larger than smallWindow together: bytes that clients may send and
// that wait in memory if a store stops taking them.
type windowBudget struct {
	gauge prometheus.Gauge
	limit int

	mu   sync.Mutex // guards used
	used int
}

// take grants up to n bytes.
func (b *windowBudget) take(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.grant(max(0, min(n, b.limit-b.used)))
}

// begin grants n bytes or nothing. It leaves half of the budget to those who turn out to need it.
func (b *windowBudget) begin(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.limit/2 {
		return 0
	}
	return b.grant(n)
}

// grant hands out n bytes; mu is held.
func (b *windowBudget) grant(n int) int {
	b.used += n
	b.gauge.Add(float64(n))
	return n
}

func (b *windowBudget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
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

	// A client has to wait for the answers to INIT and OPEN before it goes on.
	reads    int
	waited   bool          // the next Read is after such an answer
	trip     time.Duration // the shortest time from such an answer to what came of it: a round trip or more
	measured bool
}

// inside is what this file needs of an *ssh.channel.
type inside struct {
	channel unsafe.Pointer
	pending io.Reader   // the channel's buffer
	mu      *sync.Mutex // guards window
	window  *uint32     // how much the client may still send
}

// look finds the fields of a channel; ok is false if the library is not the one that this file knows. They are not
// exported, their types are or have methods that are.
func look(ch any) (in inside, ok bool) {
	v := reflect.ValueOf(ch)
	if v.Kind() != reflect.Pointer || v.Type().String() != "*ssh.channel" {
		return in, false
	}
	field := func(name string) any {
		f := v.Elem().FieldByName(name)
		if !f.IsValid() {
			return nil
		}
		return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Interface()
	}
	pending := v.Elem().FieldByName("pending")
	if !pending.IsValid() {
		return in, false
	}
	in.channel = v.UnsafePointer()
	in.pending, _ = reflect.NewAt(pending.Type(), unsafe.Pointer(pending.UnsafeAddr())).Elem().Interface().(io.Reader)
	in.mu, _ = field("windowMu").(*sync.Mutex)
	in.window, _ = field("myWindow").(*uint32)
	return in, in.pending != nil && in.mu != nil && in.window != nil
}

// narrow makes the window small of a channel that is not accepted yet, so that its client was not told of any.
func narrow(offered ssh.NewChannel) {
	if in, ok := look(offered); ok {
		in.mu.Lock()
		defer in.mu.Unlock()
		*in.window = smallWindow
	}
}

// newWindow takes over the reading of a channel that was narrowed; nil if the library is not the one that it knows.
func newWindow(ch ssh.Channel, budget *windowBudget, now func() time.Time) *window {
	in, ok := look(ch)
	if !ok {
		return nil
	}
	adjust := func(bytes uint32) error { return adjustWindow(in.channel, bytes) }
	return &window{pending: in.pending, adjust: adjust, budget: budget, now: now, size: smallWindow}
}

// bulk says before each Read whether uploads are open. The window of a channel without one shrinks as bytes come, and
// keeps its part of the budget until they do: what the client was promised cannot be taken back.
func (w *window) bulk(uploading bool) {
	if uploading == w.uploading {
		return
	}
	w.uploading = uploading
	w.debt = 0
	if w.waited = uploading; uploading {
		w.begin()
	} else {
		w.debt = w.size - smallWindow
	}
	w.next()
}

// begin gives an upload the window that it begins with, at once: the first bytes are about to come.
func (w *window) begin() {
	if w.size > baseWindow/2 { // it had one before
		return
	}
	if granted := w.budget.begin(baseWindow - w.size); granted > 0 {
		w.size += granted
		w.credit += granted
		w.handBack()
	}
}

// next begins another window's worth.
func (w *window) next() { w.since, w.seen, w.drained = w.now(), 0, false }

// Read reads what has arrived, like the channel's own.
func (w *window) Read(p []byte) (int, error) {
	n, err := w.receive(p)
	if n == 0 {
		return 0, err
	}
	w.credit += n
	paid := w.pay()
	w.drained = w.drained || n < len(p)
	if w.seen += n; w.uploading && w.seen >= w.size {
		w.resize()
	}
	if w.credit >= min(creditAt, w.size/2) || paid {
		w.handBack()
	}
	return n, nil
}

// receive reads what has arrived, and looks how long the client takes to go on after an answer that it waited for.
func (w *window) receive(p []byte) (int, error) {
	if w.reads++; w.reads != 2 && !w.waited { // the first one brings INIT, the second what follows it
		return w.pending.Read(p)
	}
	w.waited = false
	since := w.now()
	n, err := w.pending.Read(p)
	if took := w.now().Sub(since); !w.measured || took < w.trip {
		w.trip, w.measured = took, true
	}
	return n, err
}

// handBack tells the client how much more it may send. While it still may send about 2 MiB, the library keeps to itself
// what it is given, until it is called again: so a window that shrinks calls it too, with nothing, or a client that has
// sent all it might would wait for ever.
func (w *window) handBack() {
	// An error means that the connection is over. What has arrived is still to be read; its end comes then.
	_ = w.adjust(uint32(w.credit))
	w.credit = 0
}

// pay keeps back what the window is to shrink by, and tells whether that was anything.
func (w *window) pay() bool {
	paid := min(w.debt, w.credit)
	if paid == 0 {
		return false
	}
	w.debt -= paid
	w.credit -= paid
	w.size -= paid
	w.budget.give(paid)
	return true
}

// resize makes the window four times as large if it was what held the client up, so that it is at its largest after two
// round trips, and halves one that has grown if it is the store that is slow: then it only fills memory. A client that is
// near and only shares its processor with others does not wait for the window: a larger one makes OpenSSH's slower, which
// moves all that waits about in its memory.
func (w *window) resize() {
	took := w.now().Sub(w.since)
	switch {
	case w.size < baseWindow && w.debt == 0 && took < minRoundTrip:
		w.begin() // there was no memory when the upload began
	case !w.drained:
		w.debt = max(0, min(w.size/2, w.size-baseWindow))
	case w.trip >= minRoundTrip && took >= minRoundTrip && took <= maxRoundTrip:
		w.debt = 0
		granted := w.budget.take(min(3*w.size, maxWindow-w.size))
		w.size += granted
		w.credit += granted
	}
	w.next()
}

// close gives back what the budget granted. The channel is not read any more.
func (w *window) close() {
	w.budget.give(w.size - smallWindow)
	w.size = smallWindow
}
