package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/transferd/transferd/workflow"
)

const (
	// maxFailures is how many attempts of a step may fail. The last of them is told so.
	maxFailures = 8
	// maxCrashes is how many attempts of a step may end with their process. They are no failures, for a daemon that is
	// killed often has done nothing wrong; but a step that kills the daemon must not do so for ever.
	maxCrashes = 16
	// carryFor is how long a worker goes on with the steps of one execution. Then the rest of it goes to the queue's end, so
	// that executions of long steps do not keep the first steps of others waiting.
	carryFor = time.Second
	// lostAfter is how long a job may run that no worker of this process knows.
	lostAfter = time.Minute
)

// stepWorker is River's worker for steps.
type stepWorker struct {
	river.WorkerDefaults[stepArgs]
	d        *DB
	run      engine
	fetch    *fetcher
	stopping <-chan struct{}

	mu     sync.Mutex          // guards active
	active map[int64]time.Time // jobs in our hands; when they left them, zero before
}

// NextRetry is part of river.Worker; it is asked after a failure, before that stands among the errors.
func (w *stepWorker) NextRetry(j *river.Job[stepArgs]) time.Time {
	failures, _ := tries(j.JobRow)
	if j.Args.Remains != (workflow.Remains{}) {
		return time.Now().Add(removalPause(failures + 1))
	}
	return time.Now().Add(w.d.backoff(failures + 1))
}

// hand is a job in a worker's hands.
type hand struct {
	rj    *river.Job[stepArgs]
	taken time.Time
	job   workflow.Job // the current step

	mu   sync.Mutex    // guards what follows, and writes to job: an engine may have left something running that calls advance
	done bool          // the job's end is committed
	next *workflow.Job // the step after the current one, whose result is committed, if it is to be carried on
}

// Work is part of river.Worker. Its answers to River: nil, the job is done; a cancelled context while the queue stops,
// it comes again; any other error, it comes again after a while.
func (w *stepWorker) Work(ctx context.Context, rj *river.Job[stepArgs]) error {
	job, exhausted := jobOf(rj)
	h := &hand{rj: rj, taken: time.Now(), job: job}
	w.enter(rj.ID)
	defer func() { w.leave(rj.ID, h.over()) }()
	if job.Remains != (workflow.Remains{}) {
		return w.remove(ctx, rj, job)
	}
	if err := w.locate(ctx, h); err != nil {
		return ignore(err, workflow.ErrStale)
	}
	if exhausted {
		return w.abandon(ctx, h, errors.New(crashText+", again and again"))
	}
	err := w.step(ctx, h)
	for h.turn() {
		err = w.step(ctx, h)
	}
	return err
}

// over tells whether what came of the current step is committed.
func (h *hand) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done || h.next != nil
}

// turn makes the next step the current one, if there is one to be carried on.
func (h *hand) turn() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == nil {
		return false
	}
	h.job, h.next = *h.next, nil
	return true
}

// locate finds the step that a job has come to. One that was never fetched before is where it began.
func (w *stepWorker) locate(ctx context.Context, h *hand) error {
	if h.job.Attempt <= 1 || h.job.Expire {
		return nil
	}
	var step int
	err := w.d.reader().QueryRow(ctx, `SELECT step FROM executions
		WHERE id = $1 AND phase = $2 AND step - carried = $3 AND piece = $4 AND ended = 0`,
		h.job.Execution, h.job.Phase, h.job.Step, h.job.Piece).Scan(&step)
	if errors.Is(err, sql.ErrNoRows) {
		return workflow.ErrStale
	}
	h.job.Step = step
	return err
}

// ignore makes nil of one error.
func ignore(err, not error) error {
	if errors.Is(err, not) {
		return nil
	}
	return err
}

// step does the job's current step.
func (w *stepWorker) step(ctx context.Context, h *hand) error {
	job := h.job
	err := guard(func() error {
		return w.run(ctx, job, func(actx context.Context, t workflow.Transition) error { return w.advance(actx, h, t) })
	})
	if h.over() || errors.Is(err, workflow.ErrStale) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		if err = w.settled(ctx, job); err == nil {
			return nil
		}
	}
	w.d.log.WarnContext(ctx, "step attempt failed", "execution", job.Execution, "phase", job.Phase, "step", job.Step,
		"attempt", job.Attempt, "last", job.Last, "error", err)
	if job.Last {
		return w.abandon(ctx, h, err)
	}
	return err
}

// ends tells whether a transition is its job's last: all are but the one before a call and those that only save a state.
func ends(t workflow.Transition) bool {
	return (t.Wait == nil || t.Wait.Called) && (t.Progress == nil || t.Next != nil)
}

// advance commits a transition with the end of its job, or with going on in the same job.
func (w *stepWorker) advance(ctx context.Context, h *hand, t workflow.Transition) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if argsOf(t.From) != argsOf(h.job) {
		return errors.New("transition: from another job")
	}
	if h.done || h.next != nil {
		return workflow.ErrStale
	}
	now, carry := w.d.now(), w.carries(h, t)
	err := w.d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		if err := advance(ctx, tx, ending{t, "", now, carry}); err != nil || carry || !ends(t) {
			return err
		}
		return complete(ctx, tx, h.rj.ID)
	})
	switch {
	case err != nil || !ends(t):
		return err
	case carry:
		next := *t.Next
		next.Attempt, next.Last = 1, false
		h.next = &next
	default:
		h.done = true
		w.fetch.end(h.rj.ID)
	}
	return nil
}

