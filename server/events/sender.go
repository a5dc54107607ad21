package events

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// windowSize is how many events of a sink are in memory that have not arrived.
	windowSize = 256
	// windowReach is how many may have arrived behind one that has not: so much is sent twice after a crash. An event that
	// fails again and again holds up those about its file at once, and all others when this is used up; until it is given up.
	windowReach = 4096
	// maxReason bounds what is kept of why an event was given up.
	maxReason = 500
)

// sender sends to one sink. All of it belongs to the goroutine of run, but for what send does.
type sender struct {
	cfg     *Config
	target  Target
	metrics *metrics
	log     *slog.Logger
	results chan result
	flying  sync.WaitGroup

	at     Position       // as the outbox has it
	window []*entry       // from the first event that has not arrived on
	loaded int64          // number of the last event that was put into window
	more   bool           // the outbox may have events behind that
	dirty  bool           // at has not been written
	dead   map[int64]bool // events behind at that were given up
	revive bool           // some that were given up may have to be sent again
	taken  time.Time      // the receiver took an event then, last

	inFlight int
	failures int       // in a row
	pause    time.Time // no Send before
}

// entry is an event in the window.
type entry struct {
	Event
	keys     []string
	flying   bool
	arrived  bool // or was given up, or is not wanted
	revived  bool // was given up and is sent again: behind the position
	failures int
	refusals int
	since    time.Time // of the first failure
	again    time.Time // no Send before
}

type result struct {
	entries []*entry
	sent    int
	err     error
}

// run claims the sink, again and again, and sends while it has it.
func (s *sender) run(ctx context.Context) {
	told, stop := s.cfg.Outbox.Told()
	defer stop()
	for ctx.Err() == nil {
		at, mine, err := s.cfg.Outbox.Claim(ctx, s.target.Name)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("events: the outbox cannot be asked", "error", err.Error())
		}
		if err == nil && mine && s.begin(ctx, at) {
			s.hold(ctx, told)
		}
		select {
		case <-ctx.Done():
		case <-time.After(s.cfg.Poll):
		}
	}
	release, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
	defer cancel()
	if err := s.cfg.Outbox.Release(release, s.target.Name); err != nil {
		s.log.Warn("events: a sink was not given back: another process takes it when this one is gone", "error", err.Error())
	}
}

// begin makes ready to send from a position on.
func (s *sender) begin(ctx context.Context, at Position) bool {
	buried, err := s.cfg.Dead.Buried(ctx, s.target.Name, at.Sent)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("events: the outbox cannot be asked", "error", err.Error())
		}
		return false
	}
	s.dead = map[int64]bool{}
	for _, n := range buried {
		s.dead[n] = true
	}
	s.at, s.window, s.loaded, s.more, s.dirty, s.revive = at, nil, at.Sent, true, false, true
	return true
}

// hold sends until ctx ends or the sink is somebody else's.
func (s *sender) hold(ctx context.Context, told <-chan struct{}) {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer s.land(cancel)
	poll := time.NewTicker(s.cfg.Poll)
	defer poll.Stop()
	for ctx.Err() == nil {
		if !s.fill(ctx) {
			return
		}
		wake := time.NewTimer(s.dispatch(sending))
		select {
		case <-ctx.Done():
		case <-wake.C:
		case r := <-s.results:
			s.take(sending, r)
		case <-told:
			s.more, s.revive = true, true
		case <-poll.C:
			s.more, s.revive = true, true
			if !s.keep(ctx) {
				wake.Stop()
				return
			}
		}
		wake.Stop()
	}
}

// land waits for what is under way, for a while, and keeps how far it came.
func (s *sender) land(cancel context.CancelFunc) {
	patience := time.AfterFunc(s.cfg.Grace, cancel)
	defer patience.Stop()
	for s.inFlight > 0 {
		r := <-s.results
		ctx, done := context.WithTimeout(context.Background(), s.cfg.Grace)
		s.take(ctx, r)
		done()
	}
	s.flying.Wait()
	ctx, done := context.WithTimeout(context.Background(), s.cfg.Grace)
	defer done()
	s.advance(ctx)
}

