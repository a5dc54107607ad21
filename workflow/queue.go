package workflow

import (
	"context"
	"errors"
)

// Phase says which list of steps an execution is in.
type Phase string

// The phases of an execution.
const (
	Nominal     Phase = "steps"
	Exceptional Phase = "exception"
)

// Job asks to run one step of one execution. The queue gives it to one worker at a time; after a crash it comes again
// with a higher Attempt.
type Job struct {
	Execution ExecutionID
	Phase     Phase
	Step      int // index into the phase's steps
	Attempt   int // 1 for the first try
	// Last says that a failure would be the last one: the step must end now, as failed if it did not succeed. A job whose
	// context was cancelled, because the process stops, comes again all the same.
	Last bool
}

// Transition is what one step changes. It is committed whole or not at all.
type Transition struct {
	From     Job
	Result   StepResult
	Previous FileLocation // the execution's Previous from now on
	Status   Status       // the execution's Status from now on
	Next     *Job         // nil: the execution ends
}

// Executions is what the engine asks of the database.
type Executions interface {
	// Execution reads an execution with its results so far.
	Execution(ctx context.Context, id ExecutionID) (Execution, error)
}

// Advance commits a transition, the next job and the end of the current job in one transaction. A job that is not the
// execution's current one any more changes nothing and returns ErrStale.
type Advance func(ctx context.Context, t Transition) error

// ErrStale says that another worker has brought the execution further: this job is done, without effect.
var ErrStale = errors.New("job is not the execution's current one")

// ErrPermanent, wrapped by a step's error, says that another attempt would not help.
var ErrPermanent = errors.New("permanent")

// ErrNoCallback says that an execution does not wait for a callback with that token (SendWorkflowStepState).
var ErrNoCallback = errors.New("execution waits for no callback with this token")
