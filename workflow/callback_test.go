package workflow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

const flow = "w-abcdef01234567890"

// calls is a CUSTOM step whose functions a test plays: told gets what each call got, answer says how the call went.
type calls struct {
	told   []workflow.Wait
	answer func(in *workflow.Input, w workflow.Wait) error
}

func (c *calls) Run(ctx context.Context, in *workflow.Input) error {
	w, err := in.Await(ctx, in.Spec.CustomStepDetails.Timeout())
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	c.told = append(c.told, w)
	if c.answer == nil {
		return nil
	}
	return c.answer(in, w)
}

func custom(name string, seconds int) workflow.StepSpec {
	return workflow.StepSpec{Type: workflow.TypeCustom, CustomStepDetails: &workflow.CustomStepDetails{
		Name: name, Target: "arn:aws:lambda:us-east-1:000000000000:function:f", TimeoutSeconds: seconds}}
}

// waitingWorld is an engine with one execution: a CUSTOM step of ten seconds, then a COPY; a COPY for exceptions.
func waitingWorld(t *testing.T, answer func(*workflow.Input, workflow.Wait) error) (*workflow.Engine, *ledger, *calls) {
	l, c := newLedger(t), &calls{answer: answer}
	steps := all(stepFunc(func(context.Context, *workflow.Input) error { return nil }))
	steps[workflow.TypeCustom] = c
	e := newEngine(t, l, steps)
	l.enqueue(execution("e", workflow.Plan{
		Steps: append([]workflow.StepSpec{custom("ask", 10)}, named("a")...), OnExceptionSteps: named("x"),
	}))
	return e, l, c
}

// once delivers the current job and returns what the engine said.
func (l *ledger) once(e *workflow.Engine) error {
	l.t.Helper()
	job, ok := l.deliver("e")
	if !ok {
		l.t.Fatal("no job")
	}
	return e.Run(l.t.Context(), job, l.advance)
}

func (l *ledger) mustOnce(e *workflow.Engine) {
	l.t.Helper()
	if err := l.once(e); err != nil {
		l.t.Fatal(err)
	}
}

func (l *ledger) wants(status workflow.Status, steps, handlers []string) {
	l.t.Helper()
	x := l.x["e"]
	if got := outcome(x.Results.Steps); x.Status != status || !slices.Equal(got, steps) ||
		!slices.Equal(outcome(x.Results.OnExceptionSteps), handlers) {
		l.t.Errorf("%s %v %v, want %s %v %v", x.Status, got, outcome(x.Results.OnExceptionSteps), status, steps, handlers)
	}
}

func TestCallback(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		success  bool
		status   workflow.Status
		steps    []string
		handlers []string
	}{
		{true, workflow.Completed, []string{"ok", "ok"}, nil},
		{false, workflow.Exception, []string{"CUSTOM_STEP_FAILED"}, []string{"ok"}},
	} {
		e, l, c := waitingWorld(t, nil)
		l.mustOnce(e)
		x := l.x["e"]
		if x.Wait == nil || !x.Wait.Called || x.Status != workflow.InProgress || len(x.Results.Steps) != 0 {
			t.Fatalf("after the call: %+v", x)
		}
		token := c.told[0].Token
		if !regexp.MustCompile(`^\w{40,64}$`).MatchString(token) {
			t.Errorf("token %q", token)
		}
		for _, bad := range []struct {
			w     workflow.ID
			token string
		}{{flow, ""}, {flow, "forged"}, {flow, token + "x"}, {flow, token[1:]}, {"w-00000000000000000", token}} {
			if err := e.Callback(t.Context(), bad.w, "e", bad.token, true); !errors.Is(err, workflow.ErrNoCallback) {
				t.Errorf("callback %v: %v", bad, err)
			}
		}
		l.wants(workflow.InProgress, nil, nil)
		if err := e.Callback(t.Context(), flow, "e", token, tt.success); err != nil {
			t.Fatal(err)
		}
		for _, again := range []bool{true, false} {
			if err := e.Callback(t.Context(), flow, "e", token, again); !errors.Is(err, workflow.ErrNoCallback) {
				t.Errorf("a second callback: %v", err)
			}
		}
		if _, waits := l.expire("e"); waits {
			t.Error("still waits")
		}
		l.finish(e, "e")
		l.wants(tt.status, tt.steps, tt.handlers)
		if err := e.Callback(t.Context(), flow, "e", token, true); !errors.Is(err, workflow.ErrNoCallback) {
			t.Errorf("a callback after the end: %v", err)
		}
		if err := e.Callback(t.Context(), flow, "unknown", token, true); err == nil || errors.Is(err, workflow.ErrNoCallback) {
			t.Errorf("an execution that cannot be read: %v", err)
		}
	}
}

