package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Config is what an Engine needs.
type Config struct {
	Executions Executions
	Steps      map[string]Step // by StepSpec.Type
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Now        func() time.Time
	// StepTimeout bounds one attempt at a step; zero means 30 minutes, the longest that AWS lets a step run.
	StepTimeout time.Duration
	// FileTimeout is that of steps that take the longer the larger their file is, COPY and DECRYPT: zero means twelve hours, or
	// StepTimeout if that is set. A long copy inside S3 is done in pieces, each of which is an attempt.
	FileTimeout time.Duration
}

const (
	defaultStepTimeout = 30 * time.Minute
	defaultFileTimeout = 12 * time.Hour
	// advanceTimeout bounds the commit of a result whose job was told to stop.
	advanceTimeout = 15 * time.Second
)

// Engine takes executions from step to step, one job at a time. It keeps nothing between jobs: what it knows stands in
// the execution.
type Engine struct {
	cfg     Config
	metrics *metrics
}

// New makes an engine.
func New(cfg Config) (*Engine, error) {
	if cfg.FileTimeout <= 0 {
		cfg.FileTimeout = defaultFileTimeout
		if cfg.StepTimeout > 0 {
			cfg.FileTimeout = cfg.StepTimeout
		}
	}
	if cfg.StepTimeout <= 0 {
		cfg.StepTimeout = defaultStepTimeout
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register the workflow metrics: %w", err)
	}
	return &Engine{cfg: cfg, metrics: m}, nil
}

// run is one job at work.
type run struct {
	x     Execution
	job   Job
	plan  []StepSpec // the phase's steps
	spec  StepSpec
	in    *Input
	began time.Time
	wait  *Wait // of this attempt, if its step waits for a callback

	first   int  // the number of the piece's first attempt
	planned bool // the attempt is neither the step's first one nor a repeat: it goes on where another piece ended
}

// Run does the job: one attempt at one step. nil means that the job is over, because the step's result is committed, or
// its function has been called and will call back, or because it was not the execution's current job; an error means
// that the job must come again.
func (e *Engine) Run(ctx context.Context, job Job, advance Advance) error {
	if job.Remains != (Remains{}) {
		return e.drop(ctx, job)
	}
	x, err := e.execution(ctx, job)
	if err != nil {
		return fmt.Errorf("read execution %s: %w", job.Execution, err)
	}
	if !current(x, job) {
		return nil
	}
	job.Known = nil
	r := &run{x: x, job: job, plan: x.Plan.steps(job.Phase), began: e.cfg.Now()}
	switch {
	case job.Expire:
		return e.expire(ctx, r, advance)
	case x.Wait != nil && x.Wait.Called: // an earlier attempt has done all but end its job
		return e.called(ctx, r, x.Wait, advance)
	}
	since := r.began
	r.takeUp()
	e.begin(ctx, r)

	cause := e.attempt(ctx, r, advance)
	if errors.Is(cause, ErrStale) {
		return nil
	}
	now := e.cfg.Now()
	if more, ok := errors.AsType[*Continue](cause); ok {
		e.metrics.step(r.spec, resultContinued, now.Sub(since))
		return e.goOn(ctx, r, more.State, advance)
	}
	if cause == nil && r.wait != nil {
		return e.called(ctx, r, r.wait, advance)
	}
	// A step that was cut off because the process stops has not failed: its job comes again, the last one too.
	stopped := errors.Is(ctx.Err(), context.Canceled)
	if cause != nil && Retriable(cause) && (stopped || !job.Last) {
		e.metrics.step(r.spec, resultRetry, now.Sub(since))
		return fmt.Errorf("execution %s, %s step %d: %w", job.Execution, job.Phase, job.Step, cause)
	}
	return e.finish(ctx, r, cause, now, advance)
}

func (e *Engine) execution(ctx context.Context, job Job) (Execution, error) {
	if job.Known != nil {
		return *job.Known, nil
	}
	return e.cfg.Executions.Execution(ctx, job.Execution)
}

// finish commits how a step ended, and tells it.
func (e *Engine) finish(ctx context.Context, r *run, cause error, ended time.Time, advance Advance) error {
	t := r.transition(cause, ended)
	if t.Next != nil {
		t.Next.Known = r.after(t)
	}
	ok, err := commit(ctx, t, advance)
	if ok {
		e.end(ctx, r, t, cause)
	}
	return err
}

// commit is false for what came too late.
func commit(ctx context.Context, t Transition, advance Advance) (bool, error) {
	// What was done is recorded even if the process is on its way down: otherwise it would be done again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), advanceTimeout)
	defer cancel()
	err := advance(ctx, t)
	switch {
	case errors.Is(err, ErrStale):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("commit execution %s, %s step %d: %w", t.From.Execution, t.From.Phase, t.From.Step, err)
	}
	return true, nil
}

// current tells whether job is the next thing to do for x: its phase is on and the steps before it, and no others, have
// their results.
func current(x Execution, job Job) bool {
	switch {
	case job.Expire && x.Wait == nil, job.Piece != x.piece():
		return false
	case x.Status == InProgress && job.Phase == Nominal:
		return job.Step == len(x.Results.Steps)
	case x.Status == HandlingException && job.Phase == Exceptional:
		return job.Step == len(x.Results.OnExceptionSteps)
	}
	return false
}

// piece is the current one of the current step.
func (x Execution) piece() int {
	if x.Progress == nil {
		return 0
	}
	return x.Progress.Piece
}

func (p Plan) steps(phase Phase) []StepSpec {
	if phase == Exceptional {
		return p.OnExceptionSteps
	}
	return p.Steps
}

