package session_test

import (
	"errors"
	"io/fs"
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
