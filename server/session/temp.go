package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"sync"
	"time"

	"github.com/transferd/transferd/storage"
)

// DefaultTempNames are the names under which WinSCP writes what is larger than 100 KB before it renames it. No other
// client is known to use them; docs/temp-names.md says why they are on and others are not.
func DefaultTempNames() []string { return []string{"*.filepart"} }

// CheckTempNames says what is wrong with patterns of path.Match.
func CheckTempNames(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("temporary name %q: %w", p, err)
		}
	}
	return nil
}

// temporary says whether a file's name is one that its client will change.
func (c *Config) temporary(at storage.Location) bool {
	base := path.Base(at.Name)
	for _, p := range c.TempNames {
		if ok, err := path.Match(p, base); ok && err == nil { // NewManager's caller has checked them
			return true
		}
	}
	return false
}

// temps are the uploads that are whole and committed under a temporary name, by where they lie now.
type temps struct {
	mu sync.Mutex // guards at
	at map[storage.Location]*temp
}

// put takes in an upload, and returns the one that it has replaced, if any.
func (ts *temps) put(at storage.Location, t *temp) (before *temp) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	before = ts.at[at]
	ts.at[at] = t
	return before
}

func (ts *temps) drop(at storage.Location, t *temp) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.at[at] == t {
		delete(ts.at, at)
	}
}

func (ts *temps) find(at storage.Location) *temp {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.at[at]
}

// removed ends the waiting of an upload whose file was deleted under its temporary name: its own it will never get.
func (ts *temps) removed(at storage.Location) {
	if t := ts.find(at); t != nil {
		t.giveUp(TempName)
	}
}

// temp is an upload whose verdict waits for its rename.
type temp struct {
	f     *File
	ended chan struct{} // closed with the verdict

	mu      sync.Mutex // guards what follows; taken after a File's, never before
	at      storage.Location
	commit  Commit
	settled bool // the protocol has said complete, so that only the rename is missing
	over    bool // the verdict is there, or somebody is writing it
}

// waitForRename takes in a committed upload. What lay under its name before and waited too is overwritten: its own name
// it will never get.
func (f *File) waitForRename(c Commit) {
	f.temp = &temp{f: f, ended: make(chan struct{}), at: f.row.Location, commit: c}
	f.s.m.cfg.Metrics.waiting.Inc()
	if before := f.s.m.temps.put(f.row.Location, f.temp); before != nil {
		before.giveUp(TempName)
	}
}

// waiting finds the upload that waits for its rename at a place, also one that another process took in.
func (s *Session) waiting(at storage.Location, p string) (*temp, error) {
	t := s.m.temps.find(at)
	if t != nil || s.m.cfg.Adopt == nil || !s.m.cfg.temporary(at) {
		return t, nil
	}
	ctx, cancel := s.m.finishing(s.ctx, s.m.cfg.JournalTimeout)
	defer cancel()
	u, found, err := s.m.cfg.Adopt(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("look for an upload that waits for this: %w: %w", storage.ErrUnavailable, err)
	}
	if !found {
		return nil, nil
	}
	f := &File{s: s, path: s.fs.RealPath(p), row: u, begun: true, closed: true}
	f.temp = &temp{f: f, ended: make(chan struct{}), at: at, commit: *u.Committed, settled: true}
	s.m.cfg.Metrics.waiting.Inc()
	s.m.temps.put(at, f.temp)
	s.m.spawn(f.temp.wait)
	return f.temp, nil
}

// settle is the protocol's part of the verdict.
func (t *temp) settle(outcome Outcome, evidence Evidence) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
		return nil // overwritten meanwhile
	case outcome != Complete || !t.commit.Waits:
		return t.end(outcome, evidence)
	}
	t.settled = true
	t.f.s.m.spawn(t.wait)
	return nil
}

// forget ends the waiting without a verdict. mu is held.
func (t *temp) forget() {
	t.over = true
	close(t.ended)
	t.f.s.m.cfg.Metrics.waiting.Dec()
	t.f.s.m.temps.drop(t.at, t)
}

