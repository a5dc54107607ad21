package db

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// maxBatch bounds how many calls share a transaction, and so how long the first of them waits for the others' SQL.
const maxBatch = 256

// errClosed is what a call gets that comes after Close.
var errClosed = errors.New("database is closed")

// lateness bounds how long the disk may lack what nobody waited for.
const lateness = 100 * time.Millisecond

// op is one call that waits for its part of a transaction.
type op struct {
	ctx  context.Context
	do   func(ctx context.Context, tx Tx) error
	late func() bool // asked after do: the caller need not wait for the disk
	done chan error  // buffered: the batcher never waits for a caller
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
//
// Where the database can tell a commit from its flush (lateSyncer), calls that may be late are answered between the two:
// what they wrote outlives the process then, and soon the machine too.
type batcher struct {
	d    *DB
	late lateSyncer // the database, if it is one; then there is one loop
	ops  chan op    // unbuffered: what was taken is answered
	quit chan struct{}
	all  sync.WaitGroup

	lateness time.Duration
	owed     <-chan time.Time      // the loop's: when the disk must have all; nil if it has
	lost     error                 // the loop's: the flush that failed
	broke    atomic.Pointer[error] // lost, for others
}

func newBatcher(d *DB) *batcher {
	b := &batcher{d: d, ops: make(chan op), quit: make(chan struct{}), lateness: lateness}
	if l, ok := d.base.(lateSyncer); ok && d.base.writers() == 1 {
		b.late = l
	}
	for range d.base.writers() {
		b.all.Go(b.loop)
	}
	return b
}

func (b *batcher) close() error {
	close(b.quit)
	b.all.Wait()
	return b.lost
}

// broken is the flush that failed, if one did. What the disk has is not known since, and no later flush would tell: the
// kernel reports an error of writing once (https://wiki.postgresql.org/wiki/Fsync_Errors). Only another start helps.
func (b *batcher) broken() error {
	if err := b.broke.Load(); err != nil {
		return *err
	}
	return nil
}

// sync flushes what is committed.
func (b *batcher) sync() error {
	if b.owed = nil; b.lost != nil {
		return b.lost
	}
	if err := b.late.sync(); err != nil {
		b.lost = fmt.Errorf("flush the journal: %w", err)
		b.broke.Store(&b.lost)
		b.d.log.Error("the disk does not take the journal: nothing is written any more", "error", err.Error())
	}
	return b.lost
}

// run does fn in a shared transaction and returns when that is durable. A call that was taken is always brought to its
// end, so that the caller knows what became of it; ctx counts only until then. fn runs on another goroutine, and more than
// once if other transactions or a lost connection get in its way.
func (b *batcher) run(ctx context.Context, fn func(ctx context.Context, tx Tx) error) error {
	return b.runLate(ctx, fn, func() bool { return false })
}

// runLate is run, but once fn has been done late says whether the call may return before the disk has it.
func (b *batcher) runLate(ctx context.Context, fn func(ctx context.Context, tx Tx) error, late func() bool) error {
	o := op{ctx: ctx, do: fn, late: late, done: make(chan error, 1)}
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
		case <-b.owed:
			_ = b.sync() // logged, and told to every call from now on
		case <-b.quit:
			if b.owed != nil {
				_ = b.sync() // close gives it
			}
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
	var wait []op // for the disk
	for i, o := range batch {
		switch {
		case errs[i] == nil && err == nil && b.late != nil && (b.lost != nil || !o.late()):
			wait = append(wait, o)
		case errs[i] == nil:
			o.done <- err
			if b.late != nil && err == nil && b.owed == nil {
				b.owed = time.After(b.lateness)
			}
		case err == nil && !last && b.d.base.again(errs[i]):
			again = append(again, o)
		default:
			o.done <- errs[i]
		}
	}
	if len(wait) > 0 {
		err := b.sync()
		for _, o := range wait {
			o.done <- err
		}
	}
	return again
}

// errTogether says that one of the calls failed, and that all were undone for it.
var errTogether = errors.New("a call failed that shared its transaction without a savepoint")

// transact tells with an error whether that came of the commit.
func (b *batcher) transact(batch []op, errs []error, savepoints bool) (committing bool, err error) {
	ctx := context.Background() // one caller's end must not undo the others' work
	begin := b.d.base.begin
	if b.late != nil {
		begin = b.late.beginLate
	}
	t, err := begin(ctx)
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