// begin tells that an execution begins, once unless the process dies before the first attempt.
func (e *Engine) begin(ctx context.Context, r *run) {
	if r.job.Phase == Nominal && r.job.Step == 0 && r.job.Attempt <= 1 && !r.planned {
		e.metrics.started.WithLabelValues(string(r.x.Trigger)).Inc()
		e.metrics.waited.WithLabelValues(string(r.x.Trigger)).Observe(max(0, r.began.Sub(r.x.Began)).Seconds())
		e.logExecution(ctx, slog.LevelInfo, "ExecutionStarted", r.x)
	}
}

// attempt runs the step.
func (e *Engine) attempt(ctx context.Context, r *run, advance Advance) error {
	r.in = &Input{}
	if r.job.Step >= len(r.plan) {
		return &StepError{Type: BadRequest, Message: "The workflow has no such step."}
	}
	r.spec = r.plan[r.job.Step]
	in, err := input(r.x, r.job, r.spec)
	if err != nil {
		return err
	}
	r.in = in
	in.Await = func(ctx context.Context, timeout time.Duration) (Wait, error) {
		return e.await(ctx, r, timeout, advance)
	}
	in.Save = func(ctx context.Context, state json.RawMessage) error { return e.save(ctx, r, state, advance) }
	e.logStepStarted(ctx, r)
	step, ok := e.cfg.Steps[r.spec.Type]
	if !ok {
		return &StepError{Type: BadRequest, Message: "Steps of type " + r.spec.Type + " are not supported."}
	}
	bounded, cancel := context.WithTimeout(ctx, e.timeout(r.spec))
	defer cancel()
	err = guarded(func() error { return step.Run(bounded, in) })
	if _, more := errors.AsType[*Continue](err); more {
		return err
	}
	if err != nil && r.wait != nil && !e.cfg.Now().Before(r.wait.Until) {
		return unanswered(*r.wait, err)
	}
	if err != nil && Retriable(err) && errors.Is(bounded.Err(), context.DeadlineExceeded) {
		// Whatever the step made of it, this is why it ended.
		err = &StepError{Type: StepTimeout, Message: "The step took too long.", Err: err}
	}
	return err
}

// timeout bounds an attempt at a step.
func (e *Engine) timeout(spec StepSpec) time.Duration {
	if spec.Type == TypeCopy || spec.Type == TypeDecrypt {
		return e.cfg.FileTimeout
	}
	return e.cfg.StepTimeout
}

// guarded runs a step so that its panic is its own error and nobody else's. Another attempt would panic again.
func guarded(run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v\n%s", ErrPermanent, p, debug.Stack())
		}
	}()
	return run()
}

// transition is what the attempt changes, where cause is nil or why the step failed for good.
func (r *run) transition(cause error, ended time.Time) Transition {
	t := Transition{
		From: r.job,
		Result: StepResult{
			StepType: r.spec.Type, Attempt: r.job.Attempt, Began: r.began, Ended: ended,
		},
		Previous: previous(r.x),
	}
	if cause != nil {
		t.Result.Error = shown(cause)
	} else {
		t.Result.Outputs = r.in.Outputs
		t.Previous = r.in.Source
		if !r.in.Output.IsZero() {
			t.Previous = r.in.Output
		}
	}
	t.Status, t.Next = r.follow(cause != nil)
	return t
}

// after is the execution as a step's end leaves it.
func (r *run) after(t Transition) *Execution {
	x := r.x
	x.Status, x.Previous, x.Wait, x.Progress = t.Status, t.Previous, nil, nil
	if r.job.Phase == Exceptional {
		x.Results.OnExceptionSteps = append(slices.Clip(x.Results.OnExceptionSteps), t.Result)
	} else {
		x.Results.Steps = append(slices.Clip(x.Results.Steps), t.Result)
	}
	return &x
}

// follow says what comes after a step. AWS: nominal steps run in order; the first that fails ends them, and the
// exception-handling steps run one by one, whatever becomes of each
// (https://docs.aws.amazon.com/transfer/latest/userguide/exception-workflow.html).
func (r *run) follow(failed bool) (Status, *Job) {
	next := &Job{Execution: r.job.Execution, Phase: r.job.Phase, Step: r.job.Step + 1, Attempt: 1}
	more := next.Step < len(r.plan)
	switch {
	case r.job.Phase == Exceptional && more:
		return HandlingException, next
	case r.job.Phase == Exceptional:
		return Exception, nil
	case failed && len(r.x.Plan.OnExceptionSteps) > 0:
		return HandlingException, &Job{Execution: r.job.Execution, Phase: Exceptional, Step: 0, Attempt: 1}
	case failed:
		return Exception, nil
	case more:
		return InProgress, next
	}
	return Completed, nil
}

// end tells what is committed.
func (e *Engine) end(ctx context.Context, r *run, t Transition, cause error) {
	result := resultOK
	if t.Result.Error != nil {
		result = string(t.Result.Error.Type)
	}
	e.metrics.step(r.spec, result, t.Result.Ended.Sub(t.Result.Began))
	e.logStepEnded(ctx, r, t.Result, cause)
	if t.Next != nil {
		return
	}
	e.metrics.ended.WithLabelValues(string(r.x.Trigger), string(t.Status)).Inc()
	if t.Status == Completed {
		e.logExecution(ctx, slog.LevelInfo, "ExecutionCompleted", r.x)
	} else {
		e.logExecution(ctx, slog.LevelWarn, "ExecutionErrored", r.x)
	}
}
