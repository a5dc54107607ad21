package db

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/events"
)

// revivedAtOnce bounds how many dead events a sink gets again at a time.
const revivedAtOnce = 100

// Bury is part of events.DeadLetters.
func (d *DB) Bury(ctx context.Context, at events.Position, dead events.Dead) error {
	doc, err := encode(dead.Event)
	if err != nil {
		return fmt.Errorf("bury event: %w", err)
	}
	return d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		now, node, err := position(ctx, tx, dead.Sink)
		if err != nil {
			return err
		}
		if now.Turn != at.Turn || node != d.node {
			return events.ErrMoved
		}
		_, err = tx.Exec(ctx, `INSERT INTO event_dead (sink, number, died, again, tries, reason, doc)
			VALUES ($1, $2, $3, 0, $4, $5, $6) ON CONFLICT (sink, number) DO UPDATE
			SET again = 0, died = excluded.died, tries = event_dead.tries + excluded.tries, reason = excluded.reason`,
			dead.Sink, dead.Event.Number, millis(dead.Died), int64(dead.Tries), dead.Reason, doc)
		return err
	})
}

// Buried is part of events.DeadLetters.
func (d *DB) Buried(ctx context.Context, sink string, after int64) (numbers []int64, err error) {
	err = d.reader().Query(ctx, func(scan func(...any) error) error {
		var n int64
		err := scan(&n)
		numbers = append(numbers, n)
		return err
	}, `SELECT number FROM event_dead WHERE sink = $1 AND number > $2`, sink, after)
	return numbers, err
}

// Revived is part of events.DeadLetters.
func (d *DB) Revived(ctx context.Context, sink string) ([]events.Event, error) {
	dead, err := d.dead(ctx, `WHERE sink = $1 AND again = 1 ORDER BY number LIMIT $2`, sink, int64(revivedAtOnce))
	var all []events.Event
	for _, one := range dead {
		all = append(all, one.Event)
	}
	return all, err
}

// Arrived is part of events.DeadLetters.
func (d *DB) Arrived(ctx context.Context, sink string, number int64) error {
	return d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM event_dead WHERE sink = $1 AND number = $2`, sink, number)
		return err
	})
}

// DeadEvents lists the first n events that were given up, oldest first.
func (d *DB) DeadEvents(ctx context.Context, n int) ([]events.Dead, error) {
	return d.dead(ctx, `ORDER BY number, sink LIMIT $1`, int64(n))
}

func (d *DB) dead(ctx context.Context, where string, args ...any) ([]events.Dead, error) {
	var all []events.Dead
	err := d.reader().Query(ctx, func(scan func(...any) error) error {
		var one events.Dead
		var doc string
		var number, died, tries int64
		if err := scan(&one.Sink, &number, &died, &tries, &one.Reason, &doc); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(doc), &one.Event); err != nil {
			return fmt.Errorf("dead event %d: %w", number, err)
		}
		one.Event.Number, one.Died, one.Tries = number, fromMillis(died), int(tries)
		all = append(all, one)
		return nil
	}, `SELECT sink, number, died, tries, reason, doc FROM event_dead `+where, args...)
	return all, err
}

// Revive has dead events of a sink sent again, the one with this id or, if it is "", all, and tells how many.
func (d *DB) Revive(ctx context.Context, sink, id string) (count int64, err error) {
	count, err = d.eachDead(ctx, `UPDATE event_dead SET again = 1`, sink, id)
	if err != nil {
		return 0, fmt.Errorf("replay: %w", err)
	}
	d.told.send()
	return count, nil
}

// ForgetDead forgets dead events of a sink, as Revive chooses them.
func (d *DB) ForgetDead(ctx context.Context, sink, id string) (count int64, err error) {
	count, err = d.eachDead(ctx, `DELETE FROM event_dead`, sink, id)
	if err != nil {
		return 0, fmt.Errorf("forget dead events: %w", err)
	}
	return count, nil
}

// eachDead changes dead events of a sink that is known or has some.
func (d *DB) eachDead(ctx context.Context, change, sink, id string) (count int64, err error) {
	dead, err := d.dead(ctx, `WHERE sink = $1 ORDER BY number`, sink)
	if err != nil {
		return 0, err
	}
	if len(dead) == 0 {
		if _, _, err := position(ctx, d.reader(), sink); err != nil {
			return 0, err
		}
	}
	if id == "" {
		err = d.batch.run(ctx, func(ctx context.Context, tx Tx) (err error) {
			count, err = tx.Exec(ctx, change+` WHERE sink = $1`, sink)
			return err
		})
		return count, err
	}
	for _, one := range dead {
		if one.Event.ID != id {
			continue
		}
		err = d.batch.run(ctx, func(ctx context.Context, tx Tx) (err error) {
			count, err = tx.Exec(ctx, change+` WHERE sink = $1 AND number = $2`, sink, one.Event.Number)
			return err
		})
		return count, err
	}
	return 0, &server.NotFoundError{ResourceType: "Event", Resource: id}
}

// PruneDead forgets events that were given up before a time, and tells how many.
func (d *DB) PruneDead(ctx context.Context, before time.Time) (int, error) {
	n, err := d.forget(ctx, func(ctx context.Context, tx Tx) (int64, error) {
		return tx.Exec(ctx, `DELETE FROM event_dead WHERE (sink, number) IN (SELECT sink, number FROM event_dead
			WHERE died < $1 ORDER BY died LIMIT $2)`, millis(before), pruneBatch)
	})
	if err != nil {
		return n, fmt.Errorf("prune dead events: %w", err)
	}
	return n, nil
}
