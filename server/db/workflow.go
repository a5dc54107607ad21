package db

import (
	"context"
	"database/sql"
	"errors"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// CreateWorkflow adds a workflow.
func (d *DB) CreateWorkflow(ctx context.Context, w workflow.Workflow) error {
	doc, err := encode(w)
	if err != nil {
		return err
	}
	return d.catalogue(ctx, func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `INSERT INTO workflows (id, rev, doc) VALUES ($1, 1, $2) ON CONFLICT DO NOTHING`,
			w.WorkflowId, doc)
		if err != nil {
			return err
		}
		if n == 0 {
			return &server.ExistsError{ResourceType: "Workflow", Resource: string(w.WorkflowId)}
		}
		return quota(ctx, tx, "Workflow", d.limits.Workflows, `SELECT COUNT(*) FROM workflows`)
	})
}

// Workflow reads one workflow.
func (d *DB) Workflow(ctx context.Context, id workflow.ID) (workflow.Workflow, error) {
	found, err := documents[workflow.Workflow](ctx, d.reader(), `SELECT doc FROM workflows WHERE id = $1`, id)
	if err == nil && len(found) == 0 {
		err = noWorkflow(id)
	}
	if err != nil {
		return workflow.Workflow{}, err
	}
	return found[0], nil
}

// Workflows lists workflows by id. No limit in the page means all.
func (d *DB) Workflows(ctx context.Context, p server.Page) ([]workflow.Workflow, error) {
	return documents[workflow.Workflow](ctx, d.reader(),
		`SELECT doc FROM workflows WHERE id > $1 ORDER BY id LIMIT $2`, p.After, limit(p.Limit))
}

// UpdateWorkflow changes a workflow in one transaction; no other change gets between. An error of change aborts it and
// comes back as it is. change must not use the database. Executions that run keep the plan they began with.
func (d *DB) UpdateWorkflow(ctx context.Context, id workflow.ID, change func(*workflow.Workflow) error) error {
	return d.catalogue(ctx, func(ctx context.Context, tx Tx) error {
		r := row{"workflows", "id = $1", []any{id}}
		_, err := revise(ctx, tx, r, noWorkflow(id), func(w *workflow.Workflow) error {
			err := change(w)
			w.WorkflowId = id
			return err
		})
		return err
	})
}

// DeleteWorkflow removes a workflow that no server refers to. Its executions go on and stay readable.
func (d *DB) DeleteWorkflow(ctx context.Context, id workflow.ID) error {
	return d.catalogue(ctx, func(ctx context.Context, tx Tx) error {
		var by string
		err := tx.QueryRow(ctx, `SELECT server_id FROM attachments WHERE workflow_id = $1 ORDER BY server_id LIMIT 1`, id).
			Scan(&by)
		if err == nil {
			return &server.InUseError{ResourceType: "Workflow", Resource: string(id), By: by}
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		n, err := tx.Exec(ctx, `DELETE FROM workflows WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = noWorkflow(id)
		}
		return err
	})
}

func noWorkflow(id workflow.ID) error {
	return &server.NotFoundError{ResourceType: "Workflow", Resource: string(id)}
}
