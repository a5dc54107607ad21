package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/workflow"
)

// piecework is an engine whose steps take so many pieces, each of which saves its state once more in between.
type piecework struct {
	d      *DB
	pieces int
	fail   error // of the last piece

	mu      sync.Mutex // guards what follows
	seen    []string
	removed []string
	refuse  int // removals
}

func (p *piecework) run(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.Remains != (workflow.Remains{}) {
		if p.refuse--; p.refuse >= 0 {
			return errors.New("the store does not answer")
		}
		p.removed = append(p.removed, j.Remains.StepType+" "+j.Remains.State)
		return nil
	}
	e, err := p.d.Execution(ctx, j.Execution)
	if err != nil {
		return err
	}
	state := "null"
	if e.Progress != nil {
		state = string(e.Progress.State)
	}
	p.seen = append(p.seen, fmt.Sprintf("%d.%d@%d %s", j.Step, j.Piece, j.Attempt, state))
	save := workflow.Progress{Piece: j.Piece, State: json.RawMessage(fmt.Sprintf(`"begun %d"`, j.Piece)), Attempt: 1, Began: time.Now()}
	if err := advance(ctx, workflow.Transition{From: j, Progress: &save}); err != nil {
		return err
	}
	if j.Piece+1 < p.pieces {
		next, more := j, save
		next.Piece, more.Piece, more.State = j.Piece+1, j.Piece+1, json.RawMessage(fmt.Sprintf(`"done %d"`, j.Piece))
		t := workflow.Transition{From: j, Progress: &more, Next: &next}
		err := advance(ctx, t)
		if again := advance(ctx, t); err == nil && !errors.Is(again, workflow.ErrStale) {
			return fmt.Errorf("a piece ended twice: %v", again)
		}
		return err
	}
	t, err := step(p.d, j)
	if err != nil {
		return err
	}
	if p.fail != nil {
		t.Result.Error = &workflow.Error{Type: workflow.NotFound, Message: p.fail.Error()}
		t.Status, t.Next = workflow.Exception, nil
	}
	return advance(ctx, t)
}

func (p *piecework) told() (seen, removed []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen), slices.Clone(p.removed)
}

func TestPieces(t *testing.T) { both(t, testPieces) }

func testPieces(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 2)
	p := &piecework{d: d, pieces: 2}
	work(t, d, p.run, 2)
	e := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	got := value[workflow.Execution](t)(d.Execution(t.Context(), e))
	seen, _ := p.told()
	want := []string{`0.0@1 null`, `0.1@1 "done 0"`, `1.0@1 null`, `1.1@1 "done 0"`}
	if !slices.Equal(seen, want) || got.Progress != nil || len(got.Results.Steps) != 2 {
		t.Errorf("pieces %q, want %q; %+v", seen, want, got)
	}
	eventually(t, "no job left", long, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
}

// TestRemains: what a step left that fails is removed, however often the store refuses, and whatever becomes of the
// execution meanwhile; and once more, since something may have come to the store later.
func TestRemains(t *testing.T) { both(t, testRemains) }

func testRemains(t *testing.T) {
	d := open(t, Config{})
	d.secondLook = 0
	id := attached(t, d, 1)
	p := &piecework{d: d, pieces: 2, fail: errors.New("gone"), refuse: 1}
	work(t, d, p.run, 1)
	e := send(t, d, id, whole())
	eventually(t, "failed", long, hasStatus(t, d, e, workflow.Exception))
	if _, n, err := d.Prune(t.Context(), time.Now().Add(time.Hour)); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	eventually(t, "removed", long, func() bool { _, removed := p.told(); return len(removed) > 1 })
	eventually(t, "no job left", long, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
	if _, removed := p.told(); !slices.Equal(removed, []string{`COPY "begun 1"`, `COPY "begun 1"`}) {
		t.Errorf("removed %q", removed)
	}
}

// TestRemainsOfADeletedServer: an execution that is cancelled between two pieces leaves nothing either.
func TestRemainsOfADeletedServer(t *testing.T) { both(t, testRemainsOfADeletedServer) }

func testRemainsOfADeletedServer(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 1)
	p := &piecework{d: d, pieces: 1000}
	reached, proceed := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(reached); <-proceed })
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		err := p.run(ctx, j, advance)
		if j.Piece == 3 {
			once()
		}
		return err
	}, 1)
	e := send(t, d, id, whole())
	<-reached
	must(t, d.DeleteServer(t.Context(), id))
	close(proceed)
	got := value[workflow.Execution](t)(d.Execution(t.Context(), e))
	if got.Status != workflow.Exception || got.Progress != nil || got.Results.Steps[0].Error.Type != workflow.NotFound {
		t.Errorf("%+v", got)
	}
	eventually(t, "removed", long, func() bool { _, removed := p.told(); return len(removed) > 0 })
	if _, removed := p.told(); !slices.Equal(removed, []string{`COPY "done 3"`}) {
		t.Errorf("removed %q", removed)
	}
}

func TestRemovalPauseGrowsAndStops(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 5: 16 * time.Second, 10: 512 * time.Second, 11: 10 * time.Minute, 200: 10 * time.Minute} {
		if got := removalPause(failures); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}
