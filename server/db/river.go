package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivertype"
)

// riverDriver is River's SQLite driver with another way to tell of new jobs. River's own writes a row for every
// notification and polls for it every 50 ms; all our jobs are inserted by this process, so a channel does, at once.
type riverDriver struct {
	*riversqlite.Driver
	bell  *doorbell
	last  *atomic.Int64 // the highest number that a job has had
	fetch *fetcher      // of the client that works; nil for the one that inserts
}

// UnwrapExecutor gives River our way to insert jobs.
func (d *riverDriver) UnwrapExecutor(tx *sql.Tx) riverdriver.ExecutorTx {
	return numbered{d.Driver.UnwrapExecutor(tx), d.last}
}

// numbered gives every job a number that no other has had since the process began. SQLite would give that of the last row
// again once it is deleted (https://www.sqlite.org/autoinc.html), and River, which keeps jobs by their numbers, writes the
// end of one that is over a moment later: it would end the new one.
type numbered struct {
	riverdriver.ExecutorTx
	last *atomic.Int64
}

// JobInsertFastMany is what inserts our jobs.
func (n numbered) JobInsertFastMany(ctx context.Context, p *riverdriver.JobInsertFastManyParams) ([]*riverdriver.JobInsertFastResult, error) {
	for _, j := range p.Jobs {
		id := n.last.Add(1)
		j.ID = &id
	}
	return n.ExecutorTx.JobInsertFastMany(ctx, p)
}

// GetExecutor gives River our way to fetch jobs.
func (d *riverDriver) GetExecutor() riverdriver.Executor { return d.fetch.wrap(d.Driver.GetExecutor()) }

// GetListener gives River our way to listen.
func (d *riverDriver) GetListener(*riverdriver.GetListenenerParams) riverdriver.Listener {
	return d.bell
}

// SupportsListenNotify keeps River from writing notifications.
func (d *riverDriver) SupportsListenNotify() bool { return false }

// doorbell is a riverdriver.Listener that hears of new jobs and of nothing else: it stands for one queue in one process.
type doorbell struct{ c chan struct{} }

func newDoorbell() *doorbell { return &doorbell{c: make(chan struct{}, 1)} }

// ring says that jobs were committed. Rings that nobody has heard yet are one.
func (b *doorbell) ring() {
	select {
	case b.c <- struct{}{}:
	default:
	}
}

func (b *doorbell) Close(context.Context) error            { return nil }
func (b *doorbell) Connect(context.Context) error          { return nil }
func (b *doorbell) Listen(context.Context, string) error   { return nil }
func (b *doorbell) Ping(context.Context) error             { return nil }
func (b *doorbell) Schema() string                         { return "" }
func (b *doorbell) SetAfterConnectExec(string)             {}
func (b *doorbell) Unlisten(context.Context, string) error { return nil }

// WaitForNotification speaks River's protocol between inserter and producer: its topic river_insert and the queue.
func (b *doorbell) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-b.c:
		return inserted(), nil
	}
}

// fetcher takes part of River's work into our transactions.
type fetcher struct {
	d *DB

	mu    sync.Mutex // guards ended
	ended map[int64]struct{}
}

// end says that a job's end is committed, which River knows nothing of and would write a moment later.
func (f *fetcher) end(job int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended[job] = struct{}{}
}

// took tells of a job whether its end was committed, once.
func (f *fetcher) took(job int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, is := f.ended[job]
	delete(f.ended, job)
	return is
}

func (f *fetcher) wrap(e riverdriver.Executor) riverdriver.Executor {
	if f == nil {
		return e
	}
	return &executor{e, f}
}

// executor is River's own but for the two statements that every job takes.
type executor struct {
	riverdriver.Executor
	f *fetcher
}

// JobGetAvailable fetches jobs in a transaction that it shares with the ends of others: one flush of the disk for all.
func (e *executor) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (rows []*rivertype.JobRow, err error) {
	err = e.f.d.batch.run(ctx, func(ctx context.Context, tx Tx) (err error) {
		rows, err = tx.Jobs().JobGetAvailable(ctx, p)
		return err
	})
	if err != nil {
		return nil, err // what it may have fetched all the same, watch finds
	}
	return rows, nil
}

