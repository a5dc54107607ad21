package workflow

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"
)

// A CUSTOM step whose function answers later takes part in four transactions. What a process that dies leaves:
//
//   - before the first (await): nothing. The job comes again and begins the wait.
//   - after it, before, in or after the call: an execution that waits, with its token, and the job. The job comes again
//     and calls again, with the same token and a higher attempt. A callback may have ended the wait meanwhile: then the
//     job is not the current one any more and does nothing.
//   - after the second (called), which ends the job: an execution that waits, and the job that will expire it.
//   - after the third (a callback, or its refusal) or the fourth (expire): the step's result and the next job, together.
//     Callback, expiry and a failing call are guarded by the step they are about and the wait's token, so that the first
//     of them wins and the others change nothing. Whoever called back and got no answer may do so again: if the first
//     callback counted, the second is refused.

// MaxTimeout is the longest that a CUSTOM step may take, and what it may take if it says nothing: AWS documents the
// bound of 30 minutes and no default
// (https://docs.aws.amazon.com/transfer/latest/APIReference/API_CustomStepDetails.html).
const MaxTimeout = 30 * time.Minute

// Timeout is how long the step may take.
func (d CustomStepDetails) Timeout() time.Duration {
	if d.TimeoutSeconds <= 0 {
		return MaxTimeout
	}
	return time.Duration(d.TimeoutSeconds) * time.Second
}

// NewToken makes a token that nobody can guess: 260 bits, in the API's alphabet and length (\w, at most 64).
func NewToken() string { return rand.Text() + rand.Text() }

// await begins the wait of the attempt's step, or goes on with that of an earlier attempt.
func (e *Engine) await(ctx context.Context, r *run, timeout time.Duration, advance Advance) (Wait, error) {
	w := Wait{Attempt: r.job.Attempt, Began: r.began}
	if earlier := r.x.Wait; earlier != nil {
		w.Token, w.Until = earlier.Token, earlier.Until
	} else {
		w.Token, w.Until = NewToken(), r.began.Add(timeout)
	}
	if !e.cfg.Now().Before(w.Until) {
		return w, unanswered(w, nil)
	}
	if err := advance(ctx, Transition{From: r.job, Wait: &w}); err != nil {
		return w, fmt.Errorf("begin to wait: %w", err)
	}
	r.wait = &w
	e.logInvoked(ctx, r, w.Token)
	return w, nil
}

// called ends the job of a step whose function has taken the call.
func (e *Engine) called(ctx context.Context, r *run, w *Wait, advance Advance) error {
	taken := *w
	taken.Called = true
	_, err := commit(ctx, Transition{From: r.job, Wait: &taken}, advance)
	return err
}

// expire ends a step whose function has not called back in time. AWS: a custom step fails if its timeout passes without
// SUCCESS (https://docs.aws.amazon.com/transfer/latest/userguide/custom-step-details.html).
func (e *Engine) expire(ctx context.Context, r *run, advance Advance) error {
	if err := e.resumed(r); err != nil {
		return err
	}
	return e.finish(ctx, r, unanswered(*r.x.Wait, nil), e.cfg.Now(), advance)
}

// resumed makes r the run of a step that another job began.
func (e *Engine) resumed(r *run) error {
	w := r.x.Wait
	r.job.Attempt, r.began = w.Attempt, w.Began
	r.spec = r.plan[r.job.Step]
	in, err := input(r.x, r.job, r.spec)
	r.in = in
	return err
}

// Callback ends the step that waits for it, with success or without. Its error wraps ErrNoCallback if no step waits for
// this token: because it is another execution's or nobody's, or came a second time, or too late.
func (e *Engine) Callback(ctx context.Context, w ID, id ExecutionID, token string, success bool) error {
	x, err := e.cfg.Executions.Execution(ctx, id)
	if err != nil {
		return fmt.Errorf("read execution %s: %w", id, err)
	}
	now := e.cfg.Now()
	r := waiting(x)
	if r == nil || x.WorkflowId != w || subtle.ConstantTimeCompare([]byte(x.Wait.Token), []byte(token)) != 1 ||
		!now.Before(x.Wait.Until) {
		e.metrics.callback.WithLabelValues("REFUSED").Inc()
		return fmt.Errorf("execution %s: %w", id, ErrNoCallback)
	}
	if err := e.resumed(r); err != nil {
		return err
	}
	var cause error
	said := "SUCCESS"
	if !success {
		said = "FAILURE"
		cause = &StepError{Type: CustomStepFailed, Message: "The custom step reported FAILURE."}
	}
	t := r.transition(cause, now)
	switch err := e.cfg.Executions.Resume(ctx, t, token); {
	case errors.Is(err, ErrStale):
		e.metrics.callback.WithLabelValues("REFUSED").Inc()
		return fmt.Errorf("execution %s: %w", id, ErrNoCallback)
	case err != nil:
		return fmt.Errorf("resume execution %s: %w", id, err)
	}
	e.metrics.callback.WithLabelValues(said).Inc()
	e.end(ctx, r, t, cause)
	return nil
}

// waiting is the run that x waits in, nil if there is none.
func waiting(x Execution) *run {
	if x.Wait == nil {
		return nil
	}
	job := Job{Execution: x.ExecutionId, Phase: Nominal, Step: len(x.Results.Steps)}
	if x.Status == HandlingException {
		job.Phase, job.Step = Exceptional, len(x.Results.OnExceptionSteps)
	}
	r := &run{x: x, job: job, plan: x.Plan.steps(job.Phase)}
	if !current(x, job) || job.Step >= len(r.plan) {
		return nil
	}
	return r
}

// unanswered is the end of a wait. Another attempt would be as late.
func unanswered(w Wait, err error) error {
	message := "The function did not call back in time."
	if !w.Called {
		message = "The function could not be called in time."
	}
	return &StepError{Type: StepTimeout, Message: message, Err: errors.Join(ErrPermanent, err)}
}
