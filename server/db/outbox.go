package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/server/session"
)

// The outbox of events. A transaction collects its events and numbers them just before its commit, with a lock on the one
// row that holds the last number: so whoever sees a number sees all before it, and how far a sink is takes one number.

// eventRow is an event that waits for its transaction's end.
type eventRow struct {
	made int64
	doc  string
}

// mark is how much a transaction has collected.
type mark struct{ jobs, events int }

// Emit is part of Tx.
func (o *outbox) Emit(e eventRow) { o.events = append(o.events, e) }

func (o *outbox) keep(m mark)  { o.jobs, o.events = o.jobs[:m.jobs], o.events[:m.events] }
func (o *outbox) queued() mark { return mark{len(o.jobs), len(o.events)} }

// lastNumber reads the last number that was given away.
const lastNumber = `COALESCE((SELECT number FROM event_numbers WHERE name = 'last'), 0)`

// number inserts a transaction's events. What follows it is the commit: others wait.
func number(ctx context.Context, tx interface {
	Querier
	Exec(ctx context.Context, query string, args ...any) (int64, error)
}, rows []eventRow) error {
	if len(rows) == 0 {
		return nil
	}
	var last int64
	err := tx.QueryRow(ctx, `INSERT INTO event_numbers (name, number) VALUES ('last', $1)
		ON CONFLICT (name) DO UPDATE SET number = event_numbers.number + excluded.number RETURNING number`,
		int64(len(rows))).Scan(&last)
	if err != nil {
		return fmt.Errorf("number events: %w", err)
	}
	var values []string
	var args []any
	for i, r := range rows {
		n := len(args)
		values = append(values, "($"+strconv.Itoa(n+1)+", $"+strconv.Itoa(n+2)+", $"+strconv.Itoa(n+3)+")")
		args = append(args, last-int64(len(rows))+int64(i)+1, r.made, r.doc)
		if len(values) < maxBatch && i+1 < len(rows) {
			continue
		}
		if _, err := tx.Exec(ctx, `INSERT INTO events (number, made, doc) VALUES `+strings.Join(values, ", "), args...); err != nil {
			return fmt.Errorf("insert events: %w", err)
		}
		values, args = values[:0], args[:0]
	}
	return nil
}

func (d *DB) eventRow(e events.Event) (eventRow, error) {
	doc, err := encode(e)
	return eventRow{millis(d.now()), doc}, err
}

// tell puts the event of a verdict into the outbox, if anybody wants it.
func (d *DB) tell(tx Tx, u session.Upload, v session.Verdict) error {
	if d.events == nil {
		return nil
	}
	row, err := d.eventRow(d.events(u, v))
	if err == nil {
		tx.Emit(row)
	}
	return err
}

