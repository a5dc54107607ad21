package doortest

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/server/session"
)

// ending is one verdict as the journal got it.
type ending struct {
	name    string
	verdict session.Verdict
}

// Journal keeps verdicts in memory and tells when one comes.
type Journal struct {
	mu      sync.Mutex        // guards all below
	begun   map[string]bool   // by id
	sources map[string]string // by name
	ended   []ending
	news    chan struct{} // closed and replaced at each verdict
}

// NewJournal makes an empty journal.
func NewJournal() *Journal {
	return &Journal{begun: map[string]bool{}, sources: map[string]string{}, news: make(chan struct{})}
}

func (j *Journal) Begin(_ context.Context, u session.Upload) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begun[u.ID] = true
	j.sources[u.Location.Name] = u.SourceIP
	return nil
}

func (j *Journal) Note(context.Context, string, string) error { return nil }

func (j *Journal) Committed(context.Context, string, session.Commit) error { return nil }

func (j *Journal) End(_ context.Context, u session.Upload, v session.Verdict) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.begun[u.ID] {
		return io.ErrUnexpectedEOF // never in this order
	}
	j.ended = append(j.ended, ending{v.At(u).Name, v})
	close(j.news)
	j.news = make(chan struct{})
	return nil
}

// Verdicts are those of a name so far.
func (j *Journal) Verdicts(name string) []session.Verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []session.Verdict
	for _, e := range j.ended {
		if e.name == name {
			found = append(found, e.verdict)
		}
	}
	return found
}

// Wait waits for the verdict of a name; there must be one only.
func (j *Journal) Wait(t testing.TB, name string) session.Verdict {
	t.Helper()
	deadline := time.After(patience)
	for {
		j.mu.Lock()
		news := j.news
		j.mu.Unlock()
		if found := j.Verdicts(name); len(found) > 0 {
			if len(found) > 1 {
				t.Fatalf("verdicts of %s: %+v", name, found)
			}
			return found[0]
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("no verdict of %s", name)
		}
	}
}

// Verdict waits for the verdict of a name and checks it.
func (j *Journal) Verdict(t testing.TB, name string, outcome session.Outcome, evidence session.Evidence) session.Verdict {
	t.Helper()
	v := j.Wait(t, name)
	if v.Outcome != outcome || v.Evidence != evidence {
		t.Fatalf("verdict of %s = %+v, want %s %s", name, v, outcome, evidence)
	}
	return v
}

// HasBegun tells whether any upload has.
func (j *Journal) HasBegun() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.begun) > 0
}

// Source is where the last upload of a name came from.
func (j *Journal) Source(name string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sources[name]
}

// HasBegunWith tells whether an upload to a name has.
func (j *Journal) HasBegunWith(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, begun := j.sources[name]
	return begun
}
