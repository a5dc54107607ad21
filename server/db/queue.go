package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"

	"github.com/transferd/transferd/workflow"
)

const (
	// fetchCooldown is the least time between two looks for jobs; River's 100 ms would cap a queue at ten steps a second
	// for each worker.
	fetchCooldown = 5 * time.Millisecond
	// fetchPoll finds jobs whose retry has come. New jobs ring.
	fetchPoll = 250 * time.Millisecond
)

// engine does one step and calls advance with what came of it.
type engine = func(ctx context.Context, j workflow.Job, advance workflow.Advance) error

// stepArgs is a job as River keeps it. Step is the one that it begins with: whoever ends a step goes on with the next one
// in the same job, as long as nothing has gone wrong with it. So a job that comes again may be past it (executions.carried).
type stepArgs struct {
	Execution workflow.ExecutionID `json:"execution"`
	Phase     workflow.Phase       `json:"phase"`
	Step      int                  `json:"step"`
	Piece     int                  `json:"piece,omitempty"`
	Expire    bool                 `json:"expire,omitempty"` // ends the step's wait for a callback
	Remains   workflow.Remains     `json:"remains,omitzero"` // removes what the step left
}

// Kind is part of river.JobArgs.
func (stepArgs) Kind() string { return "workflow_step" }

// InsertOpts gives River more attempts than we ever use: River discards a job whose attempts are used up, and then its
// execution would never end. Who gives up is stepWorker, which ends the execution in the same transaction.
func (stepArgs) InsertOpts() river.InsertOpts { return river.InsertOpts{MaxAttempts: 30000} }

// schedule inserts a job for later and returns its id; it is a part of the transaction.
func schedule(ctx context.Context, tx Tx, args stepArgs, at time.Time) (int64, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	rows, err := tx.Jobs().JobInsertFastMany(ctx, &riverdriver.JobInsertFastManyParams{Jobs: []*riverdriver.JobInsertFastParams{{
		Args: args, EncodedArgs: encoded, Kind: args.Kind(), MaxAttempts: args.InsertOpts().MaxAttempts,
		Metadata: []byte("{}"), Priority: river.PriorityDefault, Queue: river.QueueDefault, ScheduledAt: &at,
		State: rivertype.JobStateScheduled, Tags: []string{},
	}}})
	if err != nil {
		return 0, fmt.Errorf("schedule: %w", err)
	}
	if len(rows) != 1 {
		return 0, fmt.Errorf("schedule: %d jobs inserted", len(rows))
	}
	return rows[0].Job.ID, nil
}

// unschedule removes a job that is not needed any more; 0 is none. One that runs already will find nothing to do.
func unschedule(ctx context.Context, tx Tx, id int64) error {
	if id == 0 {
		return nil
	}
	_, err := tx.Jobs().JobDelete(ctx, &riverdriver.JobDeleteParams{ID: id})
	if errors.Is(err, rivertype.ErrNotFound) || errors.Is(err, rivertype.ErrJobRunning) {
		return nil
	}
	return err
}

// backoff is the wait after so many failures: 1 s, 2 s, 4 s, … 64 s, two minutes for all eight attempts.
func backoff(failures int) time.Duration { return time.Second << min(max(failures-1, 0), 6) }

// Work runs steps with so many workers until ctx ends; then it lets running steps finish for as long as Config.Drain
// says, cancels the rest, and returns. What was cancelled comes again at the next start.
//
// Jobs that a killed process of this node left running are taken up at once: its lock proves that nobody works on them.
// Those of other nodes come with what Inherit takes over.
func (d *DB) Work(ctx context.Context, run engine, workers int) error {
	if !d.working.CompareAndSwap(false, true) {
		return errors.New("queue: somebody works already")
	}
	defer d.working.Store(false)
	if err := d.recoverQueue(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("queue: %w", err)
	}
	fetch := &fetcher{d: d, ended: map[int64]struct{}{}}
	w := &stepWorker{d: d, run: run, fetch: fetch, stopping: ctx.Done(), active: map[int64]time.Time{}}
	all := river.NewWorkers()
	if err := river.AddWorkerSafely(all, w); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	client, err := d.base.client(&river.Config{
		ID:                          d.node,
		Workers:                     all,
		Queues:                      map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		FetchCooldown:               fetchCooldown,
		FetchPollInterval:           d.poll,
		JobTimeout:                  -1, // a step has its own limits; a big copy takes hours
		SoftStopTimeout:             d.drain,
		CompletedJobRetentionPeriod: time.Hour, // the executions are the record
		Logger:                      quiet(d.log),
	}, fetch)
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("queue: %w", err)
	}
	w.watch(ctx)
	return d.drained(client)
}

// recoverQueue undoes what a killed process left: its jobs as running, and its lease as River's leader, for which
// retries would wait up to 15 s.
func (d *DB) recoverQueue(ctx context.Context) error {
	err := d.tx(ctx, "rescue", func(ctx context.Context, tx Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM river_leader WHERE leader_id = $1`, d.node)
		return err
	})
	if err != nil {
		return err
	}
	orphaned, err := d.orphaned(ctx)
	if err != nil {
		return err
	}
	n, err := d.rescue(ctx, orphaned)
	if n > 0 {
		d.log.InfoContext(ctx, "steps of the last process taken up again", "jobs", n)
	}
	return err
}

// drained waits for the client's end. A step that does not heed its context must not keep the daemon from ending.
func (d *DB) drained(client riverClient) error {
	late := time.NewTimer(d.drain + 10*time.Second)
	defer late.Stop()
	select {
	case <-client.Stopped():
		return nil
	case <-late.C:
		return errors.New("queue: steps did not stop when cancelled")
	}
}
