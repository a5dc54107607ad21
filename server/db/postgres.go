package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

const (
	// pgConnections is how many connections a node uses if the URL does not say (pool_max_conns): the shared transactions,
	// River's own work, and readers.
	pgConnections = 20
	// pgWriters is how many shared transactions a node has under way. One flush at a time serves all who wait, but the
	// statements before it are answered one by one over a socket; a second writer works while the first one's flush lasts.
	pgWriters = 4
	// catalogueTopic is where changes of the catalogue are announced.
	catalogueTopic = "transferd_catalogue"
)

// postgres is base on a PostgreSQL database that several nodes share.
type postgres struct {
	log    *slog.Logger
	pool   *pgxpool.Pool
	driver *pgDriver
	insert *river.Client[pgx.Tx]  // enqueues only
	node   atomic.Pointer[member] // set once the node has joined: from then on it writes only while it is one
}

// openPostgres connects. What it opens undo closes.
func openPostgres(ctx context.Context, uri string, log *slog.Logger, undo *[]func() error) (*postgres, error) {
	cfg, err := pgxpool.ParseConfig(uri)
	if err != nil {
		return nil, err // without the password
	}
	if !strings.Contains(uri, "pool_max_conns") {
		cfg.MaxConns = pgConnections
	}
	for name, value := range map[string]string{
		"application_name":              "transferd",
		"default_transaction_isolation": "read committed", // the rules of rows and locks below rest on it
		// What a node held that went away without a word is given back soon.
		"idle_in_transaction_session_timeout": "15s",
		"tcp_keepalives_idle":                 "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3",
	} {
		cfg.ConnConfig.RuntimeParams[name] = value
	}
	p := &postgres{log: log}
	if p.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, err
	}
	*undo = append(*undo, func() error { p.pool.Close(); return nil })
	if err := p.ping(ctx); err != nil {
		return nil, err
	}
	p.driver = &pgDriver{Driver: riverpgxv5.New(p.pool), bell: newDoorbell()}
	// River tells other nodes of new jobs once in a while, which its cooldown bounds; this node's queue hears our bell.
	p.insert, err = river.NewClient(p.driver, &river.Config{Logger: quiet(log), FetchCooldown: fetchCooldown})
	return p, err
}

// advisory is the number of a lock by its purpose.
func advisory(purpose string) int64 {
	h := fnv.New64a()
	io.WriteString(h, "transferd "+purpose)
	return int64(h.Sum64())
}

// migrate is part of base. A lock of the session makes the migrations of ours and River's one.
func (p *postgres) migrate(ctx context.Context) (err error) {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, advisory("migrate")); err != nil {
		return err
	}
	defer func() {
		_, unlock := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, advisory("migrate"))
		err = errors.Join(err, unlock)
	}()
	pool := stdlib.OpenDBFromPool(p.pool)
	defer func() { err = errors.Join(err, pool.Close()) }()
	if err := migrateTables(ctx, goose.DialectPostgres, pool, p.driver, p.log); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, collate)
	return err
}

// collate has names sort by their bytes, as they do in SQLite, whatever the database's language is: pages go by them.
const collate = `DO $$ DECLARE c RECORD; BEGIN
	FOR c IN SELECT table_name, column_name FROM information_schema.columns
		WHERE table_schema = current_schema() AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'
		AND table_name NOT LIKE 'river%' AND table_name NOT LIKE 'goose%'
	LOOP
		EXECUTE format('ALTER TABLE %I ALTER COLUMN %I TYPE TEXT COLLATE "C"', c.table_name, c.column_name);
	END LOOP;
END $$`

func (p *postgres) begin(ctx context.Context) (transaction, error) {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return nil, explain(err)
	}
	t := &pgTx{tx: tx, p: p}
	if m := p.node.Load(); m != nil {
		if err := m.hold(ctx, t); err != nil {
			return nil, errors.Join(err, t.rollback())
		}
	}
	return t, nil
}

func (p *postgres) reader() Querier { return pgQuerier{p.pool} }

func (p *postgres) client(cfg *river.Config, fetch *fetcher) (riverClient, error) {
	driver := *p.driver
	driver.fetch = fetch
	return river.NewClient(&driver, cfg)
}

func (p *postgres) ring() { p.driver.bell.ring() }

func (p *postgres) writers() int { return pgWriters }

func (p *postgres) ping(ctx context.Context) error { return explain(p.pool.Ping(ctx)) }

// again is part of base. Connections of a server that went away are dropped all at once.
func (p *postgres) again(err error) bool {
	var code *pgconn.PgError
	if errors.As(err, &code) && (code.Code == "40001" || code.Code == "40P01") { // serialization, deadlock
		return true
	}
	if isLost(err) {
		p.pool.Reset()
		return true
	}
	return false
}

// errLost is a server that does not answer. What was under way is undone, unless it was being committed.
var errLost = errors.New("the database cannot be reached")

