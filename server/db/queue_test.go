package db

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river/rivertype"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

func TestExecutionRunsToItsEnd(t *testing.T) { both(t, testExecutionRunsToItsEnd) }

func testExecutionRunsToItsEnd(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 3)
	work(t, d, succeed(d), 4)
	e := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	got := value[workflow.Execution](t)(d.Execution(t.Context(), e))
	if len(got.Results.Steps) != 3 || got.Ended.IsZero() || got.Results.Steps[2].Attempt != 1 {
		t.Errorf("%+v", got)
	}
	eventually(t, "jobs done", long, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
}

func TestExceptionSteps(t *testing.T) { both(t, testExceptionSteps) }

func testExceptionSteps(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 2)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		tr := workflow.Transition{From: j, Result: workflow.StepResult{StepType: "COPY", Attempt: j.Attempt,
			Error: &workflow.Error{Type: workflow.NotFound, Message: "gone"}}, Status: workflow.HandlingException,
			Next: &workflow.Job{Execution: j.Execution, Phase: workflow.Exceptional}}
		if j.Phase == workflow.Exceptional {
			tr.Result, tr.Status, tr.Next = workflow.StepResult{StepType: "DELETE"}, workflow.Exception, nil
		}
		return advance(ctx, tr)
	}, 1)
	e := send(t, d, id, whole())
	eventually(t, "ended", long, hasStatus(t, d, e, workflow.Exception))
	got := value[workflow.Execution](t)(d.Execution(t.Context(), e)).Results
	if len(got.Steps) != 1 || got.Steps[0].Error.Type != workflow.NotFound || len(got.OnExceptionSteps) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestFailedAttemptsComeAgainMarked(t *testing.T) { both(t, testFailedAttemptsComeAgainMarked) }

func testFailedAttemptsComeAgainMarked(t *testing.T) {
	d := open(t, Config{})
	d.backoff = func(int) time.Duration { return 0 }
	id := attached(t, d, 1)
	var mu sync.Mutex
	var attempts []int
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		mu.Lock()
		attempts = append(attempts, j.Attempt)
		mu.Unlock()
		switch j.Attempt {
		case 1:
			return errors.New("far side is down")
		case 2:
			panic("a mistake")
		case 3:
			return nil // forgot to say what came of it
		}
		return succeed(d)(ctx, j, advance)
	}, 1)
	e := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(attempts, []int{1, 2, 3, 4}) {
		t.Errorf("attempts %v", attempts)
	}
	if r := value[workflow.Execution](t)(d.Execution(t.Context(), e)).Results; r.Steps[0].Attempt != 4 {
		t.Errorf("result %+v", r)
	}
}

func TestLastAttemptEndsTheExecution(t *testing.T) { both(t, testLastAttemptEndsTheExecution) }

func testLastAttemptEndsTheExecution(t *testing.T) {
	for name, run := range map[string]engine{
		"panic":  func(context.Context, workflow.Job, workflow.Advance) error { panic("a mistake") },
		"error":  func(context.Context, workflow.Job, workflow.Advance) error { return errors.New("database is gone") },
		"silent": func(context.Context, workflow.Job, workflow.Advance) error { return nil },
		"wrong": func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
			return advance(ctx, workflow.Transition{From: j, Status: workflow.InProgress})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t, Config{})
			d.backoff = func(int) time.Duration { return 0 }
			id := attached(t, d, 2)
			var runs, last atomic.Int32
			work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
				runs.Add(1)
				if j.Last {
					last.Store(int32(j.Attempt))
				}
				return run(ctx, j, advance)
			}, 1)
			e := send(t, d, id, whole())
			eventually(t, "given up", long, hasStatus(t, d, e, workflow.Exception))
			got := value[workflow.Execution](t)(d.Execution(t.Context(), e))
			if runs.Load() != maxFailures || last.Load() != maxFailures {
				t.Errorf("%d runs, last was %d, want %d", runs.Load(), last.Load(), maxFailures)
			}
			r := got.Results.Steps
			if len(r) != 1 || r[0].Error == nil || r[0].Error.Type != workflow.InternalServerError ||
				r[0].StepType != "COPY" || r[0].Attempt != maxFailures || got.Ended.IsZero() {
				t.Errorf("%+v", got)
			}
			if n := jobs(t, d, "state <> 'completed'"); n != 0 {
				t.Errorf("%d jobs left", n)
			}
		})
	}
}

