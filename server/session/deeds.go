package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/transferd/transferd/storage"
)

// Deeds are those that a dead process meant to do and never told the end of. What the store has says how they ended.
type Deeds struct {
	Deeds    []Deed
	Recorder Recorder
	Stores   storage.Stores
	// Unsettled says whether an upload to a place awaits its verdict: a deed there is told after it.
	Unsettled func(storage.Location) bool
	Log       *slog.Logger
	Now       func() time.Time
	// Timeout bounds one look at a store. Default 10 seconds.
	Timeout time.Duration
}

// Settle tells of each deed how it ended, in their order, and keeps those whose store or recorder did not answer, for
// another call.
func (r *Deeds) Settle(ctx context.Context) {
	var left []Deed
	for _, d := range r.Deeds {
		err := ctx.Err()
		if err == nil {
			err = r.settle(ctx, d)
		}
		if err == nil {
			continue
		}
		left = append(left, d)
		if ctx.Err() == nil {
			r.Log.Warn("nobody knows yet how this ended", "operation", string(d.Kind), "path", d.Path, "session-id", d.Session, "error", err.Error())
		}
	}
	r.Deeds = left
}

// Run settles what is left, again and again, until nothing is or ctx ends.
func (r *Deeds) Run(ctx context.Context) {
	for wait := time.Second; len(r.Deeds) > 0; wait = min(2*wait, time.Minute) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			r.Settle(ctx)
		}
	}
}

func (r *Deeds) settle(ctx context.Context, d Deed) error {
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if r.Unsettled(d.From) || d.Kind == Renamed && r.Unsettled(d.To) {
		return errors.New("an upload there awaits its verdict")
	}
	d.Ended = r.Now()
	if d.Kind == Downloaded {
		d.Bytes, d.Cut = -1, true
		return r.Recorder.Record(ctx, d)
	}
	done, err := r.done(ctx, d)
	if err != nil {
		return err
	}
	if !done {
		d.Failure = "transferd was killed before it was done"
	}
	return r.Recorder.Record(ctx, d)
}

// done says whether a store looks as it does after the deed.
func (r *Deeds) done(ctx context.Context, d Deed) (bool, error) {
	stores, err := actAs(ctx, r.Stores, d.Identity)
	if err != nil {
		return false, err
	}
	from, err := exists(ctx, stores, d.From)
	if err != nil {
		return false, err
	}
	switch d.Kind {
	case Renamed:
		to, err := exists(ctx, stores, d.To)
		return to && !from, err
	case MadeDir:
		return from, nil
	}
	return !from, nil
}

// exists says whether something stands at a place.
func exists(ctx context.Context, stores storage.Stores, at storage.Location) (bool, error) {
	b, err := stores.Backend(ctx, at.Domain, at.Store)
	if err == nil {
		_, err = b.Stat(ctx, at.Name)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, fmt.Errorf("look for %s: %w", at.Path(), err)
}
