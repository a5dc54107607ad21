// Package db is all that the daemon remembers: the catalogue of servers, users, accesses, host keys and workflows, the journal of
// uploads, the executions and their queue. It implements session.Journal, workflow.Executions and the queue that calls
// the workflow engine.
//
// It holds no rules of its own beyond what must be true of rows that are written together. It knows nothing of
// protocols, storage or HTTP, and River is used in this package alone.
//
// Two databases, one text of SQL (tx.go is the seam). SQLite is one file, opened by one process: one connection writes,
// for us and for River, and a pool reads. PostgreSQL is shared by the nodes of a cluster (member.go). What belongs
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
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/workflow"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config says where the memory is and who asks.
type Config struct {
	// URL is a PostgreSQL database (postgres://USER@HOST/NAME), which several nodes may share. Empty: SQLite in Dir.
	URL string
	// Dir is the data directory; it is made (0700) if it is missing. One process at a time can use it. With a URL it only
	// keeps the node's name and may be empty: the name is another one after every start then.
	Dir string
	// Node names this process in the journal and the queue. Empty: a name is made once and kept.
	Node string
	// Beat is how often a node of a cluster says that it lives: after three without one it is dead if its connection is
	// gone, after eight in any case. Default 2 s.
	Beat time.Duration
	// Drain is how long Work waits for running steps before it cancels them. Default 10 s.
	Drain time.Duration
	// Limits are the quotas of the catalogue; what is 0 is not limited.
	Limits server.Limits
	// Throttle bounds how many executions begin.
	Throttle Throttle
	// Events makes the event of a verdict, which goes into the outbox with it; nil if nobody wants events.
	Events func(session.Upload, session.Verdict) events.Event
	// Ended is told of the executions that end without the engine: their server was deleted, their step was given up, or
	// their file gave way to a newer one. Default: nobody.
	Ended func(workflow.Trigger, workflow.Status)
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

	base   base
	shared *postgres // base, if it is one that several nodes share; else nil
	member *member   // this process as one of them; else nil

	listeners atomic.Pointer[[]Listener] // where this process listens

	batch   *batcher
	metrics *metrics
	changed broadcast
	told    broadcast // of new events
	events  func(session.Upload, session.Verdict) events.Event
	working atomic.Bool // one Work at a time
	backoff func(failures int) time.Duration
	poll    time.Duration // of the queue
	// secondLook is the constant, or shorter in tests.
	secondLook time.Duration
	ended      func(workflow.Trigger, workflow.Status)
	// throttle is asked before an execution begins.
	throttle *buckets

	closing sync.Once
	undo    []func() error // what Close does, last first
}

// Open opens the database, makes its tables if they are missing and brings them up to date. It refuses a directory that
// another process uses, and a node's name that another process of the cluster has.
func Open(ctx context.Context, cfg Config) (_ *DB, err error) {
	d := &DB{
		log: cfg.Log, now: cfg.Now, node: cfg.Node, drain: cmp.Or(cfg.Drain, 10*time.Second), limits: cfg.Limits,
		events: cfg.Events, backoff: backoff, poll: fetchPoll, secondLook: secondLook, ended: cfg.Ended, throttle: &buckets{Throttle: cfg.Throttle},
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.ended == nil {
		d.ended = func(workflow.Trigger, workflow.Status) {}
	}
	if d.now == nil {
		d.now = time.Now
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open database: %w", err), d.Close())
		}
	}()
	if err := d.openBase(ctx, cfg); err != nil {
		return nil, err
	}
	if d.metrics, err = newMetrics(cfg.Registerer, d.reader()); err != nil {
		return nil, err
	}
	d.undo = append(d.undo, d.metrics.close)
	if err := d.base.migrate(ctx); err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	if err := d.name(ctx, cfg.Dir); err != nil {
		return nil, fmt.Errorf("node name: %w", err)
	}
	if d.shared != nil {
		if d.member, err = join(ctx, d, d.shared, cfg.Beat); err != nil {
			return nil, fmt.Errorf("join the cluster: %w", err)
		}
		d.undo = append(d.undo, d.member.leave)
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

// Ping tells whether the database answers and takes this process's writes.
func (d *DB) Ping(ctx context.Context) error {
	select {
	case <-d.Dead():
		return errDead
	default:
		return errors.Join(d.batch.broken(), d.base.ping(ctx))
	}
}

// Node is the name of this process in the journal and the queue, the same after every restart.
func (d *DB) Node() string { return d.node }

// lockDir makes the directory and locks it.
func (d *DB) lockDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	d.undo = append(d.undo, unlock)
	return nil
}

// openBase opens the database that the configuration names.
func (d *DB) openBase(ctx context.Context, cfg Config) (err error) {
	if cfg.Dir != "" {
		if err := d.lockDir(cfg.Dir); err != nil {
			return err
		}
	}
	switch {
	case cfg.URL != "":
		p, err := openPostgres(ctx, cfg.URL, d.log, &d.undo)
		if err != nil {
			return err
		}
		d.base, d.shared = p, p
	case cfg.Dir == "":
		return errors.New("no data directory given")
	default:
		d.base, err = openSQLite(ctx, cfg.Dir, d.log, &d.undo)
	}
	return err
}

// name makes the node's name, once: beside the lock in a cluster, for the database belongs to all; else in the database.
func (d *DB) name(ctx context.Context, dir string) error {
	if d.node != "" {
		return nil
	}
	var b [6]byte
	rand.Read(b[:]) // never fails
	fresh := "node-" + hex.EncodeToString(b[:])
	if d.shared == nil {
		return d.loadNode(ctx, fresh)
	}
	d.node = fresh
	if dir == "" {
		return nil
	}
	file := filepath.Join(dir, "node")
	kept, err := os.ReadFile(file)
	if err == nil && len(kept) > 0 {
		d.node = string(kept)
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, []byte(fresh), 0o600)
}

func (d *DB) loadNode(ctx context.Context, fresh string) error {
	var where string
	err := d.reader().QueryRow(ctx, `SELECT value FROM meta WHERE name = $1`, movedName).Scan(&where)
	if err == nil {
		return fmt.Errorf("the state was moved %s: it must be used there and nowhere else", where)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return d.tx(ctx, "open", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO meta (name, value) VALUES ('node', $1) ON CONFLICT (name) DO NOTHING`, fresh)
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT value FROM meta WHERE name = 'node'`).Scan(&d.node)
	})
}
