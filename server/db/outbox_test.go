package db

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// eventOf is a small event of a verdict.
func eventOf(u session.Upload, v session.Verdict) events.Event {
	return events.Event{ID: u.ID, DetailType: string(v.Outcome), Detail: events.Detail{FilePath: v.At(u).Path()}}
}

func numbers(all []events.Event) (n []int64) {
	for _, e := range all {
		n = append(n, e.Number)
	}
	return n
}

func upTo(first, last int64) (n []int64) {
	for i := first; i <= last; i++ {
		n = append(n, i)
	}
	return n
}

// TestOutboxVerdicts: a verdict has its event, once, and what failed has none.
func TestOutboxVerdicts(t *testing.T) {
	both(t, func(t *testing.T) {
		d := open(t, Config{Events: eventOf})
		must(t, d.Sinks(t.Context(), []string{"a"}))
		told, stop := d.Told()
		defer stop()
		u, v := anUpload(d, "s-1"), whole()
		must(t, d.Begin(t.Context(), u))
		must(t, errors.Join(d.End(t.Context(), u, v), d.End(t.Context(), u, v)))
		select {
		case <-told:
		default:
			t.Error("nobody was told")
		}
		unknown := anUpload(d, "s-1")
		if err := d.End(t.Context(), unknown, v); err == nil {
			t.Error("an unknown upload ended")
		}
		all := value[[]events.Event](t)(d.After(t.Context(), 0, 10))
		if len(all) != 1 || all[0].ID != u.ID || all[0].Number != 1 || all[0].Detail.FilePath != "/bucket/in/file" {
			t.Errorf("the outbox has %+v", all)
		}
	})
}

// TestOutboxOff: without sinks nothing is kept.
func TestOutboxOff(t *testing.T) {
	both(t, func(t *testing.T) {
		d := open(t, Config{})
		send(t, d, "s-1", whole())
		if all := value[[]events.Event](t)(d.After(t.Context(), 0, 10)); len(all) != 0 {
			t.Errorf("the outbox has %+v", all)
		}
	})
}

