package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/riverqueue/river/riverdriver"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

// Querier reads. Placeholders are $1, $2, …
type Querier interface {
	// Query calls each once for every row; scan reads the row's columns. The first error ends it.
	Query(ctx context.Context, each func(scan func(...any) error) error, query string, args ...any) error
	// QueryRow reads one row; Scan returns sql.ErrNoRows if there is none.
	QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(...any) error }
}

// Tx is a transaction: the seam between this package's SQL and the database below. What stands above it is one text for
// every database.
type Tx interface {
	Querier
	// Exec runs a statement and tells how many rows it changed.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	// Later runs a statement that nothing is read from and asks check how many rows it changed: at once, or together with
	// others, in their order, before anything else is asked of the transaction or its call ends. Then the error is the call's.
	Later(ctx context.Context, check func(rows int64) error, query string, args ...any) error
	// Enqueue makes a job part of the transaction, to be worked once that is committed.
	Enqueue(j workflow.Job)
	// Emit makes an event part of the transaction: it gets its number just before the commit.
	Emit(e eventRow)
	// Catalogue begins a change of the catalogue: until the transaction's end nobody else makes one, and other nodes hear of
	// it once it is committed.
	Catalogue(ctx context.Context) error
	// Jobs is River's own access to its rows.
	Jobs() riverdriver.ExecutorTx
}

// changed is a check of Later: a statement that changed nothing is this error.
func changed(none error) func(int64) error {
	return func(rows int64) error {
		if rows == 0 {
			return none
		}
		return nil
	}
}

// unchecked is a check of Later that is content with any number.
func unchecked(int64) error { return nil }

// atOnce is a Tx that puts nothing off.
type atOnce struct{ Tx }

func (t atOnce) Later(ctx context.Context, check func(int64) error, query string, args ...any) error {
	n, err := t.Exec(ctx, query, args...)
	if err != nil {
		return err
	}
	return check(n)
}

// querier is Querier on a pool, a connection or a transaction of database/sql.
type querier struct {
	q interface {
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
		QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	}
}

func (q querier) Query(ctx context.Context, each func(func(...any) error) error, query string, args ...any) error {
	rows, err := q.q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (q querier) QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(...any) error } {
	return q.q.QueryRowContext(ctx, query, args...)
}

// reader reads what is committed, beside whoever writes.
func (d *DB) reader() Querier { return d.base.reader() }

// patience is how often a transaction that others or the connection got in the way of is tried, in all.
const patience = 4

// tx runs fn in a transaction of its own. fn's error aborts it and comes back unchanged. fn must not use d, which may have
// one connection that writes; and it may run more than once, each time after its work was undone.
func (d *DB) tx(ctx context.Context, kind string, fn func(context.Context, Tx) error) error {
	began := time.Now()
	defer func() { d.metrics.transaction(kind, time.Since(began)) }()
	for try := 1; ; try++ {
		committing, err := d.attempt(ctx, kind, fn)
		if err == nil || committing || try == patience || !d.base.again(err) || pause(ctx, backOff(try)) != nil {
			return err
		}
	}
}

// backOff is the wait before another try.
func backOff(try int) time.Duration { return 20 * time.Millisecond << (2 * (try - 1)) }

// attempt tells with an error whether that came of the commit: then nobody knows whether it was made.
func (d *DB) attempt(ctx context.Context, kind string, fn func(context.Context, Tx) error) (committing bool, err error) {
	t, err := d.base.begin(ctx)
	if err != nil {
		return false, err
	}
	defer func() { // also when fn panics: the connection must come back
		if err := t.rollback(); err != nil {
			d.log.ErrorContext(ctx, "transaction not rolled back", "kind", kind, "error", err)
		}
	}()
	if err := fn(ctx, t); err != nil {
		return false, err
	}
	if err := t.flush(ctx); err != nil {
		return false, err
	}
	return true, t.commit(ctx)
}

// encode writes a document. The nouns marshal always; an error is a programming mistake that must not pass as data.
func encode(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// documents reads the only column of every row as a T.
func documents[T any](ctx context.Context, q Querier, query string, args ...any) ([]T, error) {
	var all []T
	err := q.Query(ctx, func(scan func(...any) error) error {
		var doc string
		if err := scan(&doc); err != nil {
			return err
		}
		var v T
		if err := json.Unmarshal([]byte(doc), &v); err != nil {
			return err
		}
		all = append(all, v)
		return nil
	}, query, args...)
	return all, err
}

// errConflict cannot happen while changes of the catalogue come one by one; it is what another would meet.
var errConflict = errors.New("changed by somebody else meanwhile")

// row names one row of a table with a document.
type row struct {
	table, where string // where uses $1 to $len(key)
	key          []any
}

// revise changes a row's document. An error of change comes back as it is; missing is the answer if there is no row.
func revise[T any](ctx context.Context, tx Tx, r row, missing error, change func(*T) error) (v T, err error) {
	var rev int64
	var doc string
	err = tx.QueryRow(ctx, `SELECT rev, doc FROM `+r.table+` WHERE `+r.where, r.key...).Scan(&rev, &doc)
	if errors.Is(err, sql.ErrNoRows) {
		return v, missing
	}
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		return v, err
	}
	if err := change(&v); err != nil {
		return v, err
	}
	if doc, err = encode(v); err != nil {
		return v, err
	}
	n := len(r.key)
	changed, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE %s SET doc = $%d, rev = rev + 1 WHERE %s AND rev = $%d`,
		r.table, n+1, r.where, n+2), append(slices.Clone(r.key), doc, rev)...)
	if err == nil && changed == 0 {
		err = errConflict
	}
	return v, err
}

// quota refuses what was just inserted if there are more than a limit allows; 0 allows all. It counts after the insert,
// so that a thing that exists already is called that.
func quota(ctx context.Context, q Querier, resourceType string, limit int, count string, args ...any) error {
	if limit <= 0 {
		return nil
	}
	var n int
	if err := q.QueryRow(ctx, count, args...).Scan(&n); err != nil {
		return err
	}
	if n > limit {
		return &server.QuotaError{ResourceType: resourceType, Limit: limit}
	}
	return nil
}

// limit is a page's LIMIT; zero or less means all.
func limit(n int) int64 {
	if n <= 0 {
		return math.MaxInt32
	}
	return int64(n)
}

// millis is a time as rows hold it: 0 is no time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
