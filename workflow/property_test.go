package workflow_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// fate is what becomes of a step: for the first attempts something that may pass, then end.
type fate struct {
	flaky int // attempts below or at it fail with what may pass
	end   workflow.ErrorType
	panic bool
}

const well workflow.ErrorType = ""

func randomFate(r *rand.Rand) fate {
	switch r.IntN(10) {
	case 0:
		return fate{end: workflow.NotFound}
	case 1:
		return fate{end: workflow.AlreadyExists}
	case 2:
		return fate{panic: true, end: workflow.InternalServerError}
	case 3:
		return fate{flaky: 1 + r.IntN(6), end: well}
	case 4:
		return fate{flaky: 1 << 30}
	}
	return fate{end: well}
}

// want is the error type that the step must have if its result was written in this attempt; false if none may be.
func (f fate) want(attempt, maxAttempts int) (workflow.ErrorType, bool) {
	if attempt > f.flaky {
		return f.end, true
	}
	return workflow.InternalServerError, attempt >= maxAttempts
}

// storm runs one random plan through a world where the process dies at random: before a step, in it, between its effect
// and the commit, and between the commit and the end of the job.
type storm struct {
	t     *testing.T
	r     *rand.Rand
	l     *ledger
	e     *workflow.Engine
	fates map[string]fate
	ran   map[string][]int // the attempts of each step that reached its effect
	died  int
}

func (s *storm) die() bool {
	if s.r.IntN(6) == 0 {
		s.died++
		return true
	}
	return false
}

// Run is every step's. Goexit ends it as the death of the process would: nothing after it happens.
func (s *storm) Run(_ context.Context, in *workflow.Input) error {
	name := in.Spec.Name()
	if s.die() {
		runtime.Goexit()
	}
	f := s.fates[name]
	if in.Attempt <= f.flaky {
		return fmt.Errorf("put: %w", storage.ErrUnavailable)
	}
	s.ran[name] = append(s.ran[name], in.Attempt)
	if s.die() {
		runtime.Goexit()
	}
	switch {
	case f.panic:
		panic("as told")
	case f.end != well:
		return failure(f.end)
	}
	in.Output = s3File("out", name, "")
	return nil
}

// deliver runs the current job, and now and then an old one; false when the execution has ended.
func (s *storm) deliver(old *[]workflow.Job) bool {
	job, more := s.l.deliver("e")
	if more {
		again := job
		again.Known = nil
		*old = append(*old, again)
	}
	if len(*old) > 1 && s.r.IntN(4) == 0 {
		if stale := (*old)[s.r.IntN(len(*old)-1)]; !more || stale.Phase != job.Phase || stale.Step != job.Step {
			s.one(stale)
		}
	}
	if more {
		s.one(job)
	}
	return more
}

func (s *storm) one(job workflow.Job) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// An error means no more than that the job comes again, and here every job does.
		_ = s.e.Run(s.t.Context(), job, s.l.advance)
	}()
	<-done
}

// TestStorm: whatever fails and wherever the process dies, an execution ends, with the right status, with each step's
// result once and in order, and with every repeated effect marked by a higher attempt.
func TestStorm(t *testing.T) {
	t.Parallel()
	const rounds = 3000
	died, repeated := 0, 0
	for seed := range uint64(rounds) {
		s := &storm{t: t, r: rand.New(rand.NewPCG(seed, 1)), l: newLedger(t), fates: map[string]fate{}, ran: map[string][]int{}}
		s.l.die = s.die
		s.e = newEngine(t, s.l, all(s))
		x := execution("e", workflow.Plan{Steps: s.steps("n", 1+s.r.IntN(8)), OnExceptionSteps: s.steps("x", s.r.IntN(5))})
		s.l.enqueue(x)
		var old []workflow.Job
		for n := 0; s.deliver(&old); n++ {
			if n > 1000 {
				t.Fatalf("seed %d: does not end", seed)
			}
		}
		s.check(s.l.x["e"])
		if t.Failed() {
			t.Fatalf("seed %d: fates %+v, execution %+v", seed, s.fates, s.l.x["e"])
		}
		died += s.died
		for _, attempts := range s.ran {
			repeated += len(attempts) - 1
		}
	}
	t.Logf("%d executions, %d deaths, %d repeated effects, all marked", rounds, died, repeated)
	if died == 0 || repeated == 0 {
		t.Error("the storm was a calm")
	}
}

func (s *storm) steps(prefix string, n int) []workflow.StepSpec {
	var names []string
	for i := range n {
		name := fmt.Sprint(prefix, i)
		s.fates[name] = randomFate(s.r)
		names = append(names, name)
	}
	return named(names...)
}

func (s *storm) check(x workflow.Execution) {
	s.t.Helper()
	previous := "mary/a.txt"
	phase := func(specs []workflow.StepSpec, results []workflow.StepResult) (failed bool) {
		s.t.Helper()
		for i, r := range results {
			name := specs[i].Name()
			if got := s.result(name, r); got == well {
				previous = name
			} else {
				failed = true
			}
		}
		for _, skipped := range specs[len(results):] {
			if len(s.ran[skipped.Name()]) > 0 {
				s.t.Errorf("%s ran without a result", skipped.Name())
			}
		}
		return failed
	}
	steps, handlers := x.Results.Steps, x.Results.OnExceptionSteps
	failed := phase(x.Plan.Steps, steps)
	phase(x.Plan.OnExceptionSteps, handlers)
	for _, r := range steps[:len(steps)-1] {
		if r.Error != nil {
			s.t.Error("a nominal step ran after a failed one")
		}
	}
	switch {
	case failed && (x.Status != workflow.Exception || len(handlers) != len(x.Plan.OnExceptionSteps)):
		s.t.Errorf("failed: status %s, %d handler results", x.Status, len(handlers))
	case !failed && (x.Status != workflow.Completed || len(handlers) != 0 || len(steps) != len(x.Plan.Steps)):
		s.t.Errorf("went well: status %s, %d handler results", x.Status, len(handlers))
	}
	if x.Previous.S3FileLocation.Key != previous {
		s.t.Errorf("previous %s, want %s", x.Previous.S3FileLocation.Key, previous)
	}
}

// result checks one step's result and returns its error type.
func (s *storm) result(name string, r workflow.StepResult) workflow.ErrorType {
	s.t.Helper()
	got := well
	if r.Error != nil {
		got = r.Error.Type
	}
	want, may := s.fates[name].want(r.Attempt, s.l.maxAttempts)
	if !may || got != want {
		s.t.Errorf("%s ended as %q in attempt %d, want %q (%v)", name, got, r.Attempt, want, may)
	}
	ran := s.ran[name]
	for i := 1; i < len(ran); i++ {
		if ran[i] <= ran[i-1] {
			s.t.Errorf("%s: effects in attempts %v", name, ran)
		}
	}
	if len(ran) > 0 && ran[len(ran)-1] > r.Attempt {
		s.t.Errorf("%s: an effect in attempt %d after the result of attempt %d", name, ran[len(ran)-1], r.Attempt)
	}
	return got
}