// Record puts an event into the outbox. It is durable once it returns.
func (d *DB) Record(ctx context.Context, e events.Event) error {
	row, err := d.eventRow(e)
	if err == nil {
		err = d.batch.run(ctx, func(_ context.Context, tx Tx) error {
			tx.Emit(row)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	d.told.send()
	return nil
}

// Told is part of events.Outbox. It may also tell when there is nothing new.
func (d *DB) Told() (<-chan struct{}, func()) { return d.told.subscribe() }

// Sinks makes the sinks that are to be told from now on; one that is known already goes on where it was. Those of this node
// that are not among them are given back.
func (d *DB) Sinks(ctx context.Context, names []string) error {
	err := d.tx(ctx, "events", func(ctx context.Context, tx Tx) error {
		for _, name := range names {
			_, err := tx.Exec(ctx, `INSERT INTO event_sinks (name, sent, turn, node) VALUES ($1, `+lastNumber+`, 1, '')
				ON CONFLICT (name) DO NOTHING`, name)
			if err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE event_sinks SET node = '' WHERE node = $1`, d.node)
		return err
	})
	if err != nil {
		return fmt.Errorf("make sinks: %w", err)
	}
	return nil
}

// Claim is part of events.Outbox. The lease is the node's own: it ends when the node leaves or is declared dead.
func (d *DB) Claim(ctx context.Context, sink string) (at events.Position, mine bool, err error) {
	at, node, err := position(ctx, d.reader(), sink)
	if err != nil || node == d.node {
		return at, err == nil, err
	}
	err = d.tx(ctx, "events", func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `UPDATE event_sinks SET node = $1 WHERE name = $2
			AND (node = $1 OR node NOT IN (SELECT name FROM nodes WHERE seen > 0))`, d.node, sink)
		if mine = n == 1; err != nil || !mine {
			return err
		}
		at, _, err = position(ctx, tx, sink)
		return err
	})
	return at, mine && err == nil, err
}

func position(ctx context.Context, q Querier, sink string) (at events.Position, node string, err error) {
	err = q.QueryRow(ctx, `SELECT sent, turn, node FROM event_sinks WHERE name = $1`, sink).Scan(&at.Sent, &at.Turn, &node)
	if errors.Is(err, sql.ErrNoRows) {
		err = &server.NotFoundError{ResourceType: "Sink", Resource: sink}
	}
	return at, node, err
}

// Release is part of events.Outbox.
func (d *DB) Release(ctx context.Context, sink string) error {
	return d.tx(ctx, "events", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `UPDATE event_sinks SET node = '' WHERE name = $1 AND node = $2`, sink, d.node)
		return err
	})
}

// After is part of events.Outbox.
func (d *DB) After(ctx context.Context, after int64, limit int) ([]events.Event, error) {
	return readEvents(ctx, d.reader(), `WHERE number > $1 ORDER BY number LIMIT $2`, after, int64(limit))
}

// LatestEvents lists the n events that came last, in their order.
func (d *DB) LatestEvents(ctx context.Context, n int) ([]events.Event, error) {
	return readEvents(ctx, d.reader(), `WHERE number > `+lastNumber+` - $1 ORDER BY number`, int64(n))
}

func readEvents(ctx context.Context, q Querier, where string, args ...any) ([]events.Event, error) {
	var all []events.Event
	err := q.Query(ctx, func(scan func(...any) error) error {
		var e events.Event
		var doc string
		var n int64
		if err := scan(&n, &doc); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(doc), &e); err != nil {
			return fmt.Errorf("event %d: %w", n, err)
		}
		e.Number = n
		all = append(all, e)
		return nil
	}, `SELECT number, doc FROM events `+where, args...)
	return all, err
}

// Advance is part of events.Outbox.
func (d *DB) Advance(ctx context.Context, sink string, to events.Position) error {
	return d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `UPDATE event_sinks SET sent = $1 WHERE name = $2 AND turn = $3 AND node = $4`,
			to.Sent, sink, to.Turn, d.node)
		if err == nil && n == 0 {
			err = events.ErrMoved
		}
		return err
	})
}

// Backlogs is part of events.Outbox.
func (d *DB) Backlogs(ctx context.Context, sinks []string) ([]events.Backlog, error) {
	all := make([]events.Backlog, 0, len(sinks))
	for _, name := range sinks {
		b := events.Backlog{Sink: name}
		var oldest int64
		// The first event that a sink has not had: what is older was forgotten, or never wanted.
		err := d.reader().QueryRow(ctx, `SELECT e.made, `+lastNumber+` - e.number + 1 FROM events e
			WHERE e.number > (SELECT sent FROM event_sinks WHERE name = $1) ORDER BY e.number LIMIT 1`, name).Scan(&oldest, &b.Events)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("backlog of sink %s: %w", name, err)
		}
		b.Oldest = fromMillis(oldest)
		if err := d.reader().QueryRow(ctx, `SELECT COUNT(*) FROM event_dead WHERE sink = $1`, name).Scan(&b.Dead); err != nil {
			return nil, fmt.Errorf("dead events of sink %s: %w", name, err)
		}
		all = append(all, b)
	}
	return all, nil
}

// Replay has a sink told again what was made since a time, as far as it is remembered, and tells how many events the sink
// has before it now.
func (d *DB) Replay(ctx context.Context, sink string, since time.Time) (count int64, err error) {
	err = d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		n, err := tx.Exec(ctx, `UPDATE event_sinks SET turn = turn + 1,
			sent = COALESCE((SELECT MIN(number) - 1 FROM events WHERE made >= $1 AND number <= event_sinks.sent), sent)
			WHERE name = $2`, millis(since), sink)
		if err == nil && n == 0 {
			err = &server.NotFoundError{ResourceType: "Sink", Resource: sink}
		}
		if err != nil {
			return err
		}
		// Those that were given up are among them: they have the sink before them once more.
		if _, err := tx.Exec(ctx, `DELETE FROM event_dead WHERE sink = $1 AND number > (SELECT sent FROM event_sinks WHERE name = $1)`,
			sink); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT `+lastNumber+` - sent FROM event_sinks WHERE name = $1`, sink).Scan(&count)
	})
	if err != nil {
		return 0, fmt.Errorf("replay: %w", err)
	}
	d.told.send()
	return count, nil
}

// PruneEvents forgets events that were made before a time, and tells how many. Lost is how many of them each of the sinks
// has never had: they have their position behind them now.
func (d *DB) PruneEvents(ctx context.Context, before time.Time, sinks []string) (forgotten int, lost map[string]int64, err error) {
	var last int64
	err = d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
		lost = map[string]int64{} // this may run twice
		var first int64
		err := tx.QueryRow(ctx, `SELECT COALESCE(MIN(number), 0), COALESCE(MAX(number), 0) FROM events WHERE made < $1`,
			millis(before)).Scan(&first, &last)
		if err != nil || last == 0 {
			return err
		}
		for _, sink := range sinks {
			at, _, err := position(ctx, tx, sink)
			if err != nil {
				return err
			}
			if at.Sent < last {
				lost[sink] = last - max(at.Sent, first-1)
			}
		}
		_, err = tx.Exec(ctx, `UPDATE event_sinks SET sent = $1, turn = turn + 1 WHERE sent < $1`, last)
		return err
	})
	if err == nil && last > 0 {
		forgotten, err = d.forget(ctx, func(ctx context.Context, tx Tx) (int64, error) {
			return tx.Exec(ctx, `DELETE FROM events WHERE number IN (SELECT number FROM events
				WHERE number <= $1 ORDER BY number LIMIT $2)`, last, pruneBatch)
		})
	}
	if err != nil {
		return forgotten, lost, fmt.Errorf("prune events: %w", err)
	}
	return forgotten, lost, nil
}
