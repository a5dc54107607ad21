package db

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// An execution and its results are one statement, so that a reader never sees a step between the two.
const (
	executionColumns = `SELECT e.id, e.workflow_id, e.status, e.previous, e.ended, e.doc, COALESCE(r.phase, ''),
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
		var previous, doc, result string
		var ended int64
		if err := scan(&id, &w, &status, &previous, &ended, &doc, &phase, &result); err != nil {
			return err
		}
		if len(all) == 0 || all[len(all)-1].ExecutionId != id {
			var e workflow.Execution
			if err := errors.Join(json.Unmarshal([]byte(doc), &e), json.Unmarshal([]byte(previous), &e.Previous)); err != nil {
				return err
			}
			e.ExecutionId, e.WorkflowId, e.Status, e.Ended = id, w, status, fromMillis(ended)
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
	doc, err := encode(e)
	if err != nil {
		return err
	}
	previous, err := encode(e.Previous)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO executions (id, workflow_id, status, phase, step, previous, began, ended, doc)
		VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8)`,
		e.ExecutionId, e.WorkflowId, e.Status, workflow.Nominal, previous, millis(e.Began), millis(e.Ended), doc)
	if err != nil || e.Status != workflow.InProgress {
		return err
	}
	tx.Enqueue(workflow.Job{Execution: e.ExecutionId, Phase: workflow.Nominal})
	return nil
}

// advance writes a transition if its job is the execution's current one, and the next job.
func advance(ctx context.Context, tx Tx, t workflow.Transition, now time.Time) error {
	if over := t.Status == workflow.Completed || t.Status == workflow.Exception; over != (t.Next == nil) {
		return errors.New("transition: an execution ends exactly when its status is final")
	}
	phase, step, ended := t.From.Phase, t.From.Step, millis(now)
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
	n, err := tx.Exec(ctx, `UPDATE executions SET status = $1, phase = $2, step = $3, previous = $4, ended = $5
		WHERE id = $6 AND phase = $7 AND step = $8 AND ended = 0`,
		t.Status, phase, step, previous, ended, t.From.Execution, t.From.Phase, t.From.Step)
	if err != nil {
		return err
	}
	if n == 0 {
		return workflow.ErrStale
	}
	if _, err := tx.Exec(ctx, `INSERT INTO step_results (execution_id, phase, step, doc) VALUES ($1, $2, $3, $4)`,
		t.From.Execution, t.From.Phase, t.From.Step, result); err != nil {
		return err
	}
	if t.Next != nil {
		tx.Enqueue(workflow.Job{Execution: t.From.Execution, Phase: phase, Step: step})
	}
	return nil
}

// current tells whether a job is its execution's current one.
func current(ctx context.Context, q Querier, j workflow.Job) (bool, error) {
	var n int
	err := q.QueryRow(ctx, `SELECT COUNT(*) FROM executions WHERE id = $1 AND phase = $2 AND step = $3 AND ended = 0`,
		j.Execution, j.Phase, j.Step).Scan(&n)
	return n == 1, err
}
