package session_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// endings are the verdicts with the names that they are about.
func (w *world) endings() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, r := range w.rows {
		if v := r.verdict; v != nil {
			list = append(list, fmt.Sprintf("%s/%s %s %d %q", v.Outcome, v.Evidence, v.At(r.upload).Name, v.Received, v.Object.ETag))
		}
	}
	slices.Sort(list)
	return list
}

// await waits until there are verdicts, and compares them.
func (w *world) await(want ...string) {
	w.t.Helper()
	for deadline := time.After(30 * time.Second); len(w.endings()) < len(want); {
		select {
		case <-tick():
		case <-deadline:
			w.t.Fatalf("verdicts %q, want %q", w.endings(), want)
		}
	}
	if got := w.endings(); !slices.Equal(got, want) {
		w.t.Errorf("verdicts %q, want %q", got, want)
	}
}

func waiting(limits ...time.Duration) func(*session.Config) {
	return func(c *session.Config) {
		c.RenameTimeout, c.RenameGrace = time.Hour, time.Hour
		if len(limits) == 2 {
			c.RenameTimeout, c.RenameGrace = limits[0], limits[1]
		}
	}
}

// sent is an upload under WinSCP's temporary name, closed.
func sent(t *testing.T, s *session.Session, name string) {
	t.Helper()
	f := create(t, s, name)
	write(t, f, "abc")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

const renamed = `complete/closed home/a 3 "etag of a"`

func TestRenameEndsAnUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	s := w.session(w.manager(waiting(), func(c *session.Config) { c.Metrics = session.NewMetrics(reg) }))
	defer s.End(session.Disconnect)
	sent(t, s, "a.filepart")
	if n := gather(t, reg)["transferd_uploads_waiting"]; n != 1 {
		t.Errorf("the metric shows %v uploads that wait, want 1", n)
	}
	defer func() {
		if n := gather(t, reg)["transferd_uploads_waiting"]; n != 0 {
			t.Errorf("the metric shows %v uploads that wait, want none", n)
		}
	}()
	if got := w.endings(); len(got) != 0 {
		t.Errorf("verdict before the rename: %q", got)
	}
	w.fail("rename", 1)
	if err := s.Rename("a.filepart", "a"); !errors.Is(err, errFault) {
		t.Errorf("rename: %v", err)
	}
	if err := s.Rename("a.filepart", "a"); err != nil {
		t.Fatal(err)
	}
	w.expect("create begin note write commit committed committed rename! committed rename end", "complete/closed 3/3")
	w.await(renamed)
	if err := s.Rename("a", "b"); err != nil { // no upload any more
		t.Error(err)
	}
	w.await(renamed)
}

// A file that is deleted under its temporary name will not get another one.
func TestRemovedUnderATemporaryName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager(waiting()))
	defer s.End(session.Disconnect)
	sent(t, s, "a.filepart")
	w.fail("remove", 1)
	if err := s.Remove("a.filepart"); !errors.Is(err, errFault) {
		t.Errorf("remove: %v", err)
	}
	if got := w.endings(); len(got) != 0 {
		t.Errorf("a deletion that failed ended the waiting: %q", got)
	}
	if err := s.Remove("a.filepart"); err != nil {
		t.Fatal(err)
	}
	w.await(`partial/temp-name home/a.filepart 3 "e"`)
}

func TestOtherNamesWaitForNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager(waiting(), func(c *session.Config) { c.TempNames = []string{} }))
	defer s.End(session.Disconnect)
	sent(t, s, "a.filepart")
	w.await(`complete/closed home/a.filepart 3 "e"`)
	w2 := newWorld(t)
	s2 := w2.session(w2.manager(waiting()))
	defer s2.End(session.Disconnect)
	sent(t, s2, "a.filepart2")
	w2.await(`complete/closed home/a.filepart2 3 "e"`)
}