// TestForeignToken: the token of one execution says nothing about another.
func TestForeignToken(t *testing.T) {
	t.Parallel()
	e, l, c := waitingWorld(t, nil)
	l.enqueue(execution("f", workflow.Plan{Steps: []workflow.StepSpec{custom("ask", 10), custom("again", 10)}}))
	for _, id := range []workflow.ExecutionID{"e", "f"} {
		job, _ := l.deliver(id)
		if err := e.Run(t.Context(), job, l.advance); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Callback(t.Context(), flow, "f", c.told[0].Token, true); !errors.Is(err, workflow.ErrNoCallback) {
		t.Errorf("foreign token: %v", err)
	}
	if err := e.Callback(t.Context(), flow, "f", c.told[1].Token, true); err != nil {
		t.Fatal(err)
	}
	job, _ := l.deliver("f")
	if err := e.Run(t.Context(), job, l.advance); err != nil {
		t.Fatal(err)
	}
	if c.told[2].Token == c.told[1].Token {
		t.Error("two steps have one token")
	}
	if err := e.Callback(t.Context(), flow, "f", c.told[1].Token, true); !errors.Is(err, workflow.ErrNoCallback) {
		t.Errorf("token of the step before: %v", err)
	}
	if x := l.x["f"]; len(x.Results.Steps) != 1 || x.Wait == nil {
		t.Errorf("%+v", x)
	}
}

// TestCallbackBeforeTheCallEnds: a function may answer before whoever carried the call knows that it arrived.
func TestCallbackBeforeTheCallEnds(t *testing.T) {
	t.Parallel()
	for name, callEnds := range map[string]error{"well": nil, "may pass": storage.ErrUnavailable, "for good": failure(workflow.CustomStepFailed)} {
		var e *workflow.Engine
		e, l, _ := waitingWorld(t, func(in *workflow.Input, w workflow.Wait) error {
			if err := e.Callback(t.Context(), in.Workflow, in.Execution, w.Token, true); err != nil {
				t.Error(err)
			}
			return callEnds
		})
		job, _ := l.deliver("e")
		if err := e.Run(t.Context(), job, l.advance); err != nil && !errors.Is(callEnds, storage.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if err := e.Run(t.Context(), job, l.advance); err != nil { // what may pass comes again
			t.Errorf("%s: again: %v", name, err)
		}
		l.finish(e, "e")
		l.wants(workflow.Completed, []string{"ok", "ok"}, nil)
	}
}

func TestExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, l, c := waitingWorld(t, nil)
		job, _ := l.expire("e")
		if err := e.Run(t.Context(), job, l.advance); err != nil {
			t.Errorf("nothing to expire: %v", err)
		}
		l.mustOnce(e)
		time.Sleep(10 * time.Second)
		if err := e.Callback(t.Context(), flow, "e", c.told[0].Token, true); !errors.Is(err, workflow.ErrNoCallback) {
			t.Errorf("a late callback: %v", err)
		}
		l.wants(workflow.InProgress, nil, nil)
		job, _ = l.expire("e")
		for range 2 { // the second finds nothing
			if err := e.Run(t.Context(), job, l.advance); err != nil {
				t.Fatal(err)
			}
		}
		l.finish(e, "e")
		l.wants(workflow.Exception, []string{"TIMEOUT"}, []string{"ok"})
		r := l.x["e"].Results.Steps[0]
		if r.Ended.Sub(r.Began) != 10*time.Second || r.Error.Message != "The function did not call back in time." {
			t.Errorf("%+v %+v", r, r.Error)
		}
	})
}

