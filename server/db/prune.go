package db

import (
	"context"
	"fmt"
	"time"
)

// pruneBatch is how many rows one transaction forgets: the journal waits for no more than that.
const pruneBatch = 500

// Prune forgets the uploads and executions that ended before a time, oldest first, and tells how many. What is under way
// stays however old it is. Each batch is a transaction that the journal's calls may share; if ctx ends, what was
// forgotten until then is counted. The file keeps its size: rows to come use the room.
func (d *DB) Prune(ctx context.Context, before time.Time) (uploads, executions int, err error) {
	limit := millis(before)
	uploads, err = d.forget(ctx, func(ctx context.Context, tx Tx) (int64, error) {
		// An upload began before it ended, so the index by beginning finds all of them; what it finds in vain are the
		// few that were under way at that time.
		return tx.Exec(ctx, `DELETE FROM uploads WHERE id IN (SELECT id FROM uploads
			WHERE began < $1 AND ended > 0 AND ended < $1 ORDER BY began, id LIMIT $2)`, limit, pruneBatch)
	})
	if err != nil {
		return uploads, 0, fmt.Errorf("prune uploads: %w", err)
	}
	executions, err = d.forget(ctx, func(ctx context.Context, tx Tx) (int64, error) {
		const old = `(SELECT id FROM executions WHERE ended > 0 AND ended < $1 ORDER BY ended, id LIMIT $2)`
		if _, err := tx.Exec(ctx, `DELETE FROM step_results WHERE execution_id IN `+old, limit, pruneBatch); err != nil {
			return 0, err
		}
		return tx.Exec(ctx, `DELETE FROM executions WHERE id IN `+old, limit, pruneBatch)
	})
	if err != nil {
		return uploads, executions, fmt.Errorf("prune executions: %w", err)
	}
	return uploads, executions, nil
}

// forget repeats a batch until it finds less than a full one.
func (d *DB) forget(ctx context.Context, batch func(context.Context, Tx) (int64, error)) (all int, err error) {
	for {
		var n int64
		err := d.batch.run(ctx, func(ctx context.Context, tx Tx) (err error) {
			n, err = batch(ctx, tx)
			return err
		})
		if err != nil {
			return all, err
		}
		all += int(n)
		if n < pruneBatch {
			return all, nil
		}
	}
}