// FTP's verdict comes after its final reply, and the rename may be faster.
func TestRenameBeforeSettle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rename  bool
		outcome session.Outcome
		want    string
	}{
		"renamed, complete": {true, session.Complete, `complete/no-close-notify home/a 3 "etag of a"`},
		"renamed, partial":  {true, session.Partial, `partial/no-close-notify home/a 3 "etag of a"`},
		"partial":           {false, session.Partial, `partial/no-close-notify home/a.filepart 3 "e"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.session(w.manager(waiting()))
			defer s.End(session.Disconnect)
			f := create(t, s, "a.filepart")
			write(t, f, "abc")
			if err := f.Commit(); err != nil {
				t.Fatal(err)
			}
			if c.rename {
				if err := s.Rename("a.filepart", "a"); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Settle(c.outcome, session.NoCloseNotify); err != nil {
				t.Fatal(err)
			}
			w.await(c.want)
		})
	}
}

func TestNoRename(t *testing.T) {
	t.Parallel()
	t.Run("in time", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		s := w.session(w.manager(waiting(time.Millisecond, time.Hour)))
		defer s.End(session.Disconnect)
		sent(t, s, "a.filepart")
		w.await(`partial/temp-name home/a.filepart 3 "e"`)
		if err := s.Rename("a.filepart", "a"); err != nil {
			t.Error(err)
		}
		w.await(`partial/temp-name home/a.filepart 3 "e"`)
	})
	t.Run("disconnected", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		s := w.session(w.manager(waiting(time.Hour, time.Millisecond)))
		sent(t, s, "a.filepart")
		s.End(session.Disconnect)
		w.await(`partial/disconnect home/a.filepart 3 "e"`)
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		s := w.session(w.manager(waiting()))
		write(t, create(t, s, "a.filepart"), "abc")
		s.End(session.Disconnect)
		w.await(`partial/disconnect home/a.filepart 3 "e"`)
	})
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		m := w.manager(waiting())
		s := w.session(m)
		sent(t, s, "a.filepart")
		s.End(session.ServerStop)
		if err := m.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		w.await(`partial/server-stop home/a.filepart 3 "e"`)
	})
}

// A client that lost its connection between CLOSE and RENAME comes back.
func TestRenameAfterReconnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(waiting())
	s := w.session(m)
	sent(t, s, "a.filepart")
	s.End(session.Disconnect)
	again := w.session(m)
	defer again.End(session.Disconnect)
	if err := again.Replace("a.filepart", "a"); err != nil {
		t.Fatal(err)
	}
	w.await(renamed)
}

func TestTempNameAfterTempName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager(waiting(), func(c *session.Config) { c.TempNames = []string{"*.part", "*.filepart"} }))
	defer s.End(session.Disconnect)
	sent(t, s, "a.part")
	if err := s.Rename("a.part", "a.filepart"); err != nil {
		t.Fatal(err)
	}
	if got := w.endings(); len(got) != 0 {
		t.Errorf("verdict before the last rename: %q", got)
	}
	if err := s.Rename("a.filepart", "a"); err != nil {
		t.Fatal(err)
	}
	w.await(renamed)
}

// The name is written again before it was renamed: only what is renamed is complete.
// shared is the journal of several processes, as one of them sees it.
type shared struct {
	*world
	node   string
	owners *owners
}

type owners struct {
	mu   sync.Mutex
	node map[string]string // by upload
}

func (j shared) mine(id string) error {
	j.owners.mu.Lock()
	defer j.owners.mu.Unlock()
	if j.owners.node[id] != j.node {
		return session.ErrElsewhere
	}
	return nil
}

func (j shared) Begin(ctx context.Context, u session.Upload) error {
	j.owners.mu.Lock()
	j.owners.node[u.ID] = j.node
	j.owners.mu.Unlock()
	return j.world.Begin(ctx, u)
}

func (j shared) Committed(ctx context.Context, id string, c session.Commit) error {
	if err := j.mine(id); err != nil {
		return err
	}
	return j.world.Committed(ctx, id, c)
}

func (j shared) End(ctx context.Context, u session.Upload, v session.Verdict) error {
	if err := j.mine(u.ID); err != nil {
		return err
	}
	return j.world.End(ctx, u, v)
}

func (j shared) adopt(_ context.Context, at storage.Location) (session.Upload, bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.owners.mu.Lock()
	defer j.owners.mu.Unlock()
	for id, r := range j.rows {
		if c := r.upload.Committed; c != nil && c.Waits && r.verdict == nil && r.upload.Location == at {
			j.owners.node[id] = j.node
			return r.upload, true, nil
		}
	}
	return session.Upload{}, false, nil
}

// TestRenameElsewhere: a client sends a file through one process and renames it through another, which has the verdict then;
// the first one, whose wait goes on, neither writes a verdict nor complains.
func TestRenameElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := &owners{node: map[string]string{}}
	reg := prometheus.NewRegistry()
	first := shared{w, "one", o}
	second := shared{w, "two", o}
	s := w.session(w.manager(waiting(time.Hour, time.Millisecond), func(c *session.Config) {
		c.Journal, c.Adopt, c.Metrics = first, first.adopt, session.NewMetrics(reg)
	}))
	there := w.session(w.manager(waiting(), func(c *session.Config) { c.Journal, c.Adopt = second, second.adopt }))
	defer there.End(session.Disconnect)
	sent(t, s, "a.filepart")
	sent(t, s, "b.filepart")
	sent(t, s, "c.filepart")
	w.fail("rename", 1)
	if err := there.Rename("a.filepart", "a"); !errors.Is(err, errFault) {
		t.Errorf("rename: %v", err)
	}
	if err := errors.Join(there.Rename("a.filepart", "a"), there.Rename("b.filepart", "d.filepart")); err != nil {
		t.Fatal(err)
	}
	if err := s.Rename("b.filepart", "e"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was renamed elsewhere was renamed again: %v", err)
	}
	if err := errors.Join(s.Rename("c.filepart", "c"), there.Rename("d.filepart", "d")); err != nil {
		t.Fatal(err)
	}
	s.End(session.Disconnect) // and nobody comes back
	for deadline := time.After(30 * time.Second); gather(t, reg)["transferd_uploads_waiting"] > 0; {
		select {
		case <-tick():
		case <-deadline:
			t.Fatal("the first process waits for ever")
		}
	}
	w.await(`complete/closed home/a 3 "etag of a"`, `complete/closed home/c 3 "etag of c"`, `complete/closed home/d 3 "etag of d"`)
	if log := w.log(); strings.Contains(log, "PARTIAL_CLOSE") || strings.Contains(log, "no verdict") {
		t.Errorf("the log says\n%s", log)
	}
}

func TestTempNameWrittenAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager(waiting()))
	defer s.End(session.Disconnect)
	sent(t, s, "a.filepart")
	sent(t, s, "a.filepart")
	if err := s.Rename("a.filepart", "a"); err != nil {
		t.Fatal(err)
	}
	w.await(renamed, `partial/temp-name home/a.filepart 3 "e"`)
}

// The process dies at each point between CLOSE and the verdict.
func TestCrashBeforeRename(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ point, want string }{
		{"commit", `[partial/crash home/a.filepart 3 ""]`},
		{"committed", `[partial/crash home/a.filepart 3 "e"]`},
		{"committed again", `[partial/crash home/a.filepart 3 "e"]`},
		{"rename", `[complete/crash home/a 3 "etag of a"]`},
		{"end", `[complete/closed home/a 3 "etag of a"]`},
	} {
		t.Run(c.point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.session(w.manager(waiting()))
			f := create(t, s, "a.filepart")
			write(t, f, "abc")
			point, again := strings.CutSuffix(c.point, " again")
			if !again {
				w.revive(point)
			}
			_ = f.Close()
			if again {
				w.revive(point)
			}
			_ = s.Rename("a.filepart", "a")
			s.End(session.Disconnect)
			w.revive("")
			r := w.recover(t.Context())
			if c.point == "rename" && !r.Unsettled(storage.Location{Domain: "S3", Store: "bucket", Name: "home/a"}) {
				t.Error("somebody may write to the final name meanwhile")
			}
			run(t, r)
			if got := fmt.Sprint(w.endings()); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestCheckTempNames(t *testing.T) {
	t.Parallel()
	if err := session.CheckTempNames(append(session.DefaultTempNames(), ".*.??????")); err != nil {
		t.Error(err)
	}
	if err := session.CheckTempNames([]string{"["}); err == nil {
		t.Error("a pattern that cannot be read")
	}
}

// Renames and ends at once, under the race detector.
func TestManyTempNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(waiting(time.Hour, time.Millisecond))
	const n = 50
	for i := range n {
		s := w.session(m)
		sent(t, s, fmt.Sprint(i, ".filepart"))
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Rename(fmt.Sprint(i, ".filepart"), fmt.Sprint(i)) }()
		s.End(session.Disconnect)
		<-done
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := m.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if got := w.endings(); len(got) != n || w.ends != n {
		t.Errorf("%d verdicts of %d, written %d times", len(got), n, w.ends)
	}
}