// carries tells whether the worker goes on with the step after a transition. The attempts of a job are those of its
// current step: so a job that failed once or outlived its process goes no further than the step where it did. Nor does one
// of a later piece of a step: locate would look for that piece of the next one.
func (w *stepWorker) carries(h *hand, t workflow.Transition) bool {
	select {
	case <-w.stopping:
		return false
	default:
	}
	return t.Wait == nil && t.Next != nil && !h.job.Expire && h.job.Piece == 0 && t.Next.Piece == 0 && t.Next.Phase == h.job.Phase && t.Next.Step == h.job.Step+1 &&
		max(len(h.rj.AttemptedBy), h.rj.Attempt) <= 1 && len(h.rj.Errors) == 0 && time.Since(h.taken) < carryFor
}

// complete ends a running job. A finished job's row is of no use to anybody: the execution is the record. River's own
// completion would keep it for a while, at the price of a second version of the row and of its six indices' entries.
func complete(ctx context.Context, tx Tx, job int64) error {
	return tx.Later(ctx, changed(fmt.Errorf("end job %d: %w", job, rivertype.ErrNotFound)),
		`DELETE FROM river_job WHERE id = $1 AND state = 'running'`, job)
}

// settled is nil if a job that ended without a transition is its execution's current one no more. Otherwise the engine
// has forgotten it, and ending the job would leave the execution without one.
func (w *stepWorker) settled(ctx context.Context, j workflow.Job) error {
	is, err := current(ctx, w.d.reader(), j)
	if err == nil && is {
		err = errors.New("the engine returned without a transition")
	}
	return err
}

// abandon ends an execution whose step has no attempts left and did not end by itself: the engine panicked, the database
// refused its transition, or the process died each time. If even this fails the job comes again: it is never dropped
// while its execution is open.
func (w *stepWorker) abandon(ctx context.Context, h *hand, why error) error {
	ctx = context.WithoutCancel(ctx)
	now, j := w.d.now(), h.job
	var trigger workflow.Trigger
	err := w.d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		e, err := readExecution(ctx, tx, j.Execution)
		if err != nil {
			return err
		}
		trigger = e.Trigger
		t := workflow.Transition{From: j, Previous: e.Previous, Status: workflow.Exception, Result: workflow.StepResult{
			StepType: stepType(e.Plan, j),
			Error:    &workflow.Error{Type: workflow.InternalServerError, Message: "The step ended unexpectedly"},
			Attempt:  firstAttempt(e) + j.Attempt - 1, Began: now, Ended: now,
		}}
		if h.rj.AttemptedAt != nil {
			t.Result.Began = *h.rj.AttemptedAt
		}
		if err := advance(ctx, tx, ending{t, "", now, false}); err != nil {
			return err
		}
		return complete(ctx, tx, h.rj.ID)
	})
	if errors.Is(err, workflow.ErrStale) {
		return nil
	}
	if err == nil {
		w.d.ended(trigger, workflow.Exception)
	}
	w.d.log.ErrorContext(ctx, "execution abandoned", "execution", j.Execution, "phase", j.Phase, "step", j.Step,
		"attempt", j.Attempt, "why", why, "error", err)
	return err
}

// watch looks for jobs that run according to the database and that nobody here works on: what River leaves if it cannot
// write a failed attempt's end. It returns when ctx ends.
func (w *stepWorker) watch(ctx context.Context) {
	tick := time.NewTicker(lostAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n, err := w.d.rescue(ctx, w.d.mine(w.lost))
		if (n > 0 || err != nil) && ctx.Err() == nil {
			w.d.log.ErrorContext(ctx, "lost jobs taken up again", "jobs", n, "error", err)
		}
		w.forget()
	}
}

func (w *stepWorker) enter(id int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active[id] = time.Time{}
}

// leave keeps a job that is not done for a while: River writes its end a moment later.
func (w *stepWorker) leave(id int64, done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if done {
		delete(w.active, id)
		return
	}
	w.active[id] = time.Now()
}

func (w *stepWorker) lost(row *rivertype.JobRow) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left, known := w.active[row.ID]
	if known && (left.IsZero() || time.Since(left) < lostAfter) {
		return false
	}
	return row.AttemptedAt == nil || time.Since(*row.AttemptedAt) > lostAfter
}

func (w *stepWorker) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.active, func(_ int64, left time.Time) bool {
		return !left.IsZero() && time.Since(left) > lostAfter
	})
}

// jobOf is a job as the engine knows it. Attempt counts every fetch, for each may have had effects: River writes the
// fetcher into AttemptedBy (up to 100) in the fetch's own transaction, but takes an attempt back that a stopping daemon
// cancelled.
func jobOf(rj *river.Job[stepArgs]) (j workflow.Job, exhausted bool) {
	failures, crashes := tries(rj.JobRow)
	return workflow.Job{
		Execution: rj.Args.Execution, Phase: rj.Args.Phase, Step: rj.Args.Step, Piece: rj.Args.Piece, Expire: rj.Args.Expire,
		Remains: rj.Args.Remains,
		Attempt: max(len(rj.AttemptedBy), rj.Attempt),
		Last:    failures+1 >= maxFailures || crashes+1 >= maxCrashes,
	}, crashes >= maxCrashes
}

// tries tells how many attempts of a job failed and how many ended with their process.
func tries(row *rivertype.JobRow) (failures, crashes int) {
	for _, e := range row.Errors {
		if e.Error == crashText {
			crashes++
		} else {
			failures++
		}
	}
	return failures, crashes
}

func stepType(p workflow.Plan, j workflow.Job) string {
	steps := p.Steps
	if j.Phase == workflow.Exceptional {
		steps = p.OnExceptionSteps
	}
	if j.Step < 0 || j.Step >= len(steps) {
		return ""
	}
	return steps[j.Step].Type
}

// guard makes an error of a panic.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return fn()
}
