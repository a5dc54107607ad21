package session_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/session"
)

// The mark stands in the journal before Commit returns, the verdict comes with Settle, once.
func TestCommitThenSettle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	f := create(t, s, "a")
	write(t, f, "abc")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	w.expect("create begin note write commit committed", "open")
	if _, err := f.WriteAt([]byte("d"), 3); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a write after Commit: %v", err)
	}
	if err := f.Commit(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a second Commit: %v", err)
	}
	if err := s.Remove("a"); err != nil {
		t.Error(err)
	}
	if _, err := s.Stat("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was removed before its verdict: %v", err)
	}
	if err := f.Settle(session.Complete, session.NoCloseNotify); err != nil {
		t.Error(err)
	}
	if err := f.Settle(session.Partial, session.Reset); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a second Settle: %v", err)
	}
	s.End(session.Disconnect)
	w.expect("create begin note write commit committed remove end", "complete/no-close-notify 3/3")
}

// Without Commit only partial is possible, and no mark is written.
func TestSettleAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	defer s.End(session.Disconnect)
	f := create(t, s, "a")
	write(t, f, "abc")
	if err := f.Settle(session.Complete, session.Closed); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("complete without Commit: %v", err)
	}
	if err := f.Settle(session.Partial, session.Abort); err != nil {
		t.Error(err)
	}
	w.expect("create begin note write commit end", "partial/abort 3/3")
}

// End settles what its protocol left behind.
func TestEndSettles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	f := create(t, s, "a")
	write(t, f, "abc")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	s.End(session.ServerStop)
	w.expect("create begin note write commit committed end", "partial/server-stop 3/3")
}

// What cannot be marked is an error to the client, and no verdict: recovery ends it.
func TestCommitWithoutJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	f := create(t, s, "a")
	write(t, f, "abc")
	w.fail("committed", 1000)
	if err := f.Commit(); err == nil || strings.Contains(err.Error(), "nil") {
		t.Errorf("Commit: %v", err)
	}
	if err := f.Settle(session.Complete, session.Closed); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Settle: %v", err)
	}
	s.End(session.Disconnect)
	if got := w.verdicts(); len(got) != 1 || got[0] != "open" {
		t.Errorf("verdicts %q", got)
	}
}

// In the mode integrity a closed file that is shorter than its client declared is partial.
// TestExclusiveTwice: of two sessions that make one file exclusively, one gets it and the other hears of it.
func TestExclusiveTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	var files []*session.File
	for range 2 {
		s := w.session(m)
		defer s.End(session.Disconnect)
		f, err := s.Create("a", session.CreateOptions{Exclusive: true})
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, "abc")
		files = append(files, f)
	}
	if err := files[0].Close(); err != nil {
		t.Error(err)
	}
	if err := files[1].Close(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second: %v", err)
	}
	if got := fmt.Sprint(w.verdicts()); got != "[complete/closed 3/3 refused/storage 0/3]" {
		t.Error(got)
	}
}

// TestExclusiveAfterACrash: recovery tells the store that nothing may be replaced, and the upload is refused.
func TestExclusiveAfterACrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crashed("u1", "home/a", "abc")
	w.rows["u1"].upload.Exclusive = true
	w.objects["home/a"] = []byte("another file")
	run(t, w.recover(t.Context()))
	if got := fmt.Sprint(w.verdicts()); got != "[refused/crash 0/1]" {
		t.Error(got)
	}
	if got, _ := w.object("home/a"); got != "another file" {
		t.Errorf("the file is %q", got)
	}
}

// TestIntegrityOfHoles: which bytes came, against a bitmap; the store takes them all.
func TestIntegrityOfHoles(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		w := newWorld(t)
		w.modify, w.sparse = "anywhere", true
		w.objects["home/a"] = []byte("stands")
		s := w.session(w.manager(func(c *session.Config) { c.Integrity = true }))
		path, have := "b", [64]bool{}
		if rnd.IntN(3) == 0 {
			path = "a"
			copy(have[:], []bool{true, true, true, true, true, true})
		}
		f, err := s.Create(path, session.CreateOptions{Modify: true})
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for range 1 + rnd.IntN(12) {
			off, n := rnd.IntN(24), 1+rnd.IntN(16)
			if _, err := f.WriteAt(make([]byte, n), int64(off)); err != nil {
				t.Fatal(err)
			}
			for i := off; i < off+n; i++ {
				have[i] = true
			}
			size = max(size, off+n)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		s.End(session.Disconnect)
		want := "complete/closed"
		if slices.Contains(have[:size], false) {
			want = "partial/short"
		}
		if got := fmt.Sprint(w.verdicts()); !strings.HasPrefix(got, "["+want) {
			t.Fatalf("%v of %d bytes: %s, want %s", have, size, got, want)
		}
	}
}

// TestIntegrityOfManyPieces: a file in more pieces than are remembered is whole when all have come.
func TestIntegrityOfManyPieces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.modify, w.sparse = "anywhere", true
	s := w.session(w.manager(func(c *session.Config) { c.Integrity = true }))
	defer s.End(session.Disconnect)
	f := create(t, s, "a")
	for _, first := range []int{1, 0} {
		for off := first; off < 6000; off += 2 {
			if _, err := f.WriteAt([]byte("x"), int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.verdicts()); got != "[complete/closed 6000/6000]" {
		t.Error(got)
	}
}

func TestIntegrity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		integrity bool
		declared  int64
		verdict   string
	}{
		{true, 4, "partial/short 3/3"}, {true, 3, "complete/closed 3/3"}, {true, 0, "complete/closed 3/3"}, {false, 4, "complete/closed 3/3"},
	} {
		for _, end := range []func(*session.File) error{
			(*session.File).Close,
			func(f *session.File) error {
				return errors.Join(f.Commit(), f.Settle(session.Complete, session.Closed))
			},
		} {
			w := newWorld(t)
			s := w.session(w.manager(func(cfg *session.Config) { cfg.Integrity = c.integrity }))
			f, err := s.Create("a", session.CreateOptions{Declared: c.declared})
			if err != nil {
				t.Fatal(err)
			}
			write(t, f, "abc")
			if err := end(f); err != nil {
				t.Error(err)
			}
			s.End(session.Disconnect)
			if got := w.verdicts(); len(got) != 1 || got[0] != c.verdict {
				t.Errorf("integrity %v, declared %d: %q, want %s", c.integrity, c.declared, got, c.verdict)
			}
		}
	}
}