// end writes the verdict. mu is held.
func (t *temp) end(outcome Outcome, evidence Evidence) error {
	t.forget()
	v := Verdict{Outcome: outcome, Evidence: evidence, Object: t.commit.Object, Received: t.commit.Received,
		Ended: t.f.s.m.cfg.Now()}
	if t.at != t.f.row.Location {
		at := t.at
		v.Location = &at
	}
	return t.f.end(v)
}

// giveUp ends the waiting: the file keeps the name that it has.
func (t *temp) giveUp(evidence Evidence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		// end has logged what went wrong, and nobody waits for an answer.
		_ = t.end(Partial, evidence)
	}
}

// wait bounds the waiting: RenameTimeout, and RenameGrace once the session is over, for its client may come back and
// rename then. A process that is on its way out does not wait for that.
func (t *temp) wait() {
	cfg, s := &t.f.s.m.cfg, t.f.s
	limit := time.NewTimer(cfg.RenameTimeout)
	defer limit.Stop()
	began, evidence, gone := time.Now(), TempName, s.ctx.Done()
	var draining <-chan struct{}
	for {
		select {
		case <-t.ended:
			return
		case <-limit.C:
			t.giveUp(evidence)
			return
		case <-draining:
			t.giveUp(evidence)
			return
		case <-gone:
			gone, draining, evidence = nil, s.m.draining, s.why()
			limit.Reset(max(0, min(cfg.RenameGrace, cfg.RenameTimeout-time.Since(began))))
		}
	}
}

// renameTemp renames an upload that waits for it. The journal learns of it before the store does it, so that after a
// crash recovery knows where to look; the client's answer comes after the verdict.
func (s *Session) renameTemp(t *temp, to storage.Location, newPath string, do func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return do()
	}
	marked := t.commit
	marked.Waits, marked.Renaming = s.m.cfg.temporary(to), &to
	if err := t.f.mark(marked); errors.Is(err, ErrElsewhere) {
		t.forget()
		return do()
	} else if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	s.m.temps.drop(t.at, t)
	t.at, t.commit = to, marked
	if before := s.m.temps.put(to, t); before != nil && before != t {
		s.m.spawn(func() { before.giveUp(TempName) }) // not here: two renames may cross
	}
	t.commit.Object = s.renamed(newPath, marked.Object)
	if !t.settled || marked.Waits {
		return nil
	}
	return t.end(Complete, Closed)
}

// renamed is a committed file under its new name, which may have another ETag there (a rename on S3 is a copy). If the
// store does not tell, a workflow runs on whatever the name has.
func (s *Session) renamed(p string, was storage.Object) storage.Object {
	ctx, cancel := s.m.finishing(s.ctx, s.m.cfg.JournalTimeout)
	defer cancel()
	var now storage.Object
	err := persist(ctx, func() error {
		info, err := s.fs.Inspect(ctx, p)
		if err == nil {
			now = objectOf(info)
		}
		return err
	})
	if err != nil {
		s.failed("RENAME", p, err, slog.String("reason", "the file's ETag under its new name is not known"))
		return storage.Object{Size: was.Size, ModTime: was.ModTime}
	}
	return now
}

// recoverTemp finds out how far a rename came before its process died. An upload that still has its temporary name is
// partial: its client will have to begin again.
func (r *Recovery) recoverTemp(ctx context.Context, u Upload, c Commit) (Verdict, error) {
	v := Verdict{Outcome: Partial, Evidence: Crash, Object: c.Object, Received: c.Received, Ended: r.cfg.Now()}
	if c.Renaming == nil {
		return v, nil
	}
	stores, err := r.stores(ctx, u)
	if err != nil {
		return v, err
	}
	b, err := stores.Backend(ctx, u.Location.Domain, u.Location.Store)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return v, fmt.Errorf("find store: %w", err)
	}
	_, err = b.Stat(ctx, u.Location.Name)
	if err == nil {
		return v, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("look for the temporary name: %w", err)
	}
	info, err := storage.Identify(ctx, b, c.Renaming.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v, nil
	case err != nil:
		return v, fmt.Errorf("look for the new name: %w", err)
	}
	v.Object, v.Location = objectOf(info), c.Renaming
	if !c.Waits {
		v.Outcome = Complete
	}
	return v, nil
}
