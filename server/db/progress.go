package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/transferd/transferd/workflow"
)

const (
	// maxRemovals is how many attempts at removing what a step left may fail, and maxRemovalPause the longest wait between
	// them: a day and a half in all. Then the log says what stays.
	maxRemovals     = 220
	maxRemovalPause = 10 * time.Minute
	// secondLook is how long after a removal another one follows. What was under way when its step ended may have reached
	// the store behind the first one, and then have died with the process that would have removed it.
	secondLook = 2 * time.Minute
)

// argsOf is a job as River keeps it.
func argsOf(j workflow.Job) stepArgs {
	return stepArgs{Execution: j.Execution, Phase: j.Phase, Step: j.Step, Piece: j.Piece, Expire: j.Expire, Remains: j.Remains}
}

// progress writes a step's state, and with the end of a piece the job of the next one.
func progress(ctx context.Context, tx Tx, t workflow.Transition) error {
	doc, err := encode(t.Progress)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `UPDATE executions SET progress = $1, piece = $2, carried = carried * $3
		WHERE id = $4 AND phase = $5 AND step = $6 AND piece = $7 AND ended = 0`,
		doc, t.Progress.Piece, bit(t.Next == nil), t.From.Execution, t.From.Phase, t.From.Step, t.From.Piece)
	if err != nil {
		return err
	}
	if n == 0 {
		return workflow.ErrStale
	}
	if t.Next != nil {
		tx.Enqueue(*t.Next)
	}
	return nil
}

// leave inserts the job that removes what a step left that ends without success. The job has all that it needs: the
// execution goes on, and may be forgotten before the store answers again.
func leave(ctx context.Context, tx Tx, t workflow.Transition) error {
	if t.Result.Error == nil || t.Result.StepType == workflow.TypeCustom {
		return nil
	}
	var doc string
	err := tx.QueryRow(ctx, `SELECT progress FROM executions WHERE id = $1`, t.From.Execution).Scan(&doc)
	if errors.Is(err, sql.ErrNoRows) {
		return workflow.ErrStale
	}
	if err != nil || doc == "" {
		return err
	}
	p, err := progressOf(doc)
	if err == nil {
		tx.Enqueue(workflow.Job{Execution: t.From.Execution, Phase: t.From.Phase, Step: t.From.Step,
			Remains: workflow.Remains{StepType: t.Result.StepType, State: string(p.State)}})
	}
	return err
}

// remove does a job that removes what a step left. It is not dropped while that may help.
func (w *stepWorker) remove(ctx context.Context, rj *river.Job[stepArgs], j workflow.Job) error {
	err := guard(func() error {
		return w.run(ctx, j, func(context.Context, workflow.Transition) error { return workflow.ErrStale })
	})
	if err == nil {
		return w.lookAgain(rj.JobRow)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	failures, crashes := tries(rj.JobRow)
	if failures+1 >= maxRemovals || crashes >= maxCrashes {
		w.d.log.ErrorContext(ctx, "what a step left stays behind", "execution", j.Execution, "phase", j.Phase, "step", j.Step,
			"state", j.Remains.State, "error", err)
		return nil
	}
	w.d.log.WarnContext(ctx, "what a step left cannot be removed yet", "execution", j.Execution, "phase", j.Phase,
		"step", j.Step, "error", err)
	return err
}

// lookAgain has a job that removed something come once more.
func (w *stepWorker) lookAgain(row *rivertype.JobRow) error {
	var known struct{ Snoozes int } // River's own count
	if err := json.Unmarshal(row.Metadata, &known); err != nil {
		return fmt.Errorf("metadata of job %d: %w", row.ID, err)
	}
	if known.Snoozes > 0 {
		return nil
	}
	return river.JobSnooze(w.d.secondLook)
}

// removalPause is the wait after so many failures.
func removalPause(failures int) time.Duration {
	return min(maxRemovalPause, time.Second<<min(max(failures-1, 0), 10))
}

// firstAttempt is the number of the first attempt at the current piece of an execution's step.
func firstAttempt(e workflow.Execution) int {
	if e.Progress == nil {
		return 1
	}
	return e.Progress.Attempt
}

// progressOf reads a step's progress; nil if there is none.
func progressOf(doc string) (*workflow.Progress, error) {
	if doc == "" {
		return nil, nil
	}
	p := &workflow.Progress{}
	return p, json.Unmarshal([]byte(doc), p)
}
