package db

import (
	"context"
	"encoding/json"
	"log/slog"
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
	bell *doorbell
}

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
