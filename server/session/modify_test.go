package session_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// stands puts a file into the bucket.
func (w *world) stands(name, data string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.objects[name] = []byte(data)
}

func writeAt(t *testing.T, f *session.File, off int64, text string) {
	t.Helper()
	if n, err := f.WriteAt([]byte(text), off); err != nil || n != len(text) {
		t.Fatalf("WriteAt: %d, %v", n, err)
	}
}

func TestAppend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.modify = "onwards"
	w.stands("home/a", "old ")
	s := w.session(w.manager())
	defer s.End(session.Disconnect)
	f, err := s.Create("a", session.CreateOptions{Append: true})
	if err != nil {
		t.Fatal(err)
	}
	if f.Size() != 4 {
		t.Errorf("size %d before the first byte", f.Size())
	}
	if fi, err := s.Stat("a"); err != nil || fi.Size() != 4 {
		t.Errorf("Stat: %v, %v", fi, err)
	}
	writeAt(t, f, 0, "new ") // offsets do not count
	writeAt(t, f, 77, "newer")
	if f.Size() != 13 {
		t.Errorf("size %d", f.Size())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.expect("modify begin note write write commit end", "complete/closed 13/9")
	if got, _ := w.object("home/a"); got != "old new newer" {
		t.Errorf("object %q", got)
	}
	for _, row := range w.rows {
		if u := row.upload; !u.Modify || u.Base != 4 || u.Received != 4 {
			t.Errorf("row %+v", u)
		}
	}
	if !strings.Contains(w.log(), `"mode":"CREATE|APPEND|WRITE"`) {
		t.Error("no mode in the log")
	}
}

// An upload that was cut goes on: first it was partial, cut again it is partial again, in the end it is complete once.
func TestGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.modify = "onwards"
	whole := "one two three"
	for _, part := range []struct {
		off   int64
		text  string
		close bool
	}{{0, "one ", false}, {4, "two ", false}, {8, "three", true}} {
		s := w.session(w.manager())
		f, err := s.Create("a", session.CreateOptions{Modify: true, Ambiguous: part.off == 4})
		if err != nil {
			t.Fatal(err)
		}
		writeAt(t, f, part.off, part.text)
		if part.close {
			err = f.Close()
		}
		s.End(session.Disconnect)
		if err != nil {
			t.Error(err)
		}
		if got, _ := w.object("home/a"); got != whole[:int(part.off)+len(part.text)] {
			t.Errorf("object %q", got)
		}
	}
	if got := fmt.Sprint(w.verdicts()); got != "[complete/closed 13/5 partial/disconnect 4/4 partial/disconnect 8/4]" {
		t.Error(got)
	}
}

// Opened to be changed and closed without a byte: no upload, and the file stays.
func TestUntouched(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*session.Session, *session.File) error{
		"close": func(_ *session.Session, f *session.File) error { return f.Close() },
		"cut":   func(s *session.Session, _ *session.File) error { s.End(session.Disconnect); return nil },
		"settle": func(_ *session.Session, f *session.File) error {
			return errors.Join(f.Commit(), f.Settle(session.Complete, session.Closed))
		},
	} {
		for _, ambiguous := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", ambiguous), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.modify = "onwards"
				w.stands("home/a", "old")
				s := w.session(w.manager())
				defer s.End(session.Disconnect)
				f, err := s.Create("a", session.CreateOptions{Modify: true, Ambiguous: ambiguous})
				if err != nil {
					t.Fatal(err)
				}
				if err := end(s, f); err != nil {
					t.Fatal(err)
				}
				if history := w.history(); strings.Contains(history, "begin") || strings.Contains(history, "commit") {
					t.Error(history)
				}
				if got, _ := w.object("home/a"); got != "old" || len(w.verdicts()) != 0 {
					t.Errorf("object %q, verdicts %q", got, w.verdicts())
				}
				s.End(session.Disconnect)
				if w.ends != 0 {
					t.Errorf("%d verdicts", w.ends)
				}
			})
		}
	}
}

// A client that does not say whether it changes a file or writes it anew.
func TestAmbiguous(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		modify  string
		off     int64
		object  string
		history string
		err     error
	}{
		{"", 0, "new", "create begin note write commit end", nil},
		{"", 3, "old and long", "", errors.ErrUnsupported},
		{"onwards", 0, "new", "create begin note write commit end", nil},
		{"onwards", 3, "oldnewd long", "modify begin note write commit end", nil},
		{"anywhere", 0, "new and long", "modify begin note write commit end", nil},
		{"anywhere", 3, "oldnewd long", "modify begin note write commit end", nil},
	} {
		t.Run(fmt.Sprint(c.modify, " ", c.off), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.modify = c.modify
			w.stands("home/a", "old and long")
			s := w.session(w.manager())
			defer s.End(session.Disconnect)
			f, err := s.Create("a", session.CreateOptions{Modify: true, Ambiguous: true})
			if err != nil {
				t.Fatal(err)
			}
			if f.Size() != 12 {
				t.Errorf("size %d", f.Size())
			}
			_, err = f.WriteAt([]byte("new"), c.off)
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("WriteAt: %v", err)
			}
			if err := f.Close(); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
				t.Errorf("Close: %v", err)
			}
			if got, _ := w.object("home/a"); got != c.object || w.history() != c.history {
				t.Errorf("object %q, history %s", got, w.history())
			}
		})
	}
}

