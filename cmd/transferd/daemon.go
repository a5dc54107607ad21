package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/guard"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/s3"
	"github.com/transferd/transferd/workflow"
)

// seams are where the tests put faults between the rooms: each, if set, wraps a part before it is given to another.
type seams struct {
	transport func(http.RoundTripper) http.RoundTripper
	journal   func(session.Journal) session.Journal
	stores    func(storage.Stores) storage.Stores
	step      func(workflow.Step) workflow.Step
	advance   func(workflow.Advance) workflow.Advance
	job       func(workflow.Job) workflow.Job
	recorder  func(session.Recorder) session.Recorder
	// stepTimeout is the engine's; 0 is the product's.
	stepTimeout time.Duration
	// copyLimit is the largest file that one request copies, and copyPiece how long one job copies; 0 is the product's.
	copyLimit int64
	copyPiece time.Duration
}

// daemon is every part, wired together.
type daemon struct {
	cfg      Config
	seams    seams
	memory   memory
	log      *slog.Logger
	registry *prometheus.Registry

	db         *db.DB
	store      *s3.Store             // the daemon's own
	roles      *s3.Roles             // store and what roles stand for
	files      map[string]*efs.Store // the file systems, by id
	stores     *stores               // both, as the daemon itself
	sessions   *session.Manager
	recovering session.RecoverConfig // how uploads of dead processes are brought to their end
	recovery   *session.Recovery
	recorder   session.Recorder // nil if nobody is to be told of anything
	deeds      *session.Deeds   // of the process before this one
	engine     *workflow.Engine
	events     *events.Delivery
	fleet      *fleet.Fleet
	dispatch   *identity.Dispatch
	guard      *guard.Guard       // before dispatch
	dropped    prometheus.Counter // connections of banned addresses

	apiListener, metricsListener net.Listener
	apiServer, metricsServer     *http.Server

	mu       sync.Mutex
	stopping bool // guarded by mu; readiness ends when stopping begins
}