// explain says of an error first what an operator has to know.
func explain(err error) error {
	if err == nil || errors.Is(err, errLost) || !isLost(err) {
		return err
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

// isLost says of an error that it is about the connection. Class 08 are connection exceptions, 57P01 to 57P03 a server
// that stops or starts (PostgreSQL, appendix A).
func isLost(err error) bool {
	var code *pgconn.PgError
	if errors.As(err, &code) {
		return strings.HasPrefix(code.Code, "08") || code.Code == "57P01" || code.Code == "57P02" || code.Code == "57P03"
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var connect *pgconn.ConnectError
	var op *net.OpError
	return errors.Is(err, errLost) || errors.As(err, &connect) || errors.As(err, &op) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err)
}

// pgTx is Tx on PostgreSQL.
type pgTx struct {
	outbox
	tx     pgx.Tx
	p      *postgres
	later  []later
	failed error // what a flush met whose caller could not be told
}

// later is a statement that is put off.
type later struct {
	check func(int64) error
	query string
	args  []any
}

// Later is part of Tx. Each statement costs the time to the server and back, and a switch of processes on both ways if that
// is the same machine; all that are put off cost one.
func (t *pgTx) Later(_ context.Context, check func(int64) error, query string, args ...any) error {
	t.later = append(t.later, later{check, query, args})
	return nil
}

func (t *pgTx) flush(ctx context.Context) error {
	err := t.failed
	t.failed = nil
	if len(t.later) == 0 || err != nil {
		t.later = nil
		return err
	}
	var batch pgx.Batch
	for _, l := range t.later {
		batch.Queue(l.query, l.args...)
	}
	results := t.tx.SendBatch(ctx, &batch)
	for _, l := range t.later {
		var tag pgconn.CommandTag
		if tag, err = results.Exec(); err == nil {
			err = l.check(tag.RowsAffected())
		}
		if err != nil {
			break
		}
	}
	t.later = nil
	if end := results.Close(); err == nil { // else it may only tell what came after the first error
		err = end
	}
	return explain(err)
}

func (t *pgTx) keep(m mark) {
	t.later, t.failed = nil, nil
	t.outbox.keep(m)
}

// Query is part of Tx.
func (t *pgTx) Query(ctx context.Context, each func(func(...any) error) error, query string, args ...any) error {
	if err := t.flush(ctx); err != nil {
		return err
	}
	return pgQuerier{t.tx}.Query(ctx, each, query, args...)
}

// QueryRow is part of Tx.
func (t *pgTx) QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(...any) error } {
	if err := t.flush(ctx); err != nil {
		return noRow{err}
	}
	return pgQuerier{t.tx}.QueryRow(ctx, query, args...)
}

// noRow is what comes of a query that could not be asked.
type noRow struct{ err error }

func (r noRow) Scan(...any) error { return r.err }

func (t *pgTx) commit(ctx context.Context) error {
	if len(t.jobs) > 0 {
		if _, err := t.p.insert.InsertManyTx(ctx, t.tx, t.jobs); err != nil {
			return fmt.Errorf("enqueue: %w", explain(err))
		}
	}
	if err := number(ctx, t, t.events); err != nil {
		return err
	}
	if err := t.tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", explain(err))
	}
	if len(t.jobs) > 0 {
		t.p.ring()
	}
	return nil
}

func (t *pgTx) rollback() error {
	err := t.tx.Rollback(context.Background())
	if err != nil && !errors.Is(err, pgx.ErrTxClosed) && !isLost(err) { // a lost one is undone by the server
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

func (t *pgTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	if err := t.flush(ctx); err != nil {
		return 0, err
	}
	tag, err := t.tx.Exec(ctx, query, args...)
	return tag.RowsAffected(), explain(err)
}

// Catalogue is part of Tx. Quotas and the rules between rows (a last host key, a workflow in use) were written for one
// writer; changes of the catalogue are so rare that a lock over all nodes costs nobody anything.
func (t *pgTx) Catalogue(ctx context.Context) error {
	if _, err := t.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, advisory("catalogue")); err != nil {
		return err
	}
	from := ""
	if m := t.p.node.Load(); m != nil {
		from = m.name
	}
	_, err := t.Exec(ctx, `SELECT pg_notify($1, $2)`, catalogueTopic, from)
	return err
}

// Jobs is part of Tx.
func (t *pgTx) Jobs() riverdriver.ExecutorTx {
	t.failed = t.flush(context.Background()) // the end of the call tells
	return t.p.driver.UnwrapExecutor(t.tx)
}

// pgQuerier is Querier on a pool or a transaction of pgx.
type pgQuerier struct {
	q interface {
		Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
		QueryRow(ctx context.Context, query string, args ...any) pgx.Row
	}
}

func (q pgQuerier) Query(ctx context.Context, each func(func(...any) error) error, query string, args ...any) error {
	rows, err := q.q.Query(ctx, query, args...)
	if err != nil {
		return explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}

func (q pgQuerier) QueryRow(ctx context.Context, query string, args ...any) interface{ Scan(...any) error } {
	return pgRow{q.q.QueryRow(ctx, query, args...)}
}

type pgRow struct{ pgx.Row }

func (r pgRow) Scan(to ...any) error {
	err := r.Row.Scan(to...)
	if errors.Is(err, pgx.ErrNoRows) {
		return sql.ErrNoRows
	}
	return explain(err)
}

// pgDriver is River's driver whose listener hears our bell too: River writes no more than one notification in a while, and
// a job that was inserted just after one would wait for the next poll.
type pgDriver struct {
	*riverpgxv5.Driver
	bell  *doorbell
	fetch *fetcher // of the client that works; nil for the one that inserts
}

// GetExecutor gives River our way to fetch jobs.
func (d *pgDriver) GetExecutor() riverdriver.Executor { return d.fetch.wrap(d.Driver.GetExecutor()) }

// GetListener gives River both ears.
func (d *pgDriver) GetListener(p *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &pgListener{Listener: d.Driver.GetListener(p), bell: d.bell}
}

type pgListener struct {
	riverdriver.Listener
	bell *doorbell
}

// WaitForNotification returns what comes first. The connection outlives a wait that was cut short.
func (l *pgListener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	ctx, cancel := context.WithCancel(ctx)
	rung, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-l.bell.c:
			close(rung)
			cancel()
		case <-ctx.Done():
		}
	}()
	n, err := l.Listener.WaitForNotification(ctx)
	cancel()
	<-done
	select {
	case <-rung:
		if err != nil {
			return inserted(), nil
		}
		l.bell.ring() // both came: the ring is heard next
	default:
	}
	return n, err
}
