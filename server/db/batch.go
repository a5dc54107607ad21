package db

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// maxBatch bounds how many calls share a transaction, and so how long the first of them waits for the others' SQL.
const maxBatch = 256

// errClosed is what a call gets that comes after Close.
var errClosed = errors.New("database is closed")

// op is one call that waits for its part of a transaction.
type op struct {
	ctx  context.Context
	do   func(ctx context.Context, tx Tx) error
	done chan error // buffered: the batcher never waits for a caller
}

// panicked is a call that panicked: its work is undone, and the panic goes on where the call came from.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string {
	return fmt.Sprintf("panic in a shared transaction: %v\n%s", p.value, p.stack)
}

// batcher is a group commit. A commit costs a flush of the disk, whatever it holds, so all calls that wait at the same
// moment share one. Each stands behind a savepoint of its own: its failure undoes its own work and no other's.
type batcher struct {
	d    *DB
	ops  chan op // unbuffered: what was taken is answered
	quit chan struct{}
	gone chan struct{}
}

func newBatcher(d *DB) *batcher {
	b := &batcher{d: d, ops: make(chan op), quit: make(chan struct{}), gone: make(chan struct{})}
	go b.loop()
	return b
}

func (b *batcher) close() error {
	close(b.quit)
	<-b.gone
	return nil
}

// run does fn in a shared transaction and returns when that is durable. A call that was taken is always brought to its
// end, so that the caller knows what became of it; ctx counts only until then. fn runs on another goroutine.
func (b *batcher) run(ctx context.Context, fn func(ctx context.Context, tx Tx) error) error {
	o := op{ctx: ctx, do: fn, done: make(chan error, 1)}
	select {
	case b.ops <- o:
		err := <-o.done
		var p *panicked
		if errors.As(err, &p) {
			panic(p.Error()) // not the value alone: the stack of the batcher would be lost
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-b.quit:
		return errClosed
	}
}

func (b *batcher) loop() {
	defer close(b.gone)
	batch := make([]op, 0, maxBatch)
	for {
		select {
		case o := <-b.ops:
			batch = b.collect(append(batch[:0], o))
			b.commit(batch)
		case <-b.quit:
			return
		}
	}
}

// collect takes everybody who waits now. Callers that the last commit has just answered get one turn to come back with
// their next call; without it batches alternate between one and all.
func (b *batcher) collect(batch []op) []op {
	yielded := false
	for len(batch) < maxBatch {
		select {
		case o := <-b.ops:
			batch = append(batch, o)
		default:
			if yielded {
				return batch
			}
			yielded = true
			runtime.Gosched()
		}
	}
	return batch
}

// commit runs a batch in one transaction and answers everybody.
func (b *batcher) commit(batch []op) {
	began := time.Now()
	errs := make([]error, len(batch))
	err := b.transact(batch, errs)
	b.d.metrics.batch(len(batch), time.Since(began))
	for i, o := range batch {
		if errs[i] == nil {
			errs[i] = err
		}
		o.done <- errs[i]
	}
}

func (b *batcher) transact(batch []op, errs []error) error {
	ctx := context.Background() // one caller's end must not undo the others' work
	t, err := b.d.begin(ctx)
	if err != nil {
		return err
	}
	for i, o := range batch {
		if errs[i] = o.ctx.Err(); errs[i] != nil {
			continue
		}
		if errs[i], err = guarded(t, o); err != nil {
			return errors.Join(err, t.rollback())
		}
	}
	if err := t.commit(ctx); err != nil {
		return errors.Join(err, t.rollback())
	}
	return nil
}

// guard runs the call and makes an error of its panic.
func (o op) guard(ctx context.Context, tx Tx) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return o.do(ctx, tx)
}

// guarded runs one call behind a savepoint. failed is the call's own failure, undone; err is the whole transaction's.
func guarded(t *sqliteTx, o op) (failed, err error) {
	ctx := context.WithoutCancel(o.ctx) // a cancelled statement would take the transaction with it
	jobs := len(t.jobs)
	if _, err := t.Exec(ctx, "SAVEPOINT call"); err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	if failed = o.guard(ctx, t); failed != nil {
		t.jobs = t.jobs[:jobs]
		if _, err := t.Exec(ctx, "ROLLBACK TO SAVEPOINT call"); err != nil {
			return failed, fmt.Errorf("roll back to savepoint: %w", err)
		}
	}
	if _, err := t.Exec(ctx, "RELEASE SAVEPOINT call"); err != nil {
		return failed, fmt.Errorf("release savepoint: %w", err)
	}
	return failed, nil
}