// TestCallFails: what may pass is tried again with the same token and a higher attempt, until the attempts or the time
// are used up.
func TestCallFails(t *testing.T) {
	t.Parallel()
	again := &workflow.StepError{Type: workflow.CustomStepFailed, Message: "as told", Again: true}
	for _, tt := range []struct {
		name   string
		errs   []error
		status workflow.Status
		steps  []string
	}{
		{"then well", []error{again, again, nil}, workflow.Completed, []string{"ok@3", "ok"}},
		{"always", []error{again, again, again, again}, workflow.Exception, []string{"CUSTOM_STEP_FAILED@4"}},
		{"for good", []error{failure(workflow.CustomStepFailed)}, workflow.Exception, []string{"CUSTOM_STEP_FAILED"}},
		{"denied", []error{failure(workflow.PermissionDenied)}, workflow.Exception, []string{"PERMISSION_DENIED"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e, l, c := waitingWorld(t, func(in *workflow.Input, _ workflow.Wait) error { return tt.errs[in.Attempt-1] })
			for i, want := range tt.errs {
				last := i == len(tt.errs)-1
				if err := l.once(e); (err == nil) != last {
					t.Fatalf("attempt %d: %v, the call said %v", i+1, err, want)
				}
			}
			for i, w := range c.told {
				if w.Token != c.told[0].Token || !w.Until.Equal(c.told[0].Until) || w.Attempt != i+1 {
					t.Errorf("call %d got %+v, the first %+v", i+1, w, c.told[0])
				}
			}
			if tt.status == workflow.Completed {
				if err := e.Callback(t.Context(), flow, "e", c.told[0].Token, true); err != nil {
					t.Fatal(err)
				}
			}
			l.finish(e, "e")
			handlers := []string{"ok"}
			if tt.status == workflow.Completed {
				handlers = nil
			}
			l.wants(tt.status, tt.steps, handlers)
		})
	}
}

// TestCallOutlivesTheTime: a call that fails after the step's time is a timeout, and so is an attempt that comes after it.
func TestCallOutlivesTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, l, _ := waitingWorld(t, func(*workflow.Input, workflow.Wait) error {
			time.Sleep(10 * time.Second)
			return storage.ErrUnavailable
		})
		l.mustOnce(e)
		l.wants(workflow.HandlingException, []string{"TIMEOUT"}, nil)

		e, l, c := waitingWorld(t, func(*workflow.Input, workflow.Wait) error { return storage.ErrUnavailable })
		if err := l.once(e); err == nil {
			t.Error("a call that may succeed is not tried again")
		}
		time.Sleep(10 * time.Second) // the daemon was down
		l.mustOnce(e)
		l.wants(workflow.HandlingException, []string{"TIMEOUT@2"}, nil)
		if m := l.x["e"].Results.Steps[0].Error.Message; len(c.told) != 1 || m != "The function could not be called in time." {
			t.Errorf("%d calls, %q", len(c.told), m)
		}
	})
}

// TestCalledJobComesAgain: a job whose end was lost does not call a second time.
func TestCalledJobComesAgain(t *testing.T) {
	t.Parallel()
	e, l, c := waitingWorld(t, nil)
	l.mustOnce(e)
	delete(l.called, "e")
	l.mustOnce(e)
	if len(c.told) != 1 || !l.called["e"] {
		t.Errorf("%d calls, job over: %v", len(c.told), l.called["e"])
	}
}

func TestInvokedIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	l, c := newLedger(t), &calls{}
	e := newEngine(t, l, map[string]workflow.Step{workflow.TypeCustom: c}, func(c *workflow.Config) {
		c.Log = slog.New(slog.NewJSONHandler(&log, nil))
	})
	l.enqueue(execution("e", workflow.Plan{Steps: []workflow.StepSpec{custom("ask", 10)}}))
	l.mustOnce(e)
	if err := e.Callback(t.Context(), flow, "e", c.told[0].Token, true); err != nil {
		t.Fatal(err)
	}
	want := `"details":{"output":{"token":"` + c.told[0].Token + `"},"stepType":"CUSTOM","stepName":"ask"}`
	if !strings.Contains(log.String(), want) {
		t.Errorf("no %s in\n%s", want, log.String())
	}
	var types []string
	for _, m := range regexp.MustCompile(`"type":"(\w+)"`).FindAllStringSubmatch(log.String(), -1) {
		types = append(types, m[1])
	}
	if got := strings.Join(types, " "); got != "ExecutionStarted StepStarted CustomStepInvoked StepCompleted ExecutionCompleted" {
		t.Errorf("events %s", got)
	}
}

// TestRetriedUploadDate: an execution that is done over again keeps the day of the upload.
func TestRetriedUploadDate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	var got time.Time
	e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error { got = in.UploadDate; return nil })))
	x := execution("e", workflow.Plan{Steps: named("a")})
	x.Uploaded = began.AddDate(0, 0, -3)
	l.enqueue(x)
	l.finish(e, "e")
	if !got.Equal(x.Uploaded) || got.Location() != time.UTC {
		t.Errorf("upload date %v, want %v", got, x.Uploaded)
	}
}

// callStorm is one execution of CUSTOM steps in a world where the process dies at random, calls fail, and callbacks
// come early, late, twice, forged, or never.
type callStorm struct {
	*storm
	tokens []string
	told   map[string][]int // the attempts of each step whose function was told
}

