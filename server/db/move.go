package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// movedName is the row of meta that says in the old database where its state went, and in the new one where it came from.
const movedName = "moved"

// MovedTable is how much of a table was moved, each row read back and found to be the same.
type MovedTable struct {
	Name string
	Rows int
}

// Move copies the state of the SQLite database in dir, which no process may use, to an empty PostgreSQL database, and the
// jobs of executions that have not ended with it. It is one transaction there: cut short, nothing was moved, and it can be
// called again. Once it is done the old database opens no more.
func Move(ctx context.Context, dir, to string, log *slog.Logger) (tables []MovedTable, err error) {
	var undo []func() error
	defer func() {
		for _, u := range slices.Backward(undo) {
			err = errors.Join(err, u())
		}
	}()
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	undo = append(undo, unlock)
	from, err := openSQLite(ctx, dir, log, &undo)
	if err != nil {
		return nil, fmt.Errorf("open the embedded database: %w", err)
	}
	if err := from.migrate(ctx); err != nil {
		return nil, fmt.Errorf("bring the embedded database up to date: %w", err)
	}
	target, err := openPostgres(ctx, to, log, &undo)
	if err != nil {
		return nil, fmt.Errorf("open the target: %w", err)
	}
	if err := target.migrate(ctx); err != nil {
		return nil, fmt.Errorf("make the target's tables: %w", err)
	}
	m := &mover{from: from, q: from.reader()}
	err = pgx.BeginFunc(ctx, target.pool, func(tx pgx.Tx) error {
		m.tx = tx
		m.exec = target.driver.UnwrapExecutor(tx)
		return m.move(ctx)
	})
	if err != nil && !errors.Is(err, errMovedBefore) {
		return nil, err
	}
	// From here on the old state must not be used: its executions would run twice.
	_, err = from.write.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ($1, 'to PostgreSQL') ON CONFLICT DO NOTHING`, movedName)
	return m.tables, err
}

// errMovedBefore is a target that has exactly this state: the process ended before it could say so in the old database.
var errMovedBefore = errors.New("moved before")

type mover struct {
	from   *sqlite
	q      Querier
	tx     pgx.Tx
	exec   riverdriver.ExecutorTx
	node   string
	tables []MovedTable
}

func (m *mover) move(ctx context.Context) error {
	if err := m.q.QueryRow(ctx, `SELECT value FROM meta WHERE name = 'node'`).Scan(&m.node); err != nil {
		return fmt.Errorf("the embedded database has no node name: %w", err)
	}
	names, err := m.order(ctx)
	if err != nil {
		return err
	}
	if err := m.empty(ctx, names); err != nil {
		return err
	}
	for _, name := range names {
		if err := m.copy(ctx, name); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
	// Whoever starts first brings the open uploads to their end: to the cluster, the embedded daemon is a node that left.
	if _, err := m.tx.Exec(ctx, `INSERT INTO nodes (name, started, seen) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING`, m.node); err != nil {
		return err
	}
	if _, err := m.tx.Exec(ctx, `INSERT INTO meta (name, value) VALUES ($1, $2)`, movedName, "from "+m.node); err != nil {
		return err
	}
	return m.jobs(ctx)
}

// order lists our tables, each behind those that it refers to.
func (m *mover) order(ctx context.Context) ([]string, error) {
	refers := map[string][]string{}
	err := m.q.Query(ctx, func(scan func(...any) error) error {
		var name, parent string
		err := scan(&name, &parent)
		refers[name] = append(refers[name], parent)
		return err
	}, `SELECT t.name, COALESCE(f."table", '') FROM sqlite_master t LEFT JOIN pragma_foreign_key_list(t.name) f
		WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE 'river%' AND t.name NOT LIKE 'goose%'
		ORDER BY t.name`)
	var order []string
	for len(order) < len(refers) && err == nil {
		before := len(order)
		for name, parents := range refers {
			waits := func(p string) bool { return p != "" && p != name && !slices.Contains(order, p) }
			if !slices.Contains(order, name) && !slices.ContainsFunc(parents, waits) {
				order = append(order, name)
			}
		}
		if len(order) == before {
			err = errors.New("tables that refer to each other in a circle")
		}
	}
	return order, err
}

// empty refuses a target that holds anything, and keeps everybody else out of it until the end.
func (m *mover) empty(ctx context.Context, names []string) error {
	for _, name := range append(slices.Clone(names), "river_job") {
		if _, err := m.tx.Exec(ctx, `LOCK TABLE `+name+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return err
		}
	}
	var moved string
	err := m.tx.QueryRow(ctx, `SELECT value FROM meta WHERE name = $1`, movedName).Scan(&moved)
	if err == nil && moved == "from "+m.node {
		return errMovedBefore
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	for _, name := range append(slices.Clone(names), "river_job") {
		var some bool
		if err := m.tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM `+name+`)`).Scan(&some); err != nil {
			return err
		}
		if some {
			return fmt.Errorf("the target is not empty: table %s has rows", name)
		}
	}
	return nil
}

