package db

import (
	"context"
	"fmt"

	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/server/session"
)

// Intend keeps a deed that is about to be done. It is durable once it returns.
func (d *DB) Intend(ctx context.Context, deed session.Deed) error {
	doc, err := encode(deed)
	if err != nil {
		return fmt.Errorf("intend: %w", err)
	}
	err = d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		// It may stand already, if the connection was lost at its commit.
		_, err := tx.Exec(ctx, `INSERT INTO deeds (id, node, began, doc) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			deed.ID, d.node, millis(deed.Began), doc)
		return err
	})
	if err != nil {
		return fmt.Errorf("intend: %w", err)
	}
	return nil
}

// Settle puts the event of a deed into the outbox, in the place of its intent. If there is no intent any more the event is
// there already. It is durable once it returns.
func (d *DB) Settle(ctx context.Context, e events.Event) error {
	row, err := d.eventRow(e)
	if err == nil {
		err = d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
			n, err := tx.Exec(ctx, `DELETE FROM deeds WHERE id = $1`, e.ID)
			if err == nil && n == 1 {
				tx.Emit(row)
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	d.told.send()
	return nil
}

// Deeds lists what this node was about to do and has not told the end of, the oldest first.
func (d *DB) Deeds(ctx context.Context) ([]session.Deed, error) {
	all, err := deeds(ctx, d.reader(), d.node)
	if err != nil {
		return nil, fmt.Errorf("list deeds: %w", err)
	}
	return all, nil
}

func deeds(ctx context.Context, q Querier, node string) ([]session.Deed, error) {
	return documents[session.Deed](ctx, q, `SELECT doc FROM deeds WHERE node = $1 ORDER BY began, id`, node)
}

// ForgetDeeds forgets what this node was about to do: nobody wants to be told any more.
func (d *DB) ForgetDeeds(ctx context.Context) error {
	return d.tx(ctx, "events", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM deeds WHERE node = $1`, d.node)
		return err
	})
}
