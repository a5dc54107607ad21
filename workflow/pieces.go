package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// A step that takes long, such as a copy of a terabyte, is done in pieces, each a job of its own: a node that dies costs one
// piece, and so does one that is stopped. Between them the step's state stands in the execution. Whatever ends such a step
// but its success leaves something half-made somewhere; what the state says of it goes into a job that removes it, which is
// inserted in the transaction that ends the step and comes again until it is done.

// dropTimeout bounds one attempt at removing what a step left.
const dropTimeout = 5 * time.Minute

// Continue is the error of a step that is not done and goes on in another job, on whatever node: what it needs for that is
// State, a JSON document.
type Continue struct{ State json.RawMessage }

func (*Continue) Error() string { return "the step goes on" }

// Dropper is the ability of a Step that saves states.
type Dropper interface {
	// Drop removes what a step made that ended without success; state is the last one that it saved. It may be called again
	// after any crash, and while the step still runs on a node that does not know yet that it has ended.
	Drop(ctx context.Context, state json.RawMessage) error
}

// Progress is a step that has begun and is not done: it has saved a state.
type Progress struct {
	Piece   int             // how many jobs have ended with more to do
	State   json.RawMessage // the step's own
	Attempt int             // the first one of this piece; the next piece of a step is no repeat
	Began   time.Time       // the step, in its first piece
}

// Remains are what a step left that did not succeed: its type and state. The zero value is nothing.
type Remains struct{ StepType, State string }

// takeUp makes r the run of a step that an earlier job began.
func (r *run) takeUp() {
	r.first = 1
	if p := r.x.Progress; p != nil {
		r.first, r.began = p.Attempt, p.Began
	}
	r.planned = r.job.Piece > 0 && r.job.Attempt <= 1
	r.job.Attempt += r.first - 1
}

// save keeps a state for whoever goes on after this attempt.
func (e *Engine) save(ctx context.Context, r *run, state json.RawMessage, advance Advance) error {
	p := Progress{Piece: r.job.Piece, State: state, Attempt: r.first, Began: r.began}
	if err := advance(ctx, Transition{From: r.job, Progress: &p}); err != nil {
		return fmt.Errorf("save the step's state: %w", err)
	}
	return nil
}

// goOn ends a job whose step has more to do.
func (e *Engine) goOn(ctx context.Context, r *run, state json.RawMessage, advance Advance) error {
	next := r.job
	next.Piece, next.Attempt, next.Last = r.job.Piece+1, 1, false
	_, err := commit(ctx, Transition{
		From: r.job, Next: &next,
		Progress: &Progress{Piece: next.Piece, State: state, Attempt: r.job.Attempt, Began: r.began},
	}, advance)
	return err
}

// drop removes what a step left.
func (e *Engine) drop(ctx context.Context, job Job) error {
	step, ok := e.cfg.Steps[job.Remains.StepType].(Dropper)
	if !ok {
		return fmt.Errorf("execution %s: nobody removes what a %s step left: %w", job.Execution, job.Remains.StepType, errors.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(ctx, dropTimeout)
	defer cancel()
	err := guarded(func() error { return step.Drop(ctx, json.RawMessage(job.Remains.State)) })
	if err != nil {
		return fmt.Errorf("execution %s, remove what %s step %d left: %w", job.Execution, job.Phase, job.Step, err)
	}
	return nil
}