// TestOutboxNumbers: many writers, and calls among them that fail and are undone, leave no gap, and whoever reads while they
// write never sees a number before those that come before it.
func TestOutboxNumbers(t *testing.T) {
	both(t, func(t *testing.T) {
		d := open(t, Config{Events: eventOf})
		must(t, d.Sinks(t.Context(), []string{"a"}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var reading, writing sync.WaitGroup
		reading.Go(func() {
			for after := int64(0); ctx.Err() == nil; {
				all, err := d.After(t.Context(), after, 1000)
				if err != nil {
					t.Error(err)
					return
				}
				if got := numbers(all); !slices.Equal(got, upTo(after+1, after+int64(len(all)))) {
					t.Errorf("behind %d stand %v", after, got)
					return
				}
				after += int64(len(all))
			}
		})
		failed := errors.New("no")
		const writers, each = 8, 15
		for range writers {
			writing.Go(func() {
				for i := range each {
					err := d.Record(t.Context(), events.Event{ID: newID(), Detail: events.Detail{FilePath: fmt.Sprint(i)}})
					undone := d.batch.run(t.Context(), func(_ context.Context, tx Tx) error {
						tx.Emit(eventRow{doc: "{}"})
						return failed
					})
					if err != nil || !errors.Is(undone, failed) {
						t.Error(err, undone)
					}
				}
			})
		}
		writing.Wait()
		cancel()
		reading.Wait()
		all := value[[]events.Event](t)(d.After(t.Context(), 0, 1000))
		if got := numbers(all); !slices.Equal(got, upTo(1, writers*each)) {
			t.Errorf("%d events are numbered %v", writers*each, got)
		}
		if got := numbers(value[[]events.Event](t)(d.LatestEvents(t.Context(), 3))); !slices.Equal(got, upTo(writers*each-2, writers*each)) {
			t.Errorf("the latest three are %v", got)
		}
	})
}

// TestOutboxSinks: each sink has its own position, a new one begins with what comes, replay goes back and never forward,
// and what is forgotten is said.
func TestOutboxSinks(t *testing.T) {
	both(t, func(t *testing.T) {
		ctx := t.Context()
		var clock sync.Mutex
		now := time.UnixMilli(1_700_000_000_000)
		d := open(t, Config{Events: eventOf, Now: func() time.Time { clock.Lock(); defer clock.Unlock(); return now }})
		pass := func() { clock.Lock(); defer clock.Unlock(); now = now.Add(time.Hour) }
		must(t, d.Sinks(ctx, []string{"a"}))
		for range 4 {
			must(t, d.Record(ctx, events.Event{ID: newID()}))
			pass()
		}
		must(t, d.Sinks(ctx, []string{"a", "b"}))
		claim := func(sink string) events.Position {
			t.Helper()
			at, mine, err := d.Claim(ctx, sink)
			if err != nil || !mine {
				t.Fatalf("claim of %s: %v, %v", sink, mine, err)
			}
			return at
		}
		backlog := func(want ...int64) {
			t.Helper()
			for i, b := range value[[]events.Backlog](t)(d.Backlogs(ctx, []string{"a", "b"})) {
				if b.Events != want[i] || b.Oldest.IsZero() != (want[i] == 0) {
					t.Errorf("backlog %+v, want %d", b, want[i])
				}
			}
		}
		a, b := claim("a"), claim("b")
		if a.Sent != 0 || b.Sent != 4 {
			t.Errorf("a begins behind %d, b behind %d", a.Sent, b.Sent)
		}
		backlog(4, 0)
		a.Sent = 3
		must(t, d.Advance(ctx, "a", a))
		backlog(1, 0)
		// Since the fourth event: a has not had it, so nothing moves; b is told it again.
		for sink, want := range map[string]int64{"a": 1, "b": 1} {
			if n := value[int64](t)(d.Replay(ctx, sink, now.Add(-90*time.Minute))); n != want {
				t.Errorf("replay to %s: %d events, want %d", sink, n, want)
			}
		}
		if err := d.Advance(ctx, "a", a); !errors.Is(err, events.ErrMoved) {
			t.Errorf("a position of before the replay counts: %v", err)
		}
		if n := value[int64](t)(d.Replay(ctx, "a", time.Time{})); n != 4 {
			t.Errorf("replay of all: %d events", n)
		}
		_, err := d.Replay(ctx, "c", now)
		wantNotFound(t, errors.Unwrap(err), "Sink", "c")

		n, lost, err := d.PruneEvents(ctx, now.Add(-150*time.Minute), []string{"a", "b"})
		if err != nil || n != 2 || lost["a"] != 2 || lost["b"] != 0 {
			t.Errorf("forgot %d, lost %v, %v", n, lost, err)
		}
		backlog(2, 1)
		if at := claim("a"); at.Sent != 2 {
			t.Errorf("after that a is at %d", at.Sent)
		}
	})
}

// TestOutboxLease: one living node at a time sends to a sink, and another one takes it when that goes.
func TestOutboxLease(t *testing.T) {
	t.Parallel()
	url := servers.database(t, t.TempDir())
	ctx := t.Context()
	one := value[*DB](t)(Open(ctx, Config{URL: url, Node: "one", Beat: 200 * time.Millisecond}))
	two := open(t, Config{URL: url, Node: "two", Beat: 200 * time.Millisecond})
	must(t, errors.Join(one.Sinks(ctx, []string{"a"}), two.Sinks(ctx, []string{"a"})))
	mine := func(d *DB) bool {
		_, is, err := d.Claim(ctx, "a")
		must(t, err)
		return is
	}
	if !mine(one) || mine(two) || !mine(one) {
		t.Error("not the first one has it")
	}
	must(t, one.Record(ctx, events.Event{ID: "x"}))
	if err := two.Advance(ctx, "a", events.Position{Sent: 1, Turn: 1}); !errors.Is(err, events.ErrMoved) {
		t.Errorf("another node moved it: %v", err)
	}
	must(t, one.Release(ctx, "a"))
	if !mine(two) || mine(one) {
		t.Error("the second one does not have it")
	}
	must(t, two.Release(ctx, "a"))
	if !mine(one) {
		t.Error("the first one does not have it again")
	}
	must(t, one.Close())
	if !mine(two) {
		t.Error("a node that left has it still")
	}
}

// TestDeeds: an intent is there until its event is in the outbox, which takes its place once however often it is told.
func TestDeeds(t *testing.T) {
	both(t, func(t *testing.T) {
		d := open(t, Config{Events: eventOf})
		must(t, d.Sinks(t.Context(), []string{"a"}))
		deed := func(id string, began int64) session.Deed {
			return session.Deed{ID: id, Kind: session.Renamed, Path: "/bucket/" + id, NewPath: "/bucket/new", Began: time.UnixMilli(began).UTC(),
				From: storage.Location{Domain: "S3", Store: "bucket", Name: id}, Identity: storage.Identity{Role: "r", Posix: &storage.Posix{UID: 7}}}
		}
		second, first := deed("second", 2000), deed("first", 1000)
		must(t, errors.Join(d.Intend(t.Context(), second), d.Intend(t.Context(), first), d.Intend(t.Context(), first)))
		if all := value[[]session.Deed](t)(d.Deeds(t.Context())); !reflect.DeepEqual(all, []session.Deed{first, second}) {
			t.Errorf("deeds %+v", all)
		}
		e := events.Event{ID: "first", Detail: events.Detail{FilePath: "/bucket/first"}}
		must(t, errors.Join(d.Settle(t.Context(), e), d.Settle(t.Context(), e)))
		if all := value[[]events.Event](t)(d.After(t.Context(), 0, 10)); len(all) != 1 || all[0].ID != "first" {
			t.Errorf("the outbox has %+v", all)
		}
		if all := value[[]session.Deed](t)(d.Deeds(t.Context())); len(all) != 1 || all[0].ID != "second" {
			t.Errorf("deeds %+v", all)
		}
		must(t, d.ForgetDeeds(t.Context()))
		if all := value[[]session.Deed](t)(d.Deeds(t.Context())); len(all) != 0 {
			t.Errorf("deeds %+v", all)
		}
	})
}
