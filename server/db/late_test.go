package db

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
)

// heldDisk is a database whose flushes are the test's to end.
type heldDisk struct {
	*sqlite
	flushing chan struct{}
	result   chan error
}

func (h *heldDisk) sync() error {
	h.flushing <- struct{}{}
	return <-h.result
}

// onHeldDisk gives a database a disk that the test holds, with a server without workflows and one with two.
func onHeldDisk(t *testing.T, lateness time.Duration) (d *DB, h *heldDisk, plain, flow server.ID) {
	t.Helper()
	d, err := Open(t.Context(), Config{Dir: t.TempDir()})
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	flow, plain = attached(t, d, 1), "s-plain"
	must(t, d.CreateServer(t.Context(), server.Server{ServerId: plain, State: server.Online}, nil))
	h = &heldDisk{d.base.(*sqlite), make(chan struct{}), make(chan error)}
	must(t, d.batch.close())
	d.undo = d.undo[:len(d.undo)-1]
	d.base = h
	d.batch = newBatcher(d)
	d.batch.lateness = lateness
	return d, h, plain, flow
}

// TestLate: an upload that starts no workflow is in the journal before the disk has it, and there at the latest when the
// database is closed.
func TestLate(t *testing.T) {
	t.Parallel()
	d, h, plain, _ := onHeldDisk(t, time.Hour)
	for range 3 {
		u, v := anUpload(d, plain), whole()
		v.Ended = u.Began
		must(t, d.Begin(t.Context(), u)) // would wait for ever
		must(t, d.End(t.Context(), u, v))
		if r := value[UploadRecord](t)(d.Upload(t.Context(), u.ID)); r.Verdict == nil {
			t.Error("no verdict")
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- d.batch.close() }()
	<-h.flushing
	h.result <- nil
	must(t, <-closed)
	d.batch = newBatcher(d) // for Close
	d.undo = append(d.undo, d.batch.close)
}

// TestLateFlush: what nobody waited for is flushed soon, and the end of an upload that took long is waited for, because its
// beginning may be on the disk already.
func TestLateFlush(t *testing.T) {
	t.Parallel()
	d, h, plain, _ := onHeldDisk(t, time.Millisecond)
	d.undo = append(d.undo, d.batch.close)
	u, v := anUpload(d, plain), whole()
	must(t, d.Begin(t.Context(), u))
	<-h.flushing
	h.result <- nil
	v.Ended = u.Began.Add(2 * lateness)
	waitsFor(t, h, nil, func() error { return d.End(t.Context(), u, v) })
}

// TestWaitedFor: with a workflow attached nobody is told of an upload before the disk has it; and once the disk has
// refused, nobody is told of any.
func TestWaitedFor(t *testing.T) {
	t.Parallel()
	d, h, plain, flow := onHeldDisk(t, time.Hour)
	u, v := anUpload(d, flow), whole()
	v.Ended = u.Began
	waitsFor(t, h, nil, func() error { return d.Begin(t.Context(), u) })
	waitsFor(t, h, nil, func() error { return d.End(t.Context(), u, v) })

	refused := errors.New("disk is broken")
	waitsFor(t, h, refused, func() error { return d.Begin(t.Context(), anUpload(d, flow)) })
	if err := d.Begin(t.Context(), anUpload(d, plain)); !errors.Is(err, refused) {
		t.Errorf("after a flush that failed, an upload begins: %v", err)
	}
	if err := d.Ping(t.Context()); !errors.Is(err, refused) {
		t.Errorf("after a flush that failed the database is well: %v", err)
	}
	if err := d.batch.close(); !errors.Is(err, refused) {
		t.Errorf("close: %v", err)
	}
	d.batch = newBatcher(d) // for Close
	d.undo = append(d.undo, d.batch.close)
}

// waitsFor has the disk end a flush with a result and looks that the call waits for it.
func waitsFor(t *testing.T, h *heldDisk, result error, call func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- call() }()
	<-h.flushing
	select {
	case err := <-done:
		t.Errorf("the call did not wait for the disk: %v", err)
	default:
	}
	h.result <- result
	if err := <-done; !errors.Is(err, result) {
		t.Errorf("%v, want %v", err, result)
	}
}

// TestSynchronous: a transaction that may be late leaves no other one late, and none outside a transaction.
func TestSynchronous(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Dir: t.TempDir()})
	s, ok := d.base.(*sqlite)
	if !ok {
		t.Skip("another database")
	}
	level := func(q Querier) (n int) {
		t.Helper()
		must(t, q.QueryRow(t.Context(), `PRAGMA synchronous`).Scan(&n))
		return n
	}
	const normal, full = 1, 2
	for range 2 {
		for _, c := range []struct {
			begin func() (transaction, error)
			want  int
		}{
			{func() (transaction, error) { return s.beginLate(t.Context()) }, normal},
			{func() (transaction, error) { return s.begin(t.Context()) }, full},
			{func() (transaction, error) { return s.beginLate(t.Context()) }, normal},
		} {
			tx := value[transaction](t)(c.begin())
			if got := level(tx); got != c.want {
				t.Errorf("synchronous is %d, want %d", got, c.want)
			}
			must(t, tx.commit(t.Context()))
		}
		if got := level(querier{s.write}); got != full {
			t.Errorf("outside a transaction synchronous is %d", got)
		}
	}
	if err := (&sqlite{file: t.TempDir() + "/none"}).sync(); err == nil || !strings.Contains(err.Error(), "none-wal") {
		t.Errorf("a log that is missing is flushed: %v", err)
	}
}
