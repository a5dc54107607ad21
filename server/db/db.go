// Package db is all that the daemon remembers: the catalogue of servers, users, accesses, host keys and workflows, the journal of
// uploads, the executions and their queue. It implements session.Journal, workflow.Executions and the queue that calls
// the workflow engine.
//
// It holds no rules of its own beyond what must be true of rows that are written together. It knows nothing of
// protocols, storage or HTTP, and River is used in this package alone.
//
// One SQLite file, opened by one process: one connection writes, for us and for River, and a pool reads. What belongs
// together is one transaction: the verdict with its queued execution, a step's result with the next job.
package db

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivermigrate"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/transferd/transferd/server"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config says where the memory is and who asks.
type Config struct {
	// Dir is the data directory; it is made (0700) if it is missing. One process at a time can use it.
	Dir string
	// Node names this process in the journal and the queue. Empty: a name is made once and kept in the database.
	Node string
	// Drain is how long Work waits for running steps before it cancels them. Default 10 s.
	Drain time.Duration
	// Limits are the quotas of the catalogue; what is 0 is not limited.
	Limits server.Limits
	// Log is for what happens without a caller who could be told. Default slog.DiscardHandler.
	Log *slog.Logger
	// Now is the clock of the rows. Default time.Now.
	Now func() time.Time
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
}

// DB is an open database. Its methods may be called from many goroutines.
type DB struct {
	log    *slog.Logger
	now    func() time.Time
	node   string
	drain  time.Duration
	limits server.Limits

	write *sql.DB // one connection, shared with River: a second writer would wait up to a second for the lock
	read  *sql.DB // query_only

	river   *riverDriver
	insert  *river.Client[*sql.Tx] // enqueues only
	batch   *batcher
	metrics *metrics
	changed broadcast
	working atomic.Bool // one Work at a time
	backoff func(failures int) time.Duration

	closing sync.Once
	undo    []func() error // what Close does, last first
}

// Open opens the database in cfg.Dir, makes it if it is missing and brings it up to date. It refuses a directory that
// another process uses.
func Open(ctx context.Context, cfg Config) (_ *DB, err error) {
	d := &DB{
		log: cfg.Log, now: cfg.Now, node: cfg.Node, drain: cmp.Or(cfg.Drain, 10*time.Second), limits: cfg.Limits,
		backoff: backoff,
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.now == nil {
		d.now = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open database: %w", err), d.Close())
		}
	}()
	file, err := d.prepareDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := d.openPools(ctx, file); err != nil {
		return nil, err
	}
	if d.metrics, err = newMetrics(cfg.Registerer, d.read); err != nil {
		return nil, err
	}
	d.undo = append(d.undo, d.metrics.close)
	if err := d.migrate(ctx); err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	if err := d.loadNode(ctx); err != nil {
		return nil, fmt.Errorf("node name: %w", err)
	}
	if d.insert, err = river.NewClient(d.river, &river.Config{Logger: quiet(d.log)}); err != nil {
		return nil, err
	}
	d.batch = newBatcher(d)
	d.undo = append(d.undo, d.batch.close)
	return d, nil
}

// Close ends the database: calls of the journal that wait are done first. Work must have returned.
func (d *DB) Close() error {
	var errs []error
	d.closing.Do(func() {
		for _, undo := range slices.Backward(d.undo) {
			errs = append(errs, undo())
		}
	})
	return errors.Join(errs...)
}

// Node is the name of this process in the journal and the queue, the same after every restart.
func (d *DB) Node() string { return d.node }

// prepareDir makes the directory and the file, with modes that keep others out (host keys are inside), and locks the
// directory. SQLite gives its side files the mode of the main file.
func (d *DB) prepareDir(dir string) (file string, err error) {
	if dir == "" {
		return "", errors.New("no data directory given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	d.undo = append(d.undo, unlock)
	file = filepath.Join(dir, "transferd.db")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	return file, errors.Join(f.Chmod(0o600), f.Close())
}

func (d *DB) openPools(ctx context.Context, file string) error {
	const common = "?_pragma=busy_timeout(10000)&_pragma=cache_size(-16384)"
	uri := "file:" + (&url.URL{Path: file}).EscapedPath() + common
	var err error
	if d.write, err = d.openPool(ctx, 1, uri+"&_txlock=immediate&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"+
		"&_pragma=foreign_keys(1)&_pragma=journal_size_limit(67108864)"); err != nil {
		return err
	}
	if d.read, err = d.openPool(ctx, max(4, runtime.NumCPU()), uri+"&_pragma=query_only(1)"); err != nil {
		return err
	}
	d.river = newRiverDriver(d.write)
	return nil
}

func (d *DB) openPool(ctx context.Context, size int, uri string) (*sql.DB, error) {
	pool, err := sql.Open("sqlite", uri)
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	d.undo = append(d.undo, pool.Close)
	return pool, pool.PingContext(ctx)
}

func (d *DB) migrate(ctx context.Context) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	ours, err := goose.NewProvider(goose.DialectSQLite3, d.write, dir, goose.WithDisableGlobalRegistry(true),
		goose.WithGoMigrations(placesMigration()))
	if err != nil {
		return err
	}
	if _, err := ours.Up(ctx); err != nil {
		return err
	}
	rivers, err := rivermigrate.New(d.river, &rivermigrate.Config{Logger: quiet(d.log)})
	if err != nil {
		return err
	}
	_, err = rivers.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func (d *DB) loadNode(ctx context.Context) error {
	if d.node != "" {
		return nil
	}
	var b [6]byte
	rand.Read(b[:]) // never fails
	fresh := "node-" + hex.EncodeToString(b[:])
	return d.tx(ctx, "open", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO meta (name, value) VALUES ('node', $1) ON CONFLICT (name) DO NOTHING`, fresh)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT value FROM meta WHERE name = 'node'`).Scan(&d.node)
	})
}
