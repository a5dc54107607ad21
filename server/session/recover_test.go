package session_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// run runs recovery until every upload is settled.
func run(t *testing.T, r *session.Recovery) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Settled()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The process dies right after each point of the order; the next one finds the truth.
func TestCrashAtEachPoint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		point, how string
		verdict    []string // after recovery
		object     string
		kept       bool
	}{
		{"create", "close", nil, "", false},
		{"begin", "close", []string{"partial/crash 0/3"}, "", true},
		{"note", "close", []string{"partial/crash 0/3"}, "", true},
		{"write", "close", []string{"partial/crash 3/3"}, "abc", true},
		{"commit", "close", []string{"partial/crash 6/6"}, "abcdef", true},
		{"end", "close", []string{"complete/closed 6/6"}, "abcdef", true},
		{"commit", "end", []string{"partial/crash 6/6"}, "abcdef", true},
		{"end", "end", []string{"partial/disconnect 6/6"}, "abcdef", true},
		{"commit", "settle", []string{"partial/crash 6/6"}, "abcdef", true},
		{"committed", "settle", []string{"complete/crash 6/6"}, "abcdef", true},
		{"end", "settle", []string{"partial/reset 6/6"}, "abcdef", true},
		{"resume", "close", []string{"partial/crash 6/6"}, "abcdef", true},
	} {
		t.Run(c.point+" "+c.how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.dieAfter = c.point
			if c.point == "resume" {
				w.dieAfter = "commit"
			}
			s := w.session(w.manager())
			live(s, c.how)
			s.End(session.Disconnect) // what a dead process does has no effect
			if c.point == "resume" {
				w.revive("resume")
				dying, cancel := context.WithCancel(t.Context())
				r := w.recover(dying)
				done := make(chan error, 1)
				go func() { done <- r.Run(dying) }()
				for !w.isDead() {
					<-tick()
				}
				cancel()
				<-done
			}
			w.revive("")
			run(t, w.recover(t.Context()))
			if got := fmt.Sprint(w.verdicts()); got != fmt.Sprint(c.verdict) {
				t.Errorf("verdicts %s, want %q", got, c.verdict)
			}
			if got, kept := w.object("home/a"); got != c.object || kept != c.kept {
				t.Errorf("object %q, %v", got, kept)
			}
			if w.ends != len(c.verdict) {
				t.Errorf("%d verdicts written", w.ends)
			}
		})
	}
}

// live does what a client does, errors or not: two writes and a Close.
func live(s *session.Session, how string) {
	f, err := s.Create("a", session.CreateOptions{})
	if err != nil {
		return
	}
	_, _ = f.WriteAt([]byte("abc"), 0)
	_, _ = f.WriteAt([]byte("def"), 3)
	switch how {
	case "close":
		_ = f.Close()
	case "settle":
		_ = f.Commit()
		_ = f.Settle(session.Partial, session.Reset)
	}
}

func TestRecoveryOutlastsAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crashed("u1", "home/a", "abc")
	w.crashed("u2", "home/b", "de")
	w.fail("resume", 5)
	w.fail("end", 3)
	r := w.recover(t.Context())
	if r.Pending() != 2 || !r.Unsettled(storage.Location{Domain: "S3", Store: "bucket", Name: "home/a"}) {
		t.Error("nothing is pending")
	}
	m := w.manager(func(c *session.Config) { c.Unsettled = r.Unsettled })
	s := w.session(m)
	defer s.End(session.Disconnect)
	if _, err := s.Create("a", session.CreateOptions{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("an upload over one that awaits recovery: %v", err)
	}
	if err := s.Rename("x", "a"); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("a rename over one that awaits recovery: %v", err)
	}
	run(t, r)
	if got := fmt.Sprint(w.verdicts()); got != "[partial/crash 2/2 partial/crash 3/3]" {
		t.Error(got)
	}
	if f, err := s.Create("a", session.CreateOptions{}); err != nil {
		t.Error(err)
	} else if err := f.Close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(w.log(), "recovery of an upload goes on later"); n != 8 {
		t.Errorf("%d failures in the log, want 8", n)
	}
}

func TestRecoveryWithoutTheBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.crashed("u1", "home/a", "abc")
	w.noBucket = true
	run(t, w.recover(t.Context()))
	if got := fmt.Sprint(w.verdicts()); got != "[refused/crash 0/1]" {
		t.Error(got)
	}
	if !strings.Contains(w.log(), `"activity-type":"ERROR"`) {
		t.Error("not a word in the log")
	}
}

func TestRecoveryStopsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 20 {
		w.crashed(fmt.Sprint("u", i), fmt.Sprint("home/", i), "abc")
	}
	w.fail("resume", 1_000_000)
	r := w.recover(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for !strings.Contains(w.history(), "resume!") {
		<-tick()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	select {
	case <-r.Settled():
		t.Error("settled")
	default:
	}
	if r.Pending() != 20 {
		t.Errorf("%d pending", r.Pending())
	}
}

func TestRecoveryNeedsTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fail("unfinished", 1)
	if _, err := session.Recover(t.Context(), session.RecoverConfig{Unfinished: w.unfinished}); !errors.Is(err, errFault) {
		t.Errorf("%v", err)
	}
}