// openDaemon opens the database, and with it locks the data folder: from here on this process is the only one in it.
func openDaemon(ctx context.Context, cfg Config, seams seams) (*daemon, error) {
	memory := shareMemory(cfg.Buffers)
	memory.tune()
	d := &daemon{
		cfg: cfg, seams: seams, memory: memory,
		log:      slog.New(slog.NewJSONHandler(cfg.Log, &slog.HandlerOptions{Level: cfg.Level})),
		registry: prometheus.NewRegistry(),
	}
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	d.db, err = db.Open(ctx, db.Config{
		URL: cfg.Database, Dir: filepath.Join(cfg.Data, "db"), Drain: cfg.Drain, Limits: cfg.Limits, Throttle: cfg.Throttle, Events: cfg.eventOf(), Log: d.log, Now: time.Now, Registerer: d.registry,
		Ended: func(t workflow.Trigger, s workflow.Status) { d.engine.CountEnded(t, s) }, // when the engine is there
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// assemble makes every part and opens the listeners. Nothing runs before run; after an error close is due.
func (d *daemon) assemble(ctx context.Context) (err error) {
	if err := d.openStores(); err != nil {
		return fmt.Errorf("open the S3 store: %w", err)
	}
	if d.files, err = d.openFiles(); err != nil {
		return err
	}
	d.stores = &stores{buckets: d.roles, files: d.files}
	if err := d.wire(ctx); err != nil {
		return err
	}
	if d.apiListener, err = net.Listen("tcp", d.cfg.API); err != nil {
		return fmt.Errorf("control API: %w", err)
	}
	if d.metricsListener, err = net.Listen("tcp", d.cfg.Metrics); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// run serves until ctx ends, then ends everything in order: no new sessions, the open ones with their verdicts, the
// workflow steps under way, the control API, the store, the database.
func (d *daemon) run(ctx context.Context) error {
	steps, stopSteps := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSteps()
	fail, failed := context.WithCancelCause(ctx)
	defer failed(nil)

	var front, engine, web sync.WaitGroup
	front.Go(func() { failed(d.fleet.Run(fail)) })
	front.Go(func() { failed(d.recovery.Run(fail)) })
	front.Go(func() { d.deeds.Run(fail) })
	front.Go(func() { failed(d.cluster(fail)) })
	front.Go(func() { d.forget(fail) })
	engine.Go(func() { d.sendEvents(steps) })
	engine.Go(func() { failed(d.db.Work(steps, d.work, d.cfg.Workers)) })
	web.Go(func() { failed(serveHTTP(d.apiServer, d.apiListener)) })
	web.Go(func() { failed(serveHTTP(d.metricsServer, d.metricsListener)) })

	<-fail.Done()
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	front.Wait()
	stopSteps()
	engine.Wait()
	err := d.shutdownHTTP()
	web.Wait()
	err = errors.Join(err, d.close())
	if cause := context.Cause(fail); ctx.Err() == nil && cause != nil {
		err = errors.Join(cause, err)
	}
	return err
}

// work runs one job of the queue.
func (d *daemon) work(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
	if d.seams.advance != nil {
		advance = d.seams.advance(advance)
	}
	if d.seams.job != nil {
		j = d.seams.job(j)
	}
	return d.engine.Run(ctx, j, advance)
}

func serveHTTP(s *http.Server, l net.Listener) error {
	serve := s.Serve
	if s.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// forget takes what ended too long ago out of the database, at the start and then every day.
func (d *daemon) forget(ctx context.Context) {
	if d.cfg.Retention == 0 {
		return
	}
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		uploads, executions, err := d.db.Prune(ctx, time.Now().Add(-d.cfg.Retention))
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			d.log.Error("old uploads and executions cannot be forgotten: trying again tomorrow", "error", err.Error())
		default:
			d.log.Info("forgot old uploads and executions", "uploads", uploads, "executions", executions, "retention", d.cfg.Retention.String())
		}
		select {
		case <-day.C:
		case <-ctx.Done():
			return
		}
	}
}

// shutdownHTTP lets requests under way finish, for a moment.
func (d *daemon) shutdownHTTP() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(d.apiServer.Shutdown(ctx), d.metricsServer.Shutdown(ctx))
}

// close frees what was opened, as far as it came.
func (d *daemon) close() error {
	var errs []error
	for _, l := range []net.Listener{d.apiListener, d.metricsListener} {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.store != nil {
		errs = append(errs, d.closeStore())
	}
	errs = append(errs, closeFiles(d.files))
	if d.db != nil {
		errs = append(errs, d.db.Close())
	}
	return errors.Join(errs...)
}

// waitReady returns when every ONLINE server listens.
func (d *daemon) waitReady(ctx context.Context) error {
	select {
	case <-d.fleet.Ready():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ready says why the daemon is not ready, or nil.
func (d *daemon) ready() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return errors.New("stopping")
	}
	select {
	case <-d.fleet.Ready():
	default:
		return errors.New("starting")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := d.db.Ping(ctx); err != nil {
		d.log.Warn("not ready", "error", err.Error())
		return errors.New("the database does not answer")
	}
	return nil
}

func (d *daemon) apiURL() string {
	if d.cfg.Certificate != (KeyPair{}) {
		return "https://" + d.apiListener.Addr().String()
	}
	return "http://" + d.apiListener.Addr().String()
}

func (d *daemon) metricsURL() string { return "http://" + d.metricsListener.Addr().String() }

// pageKey authenticates pagination tokens. It follows from the access keys, so a token outlives a restart.
func pageKey(cfg Config) []byte {
	h := sha256.New()
	h.Write([]byte("transferd pagination"))
	keys := slices.SortedFunc(slices.Values(cfg.Keys), func(a, b api.AccessKey) int { return strings.Compare(a.ID, b.ID) })
	for _, k := range keys {
		h.Write([]byte(k.ID + "\x00" + k.Secret + "\x00"))
	}
	return h.Sum(nil)
}

// closeStore gives what the store could not remove yet a last moment.
func (d *daemon) closeStore() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var err error
	if d.roles != nil {
		err = d.roles.Close(ctx)
	}
	return errors.Join(err, d.store.Close(ctx))
}
