package workflow

import (
	"context"
	"errors"
	"time"
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
	Piece     int // of the step, 0 for the first; see Progress
	Attempt   int // 1 for the first try at the piece
	// Last says that a failure would be the last one: the step must end now, as failed if it did not succeed. A job whose
	// context was cancelled, because the process stops, comes again all the same.
	Last bool
	// Expire says that this is not the step's own job but the one that ends its wait for a callback, when its time has
	// come.
	Expire bool
	// Remains, if set, are what the job is to remove; it is no attempt at the step, which has ended.
	Remains Remains
	// Known is the execution as the transition before this job left it: for a worker that goes straight on. A queue that keeps
	// the job for later forgets it, and then the execution is read.
	Known *Execution
}

// Wait is a step that waits for its function to call back (SendWorkflowStepState).
//
// There is one token for a step, whatever number of attempts its call takes: a process that dies in the call leaves it
// unknown whether the function has the token, and whoever answers first, to whichever attempt, has done the same work
// on the same file. Attempt tells the attempts apart.
type Wait struct {
	Token   string
	Until   time.Time // the step is TIMEOUT from then on; set by the first attempt
	Attempt int       // the latest attempt at the call
	Began   time.Time // of that attempt
	Called  bool      // the function has taken the call
}

// Transition is what one step changes. It is committed whole or not at all. There are these kinds:
//
//   - Wait and Progress are nil: the step ended. Result is added, the execution goes on to Next or ends, its wait is over.
//     If the step has saved a state and did not succeed, the job that removes what it left is inserted too.
//   - Wait.Called is false: the step is about to call its function. The execution waits from now on, for its first
//     attempt together with a job that expires it at Wait.Until; From goes on, it is not over.
//   - Wait.Called is true: the function has taken the call. From is over, and the execution waits.
//   - Progress without Next: the step has a state now. From goes on.
//   - Progress and Next: From is over, and Next is the next piece of the same step.
type Transition struct {
	From     Job
	Wait     *Wait
	Progress *Progress

	Result   StepResult
	Previous FileLocation // the execution's Previous from now on
	Status   Status       // the execution's Status from now on
	Next     *Job         // nil: the execution ends
}

// Executions is what the engine asks of the database.
type Executions interface {
	// Execution reads an execution with its results so far.
	Execution(ctx context.Context, id ExecutionID) (Execution, error)
	// Resume commits a transition that no job of the queue but a callback brings, with the next job, in one transaction.
	// If the execution does not wait for this token at this step any more it changes nothing and returns ErrStale.
	Resume(ctx context.Context, t Transition, token string) error
}

// Advance commits a transition, the next job and the end of the current job in one transaction. A job that is not the
// execution's current one any more, or one to expire a wait that is over, or one whose wait has another token, changes
// nothing and returns ErrStale.
type Advance func(ctx context.Context, t Transition) error

// ErrStale says that another worker has brought the execution further: this job is done, without effect.
var ErrStale = errors.New("job is not the execution's current one")

// ErrPermanent, wrapped by a step's error, says that another attempt would not help.
var ErrPermanent = errors.New("permanent")

// ErrRunning says that an execution which has not ended cannot be done over again.
var ErrRunning = errors.New("execution has not ended")

// ErrNoCallback says that an execution does not wait for a callback with that token (SendWorkflowStepState).
var ErrNoCallback = errors.New("execution waits for no callback with this token")
