package workflow_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// long is a step that takes a few pieces, and tells what it is asked to remove.
type long struct {
	run     func(ctx context.Context, in *workflow.Input) error
	dropped []string
	refuse  error
}

func (s *long) Run(ctx context.Context, in *workflow.Input) error { return s.run(ctx, in) }

func (s *long) Drop(_ context.Context, state json.RawMessage) error {
	if err := s.refuse; err != nil {
		s.refuse = nil
		return err
	}
	s.dropped = append(s.dropped, string(state))
	return nil
}

// counting ends after so many pieces. It fails where told, once.
func counting(pieces int, fail map[int]error, seen *[]string) *long {
	return &long{run: func(ctx context.Context, in *workflow.Input) error {
		done := 0
		if in.State != nil {
			if err := json.Unmarshal(in.State, &done); err != nil {
				return err
			}
		} else if err := in.Save(ctx, json.RawMessage("0")); err != nil {
			return err
		}
		*seen = append(*seen, fmt.Sprintf("%d@%d", done, in.Attempt))
		if err := fail[done]; err != nil {
			delete(fail, done)
			return err
		}
		if done++; done == pieces {
			in.Output = s3File("out", "long", "e2")
			return nil
		}
		return &workflow.Continue{State: json.RawMessage(fmt.Sprint(done))}
	}}
}

// TestPieces: a step goes on in job after job; what is planned is no repeat, and what is repeated is marked from then on.
func TestPieces(t *testing.T) {
	t.Parallel()
	outage := fmt.Errorf("copy: %w", storage.ErrUnavailable)
	for _, tt := range []struct {
		name  string
		fail  map[int]error
		seen  string
		steps []string
		drop  string
	}{
		{"all well", nil, "0@1 1@1 2@1 3@1", []string{"ok", "ok"}, ""},
		{"a piece is repeated", map[int]error{1: outage}, "0@1 1@1 1@2 2@2 3@2", []string{"ok@2", "ok"}, ""},
		{"two pieces are", map[int]error{0: outage, 2: outage}, "0@1 0@2 1@2 2@2 2@3 3@3", []string{"ok@3", "ok"}, ""},
		{"it fails for good", map[int]error{2: failure(workflow.NotFound)}, "0@1 1@1 2@1", []string{"NOT_FOUND"}, "2"},
		{"it fails at first", map[int]error{0: failure(workflow.NotFound)}, "0@1", []string{"NOT_FOUND"}, "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			var seen []string
			var log bytes.Buffer
			s := counting(4, tt.fail, &seen)
			steps := map[string]workflow.Step{workflow.TypeCopy: s, workflow.TypeTag: stepFunc(func(_ context.Context, in *workflow.Input) error {
				if in.State != nil || in.Source.S3FileLocation.Key != "long" || in.Attempt != 1 {
					t.Errorf("the step after it gets %+v", in)
				}
				return nil
			})}
			clock := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
			e := newEngine(t, l, steps, func(c *workflow.Config) {
				c.Log = slog.New(slog.NewJSONHandler(&log, nil))
				c.Now = func() time.Time { clock = clock.Add(time.Second); return clock }
			})
			l.enqueue(execution("e", workflow.Plan{Steps: append(named("a"),
				workflow.StepSpec{Type: workflow.TypeTag, TagStepDetails: &workflow.TagStepDetails{}})}))
			x := l.finish(e, "e")
			if got := strings.Join(seen, " "); got != tt.seen {
				t.Errorf("pieces %q, want %q", got, tt.seen)
			}
			if got := outcome(x.Results.Steps); !slices.Equal(got, tt.steps) {
				t.Errorf("steps %v, want %v", got, tt.steps)
			}
			if x.Progress != nil || x.Results.Steps[0].Began != time.Date(2026, 11, 22, 0, 0, 1, 0, time.UTC) {
				t.Errorf("progress %+v, result %+v", x.Progress, x.Results.Steps[0])
			}
			repeats := strings.Count(tt.seen, " ") - (len(slices.Compact(strings.Split(stripped(tt.seen), " "))) - 1)
			if got := strings.Count(log.String(), `"StepStarted"`); got != 1+repeats+len(tt.steps)-1 {
				t.Errorf("%d starts logged, %d repeats:\n%s", got, repeats, &log)
			}
			if tt.drop == "" {
				if l.remains != nil {
					t.Errorf("left %+v", l.remains)
				}
				return
			}
			s.refuse = outage
			if err := e.Run(t.Context(), l.remains[0], l.advance); !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("a refused drop: %v", err)
			}
			if err := e.Run(t.Context(), l.remains[0], l.advance); err != nil || !slices.Equal(s.dropped, []string{tt.drop}) {
				t.Errorf("dropped %q, %v", s.dropped, err)
			}
		})
	}
}

// stripped leaves the attempts out.
func stripped(seen string) string {
	var out []string
	for _, s := range strings.Split(seen, " ") {
		piece, _, _ := strings.Cut(s, "@")
		out = append(out, piece)
	}
	return strings.Join(out, " ")
}

// TestStalePiece: a job of a piece that is over does nothing.
func TestStalePiece(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	var seen []string
	e := newEngine(t, l, map[string]workflow.Step{workflow.TypeCopy: counting(3, nil, &seen)})
	l.enqueue(execution("e", workflow.Plan{Steps: named("a")}))
	first, _ := l.deliver("e")
	for range 2 { // the second comes from a node that nobody heard of for a while
		if err := e.Run(t.Context(), first, l.advance); err != nil {
			t.Fatal(err)
		}
	}
	if x := l.finish(e, "e"); strings.Join(seen, " ") != "0@1 1@1 2@1" || x.Status != workflow.Completed {
		t.Errorf("pieces %q, %s", seen, x.Status)
	}
}

// TestSaveTooLate: a step whose execution has ended learns it when it saves, and is not done again.
func TestSaveTooLate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	var saved error
	e := newEngine(t, l, map[string]workflow.Step{workflow.TypeCopy: &long{run: func(ctx context.Context, in *workflow.Input) error {
		l.mu.Lock()
		delete(l.job, "e")
		l.mu.Unlock()
		saved = in.Save(ctx, json.RawMessage("1"))
		return saved
	}}})
	l.enqueue(execution("e", workflow.Plan{Steps: named("a")}))
	job, _ := l.deliver("e")
	if err := e.Run(t.Context(), job, l.advance); err != nil || !errors.Is(saved, workflow.ErrStale) {
		t.Errorf("run %v, save %v", err, saved)
	}
}

// TestTimeoutByType: what takes the longer the larger a file is may take longer.
func TestTimeoutByType(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for typ, want := range map[string]time.Duration{workflow.TypeCopy: 12 * time.Hour, workflow.TypeTag: 30 * time.Minute} {
			l := newLedger(t)
			l.maxAttempts = 1
			e := newEngine(t, l, all(stepFunc(func(ctx context.Context, _ *workflow.Input) error { <-ctx.Done(); return ctx.Err() })))
			l.enqueue(execution("e", workflow.Plan{Steps: []workflow.StepSpec{{Type: typ}}}))
			start := time.Now()
			x := l.finish(e, "e")
			if got := outcome(x.Results.Steps); time.Since(start) != want || !slices.Equal(got, []string{"TIMEOUT"}) {
				t.Errorf("%s: %v after %v, want %v", typ, got, time.Since(start), want)
			}
		}
	})
}