// keep writes how far the sink is and looks whether it still is ours.
func (s *sender) keep(ctx context.Context) bool {
	if !s.advance(ctx) {
		return false
	}
	at, mine, err := s.cfg.Outbox.Claim(ctx, s.target.Name)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("events: the outbox cannot be asked", "error", err.Error())
		}
		return true // nobody else can ask it either
	}
	return mine && at.Turn == s.at.Turn
}

// advance is false if the position is another's.
func (s *sender) advance(ctx context.Context) bool {
	if !s.dirty {
		return true
	}
	err := s.cfg.Outbox.Advance(ctx, s.target.Name, s.at)
	switch {
	case errors.Is(err, ErrMoved):
		s.dirty = false
		return false
	case err == nil:
		s.dirty = false
	case ctx.Err() == nil:
		s.log.Warn("events: a sink's position cannot be kept, so some would be sent twice after a crash", "error", err.Error())
	}
	return true
}

// fill reads events into the window; false if the outbox did not answer.
func (s *sender) fill(ctx context.Context) bool {
	if s.revive && !s.load(ctx) {
		return false
	}
	waiting := 0
	for _, e := range s.window {
		if !e.arrived {
			waiting++
		}
	}
	if !s.more || waiting > windowSize/2 || len(s.window) >= windowReach {
		return true
	}
	events, err := s.cfg.Outbox.After(ctx, s.loaded, windowSize-waiting)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("events: the outbox cannot be read", "error", err.Error())
		}
		return false
	}
	s.more = len(events) == windowSize-waiting
	for _, e := range events {
		unwanted := len(s.target.Kinds) > 0 && !slices.Contains(s.target.Kinds, e.Kind())
		s.window = append(s.window, &entry{Event: e, keys: e.keys(), arrived: unwanted || s.dead[e.Number]})
		s.loaded = e.Number
	}
	s.pass()
	return true
}

// load puts what was given up and is to be sent again before everything else.
func (s *sender) load(ctx context.Context) bool {
	events, err := s.cfg.Dead.Revived(ctx, s.target.Name)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("events: those to be sent again cannot be read", "error", err.Error())
		}
		return false
	}
	s.revive = false
	var again []*entry
	for _, e := range events {
		if !slices.ContainsFunc(s.window, func(have *entry) bool { return have.Number == e.Number && have.revived }) {
			again = append(again, &entry{Event: e, keys: e.keys(), revived: true})
		}
	}
	s.window = append(again, s.window...)
	return true
}

// pass leaves behind what has arrived, up to the first that has not.
func (s *sender) pass() {
	for len(s.window) > 0 && s.window[0].arrived {
		if !s.window[0].revived {
			s.at.Sent, s.dirty = s.window[0].Number, true
		}
		s.window = s.window[1:]
	}
}

// dispatch sends what may be sent now and tells when there may be more.
func (s *sender) dispatch(ctx context.Context) time.Duration {
	now := s.cfg.Now()
	if wait := s.pause.Sub(now); wait > 0 {
		return wait
	}
	if s.target.Batch > 1 {
		return s.dispatchBatch(ctx, now)
	}
	ready, next := s.ready(now)
	parallel := s.target.Parallel
	if s.failures > 0 && len(ready) > 0 {
		// One will show whether the receiver is back: the one that it has refused least often, so that an event which it
		// never takes does not keep it from being asked for others.
		parallel = 1
		ready = []*entry{slices.MinFunc(ready, func(a, b *entry) int { return a.failures - b.failures })}
	}
	for _, e := range ready {
		if s.inFlight < parallel {
			s.send(ctx, []*entry{e})
		}
	}
	return next
}

// idle is how long dispatch waits when only something new can be sent: then somebody tells.
const idle = time.Hour

// ready are the events before which no other about the same place has to arrive, and when there may be more of them.
func (s *sender) ready(now time.Time) (ready []*entry, next time.Duration) {
	next = idle
	busy := map[string]bool{}
	for _, e := range s.window {
		for _, k := range e.keys {
			if e.flying {
				busy[k] = true // also for those before it, of which one may be sent again
			}
		}
	}
	for _, e := range s.window {
		if e.arrived {
			continue
		}
		free := !e.flying
		for _, k := range e.keys {
			free = free && !busy[k]
			busy[k] = true
		}
		switch wait := e.again.Sub(now); {
		case !free:
		case wait > 0:
			next = min(next, wait)
		default:
			ready = append(ready, e)
		}
	}
	return ready, next
}