func TestCannotModify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.stands("home/a", "old")
	w.stands("home/b", "old")
	w.stands("home/empty", "")
	s := w.session(w.manager())
	defer s.End(session.Disconnect)
	for _, opt := range []session.CreateOptions{{Append: true}, {Modify: true}} {
		if _, err := s.Create("a", opt); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%+v: %v", opt, err)
		}
		opt.Truncate = true
		if f, err := s.Create("b", opt); err != nil || f.Size() != 0 {
			t.Errorf("%+v: %v", opt, err)
		}
	}
	for _, name := range []string{"empty", "missing"} {
		f, err := s.Create(name, session.CreateOptions{Append: true})
		if err != nil {
			t.Fatal(err)
		}
		writeAt(t, f, 0, "new")
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(w.log(), `"message":"Operation not supported"`) {
		t.Error("not a word in the log")
	}
}

// The process dies at each point of a change; what stood is never lost.
func TestCrashOfAChange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ point, verdict, object string }{
		{"modify", "[]", "old"},
		{"begin", "[partial/crash 3/3]", "old"},
		{"write", "[partial/crash 6/3]", "oldabc"},
		{"commit", "[partial/crash 9/6]", "oldabcdef"},
		{"end", "[complete/closed 9/6]", "oldabcdef"},
	} {
		t.Run(c.point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.modify = "onwards"
			w.stands("home/a", "old")
			w.dieAfter = c.point
			if c.point == "modify" {
				w.dieAfter = "create"
			}
			s := w.session(w.manager())
			if f, err := s.Create("a", session.CreateOptions{Modify: true}); err == nil {
				_, _ = f.WriteAt([]byte("abc"), 3)
				_, _ = f.WriteAt([]byte("def"), 6)
				_ = f.Close()
			}
			s.End(session.Disconnect)
			w.revive("")
			run(t, w.recover(t.Context()))
			if got := fmt.Sprint(w.verdicts()); got != c.verdict {
				t.Errorf("verdicts %s, want %s", got, c.verdict)
			}
			if got, _ := w.object("home/a"); got != c.object {
				t.Errorf("object %q", got)
			}
		})
	}
}

// What was to be changed is gone when recovery comes.
func TestCrashOfAChangeWithoutTheFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.rows["u"] = &row{upload: session.Upload{ID: "u", Node: "node-1", Modify: true, Base: 3, Received: 2,
		Location: storage.Location{Domain: "S3", Store: "bucket", Name: "home/gone"}}}
	run(t, w.recover(t.Context()))
	if got := fmt.Sprint(w.verdicts()); got != "[refused/crash 0/2]" {
		t.Error(got)
	}
}

// A file that is open is opened once more to be changed: one upload, which ends with the last Close.
func TestOpenTwice(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		do   func(*session.Session, *session.File) error
		want string
	}{
		"closed": {func(_ *session.Session, f *session.File) error { return errors.Join(f.Close(), f.Close()) }, "complete/closed 6/6"},
		"cut":    {func(s *session.Session, f *session.File) error { defer s.End(session.Timeout); return f.Close() }, "partial/timeout 6/6"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.session(w.manager())
			defer s.End(session.Disconnect)
			f := create(t, s, "a")
			writeAt(t, f, 0, "abc")
			again, err := s.Create("/bucket/home/./a", session.CreateOptions{Modify: true, Ambiguous: true})
			if err != nil {
				t.Fatal(err)
			}
			writeAt(t, again, 3, "def")
			for _, opt := range []session.CreateOptions{{Truncate: true}, {Append: true}} { // uploads of their own
				if other, err := s.Create("a", opt); err != nil || other == f {
					t.Errorf("%+v: %v", opt, err)
				} else if err := other.Settle(session.Partial, session.Abort); err != nil {
					t.Error(err)
				}
			}
			if err := end.do(s, f); err != nil {
				t.Error(err)
			}
			if got := fmt.Sprint(w.verdicts()); got != "["+end.want+"]" {
				t.Error(got)
			}
			if got, _ := w.object("home/a"); got != "abcdef" {
				t.Errorf("object %q", got)
			}
		})
	}
}
