package db

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// An execution and its results are one statement, so that a reader never sees a step between the two.
const (
	executionColumns = `SELECT e.id, e.workflow_id, e.status, e.previous, e.ended, e.token, e.wait, e.progress, e.doc, COALESCE(r.phase, ''),
		COALESCE(r.doc, '') FROM (SELECT * FROM executions `
	executionResults = `) e LEFT JOIN step_results r ON r.execution_id = e.id ORDER BY e.began, e.id, r.step`
)

// Execution reads an execution with its results so far.
func (d *DB) Execution(ctx context.Context, id workflow.ExecutionID) (workflow.Execution, error) {
	return readExecution(ctx, d.reader(), id)
}

func readExecution(ctx context.Context, q Querier, id workflow.ExecutionID) (workflow.Execution, error) {
	found, err := executions(ctx, q, executionColumns+`WHERE id = $1`+executionResults, id)
	if err == nil && len(found) == 0 {
		err = &server.NotFoundError{ResourceType: "Execution", Resource: string(id)}
	}
	if err != nil {
		return workflow.Execution{}, err
	}
	return found[0], nil
}

// Executions lists a workflow's executions, oldest first, with their results so far; it need not exist any more. After
// is the id of the last one seen. No limit in the page means all.
func (d *DB) Executions(ctx context.Context, w workflow.ID, p server.Page) ([]workflow.Execution, error) {
	if p.After == "" {
		return executions(ctx, d.reader(), executionColumns+
			`WHERE workflow_id = $1 ORDER BY began, id LIMIT $2`+executionResults, w, limit(p.Limit))
	}
	return executions(ctx, d.reader(), executionColumns+
		`WHERE workflow_id = $1 AND (began, id) > (SELECT began, id FROM executions WHERE id = $2)
		ORDER BY began, id LIMIT $3`+executionResults, w, p.After, limit(p.Limit))
}

func executions(ctx context.Context, q Querier, query string, args ...any) ([]workflow.Execution, error) {
	var all []workflow.Execution
	err := q.Query(ctx, func(scan func(...any) error) error {
		var id workflow.ExecutionID
		var w workflow.ID
		var status workflow.Status
		var phase workflow.Phase
		var previous, token, wait, progress, doc, result string
		var ended int64
		if err := scan(&id, &w, &status, &previous, &ended, &token, &wait, &progress, &doc, &phase, &result); err != nil {
			return err
		}
		if len(all) == 0 || all[len(all)-1].ExecutionId != id {
			var e workflow.Execution
			var at workflow.FileLocation // a fresh one: decoding into the document's would merge both
			if err := errors.Join(json.Unmarshal([]byte(doc), &e), json.Unmarshal([]byte(previous), &at)); err != nil {
				return err
			}
			if wait != "" {
				e.Wait = &workflow.Wait{}
				if err := json.Unmarshal([]byte(wait), e.Wait); err != nil {
					return err
				}
				e.Wait.Token = token
			}
			var err error
			if e.Progress, err = progressOf(progress); err != nil {
				return err
			}
			e.ExecutionId, e.WorkflowId, e.Status, e.Previous, e.Ended = id, w, status, at, fromMillis(ended)
			all = append(all, e)
		}
		return addResult(&all[len(all)-1].Results, phase, result)
	}, query, args...)
	return all, err
}

func addResult(to *workflow.Results, phase workflow.Phase, doc string) error {
	if phase == "" {
		return nil
	}
	var r workflow.StepResult
	if err := json.Unmarshal([]byte(doc), &r); err != nil {
		return err
	}
	if phase == workflow.Exceptional {
		to.OnExceptionSteps = append(to.OnExceptionSteps, r)
	} else {
		to.Steps = append(to.Steps, r)
	}
	return nil
}

// begin inserts an execution and its first job. A workflow without steps is done at once.
func begin(ctx context.Context, tx Tx, e workflow.Execution) error {
	e.Status = workflow.InProgress
	if len(e.Plan.Steps) == 0 {
		e.Status, e.Ended = workflow.Completed, e.Began
	}
	previous, err := encode(e.Previous)
	if err != nil {
		return err
	}
	fixed := e // what has a column of its own is not written twice
	fixed.ExecutionId, fixed.WorkflowId, fixed.Status, fixed.Previous = "", "", "", workflow.FileLocation{}
	doc, err := encode(fixed)
	if err != nil {
		return err
	}
	err = tx.Later(ctx, unchecked, `INSERT INTO executions (id, workflow_id, status, phase, step, previous, began, ended, doc, server_id)
		VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9)`,
		e.ExecutionId, e.WorkflowId, e.Status, workflow.Nominal, previous, millis(e.Began), millis(e.Ended), doc,
		e.ServiceMetadata.UserDetails.ServerId)
	if err != nil || e.Status != workflow.InProgress {
		return err
	}
	tx.Enqueue(workflow.Job{Execution: e.ExecutionId, Phase: workflow.Nominal})
	return nil
}