// dispatchBatch sends the first events that have not arrived, in one.
func (s *sender) dispatchBatch(ctx context.Context, now time.Time) time.Duration {
	if s.inFlight > 0 || len(s.window) == 0 {
		return idle
	}
	if wait := s.window[0].again.Sub(now); wait > 0 {
		return wait
	}
	var batch []*entry
	for _, e := range s.window {
		if !e.arrived && len(batch) < s.target.Batch {
			batch = append(batch, e)
		}
	}
	s.send(ctx, batch)
	return idle
}

// send sends entries on a goroutine of their own.
func (s *sender) send(ctx context.Context, entries []*entry) {
	s.inFlight++
	events := make([]Event, len(entries))
	for i, e := range entries {
		e.flying, events[i] = true, e.Event
	}
	s.flying.Go(func() {
		sent, err := s.target.Sink.Send(ctx, events)
		s.results <- result{entries, sent, err}
	})
}

// take writes down what came of a Send.
func (s *sender) take(ctx context.Context, r result) {
	s.inFlight--
	if r.err == nil {
		r.sent = len(r.entries)
	}
	for i, e := range r.entries {
		e.flying, e.arrived = false, i < r.sent
		if e.arrived && e.revived {
			s.arrived(ctx, e)
		}
	}
	s.metrics.delivered.WithLabelValues(s.target.Name).Add(float64(r.sent))
	if r.sent > 0 {
		s.failures, s.pause, s.taken = 0, time.Time{}, s.cfg.Now()
	}
	if r.err != nil {
		s.fail(ctx, r.entries[r.sent], r.err)
	}
	s.pass()
}

// arrived forgets that an event was given up.
func (s *sender) arrived(ctx context.Context, e *entry) {
	if err := s.cfg.Dead.Arrived(ctx, s.target.Name, e.Number); err != nil {
		s.log.Warn("events: one that was given up has arrived, and may come again", "event", e.ID, "error", err.Error())
	}
}

// fail writes down that an event was not taken, and gives it up in the end.
func (s *sender) fail(ctx context.Context, e *entry, err error) {
	now, refused := s.cfg.Now(), errors.Is(err, ErrRefused)
	e.failures++
	s.failures++
	if e.since.IsZero() {
		e.since = now
	}
	e.again, s.pause = now.Add(s.cfg.Backoff(e.failures)), now.Add(s.cfg.Backoff(s.failures))
	if refused {
		if e.refusals++; s.failures == 1 {
			s.pause = time.Time{} // it answers, and took the one before: this is about the event
		}
	}
	s.metrics.failures.WithLabelValues(s.target.Name).Inc()
	hopeless := refused && e.refusals >= s.target.Tries || now.Sub(e.since) >= s.target.GiveUp && s.taken.After(e.since)
	if hopeless && s.bury(ctx, e, err) {
		return
	}
	s.log.Warn("events: not delivered, trying again", "event", e.ID, "detail-type", e.DetailType, "attempt", e.failures,
		"again", e.again.Sub(now).String(), "error", err.Error())
}

// bury gives an event up: those behind it go on.
func (s *sender) bury(ctx context.Context, e *entry, why error) bool {
	reason := why.Error()
	dead := Dead{Sink: s.target.Name, Event: e.Event, Died: s.cfg.Now(), Tries: e.failures, Reason: reason[:min(len(reason), maxReason)]}
	if err := s.cfg.Dead.Bury(ctx, s.at, dead); err != nil {
		s.log.Warn("events: one cannot be given up", "event", e.ID, "error", err.Error())
		return false
	}
	e.arrived = true
	s.metrics.buried.WithLabelValues(s.target.Name).Inc()
	s.log.Error("events: given up, it is kept: transferd events --dead shows it and transferd events replay -dead sends it again",
		"event", e.ID, "detail-type", e.DetailType, "path", e.key(), "tries", e.failures, "error", reason)
	return true
}
