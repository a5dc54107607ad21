package db

import (
	"context"

	"github.com/riverqueue/river"

	"github.com/transferd/transferd/workflow"
)

// base is the database below the seam: SQLite (sqlite.go) or PostgreSQL (postgres.go).
type base interface {
	// begin starts a transaction that writes.
	begin(ctx context.Context) (transaction, error)
	// reader reads what is committed, beside whoever writes.
	reader() Querier
	// migrate brings the tables up to date, ours and River's. Several processes may do so at once.
	migrate(ctx context.Context) error
	// client makes River's client of this process; begin's transactions insert through another one.
	client(cfg *river.Config, fetch *fetcher) (riverClient, error)
	// ring tells the queue of this process that there are jobs for it.
	ring()
	// writers is how many shared transactions may be under way at once.
	writers() int
	// again says of an error before a commit that the same transaction may succeed now.
	again(err error) bool
	// ping tells whether the database answers.
	ping(ctx context.Context) error
}

// lateSyncer is a base whose commits need not wait for the disk. They outlive this process all the same.
type lateSyncer interface {
	// beginLate is begin of a transaction that the disk need not have when it is committed.
	beginLate(ctx context.Context) (transaction, error)
	// sync returns when the disk has all that is committed.
	sync() error
}

// transaction is a Tx that can end.
type transaction interface {
	Tx
	// keep forgets the jobs and events that were collected since queued told how many there are, and what was put off.
	keep(m mark)
	queued() mark
	// flush does what was put off.
	flush(ctx context.Context) error
	// commit inserts the jobs and events, commits, and tells the queue.
	commit(ctx context.Context) error
	// rollback may follow anything.
	rollback() error
}

// riverClient is River at work.
type riverClient interface {
	Start(ctx context.Context) error
	Stopped() <-chan struct{}
}

// outbox holds the jobs and events of a transaction, to be inserted before the commit, each in one statement.
type outbox struct {
	jobs   []river.InsertManyParams
	events []eventRow
}

// Enqueue is part of Tx.
func (o *outbox) Enqueue(j workflow.Job) {
	o.jobs = append(o.jobs, river.InsertManyParams{Args: argsOf(j)})
}