func TestStaleJobChangesNothing(t *testing.T) { both(t, testStaleJobChangesNothing) }

func testStaleJobChangesNothing(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 2)
	answers := make(chan error, 8)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		tr, err := step(d, j)
		if err != nil {
			return err
		}
		first := advance(ctx, tr)
		answers <- advance(ctx, tr) // the execution has gone on
		return first
	}, 1)
	e := send(t, d, id, whole())
	eventually(t, "completed", long, hasStatus(t, d, e, workflow.Completed))
	for range 2 {
		if err := <-answers; !errors.Is(err, workflow.ErrStale) {
			t.Errorf("second transition: %v", err)
		}
	}
	if r := value[workflow.Execution](t)(d.Execution(t.Context(), e)).Results; len(r.Steps) != 2 {
		t.Errorf("%+v", r)
	}
	if n := jobs(t, d, "1 = 1"); n != 0 {
		t.Errorf("%d jobs of an execution that has ended", n)
	}
}

// A stopping daemon lets steps finish, cancels those that take too long, and the next start repeats them, marked.
func TestStopDrainsThenCancels(t *testing.T) { both(t, testStopDrainsThenCancels) }

func testStopDrainsThenCancels(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Config{Dir: dir, Drain: 4 * time.Second})
	id := attached(t, d, 1)
	slow, quick := send(t, d, id, whole()), send(t, d, id, whole())
	running, stopping := make(chan struct{}, 2), make(chan struct{})
	stop := work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		running <- struct{}{}
		if j.Execution == quick {
			<-stopping
			return succeed(d)(ctx, j, advance)
		}
		<-ctx.Done()
		return ctx.Err()
	}, 2)
	<-running
	<-running
	close(stopping)
	stop()
	if !hasStatus(t, d, quick, workflow.Completed)() || !hasStatus(t, d, slow, workflow.InProgress)() {
		t.Error("the quick one must be finished, the slow one not")
	}
	must(t, d.Close())

	d = open(t, Config{Dir: dir})
	work(t, d, succeed(d), 1)
	eventually(t, "completed", long, hasStatus(t, d, slow, workflow.Completed))
	if r := value[workflow.Execution](t)(d.Execution(t.Context(), slow)).Results.Steps[0]; r.Attempt != 2 {
		t.Errorf("the repeat is attempt %d", r.Attempt)
	}
}

func TestOneWorkAtATime(t *testing.T) { both(t, testOneWorkAtATime) }

func testOneWorkAtATime(t *testing.T) {
	d := open(t, Config{})
	attached(t, d, 1)
	work(t, d, succeed(d), 1)
	eventually(t, "working", long, d.working.Load)
	if err := d.Work(t.Context(), succeed(d), 1); err == nil {
		t.Error("worked twice")
	}
}

// A job that a crash cut too often is not run again.
func TestCrashingStepIsGivenUp(t *testing.T) { both(t, testCrashingStepIsGivenUp) }

func testCrashingStepIsGivenUp(t *testing.T) {
	d := open(t, Config{})
	id := attached(t, d, 1)
	e := send(t, d, id, whole())
	for range maxCrashes {
		must(t, d.tx(t.Context(), "test", func(ctx context.Context, tx Tx) error {
			_, err := tx.Exec(ctx, `UPDATE river_job SET state = 'running', attempt = attempt + 1,
				attempted_at = '2026-01-01 00:00:00'`)
			return err
		}))
		n, err := d.rescue(t.Context(), func(*rivertype.JobRow) bool { return true })
		if must(t, err); n != 1 {
			t.Fatalf("rescued %d jobs", n)
		}
	}
	work(t, d, func(context.Context, workflow.Job, workflow.Advance) error {
		t.Error("ran once more")
		return nil
	}, 1)
	eventually(t, "given up", long, hasStatus(t, d, e, workflow.Exception))
}

