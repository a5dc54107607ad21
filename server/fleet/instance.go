package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// instance is a door that is open: one running frontend.
type instance struct {
	address  string
	settings atomic.Pointer[Settings]
	cancel   context.CancelFunc
	done     chan struct{} // closed when Serve has returned
	err      error         // what Serve returned; readable once done is closed
	told     bool          // it ended because it was told to; readable once done is closed
	started  time.Time
	stopped  time.Time // when it was told to stop; owned by Run's goroutine
}

// run starts a frontend. It ends with ctx, or by stop.
func (f *Fleet) run(ctx context.Context, at place, ln net.Listener, settings Settings) *instance {
	i := &instance{address: ln.Addr().String(), done: make(chan struct{}), started: f.cfg.Now()}
	i.settings.Store(&settings)
	ctx, i.cancel = context.WithCancel(ctx)
	f.running[at] = i
	go func() {
		defer f.poke()
		defer close(i.done)
		defer i.cancel()
		err := f.cfg.Doors[at.door].Frontend.Serve(ctx, ln, func() Settings { return *i.settings.Load() })
		i.told = ctx.Err() != nil
		if i.told && (errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed)) {
			err = nil
		}
		if closing := ln.Close(); closing != nil && !errors.Is(closing, net.ErrClosed) {
			err = errors.Join(err, closing)
		}
		i.err = err
	}()
	return i
}

// stop tells a frontend to end, once.
func (f *Fleet) stop(at place, i *instance) {
	if i.stopping() {
		return
	}
	i.stopped = f.cfg.Now()
	i.cancel()
	f.wakeIn(f.cfg.DrainTimeout)
	f.cfg.Log.Info("server stops", "server", string(at.server), "door", f.name(at), "address", i.address)
}

func (i *instance) stopping() bool { return !i.stopped.IsZero() }

func (i *instance) overdue(now time.Time, limit time.Duration) bool {
	return i.stopping() && now.Sub(i.stopped) >= limit
}

// reap forgets the frontends that have ended. One that nobody stopped is trouble: it is started again, not at once.
func (f *Fleet) reap() {
	for at, i := range f.running {
		select {
		case <-i.done:
		default:
			continue
		}
		delete(f.running, at)
		switch {
		case !i.told:
			cause := i.err
			if cause == nil {
				cause = errors.New("frontend ended by itself")
			}
			if f.cfg.Now().Sub(i.started) >= steady {
				delete(f.trouble, at)
			}
			f.again(at, cause) // if there were enough tries, open gives it up
		case i.err != nil:
			f.cfg.Log.Error("server stopped with an error", "server", string(at.server), "door", f.name(at), "error", i.err.Error())
		}
	}
}

// drain waits for every frontend. Run's context has ended, so all are on their way.
func (f *Fleet) drain() error {
	limit, cancel := context.WithTimeout(context.Background(), f.cfg.DrainTimeout)
	defer cancel()
	var errs []error
	for at, i := range f.running {
		select {
		case <-i.done:
		case <-limit.Done():
		}
		select {
		case <-i.done:
			if i.err != nil {
				errs = append(errs, fmt.Errorf("%s of server %s: %w", f.name(at), at.server, i.err))
			}
		default:
			errs = append(errs, fmt.Errorf("%s of server %s has not ended after %s", f.name(at), at.server, f.cfg.DrainTimeout))
		}
	}
	return errors.Join(errs...)
}
