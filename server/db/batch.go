package db

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
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
// moment share one. If one of them fails the transaction is undone and done again with a savepoint before each: then a
// failure undoes its own work and no other's. As many such transactions are under way as the database has use for.
type batcher struct {
	d    *DB
	ops  chan op // unbuffered: what was taken is answered
	quit chan struct{}
	all  sync.WaitGroup
}

func newBatcher(d *DB) *batcher {
	b := &batcher{d: d, ops: make(chan op), quit: make(chan struct{})}
	for range d.base.writers() {
		b.all.Go(b.loop)
	}
	return b
}

func (b *batcher) close() error {
	close(b.quit)
	b.all.Wait()
	return nil
}

// run does fn in a shared transaction and returns when that is durable. A call that was taken is always brought to its
// end, so that the caller knows what became of it; ctx counts only until then. fn runs on another goroutine, and more than
// once if other transactions or a lost connection get in its way.
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

// commit runs a batch in one transaction and answers everybody. Those whom other transactions got in the way of have
// another try, and so has everybody if the connection is lost before the commit.
func (b *batcher) commit(batch []op) {
	for try := 1; len(batch) > 0; try++ {
		began := time.Now()
		errs := make([]error, len(batch))
		committing, err := b.transact(batch, errs, false)
		if errors.Is(err, errTogether) {
			committing, err = b.transact(batch, errs, true)
		}
		b.d.metrics.batch(len(batch), time.Since(began))
		last := try == patience
		if err != nil && !committing && !last && b.d.base.again(err) {
			time.Sleep(backOff(try))
			continue
		}
		batch = b.answer(batch, errs, err, last)
	}
}

// answer tells everybody what came of a transaction, and gives those who are to have another try.
func (b *batcher) answer(batch []op, errs []error, err error, last bool) (again []op) {
	for i, o := range batch {
		switch {
		case errs[i] == nil:
			o.done <- err
		case err == nil && !last && b.d.base.again(errs[i]):
			again = append(again, o)
		default:
			o.done <- errs[i]
		}
	}
	return again
}

// errTogether says that one of the calls failed, and that all were undone for it.
var errTogether = errors.New("a call failed that shared its transaction without a savepoint")

// transact tells with an error whether that came of the commit.
func (b *batcher) transact(batch []op, errs []error, savepoints bool) (committing bool, err error) {
	ctx := context.Background() // one caller's end must not undo the others' work
	t, err := b.d.base.begin(ctx)
	if err != nil {
		return false, err
	}
	for i, o := range batch {
		if errs[i] = o.ctx.Err(); errs[i] != nil {
			continue
		}
		if !savepoints {
			if errs[i] = o.guard(context.WithoutCancel(o.ctx), t); errs[i] != nil && len(batch) > 1 {
				return false, errors.Join(errTogether, t.rollback())
			}
			continue
		}
		if errs[i], err = guarded(t, o); err != nil {
			return false, errors.Join(err, t.rollback())
		}
	}
	switch err := t.flush(ctx); {
	case err != nil && len(batch) > 1:
		return false, errors.Join(errTogether, t.rollback())
	case err != nil && errs[0] == nil:
		errs[0] = err
	}
	if len(batch) == 1 && errs[0] != nil {
		return false, t.rollback()
	}
	if err := t.commit(ctx); err != nil {
		return true, errors.Join(err, t.rollback())
	}
	return false, nil
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
func guarded(t transaction, o op) (failed, err error) {
	ctx := context.WithoutCancel(o.ctx) // a cancelled statement would take the transaction with it
	before := t.queued()
	if _, err := t.Exec(ctx, "SAVEPOINT call"); err != nil {
		return nil, fmt.Errorf("savepoint: %w", err)
	}
	if failed = o.guard(ctx, t); failed == nil {
		failed = t.flush(ctx)
	}
	if failed != nil {
		t.keep(before)
		if _, err := t.Exec(ctx, "ROLLBACK TO SAVEPOINT call"); err != nil {
			return failed, fmt.Errorf("roll back to savepoint: %w", err)
		}
	}
	if _, err := t.Exec(ctx, "RELEASE SAVEPOINT call"); err != nil {
		return failed, fmt.Errorf("release savepoint: %w", err)
	}
	return failed, nil
}