func TestWatchFindsLostJobsOnly(t *testing.T) {
	t.Parallel()
	now := time.Now()
	long := now.Add(-2 * lostAfter)
	w := &stepWorker{active: map[int64]time.Time{1: {}, 2: now, 3: long}}
	row := func(id int64, at time.Time) *rivertype.JobRow { return &rivertype.JobRow{ID: id, AttemptedAt: &at} }
	for id, want := range map[int64]bool{1: false, 2: false, 3: true, 4: true} {
		if w.lost(row(id, long)) != want {
			t.Errorf("job %d: lost is not %v", id, want)
		}
	}
	if w.lost(row(5, now)) {
		t.Error("a job just fetched is not lost")
	}
	w.forget()
	if len(w.active) != 2 {
		t.Errorf("remembered %v", w.active)
	}
}

// Steps start because somebody rings, not because the queue looks for them once in a while.
func TestFirstStepWaitsForNoPoll(t *testing.T) { both(t, testFirstStepWaitsForNoPoll) }

func testFirstStepWaitsForNoPoll(t *testing.T) {
	d := open(t, Config{})
	d.poll = time.Hour
	id := attached(t, d, 1)
	started := make(chan time.Time, 1)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		started <- time.Now()
		return succeed(d)(ctx, j, advance)
	}, 4)
	send(t, d, id, whole())
	<-started // River is up
	var waits, commits []time.Duration
	for range 20 {
		u := anUpload(d, id)
		must(t, d.Begin(t.Context(), u))
		began := time.Now()
		must(t, d.End(t.Context(), u, whole()))
		ended := time.Now()
		waits, commits = append(waits, (<-started).Sub(ended)), append(commits, ended.Sub(began))
	}
	slices.Sort(waits)
	slices.Sort(commits)
	t.Logf("from End to the first step: median %s, longest %s; End itself: median %s", waits[10], waits[19], commits[10])
}

func TestBackoffGrowsAndStops(t *testing.T) {
	t.Parallel()
	var got []time.Duration
	for failures := range 10 {
		got = append(got, backoff(failures)/time.Second)
	}
	if want := []time.Duration{1, 1, 2, 4, 8, 16, 32, 64, 64, 64}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestRiverIsQuiet(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := quiet(slog.New(slog.NewTextHandler(&out, nil))).With("a", 1).WithGroup("g")
	log.Info("detail")
	if out.Len() != 0 {
		t.Errorf("logged %s", &out)
	}
	if log.Warn("trouble"); !bytes.Contains(out.Bytes(), []byte("trouble")) {
		t.Error("a warning was lost")
	}
}

// BenchmarkSteps measures executions of three steps, from queued to completed.
func BenchmarkSteps(b *testing.B) {
	d := open(b, Config{})
	id := attached(b, d, 3)
	var all sync.WaitGroup
	todo := make(chan struct{}, b.N)
	for range b.N {
		todo <- struct{}{}
	}
	close(todo)
	for range 32 {
		all.Go(func() {
			for range todo {
				send(b, d, id, whole())
			}
		})
	}
	all.Wait()
	var steps atomic.Int64
	b.ResetTimer()
	work(b, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		steps.Add(1)
		return succeed(d)(ctx, j, advance)
	}, 50)
	eventually(b, "all steps", 10*time.Minute, func() bool { return steps.Load() >= int64(3*b.N) })
	b.StopTimer()
	b.ReportMetric(float64(3*b.N)/b.Elapsed().Seconds(), "steps/s")
	if n := len(value[[]workflow.Execution](b)(d.Executions(b.Context(), "w-whole", server.Page{}))); n != b.N {
		b.Errorf("%d executions", n)
	}
}
