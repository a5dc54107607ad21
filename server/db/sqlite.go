package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
)

// fileName is the database of SQLite in a data directory.
const fileName = "transferd.db"

// sqlite is base on one file, opened by one process.
type sqlite struct {
	log    *slog.Logger
	file   string
	write  *sql.DB // one connection, shared with River: a second writer would wait up to a second for the lock
	read   *sql.DB // query_only
	driver *riverDriver
	insert *river.Client[*sql.Tx] // enqueues only
}

// openSQLite opens the file in a directory that is ours alone. What it opens undo closes.
func openSQLite(ctx context.Context, dir string, log *slog.Logger, undo *[]func() error) (*sqlite, error) {
	file := filepath.Join(dir, fileName)
	// Host keys are inside: the modes keep others out. SQLite gives its side files the mode of the main file.
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return nil, err
	}
	const common = "?_pragma=busy_timeout(10000)&_pragma=cache_size(-16384)"
	uri := "file:" + (&url.URL{Path: file}).EscapedPath() + common
	s := &sqlite{log: log, file: file}
	if s.write, err = openPool(ctx, 1, uri+"&_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+
		"&_pragma=foreign_keys(1)&_pragma=wal_autocheckpoint(4096)&_pragma=journal_size_limit(67108864)", undo); err != nil {
		return nil, err
	}
	if s.read, err = openPool(ctx, max(4, runtime.NumCPU()), uri+"&_pragma=query_only(1)", undo); err != nil {
		return nil, err
	}
	s.driver = &riverDriver{Driver: riversqlite.New(s.write), bell: newDoorbell(), last: &atomic.Int64{}}
	s.insert, err = river.NewClient(s.driver, &river.Config{Logger: quiet(log)})
	return s, err
}

func openPool(ctx context.Context, size int, uri string, undo *[]func() error) (*sql.DB, error) {
	kept, err := newKeeping(uri)
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(kept)
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	*undo = append(*undo, pool.Close)
	return pool, pool.PingContext(ctx)
}

func (s *sqlite) migrate(ctx context.Context) error {
	if err := migrateTables(ctx, goose.DialectSQLite3, s.write, s.driver, s.log); err != nil {
		return err
	}
	var last int64
	err := s.reader().QueryRow(ctx, `SELECT COALESCE(MAX(id), 0) FROM river_job`).Scan(&last)
	s.driver.last.Store(last)
	return err
}

// migrateTables applies our migrations and then River's.
func migrateTables[T any](ctx context.Context, dialect goose.Dialect, pool *sql.DB, driver riverdriver.Driver[T],
	log *slog.Logger) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	ours, err := goose.NewProvider(dialect, pool, dir, goose.WithDisableGlobalRegistry(true),
		goose.WithGoMigrations(placesMigration()))
	if err != nil {
		return err
	}
	if _, err := ours.Up(ctx); err != nil {
		return err
	}
	rivers, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet(log)})
	if err != nil {
		return err
	}
	_, err = rivers.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func (s *sqlite) begin(ctx context.Context) (transaction, error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &sqliteTx{querier: querier{tx}, tx: tx, s: s}, nil
}

func (s *sqlite) beginLate(ctx context.Context) (transaction, error) {
	return s.begin(context.WithValue(ctx, lateKey{}, true))
}

// sync is part of lateSyncer. With synchronous=NORMAL the log of changes is consistent after the machine's death, but may lack
// the last commits (https://sqlite.org/pragma.html#pragma_synchronous); fsync of any descriptor of it brings them to the disk.
// To close that one is harmless: it would take the process's locks on the file (https://sqlite.org/howtocorrupt.html, 2.2),
// but SQLite has its own on the database and on the index of the log.
func (s *sqlite) sync() error {
	f, err := os.OpenFile(s.file+"-wal", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (s *sqlite) reader() Querier { return querier{s.read} }

func (s *sqlite) client(cfg *river.Config, fetch *fetcher) (riverClient, error) {
	driver := *s.driver
	driver.fetch = fetch
	return river.NewClient(&driver, cfg)
}

func (s *sqlite) ring() { s.driver.bell.ring() }

// writers is part of base: one connection writes.
func (s *sqlite) writers() int { return 1 }

// again is part of base: with one connection nothing gets in the way, and what fails fails for good.
func (s *sqlite) again(error) bool { return false }

func (s *sqlite) ping(ctx context.Context) error { return s.read.PingContext(ctx) }

// sqliteTx is Tx on SQLite.
type sqliteTx struct {
	querier
	outbox
	tx *sql.Tx
	s  *sqlite
}

func (t *sqliteTx) commit(ctx context.Context) error {
	if len(t.jobs) > 0 {
		if _, err := t.s.insert.InsertManyTx(ctx, t.tx, t.jobs); err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
	}
	if err := number(ctx, t, t.events); err != nil {
		return err
	}
	if err := t.tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if len(t.jobs) > 0 {
		t.s.ring()
	}
	return nil
}

func (t *sqliteTx) rollback() error {
	if err := t.tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back: %w", err)
	}
	return nil
}

func (t *sqliteTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Later is part of Tx. A statement is a call of a function here, which putting off does not make cheaper.
func (t *sqliteTx) Later(ctx context.Context, check func(int64) error, query string, args ...any) error {
	return atOnce{t}.Later(ctx, check, query, args...)
}

func (t *sqliteTx) flush(context.Context) error { return nil }

// Catalogue is part of Tx: the one connection keeps everybody else out already, and nobody else listens.
func (t *sqliteTx) Catalogue(context.Context) error { return nil }

func (t *sqliteTx) Jobs() riverdriver.ExecutorTx { return t.s.driver.UnwrapExecutor(t.tx) }