// JobSetStateIfRunningMany leaves out the jobs whose rows are gone.
func (e *executor) JobSetStateIfRunningMany(ctx context.Context, p *riverdriver.JobSetStateIfRunningManyParams) ([]*rivertype.JobRow, error) {
	left := riverdriver.JobSetStateIfRunningManyParams{Now: p.Now, Schema: p.Schema}
	for i, id := range p.ID {
		if e.f.took(id) {
			continue
		}
		left.ID, left.Attempt, left.ErrData = append(left.ID, id), append(left.Attempt, p.Attempt[i]), append(left.ErrData, p.ErrData[i])
		left.FinalizedAt, left.ScheduledAt = append(left.FinalizedAt, p.FinalizedAt[i]), append(left.ScheduledAt, p.ScheduledAt[i])
		left.MetadataDoMerge = append(left.MetadataDoMerge, p.MetadataDoMerge[i])
		left.MetadataUpdates, left.State = append(left.MetadataUpdates, p.MetadataUpdates[i]), append(left.State, p.State[i])
	}
	if len(left.ID) == 0 {
		return nil, nil
	}
	return e.Executor.JobSetStateIfRunningMany(ctx, &left)
}

// inserted is what River's inserter tells its producer.
func inserted() *riverdriver.Notification {
	return &riverdriver.Notification{Topic: "river_insert", Payload: `{"queue":"` + river.QueueDefault + `"}`}
}

// crashText marks, among the errors of a job, the attempts that ended with their process and not with an error.
const crashText = "the process ended while the step ran"

// rescue makes those running jobs available again that nobody works on any more, and tells how many. The attempt that
// was cut stays counted, so that the next one is a marked repeat.
func (d *DB) rescue(ctx context.Context, lost func(*rivertype.JobRow) bool) (rescued int, err error) {
	err = d.tx(ctx, "rescue", func(ctx context.Context, tx Tx) (err error) {
		rescued, err = rescueIn(ctx, tx, lost)
		return err
	})
	if err == nil && rescued > 0 {
		d.base.ring()
	}
	return rescued, err
}

func rescueIn(ctx context.Context, tx Tx, lost func(*rivertype.JobRow) bool) (rescued int, err error) {
	const page = 1000
	exec := tx.Jobs()
	get := riverdriver.JobGetStuckParams{Max: page, StuckHorizon: time.Now().Add(24 * time.Hour)} // all that run
	for {
		rows, err := exec.JobGetStuck(ctx, &get)
		if err != nil {
			return rescued, err
		}
		var p riverdriver.JobRescueManyParams
		for _, row := range rows {
			get.AfterID = row.ID
			if !lost(row) {
				continue
			}
			note, err := json.Marshal(rivertype.AttemptError{At: time.Now(), Attempt: row.Attempt, Error: crashText})
			if err != nil {
				return rescued, err
			}
			p.ID = append(p.ID, row.ID)
			p.Error = append(p.Error, note)
			p.FinalizedAt = append(p.FinalizedAt, nil)
			p.ScheduledAt = append(p.ScheduledAt, time.Now())
			p.State = append(p.State, string(rivertype.JobStateAvailable))
		}
		if len(p.ID) > 0 {
			if _, err := exec.JobRescueMany(ctx, &p); err != nil {
				return rescued, err
			}
		}
		if rescued += len(p.ID); len(rows) < page {
			return rescued, nil
		}
	}
}

// quiet is a logger for River and its migrations: what they call information is detail to our operators.
func quiet(log *slog.Logger) *slog.Logger { return slog.New(quietHandler{log.Handler()}) }

type quietHandler struct{ slog.Handler }

func (h quietHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, lower(l))
}

func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h quietHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(as)}
}

func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}

func lower(l slog.Level) slog.Level {
	if l < slog.LevelWarn {
		return slog.LevelDebug
	}
	return l
}
