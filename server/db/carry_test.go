package db

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/workflow"
)

// runs keeps which attempts of which steps an engine was asked for.
type runs struct {
	mu  sync.Mutex
	all [][2]int // step and attempt
}

func (r *runs) add(j workflow.Job) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, [2]int{j.Step, j.Attempt})
}

func (r *runs) want(t *testing.T, want ...[2]int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.all, want) {
		t.Errorf("steps and attempts %v, want %v", r.all, want)
	}
}

// The steps of an execution are one job, and a failure is the failure of the step that it happened in.
func TestWorkerGoesOnWithTheNextStep(t *testing.T) { both(t, testWorkerGoesOnWithTheNextStep) }

func testWorkerGoesOnWithTheNextStep(t *testing.T) {
	d := open(t, Config{})
	d.backoff = func(int) time.Duration { return 0 }
	id := attached(t, d, 4)
	var r runs
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		r.add(j)
		if n := jobs(t, d, "1 = 1"); n != 1 {
			t.Errorf("%d jobs at step %d", n, j.Step)
		}
		if (j.Step == 1 || j.Step == 2) && j.Attempt < 3 {
			return errors.New("far side is down")
		}
		return succeed(d)(ctx, j, advance)
	}, 2)
	e := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	r.want(t, [][2]int{{0, 1}, {1, 1}, {1, 2}, {1, 3}, {2, 1}, {2, 2}, {2, 3}, {3, 1}}...)
	if n := jobs(t, d, "1 = 1"); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
}

// River knows jobs by their numbers, beyond the end of their rows.
func TestNumbersOfJobsAreNotUsedAgain(t *testing.T) { both(t, testNumbersOfJobsAreNotUsedAgain) }

func testNumbersOfJobsAreNotUsedAgain(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 1)
	var seen []int64
	for range 3 {
		send(t, d, id, whole())
		must(t, d.tx(t.Context(), "test", func(ctx context.Context, tx Tx) error {
			var n int64
			if err := tx.QueryRow(ctx, `SELECT id FROM river_job`).Scan(&n); err != nil {
				return err
			}
			seen = append(seen, n)
			_, err := tx.Exec(ctx, `DELETE FROM river_job`)
			return err
		}))
	}
	if slices.Sort(seen); len(slices.Compact(seen)) != 3 {
		t.Errorf("numbers %v", seen)
	}
}

// A statement that was put off fails the call that put it off, wherever it turns out, and nobody else's.
func TestStatementsPutOffFailTheirCall(t *testing.T) { both(t, testStatementsPutOffFailTheirCall) }

func testStatementsPutOffFailTheirCall(t *testing.T) {
	d := open(t, Config{})
	odd := errors.New("odd")
	calls := map[int]func(ctx context.Context, tx Tx, name string) error{
		0: func(context.Context, Tx, string) error { return nil },
		1: func(ctx context.Context, tx Tx, _ string) error { // at the call's end
			return tx.Later(ctx, changed(odd), `DELETE FROM meta WHERE name = 'none'`)
		},
		2: func(ctx context.Context, tx Tx, name string) error { // before a query, which finds what was put off
			var n int
			return tx.QueryRow(ctx, `SELECT 1 FROM meta WHERE name = $1`, name).Scan(&n)
		},
		3: func(ctx context.Context, tx Tx, name string) error { // before River's own statements
			return errors.Join(tx.Later(ctx, changed(odd), `DELETE FROM meta WHERE name = 'none'`), unschedule(ctx, tx, 1<<40))
		},
		4: func(ctx context.Context, tx Tx, name string) error { // by the database
			return tx.Later(ctx, unchecked, `INSERT INTO meta (name, value) VALUES ($1, '')`, name)
		},
	}
	each(100, 20, func(i int) {
		name := strconv.Itoa(i)
		err := d.batch.run(t.Context(), func(ctx context.Context, tx Tx) error {
			err := tx.Later(ctx, changed(odd), `INSERT INTO meta (name, value) VALUES ($1, '')`, name)
			return errors.Join(err, calls[i%5](ctx, tx, name))
		})
		kind := i % 5
		checked := kind == 1 || kind == 3
		if (err != nil) != (checked || kind == 4) || checked && !errors.Is(err, odd) {
			t.Errorf("call %d: %v", i, err)
		}
	})
	var n int
	must(t, d.reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM meta WHERE name <> 'node'`).Scan(&n))
	if n != 40 {
		t.Errorf("%d calls left something, want 40", n)
	}
}

// A process that dies in a later step of a job has done the earlier ones: only that step comes again, marked.
func TestCutCarriedStepComesAgainMarked(t *testing.T) { both(t, testCutCarriedStepComesAgainMarked) }

func testCutCarriedStepComesAgainMarked(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Config{Dir: dir, Drain: time.Millisecond})
	id := attached(t, d, 3)
	var r runs
	cut := make(chan struct{}, 1)
	stop := work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		r.add(j)
		if j.Step == 1 {
			cut <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		return succeed(d)(ctx, j, advance)
	}, 1)
	e := send(t, d, id, whole())
	<-cut
	stop()
	must(t, d.Close())

	d = open(t, Config{Dir: dir})
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		r.add(j)
		return succeed(d)(ctx, j, advance)
	}, 1)
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	r.want(t, [2]int{0, 1}, [2]int{1, 1}, [2]int{1, 2}, [2]int{2, 1})
}

// A step that is done while the queue stops is the last one of its process, and the next one is no repeat.
func TestStoppingCarriesNothingOn(t *testing.T) { both(t, testStoppingCarriesNothingOn) }

func testStoppingCarriesNothingOn(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Config{Dir: dir})
	id := attached(t, d, 2)
	var r runs
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan error, 1)
	e := send(t, d, id, whole())
	go func() {
		stopped <- d.Work(ctx, func(jctx context.Context, j workflow.Job, advance workflow.Advance) error {
			r.add(j)
			cancel()
			return succeed(d)(jctx, j, advance)
		}, 1)
	}()
	must(t, <-stopped)
	must(t, d.Close())
	d = open(t, Config{Dir: dir})
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		r.add(j)
		return succeed(d)(ctx, j, advance)
	}, 1)
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	r.want(t, [2]int{0, 1}, [2]int{1, 1})
}

// A job that lost its execution to a callback does not find another step of it to do when it comes again.
func TestCarriedJobIsStaleAfterACallback(t *testing.T) { both(t, testCarriedJobIsStaleAfterACallback) }

func testCarriedJobIsStaleAfterACallback(t *testing.T) {
	d := open(t, Config{})
	d.backoff = func(int) time.Duration { return 0 }
	id := attached(t, d, 4)
	var r runs
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		r.add(j)
		tr, err := step(d, j)
		if err != nil || j.Step != 1 {
			return errors.Join(err, advance(ctx, tr))
		}
		wait := workflow.Wait{Token: "t", Until: time.Now().Add(time.Hour), Attempt: j.Attempt}
		if err := advance(ctx, workflow.Transition{From: j, Wait: &wait}); err != nil {
			return err
		}
		tr.Result.StepType = workflow.TypeCustom
		return errors.Join(d.Resume(ctx, tr, "t"), errors.New("the answer to the call was lost"))
	}, 1)
	e := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	eventually(t, "no jobs", long, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
	r.want(t, [2]int{0, 1}, [2]int{1, 1}, [2]int{2, 1}, [2]int{3, 1})
}
