package db

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// asks is an engine whose steps wait for a callback: it tells what it awaits, and ends jobs that expire.
func asks(d *DB, timeout time.Duration, told chan<- workflow.Wait) engine {
	return func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		e, err := d.Execution(ctx, j.Execution)
		if err != nil {
			return err
		}
		if j.Expire {
			if e.Wait == nil {
				return nil
			}
			return advance(ctx, answered(e, j, workflow.StepTimeout))
		}
		w := workflow.Wait{Token: workflow.NewToken(), Until: time.Now().Add(timeout), Attempt: j.Attempt, Began: time.Now()}
		if e.Wait != nil {
			w.Token, w.Until = e.Wait.Token, e.Wait.Until
		}
		if err := advance(ctx, workflow.Transition{From: j, Wait: &w}); err != nil {
			return err
		}
		told <- w
		w.Called = true
		return advance(ctx, workflow.Transition{From: j, Wait: &w})
	}
}

// answered is the transition that ends the only step of an execution.
func answered(e workflow.Execution, j workflow.Job, failed workflow.ErrorType) workflow.Transition {
	t := workflow.Transition{From: j, Previous: e.Previous, Status: workflow.Completed, Result: workflow.StepResult{
		StepType: workflow.TypeCustom, Attempt: e.Wait.Attempt, Began: e.Wait.Began, Ended: time.Now()}}
	if failed != "" {
		t.Status, t.Result.Error = workflow.Exception, &workflow.Error{Type: failed}
	}
	return t
}

// asking is a server whose whole uploads cause one CUSTOM step.
func asking(t testing.TB, d *DB) server.ID {
	t.Helper()
	must(t, d.CreateWorkflow(t.Context(), workflow.Workflow{WorkflowId: "w-ask", Steps: []workflow.StepSpec{
		{Type: workflow.TypeCustom, CustomStepDetails: &workflow.CustomStepDetails{Target: "arn:aws:lambda:f"}}}}))
	must(t, d.CreateServer(t.Context(), server.Server{ServerId: "s-ask", State: server.Online, WorkflowDetails: &server.WorkflowDetails{
		OnUpload: []server.WorkflowDetail{{WorkflowId: "w-ask"}}}}, nil))
	return "s-ask"
}

func waits(t testing.TB, d *DB, id workflow.ExecutionID) func() bool {
	return func() bool {
		e := value[workflow.Execution](t)(d.Execution(t.Context(), id))
		return e.Wait != nil && e.Wait.Called
	}
}

const forAWhile = 60 * time.Second

func TestResume(t *testing.T) { both(t, testResume) }

