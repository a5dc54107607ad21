package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/workflow"
)

var errCrash = errors.New("the process died here")

// ledger is a database with one queue, in memory. It keeps the contract of Executions and Advance, and fails the test
// when the engine breaks it.
type ledger struct {
	t  *testing.T
	mu sync.Mutex
	x  map[workflow.ExecutionID]workflow.Execution
	// job is the current job of an execution that runs. Attempt is that of the next delivery.
	job map[workflow.ExecutionID]workflow.Job
	// called are the executions that wait and whose job is over.
	called map[workflow.ExecutionID]bool
	// remains are the jobs that remove what steps left.
	remains []workflow.Job
	// maxAttempts marks the last delivery.
	maxAttempts int
	// die, if set, is asked before and after a commit.
	die func() bool
}

func newLedger(t *testing.T) *ledger {
	return &ledger{t: t, maxAttempts: 4, called: map[workflow.ExecutionID]bool{},
		x: map[workflow.ExecutionID]workflow.Execution{}, job: map[workflow.ExecutionID]workflow.Job{}}
}

// enqueue begins an execution as the journal's End does.
func (l *ledger) enqueue(x workflow.Execution) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x.Status = workflow.InProgress
	l.x[x.ExecutionId] = x
	l.job[x.ExecutionId] = workflow.Job{Execution: x.ExecutionId, Phase: workflow.Nominal}
}

func (l *ledger) Execution(_ context.Context, id workflow.ExecutionID) (workflow.Execution, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x, ok := l.x[id]
	if !ok {
		return x, errors.New("no such execution")
	}
	x.Results.Steps = slices.Clone(x.Results.Steps)
	x.Results.OnExceptionSteps = slices.Clone(x.Results.OnExceptionSteps)
	return x, nil
}

// deliver hands out the current job of an execution once more; false if it has ended.
func (l *ledger) deliver(id workflow.ExecutionID) (workflow.Job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	job, ok := l.job[id]
	if !ok || l.called[id] {
		return job, false
	}
	job.Attempt++
	known := job.Known
	job.Known = nil // of the first delivery, which follows the transition at once
	l.job[id] = job
	job.Known = known
	job.Last = job.Attempt >= l.maxAttempts
	return job, true
}

func (l *ledger) advance(ctx context.Context, t workflow.Transition) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	id := t.From.Execution
	job, ok := l.job[id]
	if !ok || job.Phase != t.From.Phase || job.Step != t.From.Step || job.Piece != t.From.Piece {
		return workflow.ErrStale
	}
	if l.die != nil && l.die() {
		return errCrash
	}
	x := l.x[id]
	if t.Wait != nil {
		return l.await(x, t)
	}
	if t.Progress != nil {
		return l.progress(x, t)
	}
	if t.From.Expire && x.Wait == nil {
		return workflow.ErrStale
	}
	l.check(t)
	if x.Progress != nil && t.Result.Error != nil {
		job.Remains, job.Attempt = workflow.Remains{StepType: t.Result.StepType, State: string(x.Progress.State)}, 1
		l.remains = append(l.remains, job)
	}
	x.Wait, x.Progress = nil, nil
	if t.From.Phase == workflow.Nominal {
		x.Results.Steps = append(x.Results.Steps, t.Result)
	} else {
		x.Results.OnExceptionSteps = append(x.Results.OnExceptionSteps, t.Result)
	}
	x.Previous, x.Status = t.Previous, t.Status
	if t.Next == nil {
		x.Ended = t.Result.Ended
		delete(l.job, id)
	} else {
		if known := t.Next.Known; known != nil && !reflect.DeepEqual(*known, x) {
			l.t.Errorf("the next job knows %+v, but the execution is %+v", *known, x)
		}
		next := *t.Next
		next.Attempt = 0
		l.job[id] = next
	}
	delete(l.called, id)
	l.x[id] = x
	if l.die != nil && l.die() {
		return errCrash
	}
	return nil
}

// progress does what a transition with a state asks for.
func (l *ledger) progress(x workflow.Execution, t workflow.Transition) error {
	l.t.Helper()
	id, p := x.ExecutionId, *t.Progress
	x.Progress = &p
	l.x[id] = x
	if t.Next != nil {
		want := t.From
		want.Piece, want.Attempt, want.Last = want.Piece+1, 1, false
		if *t.Next != want || p.Piece != want.Piece {
			l.t.Errorf("after %+v comes %+v with progress %+v", t.From, *t.Next, p)
		}
		next := *t.Next
		next.Attempt = 0
		l.job[id] = next
	}
	if l.die != nil && l.die() {
		return errCrash
	}
	return nil
}