// copy moves a table and compares it with what arrived.
func (m *mover) copy(ctx context.Context, name string) error {
	var columns, key []string
	err := m.q.Query(ctx, func(scan func(...any) error) error {
		var column string
		var pk int
		err := scan(&column, &pk)
		columns = append(columns, column)
		if pk > 0 {
			key = append(key, column)
		}
		return err
	}, `SELECT name, pk FROM pragma_table_info($1) ORDER BY cid`, name)
	if err != nil {
		return err
	}
	query := `SELECT ` + strings.Join(columns, ", ") + ` FROM ` + name + ` ORDER BY ` + strings.Join(key, ", ")
	rows, err := m.from.read.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	sent, err := m.tx.CopyFrom(ctx, pgx.Identifier{name}, columns, &rowSource{rows: rows, width: len(columns)})
	if err != nil {
		return err
	}
	if err := m.compare(ctx, query, len(columns), int(sent)); err != nil {
		return err
	}
	m.tables = append(m.tables, MovedTable{name, int(sent)})
	return nil
}

// compare reads a table on both sides, in the same order.
func (m *mover) compare(ctx context.Context, query string, width, want int) error {
	was, err := m.from.read.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer was.Close()
	is, err := m.tx.Query(ctx, query)
	if err != nil {
		return err
	}
	defer is.Close()
	source := &rowSource{rows: was, width: width}
	n := 0
	for ; source.Next(); n++ {
		if !is.Next() {
			return errors.Join(fmt.Errorf("row %d did not arrive", n+1), is.Err())
		}
		old, err1 := source.Values()
		now, err2 := is.Values()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !reflect.DeepEqual(old, now) {
			return fmt.Errorf("row %d (%v) arrived as %v", n+1, old[0], now[0])
		}
	}
	if is.Next() || n != want {
		return fmt.Errorf("%d rows were sent, %d are there", n, want)
	}
	return errors.Join(source.Err(), is.Err())
}

// rowSource is pgx.CopyFromSource on rows of SQLite, which hold texts and numbers.
type rowSource struct {
	rows  *sql.Rows
	width int
}

func (s *rowSource) Next() bool { return s.rows.Next() }
func (s *rowSource) Err() error { return s.rows.Err() }

func (s *rowSource) Values() ([]any, error) {
	values, to := make([]any, s.width), make([]any, s.width)
	for i := range values {
		to[i] = &values[i]
	}
	return values, s.rows.Scan(to...)
}

// jobs moves the jobs that are not done, with what is known of their attempts: a repeat stays marked as one.
func (m *mover) jobs(ctx context.Context) error {
	var ids []int64
	err := m.q.Query(ctx, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		ids = append(ids, id)
		return err
	}, `SELECT id FROM river_job WHERE state NOT IN ('completed', 'cancelled', 'discarded') ORDER BY id`)
	if err != nil {
		return err
	}
	for page := range slices.Chunk(ids, 500) {
		rows, err := m.from.driver.GetExecutor().JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: page})
		if err != nil {
			return err
		}
		for _, row := range rows {
			if err := m.job(ctx, row); err != nil {
				return fmt.Errorf("job %d: %w", row.ID, err)
			}
		}
	}
	m.tables = append(m.tables, MovedTable{"jobs that are not done", len(ids)})
	return nil
}

func (m *mover) job(ctx context.Context, row *rivertype.JobRow) error {
	p := riverdriver.JobInsertFullParams{
		Attempt: row.Attempt, AttemptedAt: row.AttemptedAt, AttemptedBy: row.AttemptedBy, CreatedAt: &row.CreatedAt,
		EncodedArgs: row.EncodedArgs, Kind: row.Kind, MaxAttempts: row.MaxAttempts, Metadata: row.Metadata, Priority: row.Priority,
		Queue: row.Queue, ScheduledAt: &row.ScheduledAt, State: row.State, Tags: row.Tags,
	}
	if row.State == rivertype.JobStateRunning { // its process was killed
		p.State = rivertype.JobStateAvailable
		row.Errors = append(row.Errors, rivertype.AttemptError{At: time.Now(), Attempt: row.Attempt, Error: crashText})
	}
	for _, e := range row.Errors {
		note, err := json.Marshal(e)
		if err != nil {
			return err
		}
		p.Errors = append(p.Errors, note)
	}
	is, err := m.exec.JobInsertFull(ctx, &p)
	if err != nil {
		return err
	}
	var want, got any
	if err := errors.Join(json.Unmarshal(row.EncodedArgs, &want), json.Unmarshal(is.EncodedArgs, &got)); err != nil {
		return err
	}
	if !reflect.DeepEqual(want, got) || is.Kind != row.Kind || is.Attempt != row.Attempt || len(is.Errors) != len(row.Errors) ||
		!slices.Equal(is.AttemptedBy, row.AttemptedBy) || is.State != p.State {
		return errors.New("arrived as another one")
	}
	return nil
}