func testResume(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	id := asking(t, d)
	told := make(chan workflow.Wait, 9)
	work(t, d, asks(d, time.Hour, told), 2)
	id1, id2 := send(t, d, id, whole()), send(t, d, id, whole())
	for _, e := range []workflow.ExecutionID{id1, id2} {
		eventually(t, "waits", forAWhile, waits(t, d, e))
	}
	eventually(t, "timers alone", forAWhile, func() bool { return jobs(t, d, "state <> 'completed'") == 2 })
	e := value[workflow.Execution](t)(d.Execution(ctx, id1))
	other := value[workflow.Execution](t)(d.Execution(ctx, id2)).Wait.Token
	j := workflow.Job{Execution: id1, Phase: workflow.Nominal}
	for name, token := range map[string]string{"none": "", "forged": "forged", "foreign": other, "longer": e.Wait.Token + "x"} {
		if err := d.Resume(ctx, answered(e, j, ""), token); !errors.Is(err, workflow.ErrStale) {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := j
	wrong.Step = 1
	if err := d.Resume(ctx, answered(e, wrong, ""), e.Wait.Token); !errors.Is(err, workflow.ErrStale) {
		t.Errorf("another step: %v", err)
	}
	if !waits(t, d, id1)() {
		t.Fatal("a refused callback ended the wait")
	}
	must(t, d.Resume(ctx, answered(e, j, ""), e.Wait.Token))
	if err := d.Resume(ctx, answered(e, j, ""), e.Wait.Token); !errors.Is(err, workflow.ErrStale) {
		t.Errorf("doubled: %v", err)
	}
	got := value[workflow.Execution](t)(d.Execution(ctx, id1))
	if got.Status != workflow.Completed || got.Wait != nil || len(got.Results.Steps) != 1 || got.Ended.IsZero() {
		t.Errorf("%+v", got)
	}
	if n := jobs(t, d, "state <> 'completed'"); n != 1 || !waits(t, d, id2)() {
		t.Errorf("%d jobs left, want the other's timer", n)
	}
}

func TestWaitExpires(t *testing.T) { both(t, testWaitExpires) }

func testWaitExpires(t *testing.T) {
	d := open(t, Config{})
	id := asking(t, d)
	work(t, d, asks(d, 50*time.Millisecond, make(chan workflow.Wait, 9)), 2)
	e := send(t, d, id, whole())
	eventually(t, "expired", forAWhile, hasStatus(t, d, e, workflow.Exception))
	got := value[workflow.Execution](t)(d.Execution(t.Context(), e))
	if r := got.Results.Steps; len(r) != 1 || r[0].Error.Type != workflow.StepTimeout || got.Wait != nil {
		t.Errorf("%+v", got)
	}
	eventually(t, "no jobs", forAWhile, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
}

// TestWaitOutlivesTheProcess: an execution that waits, and the job that ends it, are there after a restart.
func TestWaitOutlivesTheProcess(t *testing.T) { both(t, testWaitOutlivesTheProcess) }

func testWaitOutlivesTheProcess(t *testing.T) {
	cfg := where(t, Config{Drain: time.Minute})
	d := open(t, cfg)
	id := asking(t, d)
	told := make(chan workflow.Wait, 9)
	stop := work(t, d, asks(d, 2*time.Second, told), 2)
	e := send(t, d, id, whole())
	first := <-told
	stop()
	must(t, d.Close())
	d = open(t, cfg)
	// A slow machine may have needed all of the time for this.
	before := value[workflow.Execution](t)(d.Execution(t.Context(), e))
	if w := before.Wait; before.Status == workflow.InProgress && (w == nil || w.Token != first.Token || w.Attempt != 1 || !w.Called) {
		t.Errorf("wait %+v", w)
	}
	work(t, d, asks(d, time.Second, told), 2)
	eventually(t, "expired", forAWhile, hasStatus(t, d, e, workflow.Exception))
	if len(told) != 0 {
		t.Error("the function was called again")
	}
}

// TestFailedCallComesAgain: an attempt that fails after the wait began goes on with the same token.
func TestFailedCallComesAgain(t *testing.T) { both(t, testFailedCallComesAgain) }

func testFailedCallComesAgain(t *testing.T) {
	d := open(t, Config{})
	d.backoff = func(int) time.Duration { return 0 }
	id := asking(t, d)
	told := make(chan workflow.Wait, 9)
	ask := asks(d, time.Hour, told)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		return ask(ctx, j, func(ctx context.Context, tr workflow.Transition) error {
			if tr.Wait != nil && tr.Wait.Called && j.Attempt < 3 {
				return errors.New("the function cannot be reached")
			}
			return advance(ctx, tr)
		})
	}, 1)
	e := send(t, d, id, whole())
	eventually(t, "called", forAWhile, waits(t, d, e))
	first := <-told
	for attempt := 2; attempt <= 3; attempt++ {
		if w := <-told; w.Token != first.Token || w.Attempt != attempt {
			t.Errorf("attempt %d: %+v, the first %+v", attempt, w, first)
		}
	}
	if n := jobs(t, d, "state <> 'completed'"); n > 2 { // the timer, and for a moment the job that has ended
		t.Errorf("%d jobs", n)
	}
}

func TestRetry(t *testing.T) { both(t, testRetry) }

func testRetry(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	id := attached(t, d, 2)
	stop := work(t, d, succeed(d), 2)
	old := send(t, d, id, whole())
	eventually(t, "completed", forAWhile, hasStatus(t, d, old, workflow.Completed))
	stop()
	fresh := value[workflow.ExecutionID](t)(d.Retry(ctx, old))
	before, after := value[workflow.Execution](t)(d.Execution(ctx, old)), value[workflow.Execution](t)(d.Execution(ctx, fresh))
	if after.RetryOf != old || !after.Uploaded.Equal(before.Began) || after.Status != workflow.InProgress || len(after.Results.Steps) != 0 ||
		after.Previous.S3FileLocation.Key != before.InitialFileLocation.S3FileLocation.Key || len(after.Plan.Steps) != 2 ||
		after.ServiceMetadata != before.ServiceMetadata || after.Trigger != before.Trigger || len(fresh) != 36 || !after.Ended.IsZero() {
		t.Errorf("%+v\nof %+v", after, before)
	}
	if _, err := d.Retry(ctx, fresh); !errors.Is(err, workflow.ErrRunning) {
		t.Errorf("of one that runs: %v", err)
	}
	_, err := d.Retry(ctx, "unknown")
	wantNotFound(t, err, "Execution", "unknown")
	work(t, d, succeed(d), 2)
	eventually(t, "completed", forAWhile, hasStatus(t, d, fresh, workflow.Completed))
	again := value[workflow.ExecutionID](t)(d.Retry(ctx, fresh))
	if e := value[workflow.Execution](t)(d.Execution(ctx, again)); e.RetryOf != fresh || !e.Uploaded.Equal(before.Began) {
		t.Errorf("a retry of a retry: %+v", e)
	}
	if e := value[workflow.Execution](t)(d.Execution(ctx, old)); e.Status != workflow.Completed || e.RetryOf != "" {
		t.Errorf("the old one changed: %+v", e)
	}
}

// TestDeletedServerEndsItsExecutions: those that wait and those that run, and no others.
func TestDeletedServerEndsItsExecutions(t *testing.T) { both(t, testDeletedServerEndsItsExecutions) }

func testDeletedServerEndsItsExecutions(t *testing.T) {
	d, ctx := open(t, Config{}), t.Context()
	asker, id := asking(t, d), attached(t, d, 2)
	told := make(chan workflow.Wait, 9)
	running, goOn := make(chan struct{}, 9), make(chan struct{})
	ask := asks(d, time.Hour, told)
	late := make(chan error, 9)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		e, err := d.Execution(ctx, j.Execution)
		if err != nil {
			return err
		}
		if e.WorkflowId == "w-ask" {
			return ask(ctx, j, advance)
		}
		running <- struct{}{}
		<-goOn
		tr, err := step(d, j)
		if err != nil {
			return err
		}
		err = advance(ctx, tr)
		late <- err
		return err
	}, 4)
	waiting, busy := send(t, d, asker, whole()), send(t, d, id, whole())
	<-running
	eventually(t, "waits", forAWhile, waits(t, d, waiting))
	w := value[workflow.Execution](t)(d.Execution(ctx, waiting)).Wait
	must(t, d.DeleteServer(ctx, asker))
	if !hasStatus(t, d, busy, workflow.InProgress)() {
		t.Error("an execution of another server was ended")
	}
	must(t, d.DeleteServer(ctx, id))
	for _, e := range []workflow.ExecutionID{waiting, busy} {
		got := value[workflow.Execution](t)(d.Execution(ctx, e))
		if r := got.Results.Steps; got.Status != workflow.Exception || len(r) != 1 || r[0].Error.Type != workflow.NotFound ||
			!strings.Contains(r[0].Error.Message, "deleted") || got.Ended.IsZero() || got.Wait != nil {
			t.Errorf("%+v", got)
		}
	}
	close(goOn)
	if err := <-late; !errors.Is(err, workflow.ErrStale) {
		t.Errorf("a result after the end: %v", err)
	}
	e := value[workflow.Execution](t)(d.Execution(ctx, waiting))
	e.Wait = w
	if err := d.Resume(ctx, answered(e, workflow.Job{Execution: waiting, Phase: workflow.Nominal}, ""), w.Token); !errors.Is(err, workflow.ErrStale) {
		t.Errorf("a callback after the end: %v", err)
	}
	eventually(t, "no jobs", forAWhile, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
}
