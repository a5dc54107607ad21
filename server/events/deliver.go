package events

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Position is how far a sink is: everything up to Sent has arrived. Turn changes when somebody else sets the position.
type Position struct{ Sent, Turn int64 }

// ErrMoved is Advance's answer when the position is another's by now: sent back for a replay, or another process sends.
var ErrMoved = errors.New("the sink's position was changed by somebody else")

// ErrRefused is a Sink's answer that a receiver will not take an event, however often it is asked.
var ErrRefused = errors.New("the receiver refuses it")

// Backlog is how much of the outbox a sink has not had.
type Backlog struct {
	Sink   string
	Events int64
	Oldest time.Time // when the first of them was made; zero if there is none
	Dead   int64     // given up, and not among Events
}

// Dead is an event that was given up for a sink.
type Dead struct {
	Sink   string
	Event  Event
	Died   time.Time
	Tries  int
	Reason string // of the last one
}

// Outbox is where events wait. Several processes may share it: one at a time sends to a sink.
type Outbox interface {
	// Claim makes this process the one that sends to a sink, if no other that lives is, and tells the sink's position.
	Claim(ctx context.Context, sink string) (at Position, mine bool, err error)
	// Release gives a sink back.
	Release(ctx context.Context, sink string) error
	// After lists events in their order, behind a number.
	After(ctx context.Context, number int64, limit int) ([]Event, error)
	// Advance keeps how far a sink is; ErrMoved if that is not this process's to say any more.
	Advance(ctx context.Context, sink string, to Position) error
	// Backlogs tells of each sink how much it has not had.
	Backlogs(ctx context.Context, sinks []string) ([]Backlog, error)
	// Told gives a channel that gets a value after new events of this process; the function ends it.
	Told() (<-chan struct{}, func())
}

// DeadLetters is where events are that were given up, until somebody has them sent again.
type DeadLetters interface {
	// Bury keeps an event as dead; ErrMoved if its sink is not this process's any more.
	Bury(ctx context.Context, at Position, d Dead) error
	// Buried lists the numbers of a sink's dead events that the sink has still before it.
	Buried(ctx context.Context, sink string, after int64) ([]int64, error)
	// Revived lists dead events that are to be sent again.
	Revived(ctx context.Context, sink string) ([]Event, error)
	// Arrived forgets a dead event: the sink has it.
	Arrived(ctx context.Context, sink string, number int64) error
}

// Sink is a receiver. Send sends events in their order and tells how many have arrived for sure: all, if there is no error.
type Sink interface {
	Send(ctx context.Context, events []Event) (sent int, err error)
}

// Target is a sink with its name and how it likes to be spoken to.
type Target struct {
	Name string
	Sink Sink
	// Kinds are the events that the sink wants. Default all.
	Kinds []Kind
	// Parallel is how many events are under way at a time. Those about one file never are. Default 1.
	Parallel int
	// Tries is how often an event is sent that the receiver refuses (ErrRefused) before it is given up. Default 10.
	Tries int
	// GiveUp is for how long an event is sent that fails otherwise, while the receiver takes others. Default 1 hour. A
	// receiver that takes nothing is away: then nothing is given up.
	GiveUp time.Duration
	// Batch is how many events go into one Send, when Parallel is 1. Default 1.
	Batch int
}

// Config is what delivery works with.
type Config struct {
	Outbox     Outbox
	Dead       DeadLetters
	Targets    []Target
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// Poll is how often a sink looks for events that other processes made, and for its own claim. Default 1 s.
	Poll time.Duration
	// Backoff is the wait after so many failures in a row. Default 1 s, twice as long each time, up to a minute.
	Backoff func(failures int) time.Duration
	// Grace is how long events under way may go on when delivery is to end. Default 5 s.
	Grace time.Duration
}

// Delivery sends the outbox to the sinks.
type Delivery struct {
	cfg     Config
	metrics *metrics
}

// New makes a Delivery.
func New(cfg Config) (*Delivery, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Backoff == nil {
		cfg.Backoff = backoff
	}
	cfg.Poll = cmp.Or(cfg.Poll, time.Second)
	cfg.Grace = cmp.Or(cfg.Grace, 5*time.Second)
	m, err := newMetrics(cfg)
	if err != nil {
		return nil, fmt.Errorf("metrics of events: %w", err)
	}
	return &Delivery{cfg: cfg, metrics: m}, nil
}

func backoff(failures int) time.Duration {
	return min(time.Second<<min(max(failures-1, 0), 6), time.Minute)
}

// Run sends until ctx ends. Each sink has its own goroutine: one that is slow or dead holds up no other, and nobody who
// makes events ever waits for one.
func (d *Delivery) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, t := range d.cfg.Targets {
		t.Parallel, t.Batch = max(t.Parallel, 1), max(t.Batch, 1)
		if t.Parallel > 1 {
			t.Batch = 1
		}
		t.Tries, t.GiveUp = cmp.Or(t.Tries, 10), cmp.Or(t.GiveUp, time.Hour)
		s := &sender{cfg: &d.cfg, target: t, metrics: d.metrics, log: d.cfg.Log.With("sink", t.Name),
			results: make(chan result)}
		all.Go(func() { s.run(ctx) })
	}
	all.Wait()
}

// Lost counts events that were forgotten before a sink had them.
func (d *Delivery) Lost(sink string, n int64) { d.metrics.lost.WithLabelValues(sink).Add(float64(n)) }
