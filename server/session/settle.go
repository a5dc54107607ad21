package session

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
)

// Commit is the first half of Close, for a protocol whose clients show only after the final reply whether they are still
// there: the bytes are committed to the storage and marked in the journal, then it returns and the client may be told.
// Settle must follow, unless Commit gave an error: then the client is told of that, and the upload has its end.
func (f *File) Commit() error { return f.close(f.keep) }

// keep commits the bytes and marks that in the journal. If the journal does not take it the client gets an error and
// sends the file again; the row stays begun and recovery calls it partial. mu is held.
func (f *File) keep() error {
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.CommitTimeout)
	defer cancel()
	obj, err := f.up.Commit(ctx)
	if err != nil {
		defer f.s.release(f)
		v := f.refused()
		f.s.failed("CLOSE", f.path, err, f.bytesIn(v), slog.String("upload-id", f.row.ID))
		return errors.Join(err, f.end(v))
	}
	f.dress(ctx, &obj, Complete)
	c := Commit{Object: obj, Received: f.received.Load(), Waits: f.s.m.cfg.temporary(f.row.Location)}
	if err := f.mark(c); err != nil {
		f.s.release(f)
		f.s.m.cfg.Metrics.pending.Inc()
		return err
	}
	f.waiting = &c
	f.stored.Store(true)
	if c.Waits {
		f.waitForRename(c)
	}
	return nil
}

// mark tells the journal what was committed. ErrElsewhere is no failure.
func (f *File) mark(c Commit) error {
	ctx, cancel := f.s.m.finishing(f.s.ctx, f.s.m.cfg.JournalTimeout)
	defer cancel()
	elsewhere := false
	err := persist(ctx, func() error {
		err := f.s.m.cfg.Journal.Committed(ctx, f.row.ID, c)
		if elsewhere = errors.Is(err, ErrElsewhere); elsewhere {
			return nil
		}
		return err
	})
	if elsewhere {
		return ErrElsewhere
	}
	if err != nil {
		f.s.failed("CLOSE", f.path, err, slog.String("upload-id", f.row.ID))
		return fmt.Errorf("mark upload: %w", err)
	}
	return nil
}

// Settle ends the upload with what the protocol found out. After Commit it writes the verdict alone. Without Commit it
// keeps the bytes that came, so only Partial is possible then. The second Settle gives fs.ErrClosed, as one after Close.
func (f *File) Settle(outcome Outcome, evidence Evidence) error {
	f.mu.Lock()
	if f.waiting != nil {
		defer f.mu.Unlock()
		return f.settle(f.judged(outcome, evidence))
	}
	if f.untouched {
		defer f.mu.Unlock()
		f.untouched = false
		return nil
	}
	over := f.closed || f.failure != nil
	f.mu.Unlock()
	switch {
	case over:
		return fs.ErrClosed
	case outcome != Partial:
		return fs.ErrInvalid
	}
	f.cut(evidence)
	return nil
}

// settle writes the verdict on what was committed. mu is held.
func (f *File) settle(outcome Outcome, evidence Evidence) error {
	defer f.s.release(f)
	c := *f.waiting
	f.waiting = nil
	if f.temp != nil {
		return f.temp.settle(outcome, evidence)
	}
	return f.end(Verdict{Outcome: outcome, Evidence: evidence, Object: c.Object, Received: c.Received, Ended: f.s.m.cfg.Now()})
}