// await does what a transition with a wait asks for.
func (l *ledger) await(x workflow.Execution, t workflow.Transition) error {
	switch {
	case x.Wait == nil && t.Wait.Called, x.Wait != nil && x.Wait.Token != t.Wait.Token:
		return workflow.ErrStale
	case t.Wait.Called:
		l.called[x.ExecutionId] = true
	}
	w := *t.Wait
	x.Wait = &w
	l.x[x.ExecutionId] = x
	if l.die != nil && l.die() {
		return errCrash
	}
	return nil
}

// Resume is advance for a callback.
func (l *ledger) Resume(ctx context.Context, t workflow.Transition, token string) error {
	l.mu.Lock()
	w := l.x[t.From.Execution].Wait
	l.mu.Unlock()
	if w == nil || w.Token != token {
		return workflow.ErrStale
	}
	return l.advance(ctx, t)
}

// expire hands out the job that ends a wait; false if there is none.
func (l *ledger) expire(id workflow.ExecutionID) (workflow.Job, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	job := l.job[id]
	job.Expire, job.Attempt, job.Last = true, 1, false
	return job, l.x[id].Wait != nil
}

func (l *ledger) check(t workflow.Transition) {
	l.t.Helper()
	ends := t.Status == workflow.Completed || t.Status == workflow.Exception
	if ends != (t.Next == nil) {
		l.t.Errorf("status %s with next job %v", t.Status, t.Next)
	}
	if t.Next != nil && t.Next.Attempt != 1 {
		l.t.Errorf("the next job has attempt %d, want 1", t.Next.Attempt)
	}
	if t.Result.Attempt != t.From.Attempt {
		l.t.Errorf("result of attempt %d says attempt %d", t.From.Attempt, t.Result.Attempt)
	}
	if t.Previous.IsZero() {
		l.t.Error("no previous file")
	}
	if t.Result.Ended.Before(t.Result.Began) || t.Result.Began.IsZero() {
		l.t.Errorf("step from %v to %v", t.Result.Began, t.Result.Ended)
	}
}

// finish delivers an execution's jobs until it ends, and returns it.
func (l *ledger) finish(e *workflow.Engine, id workflow.ExecutionID) workflow.Execution {
	l.t.Helper()
	for range 1000 {
		job, ok := l.deliver(id)
		if !ok {
			return l.x[id]
		}
		if err := e.Run(l.t.Context(), job, l.advance); err != nil && job.Last && !errors.Is(err, errCrash) {
			l.t.Fatalf("last attempt: %v", err)
		}
	}
	l.t.Fatalf("execution %s does not end", id)
	return workflow.Execution{}
}

// stepFunc is a Step.
type stepFunc func(ctx context.Context, in *workflow.Input) error

func (f stepFunc) Run(ctx context.Context, in *workflow.Input) error { return f(ctx, in) }

func newEngine(t *testing.T, l *ledger, steps map[string]workflow.Step, change ...func(*workflow.Config)) *workflow.Engine {
	t.Helper()
	cfg := workflow.Config{Executions: l, Steps: steps, Log: slog.New(slog.NewJSONHandler(io.Discard, nil)), Now: time.Now}
	for _, f := range change {
		f(&cfg)
	}
	e, err := workflow.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func s3File(bucket, key, etag string) workflow.FileLocation {
	return workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: bucket, Key: key, Etag: etag}}
}

var began = time.Date(2026, 11, 22, 23, 30, 0, 0, time.FixedZone("west", -3600))

func execution(id string, plan workflow.Plan) workflow.Execution {
	return workflow.Execution{
		ExecutionId: workflow.ExecutionID(id), WorkflowId: "w-abcdef01234567890", Plan: plan,
		InitialFileLocation: s3File("in", "mary/a.txt", "e1"), Trigger: workflow.OnUpload, Evidence: "closed", Began: began,
		ServiceMetadata: workflow.ServiceMetadata{UserDetails: workflow.UserDetails{
			UserName: "mary", ServerId: "s-01234567890abcdef", SessionId: "0123456789abcdef"}},
	}
}

// named are steps of the type COPY that tell their names, so that a fake knows which one it is.
func named(names ...string) []workflow.StepSpec {
	var specs []workflow.StepSpec
	for _, n := range names {
		specs = append(specs, workflow.StepSpec{Type: workflow.TypeCopy, CopyStepDetails: &workflow.CopyStepDetails{Name: n}})
	}
	return specs
}

func outcome(results []workflow.StepResult) []string {
	var words []string
	for _, r := range results {
		word := "ok"
		if r.Error != nil {
			word = string(r.Error.Type)
		}
		if r.Attempt > 1 {
			word += fmt.Sprintf("@%d", r.Attempt)
		}
		words = append(words, word)
	}
	return words
}

func all(steps workflow.Step) map[string]workflow.Step {
	return maps.Collect(func(yield func(string, workflow.Step) bool) {
		for _, typ := range []string{workflow.TypeCopy, workflow.TypeTag, workflow.TypeDelete} {
			if !yield(typ, steps) {
				return
			}
		}
	})
}