// Retry begins an execution that does an ended one over again: the same steps on the same file, from the first one on.
// It returns the new execution's id, or workflow.ErrRunning if the old one has not ended.
func (d *DB) Retry(ctx context.Context, id workflow.ExecutionID) (workflow.ExecutionID, error) {
	fresh := newExecutionID()
	err := d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		old, err := readExecution(ctx, tx, id)
		if err != nil {
			return err
		}
		if old.Ended.IsZero() {
			return workflow.ErrRunning
		}
		e := old
		e.ExecutionId, e.RetryOf = fresh, id
		e.Results, e.Wait, e.Progress, e.Ended = workflow.Results{}, nil, nil, time.Time{}
		e.Began, e.Previous = d.now(), old.InitialFileLocation
		if e.Uploaded.IsZero() {
			e.Uploaded = old.Began
		}
		return begin(ctx, tx, e)
	})
	if err != nil {
		return "", fmt.Errorf("retry execution %s: %w", id, err)
	}
	return fresh, nil
}

// newExecutionID makes a UUID (RFC 9562, version 4), as the API's model has it.
func newExecutionID() workflow.ExecutionID {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return workflow.ExecutionID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// Resume commits what a callback changes, and the next job, if the execution waits for this token.
func (d *DB) Resume(ctx context.Context, t workflow.Transition, token string) error {
	if token == "" {
		return workflow.ErrStale
	}
	now := d.now()
	return d.batch.run(ctx, func(ctx context.Context, tx Tx) error { return finish(ctx, tx, ending{t, token, now, false}) })
}

// ending is a transition about to be written.
type ending struct {
	workflow.Transition
	token string // of the wait that it ends, "" for any
	now   time.Time
	carry bool // the next step is done in the same job
}

// advance writes a transition if its job is the execution's current one, and the next job.
func advance(ctx context.Context, tx Tx, t ending) error {
	if t.Wait != nil {
		return await(ctx, tx, t.Transition)
	}
	if t.Progress != nil {
		return progress(ctx, tx, t.Transition)
	}
	return finish(ctx, tx, t)
}

// await writes that an execution waits, and with its first attempt the job that ends the wait in time.
func await(ctx context.Context, tx Tx, t workflow.Transition) error {
	token := t.Wait.Token
	doc := *t.Wait
	doc.Token = "" // has a column of its own
	wait, err := encode(doc)
	if err != nil {
		return err
	}
	const current = ` WHERE id = $3 AND phase = $4 AND step = $5 AND ended = 0 AND `
	args := []any{token, wait, t.From.Execution, t.From.Phase, t.From.Step}
	n, err := tx.Exec(ctx, `UPDATE executions SET token = $1, wait = $2`+current+`token = $1`, args...)
	if err != nil || n > 0 {
		return err
	}
	if t.Wait.Called {
		return workflow.ErrStale // a callback has ended the wait already
	}
	if n, err = tx.Exec(ctx, `UPDATE executions SET token = $1, wait = $2`+current+`token = ''`, args...); err != nil {
		return err
	}
	if n == 0 {
		return workflow.ErrStale
	}
	timer, err := schedule(ctx, tx, stepArgs{
		Execution: t.From.Execution, Phase: t.From.Phase, Step: t.From.Step, Expire: true,
	}, t.Wait.Until)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE executions SET timer = $1 WHERE id = $2`, timer, t.From.Execution)
	return err
}

// finish writes how a step ended, if it is the execution's current one, and the next job. What ends a wait does so if
// that is still on: a callback brings the token, the job that expires it takes any.
func finish(ctx context.Context, tx Tx, t ending) error {
	if over := t.Status == workflow.Completed || t.Status == workflow.Exception; over != (t.Next == nil) {
		return errors.New("transition: an execution ends exactly when its status is final")
	}
	phase, step, ended := t.From.Phase, t.From.Step, millis(t.now)
	if t.Next != nil {
		phase, step, ended = t.Next.Phase, t.Next.Step, 0
	}
	previous, err := encode(t.Previous)
	if err != nil {
		return err
	}
	result, err := encode(t.Result)
	if err != nil {
		return err
	}
	var timer int64
	if t.Result.StepType == workflow.TypeCustom && !t.From.Expire {
		if timer, err = timerOf(ctx, tx, t.From.Execution); err != nil {
			return err
		}
	}
	if err := leave(ctx, tx, t.Transition); err != nil {
		return err
	}
	if err := tx.Later(ctx, changed(workflow.ErrStale), `UPDATE executions SET status = $1, phase = $2, step = $3, previous = $4, ended = $5,
		token = '', wait = '', timer = 0, progress = '', piece = 0, carried = (carried + 1) * $11 WHERE id = $6 AND phase = $7 AND step = $8 AND ended = 0
		AND ($9 = '' OR token = $9) AND ($10 = 0 OR token <> '') AND piece = $12`,
		t.Status, phase, step, previous, ended, t.From.Execution, t.From.Phase, t.From.Step, t.token, bit(t.From.Expire), bit(t.carry), t.From.Piece); err != nil {
		return err
	}
	if err := unschedule(ctx, tx, timer); err != nil {
		return err
	}
	if err := tx.Later(ctx, unchecked, `INSERT INTO step_results (execution_id, phase, step, doc) VALUES ($1, $2, $3, $4)`,
		t.From.Execution, t.From.Phase, t.From.Step, result); err != nil {
		return err
	}
	if t.Next != nil && !t.carry {
		tx.Enqueue(workflow.Job{Execution: t.From.Execution, Phase: phase, Step: step})
	}
	return nil
}

// timerOf is the job that ends an execution's wait, 0 for none.
func timerOf(ctx context.Context, q Querier, id workflow.ExecutionID) (timer int64, err error) {
	err = q.QueryRow(ctx, `SELECT timer FROM executions WHERE id = $1`, id).Scan(&timer)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, workflow.ErrStale
	}
	return timer, err
}

// current tells whether a job is its execution's current one.
func current(ctx context.Context, q Querier, j workflow.Job) (bool, error) {
	var n int
	err := q.QueryRow(ctx, `SELECT COUNT(*) FROM executions WHERE id = $1 AND phase = $2 AND step = $3 AND ended = 0
		AND ($4 = 0 OR token <> '') AND piece = $5`, j.Execution, j.Phase, j.Step, bit(j.Expire), j.Piece).Scan(&n)
	return n == 1, err
}

// bit is a bool for a condition that both databases read the same way.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// cancel ends the executions of a server that goes. AWS says nothing of them; here no step of theirs begins any more, and
// one that runs is not interrupted, but its result comes too late. The steps of OnExceptionSteps do not run: they would
// work on files for a server that is no more. It gives those that it ended.
func cancel(ctx context.Context, tx Tx, id server.ID, now time.Time) (ended []workflow.Execution, err error) {
	open, err := executions(ctx, tx, executionColumns+`WHERE server_id = $1 AND ended = 0`+executionResults, id)
	if err != nil {
		return nil, err
	}
	for _, e := range open {
		err := cancelOne(ctx, tx, e, now)
		for errors.Is(err, workflow.ErrStale) { // another node has brought it further since it was read
			if e, err = readExecution(ctx, tx, e.ExecutionId); err == nil && e.Ended.IsZero() {
				err = cancelOne(ctx, tx, e, now)
			}
		}
		if err != nil {
			return nil, err
		}
		if e.Ended.IsZero() {
			ended = append(ended, e)
		}
	}
	return ended, nil
}

func cancelOne(ctx context.Context, tx Tx, e workflow.Execution, now time.Time) error {
	j := workflow.Job{Execution: e.ExecutionId, Phase: workflow.Nominal, Step: len(e.Results.Steps)}
	if e.Status == workflow.HandlingException {
		j.Phase, j.Step = workflow.Exceptional, len(e.Results.OnExceptionSteps)
	}
	t := workflow.Transition{From: j, Previous: e.Previous, Status: workflow.Exception, Result: workflow.StepResult{
		StepType: stepType(e.Plan, j),
		Error:    &workflow.Error{Type: workflow.NotFound, Message: "The server was deleted."},
		Attempt:  1, Began: now, Ended: now,
	}}
	if e.Progress != nil {
		t.From.Piece, t.Result.Attempt, t.Result.Began = e.Progress.Piece, e.Progress.Attempt, e.Progress.Began
	}
	if e.Wait != nil {
		t.Result.Attempt, t.Result.Began = e.Wait.Attempt, e.Wait.Began
	}
	return finish(ctx, atOnce{tx}, ending{t, "", now, false})
}