func (s *callStorm) Run(ctx context.Context, in *workflow.Input) error {
	w, err := in.Await(ctx, in.Spec.CustomStepDetails.Timeout())
	if err != nil {
		return err
	}
	if s.die() {
		runtime.Goexit()
	}
	s.tokens = append(s.tokens, w.Token)
	s.told[in.Spec.Name()] = append(s.told[in.Spec.Name()], in.Attempt)
	if s.r.IntN(3) == 0 {
		s.callback(w.Token)
	}
	if s.die() {
		runtime.Goexit()
	}
	if s.r.IntN(4) == 0 {
		return storage.ErrUnavailable
	}
	return nil
}

func (s *callStorm) callback(token string) {
	before := len(s.l.x["e"].Results.Steps) + len(s.l.x["e"].Results.OnExceptionSteps)
	waits := s.l.x["e"].Wait
	err := s.e.Callback(s.t.Context(), flow, "e", token, s.r.IntN(3) > 0)
	after := len(s.l.x["e"].Results.Steps) + len(s.l.x["e"].Results.OnExceptionSteps)
	if expected := waits != nil && waits.Token == token; !expected && (err == nil || after != before) {
		s.t.Errorf("a callback that nobody waits for: %v, %d results more", err, after-before)
	} else if expected && after == before && err == nil {
		s.t.Error("a callback was accepted and did nothing")
	}
}

// TestCallStorm: however callbacks, expiries, failing calls and deaths fall together, an execution ends, each step has
// one result, and a repeated call is marked by its attempt.
func TestCallStorm(t *testing.T) {
	t.Parallel()
	const rounds = 2000
	repeated := 0
	for seed := range uint64(rounds) {
		s := &callStorm{storm: &storm{t: t, r: rand.New(rand.NewPCG(seed, 2)), l: newLedger(t)}, told: map[string][]int{}}
		s.l.die, s.l.maxAttempts = s.die, 6
		s.e = newEngine(t, s.l, map[string]workflow.Step{workflow.TypeCustom: s})
		var plan workflow.Plan
		for i := range 1 + s.r.IntN(4) {
			plan.Steps = append(plan.Steps, custom(fmt.Sprint("n", i), 100))
		}
		for i := range s.r.IntN(3) {
			plan.OnExceptionSteps = append(plan.OnExceptionSteps, custom(fmt.Sprint("x", i), 100))
		}
		s.l.enqueue(execution("e", plan))
		for n := 0; s.l.x["e"].Ended.IsZero(); n++ {
			if n > 2000 {
				t.Fatalf("seed %d: does not end: %+v", seed, s.l.x["e"])
			}
			s.event()
		}
		s.checkCalls(s.l.x["e"])
		if t.Failed() {
			t.Fatalf("seed %d: %+v", seed, s.l.x["e"])
		}
		for _, attempts := range s.told {
			repeated += len(attempts) - 1
		}
	}
	if repeated == 0 {
		t.Error("the storm was a calm")
	}
}

// event is one thing that happens.
func (s *callStorm) event() {
	switch s.r.IntN(5) {
	case 0, 1:
		if job, ok := s.l.deliver("e"); ok {
			s.one(job)
		}
	case 2:
		token := "forged"
		if n := len(s.tokens); n > 0 {
			token = s.tokens[s.r.IntN(n)]
		}
		s.callback(token)
	case 3:
		if x := s.l.x["e"]; x.Wait != nil {
			s.callback(x.Wait.Token)
		}
	case 4:
		if s.r.IntN(4) == 0 {
			job, _ := s.l.expire("e")
			s.one(job)
		}
	}
}

func (s *callStorm) checkCalls(x workflow.Execution) {
	s.t.Helper()
	failed := false
	for i, r := range x.Results.Steps {
		if failed = r.Error != nil; failed && i != len(x.Results.Steps)-1 {
			s.t.Error("a nominal step ran after a failed one")
		}
	}
	switch {
	case failed && (x.Status != workflow.Exception || len(x.Results.OnExceptionSteps) != len(x.Plan.OnExceptionSteps)):
		s.t.Errorf("failed: %s", x.Status)
	case !failed && (x.Status != workflow.Completed || len(x.Results.Steps) != len(x.Plan.Steps)):
		s.t.Errorf("went well: %s", x.Status)
	case x.Wait != nil:
		s.t.Error("ended, and waits")
	}
	for name, attempts := range s.told {
		for i := 1; i < len(attempts); i++ {
			if attempts[i] <= attempts[i-1] {
				s.t.Errorf("%s: told in attempts %v", name, attempts)
			}
		}
	}
}
