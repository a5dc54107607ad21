package db

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/workflow"
)

// What other transactions get in the way of is done again: a deadlock between two nodes (40P01).
func TestDeadlockIsTriedAgain(t *testing.T) {
	t.Parallel()
	all, ctx := nodes(t, 2), t.Context()
	for _, id := range []server.ID{"s-a", "s-b"} {
		must(t, all[0].CreateServer(ctx, server.Server{ServerId: id}, nil))
	}
	var tries atomic.Int32
	var both, ended sync.WaitGroup
	both.Add(2) // each holds its first row before it asks for the other's
	for i, d := range all {
		order, first := []server.ID{"s-a", "s-b"}, sync.Once{}
		if i == 1 {
			order = []server.ID{"s-b", "s-a"}
		}
		ended.Go(func() {
			err := d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
				tries.Add(1)
				for n, id := range order {
					if _, err := tx.Exec(ctx, `UPDATE servers SET rev = rev + 1 WHERE id = $1`, id); err != nil {
						return err
					}
					if n == 0 {
						first.Do(func() { both.Done(); both.Wait() })
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	ended.Wait()
	if n := tries.Load(); n < 3 {
		t.Errorf("%d tries: nobody was in the way", n)
	}
	for _, id := range []server.ID{"s-a", "s-b"} {
		var rev int
		must(t, all[0].reader().QueryRow(ctx, `SELECT rev FROM servers WHERE id = $1`, id).Scan(&rev))
		if rev != 3 {
			t.Errorf("%s was changed %d times, want twice", id, rev-1)
		}
	}
}

// Nor does a conflict of one call (40001) touch those that share its transaction; one that comes each time is told.
func TestConflictIsTriedAgain(t *testing.T) {
	t.Parallel()
	d, ctx := nodes(t, 1)[0], t.Context()
	id := attached(t, d, 0)
	conflict := func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION 'meanwhile' USING ERRCODE = '40001'; END $$`)
		return err
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			u, tries := anUpload(d, id), 0
			must(t, d.Begin(ctx, u))
			err := d.batch.run(ctx, func(ctx context.Context, tx Tx) error {
				if tries++; tries < patience {
					return conflict(ctx, tx)
				}
				_, err := tx.Exec(ctx, `UPDATE uploads SET token = 'written' WHERE id = $1`, u.ID)
				return err
			})
			if err != nil || tries != patience {
				t.Errorf("after %d tries: %v", tries, err)
			}
			if err := d.End(ctx, u, whole()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := count(t, d, `uploads WHERE token = 'written' AND ended > 0`); n != 8 {
		t.Errorf("%d of 8 written", n)
	}
	var code *pgconn.PgError
	for what, err := range map[string]error{"shared": d.batch.run(ctx, conflict), "own": d.tx(ctx, "test", conflict)} {
		if !errors.As(err, &code) || code.Code != "40001" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An upload whose file gave way to a newer one is partial; its execution is there, bound to no file, and no step runs.
func TestSupersededUpload(t *testing.T) { both(t, testSupersededUpload) }

func testSupersededUpload(t *testing.T) {
	var mu sync.Mutex
	var told []string
	d, ctx := open(t, Config{Ended: func(trigger workflow.Trigger, s workflow.Status) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, fmt.Sprint(trigger, " ", s))
	}}), t.Context()
	id := attached(t, d, 2)
	u, v := anUpload(d, id), whole()
	v.Outcome, v.Evidence = session.Partial, session.Crash
	must(t, d.Begin(ctx, u))
	must(t, errors.Join(d.EndSuperseded(ctx, u, v), d.EndSuperseded(ctx, u, v)))
	e := value[workflow.Execution](t)(d.Execution(ctx, workflow.ExecutionID(u.ID)))
	if e.Status != workflow.Exception || len(e.Results.Steps) != 1 || e.Results.Steps[0].Error.Type != workflow.NotFound ||
		e.Trigger != workflow.OnPartialUpload || e.InitialFileLocation.S3FileLocation.Etag == v.Object.ETag {
		t.Errorf("execution %+v", e)
	}
	stop := work(t, d, succeed(d), 2)
	eventually(t, "no job is left", long, func() bool { return jobs(t, d, "state <> 'completed'") == 0 })
	stop()
	if after := value[workflow.Execution](t)(d.Execution(ctx, e.ExecutionId)); after.Status != workflow.Exception || len(after.Results.Steps) != 1 {
		t.Errorf("afterwards %+v", after)
	}
	send(t, d, id, whole()) // nobody works on it
	must(t, d.DeleteServer(ctx, id))
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"OnPartialUpload EXCEPTION", "OnUpload EXCEPTION"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}
