package workflow_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

func failure(t workflow.ErrorType) error { return &workflow.StepError{Type: t, Message: "as told"} }

// TestOrder shows which steps run and how an execution ends.
func TestOrder(t *testing.T) {
	t.Parallel()
	notFound := failure(workflow.NotFound)
	tests := []struct {
		name      string
		nominal   []string
		handlers  []string
		fail      map[string]error
		ran       string
		status    workflow.Status
		steps     []string
		exception []string
	}{
		{"all well", []string{"a", "b", "c"}, []string{"x"}, nil, "a b c", workflow.Completed, []string{"ok", "ok", "ok"}, nil},
		{"the first failure ends the nominal steps", []string{"a", "b", "c"}, []string{"x", "y"}, map[string]error{"b": notFound},
			"a b x y", workflow.Exception, []string{"ok", "NOT_FOUND"}, []string{"ok", "ok"}},
		{"no handlers", []string{"a", "b"}, nil, map[string]error{"a": failure(workflow.AlreadyExists)},
			"a", workflow.Exception, []string{"ALREADY_EXISTS"}, nil},
		{"a failing handler does not stop the rest", []string{"a"}, []string{"x", "y", "z"},
			map[string]error{"a": notFound, "x": failure(workflow.PermissionDenied), "z": notFound},
			"a x y z", workflow.Exception, []string{"NOT_FOUND"}, []string{"PERMISSION_DENIED", "ok", "NOT_FOUND"}},
		{"what may pass is tried again", []string{"a"}, nil, map[string]error{"a": fmt.Errorf("get: %w", storage.ErrUnavailable)},
			"a a a a", workflow.Exception, []string{"INTERNAL_SERVER_ERROR@4"}, nil},
		{"permanent is final", []string{"a"}, nil, map[string]error{"a": fmt.Errorf("broken: %w", workflow.ErrPermanent)},
			"a", workflow.Exception, []string{"INTERNAL_SERVER_ERROR"}, nil},
		{"throttled is tried again", []string{"a"}, []string{"x"}, map[string]error{"a": failure(workflow.Throttled)},
			"a a a a x", workflow.Exception, []string{"THROTTLED@4"}, []string{"ok"}},
		{"no steps", nil, nil, nil, "", workflow.Exception, []string{"BAD_REQUEST"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			var ran []string
			e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error {
				ran = append(ran, in.Spec.Name())
				return tt.fail[in.Spec.Name()]
			})))
			l.enqueue(execution("e", workflow.Plan{Steps: named(tt.nominal...), OnExceptionSteps: named(tt.handlers...)}))
			x := l.finish(e, "e")
			if got := strings.Join(ran, " "); got != tt.ran {
				t.Errorf("ran %q, want %q", got, tt.ran)
			}
			if x.Status != tt.status {
				t.Errorf("status %s, want %s", x.Status, tt.status)
			}
			if got := outcome(x.Results.Steps); !slices.Equal(got, tt.steps) {
				t.Errorf("steps %v, want %v", got, tt.steps)
			}
			if got := outcome(x.Results.OnExceptionSteps); !slices.Equal(got, tt.exception) {
				t.Errorf("exception steps %v, want %v", got, tt.exception)
			}
			if x.Ended.IsZero() {
				t.Error("no end")
			}
		})
	}
}

// TestStatusWhileItRuns looks at an execution after each job.
func TestStatusWhileItRuns(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error {
		if in.Spec.Name() == "b" {
			return failure(workflow.BadRequest)
		}
		return nil
	})))
	l.enqueue(execution("e", workflow.Plan{Steps: named("a", "b"), OnExceptionSteps: named("x", "y")}))
	var seen []workflow.Status
	for {
		job, ok := l.deliver("e")
		if !ok {
			break
		}
		if err := e.Run(t.Context(), job, l.advance); err != nil {
			t.Fatal(err)
		}
		seen = append(seen, l.x["e"].Status)
	}
	want := []workflow.Status{workflow.InProgress, workflow.HandlingException, workflow.HandlingException, workflow.Exception}
	if !slices.Equal(seen, want) {
		t.Errorf("statuses %v, want %v", seen, want)
	}
}

// TestPreviousAndOriginal follows the files from step to step, into the exceptional phase too.
func TestPreviousAndOriginal(t *testing.T) {
	t.Parallel()
	copyTo := func(name, source string) workflow.StepSpec {
		return workflow.StepSpec{Type: workflow.TypeCopy, CopyStepDetails: &workflow.CopyStepDetails{Name: name, SourceFileLocation: source}}
	}
	tag := func(name, source string) workflow.StepSpec {
		return workflow.StepSpec{Type: workflow.TypeTag, TagStepDetails: &workflow.TagStepDetails{Name: name, SourceFileLocation: source}}
	}
	l := newLedger(t)
	var got []string
	record := func(in *workflow.Input) {
		got = append(got, in.Spec.Name()+" "+in.Source.S3FileLocation.Key)
		if in.Original.S3FileLocation.Key != "mary/a.txt" {
			t.Errorf("%s: original file is %s", in.Spec.Name(), in.Original.S3FileLocation.Key)
		}
	}
	e := newEngine(t, l, map[string]workflow.Step{
		workflow.TypeCopy: stepFunc(func(_ context.Context, in *workflow.Input) error {
			record(in)
			in.Output = s3File("out", in.Spec.Name(), "")
			if in.Spec.Name() == "broken" {
				return failure(workflow.NotFound)
			}
			return nil
		}),
		workflow.TypeTag: stepFunc(func(_ context.Context, in *workflow.Input) error { record(in); return nil }),
	})
	l.enqueue(execution("e", workflow.Plan{
		Steps: []workflow.StepSpec{
			copyTo("first", workflow.PreviousFile), tag("tag1", ""), tag("tag2", workflow.OriginalFile), tag("tag3", ""),
			copyTo("second", ""), copyTo("broken", ""),
		},
		OnExceptionSteps: []workflow.StepSpec{tag("handler1", ""), tag("handler2", workflow.OriginalFile), tag("handler3", "${nonsense.file}")},
	}))
	x := l.finish(e, "e")
	want := []string{"first mary/a.txt", "tag1 first", "tag2 mary/a.txt", "tag3 mary/a.txt", "second mary/a.txt",
		"broken second", "handler1 second", "handler2 mary/a.txt"}
	if !slices.Equal(got, want) {
		t.Errorf("sources\n%q, want\n%q", got, want)
	}
	if got := outcome(x.Results.OnExceptionSteps); !slices.Equal(got, []string{"ok", "ok", "BAD_REQUEST"}) {
		t.Errorf("exception steps %v", got)
	}
	if x.Previous.S3FileLocation.Key != "mary/a.txt" {
		t.Errorf("at the end previous is %s, want handler2's input", x.Previous.S3FileLocation.Key)
	}
}

func TestInput(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	var got workflow.Input
	e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error {
		got = *in
		got.Await, got.Save = nil, nil // functions: see TestCallback and TestPieces
		in.Outputs = `{"k":"v"}`
		return nil
	})))
	x := execution("e", workflow.Plan{Steps: named("a")})
	x.ExecutionRole, x.Posix = "arn:aws:iam::123456789012:role/r", &storage.Posix{UID: 1, GID: 2}
	l.enqueue(x)
	x = l.finish(e, "e")
	want := workflow.Input{
		Spec: named("a")[0], Source: x.InitialFileLocation, Original: x.InitialFileLocation, Previous: x.InitialFileLocation,
		Workflow: x.WorkflowId, Execution: "e", Trigger: workflow.OnUpload, User: x.ServiceMetadata.UserDetails,
		UploadDate: time.Date(2026, 11, 23, 0, 30, 0, 0, time.UTC), Attempt: 1,
		Identity: storage.Identity{Role: x.ExecutionRole, Session: "e", Posix: x.Posix},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("input\n%+v, want\n%+v", got, want)
	}
	if x.Results.Steps[0].Outputs != `{"k":"v"}` || x.Results.Steps[0].StepType != workflow.TypeCopy {
		t.Errorf("result %+v", x.Results.Steps[0])
	}
}

func TestUnsupportedType(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{workflow.TypeCustom, workflow.TypeDecrypt} {
		l := newLedger(t)
		e := newEngine(t, l, all(stepFunc(func(context.Context, *workflow.Input) error { return nil })))
		l.enqueue(execution("e", workflow.Plan{Steps: []workflow.StepSpec{{Type: typ}}}))
		x := l.finish(e, "e")
		r := x.Results.Steps[0]
		if x.Status != workflow.Exception || r.Error == nil || r.Error.Type != workflow.BadRequest || !strings.Contains(r.Error.Message, typ) {
			t.Errorf("%s: status %s, error %+v", typ, x.Status, r.Error)
		}
	}
}

func TestPanicIsTheStepsError(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	runs := 0
	e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error {
		runs++
		if in.Spec.Name() == "a" {
			panic("secret detail")
		}
		return nil
	})))
	l.enqueue(execution("e", workflow.Plan{Steps: named("a"), OnExceptionSteps: named("x")}))
	x := l.finish(e, "e")
	r := x.Results.Steps[0]
	if r.Error == nil || r.Error.Type != workflow.InternalServerError || strings.Contains(r.Error.Message, "secret") {
		t.Errorf("error %+v", r.Error)
	}
	if runs != 2 || x.Status != workflow.Exception {
		t.Errorf("%d runs, status %s", runs, x.Status)
	}
}

func TestStepTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		l.maxAttempts = 2
		e := newEngine(t, l, all(stepFunc(func(ctx context.Context, _ *workflow.Input) error {
			<-ctx.Done()
			return fmt.Errorf("put object: %w", storage.ErrUnavailable) // a store that hides why it stopped
		})), func(c *workflow.Config) { c.StepTimeout = time.Minute })
		l.enqueue(execution("e", workflow.Plan{Steps: named("a")}))
		start := time.Now()
		x := l.finish(e, "e")
		if got := outcome(x.Results.Steps); !slices.Equal(got, []string{"TIMEOUT@2"}) {
			t.Errorf("results %v", got)
		}
		if took := time.Since(start); took != 2*time.Minute {
			t.Errorf("took %v, want two attempts of a minute", took)
		}
	})
}

// TestStop shows that a step that ends well while the process goes down is recorded, and one that is interrupted comes
// again.
func TestStop(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	ctx, stop := context.WithCancel(t.Context())
	e := newEngine(t, l, all(stepFunc(func(ctx context.Context, in *workflow.Input) error {
		stop()
		if in.Spec.Name() == "b" {
			return ctx.Err()
		}
		return nil
	})))
	l.enqueue(execution("e", workflow.Plan{Steps: named("a", "b")}))
	job, _ := l.deliver("e")
	if err := e.Run(ctx, job, l.advance); err != nil {
		t.Fatal(err)
	}
	if got := outcome(l.x["e"].Results.Steps); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("results %v", got)
	}
	job, _ = l.deliver("e")
	job.Last = true
	if err := e.Run(ctx, job, l.advance); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted step: %v", err)
	}
	if n := len(l.x["e"].Results.Steps); n != 1 {
		t.Errorf("%d results after an interrupted step", n)
	}
}

// TestStale shows that old jobs do nothing, whether the engine sees it first or the database.
func TestStale(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	runs := 0
	var within func()
	e := newEngine(t, l, all(stepFunc(func(context.Context, *workflow.Input) error {
		runs++
		if within != nil {
			within()
		}
		return nil
	})))
	l.enqueue(execution("e", workflow.Plan{Steps: named("a", "b"), OnExceptionSteps: named("x")}))
	first, _ := l.deliver("e")
	within = func() { // another worker is faster
		within = nil
		if err := e.Run(t.Context(), first, l.advance); err != nil {
			t.Error(err)
		}
	}
	if err := e.Run(t.Context(), first, l.advance); err != nil {
		t.Errorf("overtaken: %v", err)
	}
	if runs != 2 || len(l.x["e"].Results.Steps) != 1 {
		t.Fatalf("%d runs, results %v", runs, outcome(l.x["e"].Results.Steps))
	}
	for _, job := range []workflow.Job{
		first,
		{Execution: "e", Phase: workflow.Nominal, Step: 2, Attempt: 1},
		{Execution: "e", Phase: workflow.Exceptional, Step: 0, Attempt: 1},
	} {
		if err := e.Run(t.Context(), job, l.advance); err != nil {
			t.Errorf("%+v: %v", job, err)
		}
	}
	last := l.finish(e, "e")
	if err := e.Run(t.Context(), workflow.Job{Execution: "e", Phase: workflow.Nominal, Step: 1}, l.advance); err != nil {
		t.Error(err)
	}
	if runs != 3 || last.Status != workflow.Completed {
		t.Errorf("%d runs, status %s", runs, last.Status)
	}
	if err := e.Run(t.Context(), workflow.Job{Execution: "unknown"}, l.advance); err == nil {
		t.Error("an execution that cannot be read: no error")
	}
}

// TestLog compares the events with the sample of AWS's guide:
// https://docs.aws.amazon.com/transfer/latest/userguide/cloudwatch-workflows.html.
func TestLog(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	l := newLedger(t)
	e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error {
		if in.Spec.Name() == "b" {
			return &workflow.StepError{Type: workflow.NotFound, Message: "Cannot.", Err: errors.New("backend says so")}
		}
		return nil
	})), func(c *workflow.Config) { c.Log = slog.New(slog.NewJSONHandler(&buf, nil)) })
	l.enqueue(execution("e", workflow.Plan{Steps: named("a")}))
	l.finish(e, "e")
	x := execution("f", workflow.Plan{Steps: named("b")})
	x.InitialFileLocation = workflow.FileLocation{EfsFileLocation: &workflow.EfsFileLocation{FileSystemId: "fs-01234567", Path: "/a"}}
	l.enqueue(x)
	l.finish(e, "f")

	var types []string
	details := map[string]any{}
	for line := range strings.Lines(buf.String()) {
		var ev map[string]any
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Fatal(err)
		}
		types = append(types, ev["type"].(string))
		details[ev["executionId"].(string)+" "+ev["type"].(string)] = ev["details"]
		transfer := map[string]any{"serverId": "s-01234567890abcdef", "username": "mary", "sessionId": "0123456789abcdef"}
		if ev["workflowId"] != "w-abcdef01234567890" || !reflect.DeepEqual(ev["transferDetails"], transfer) {
			t.Errorf("envelope %s", line)
		}
	}
	if got, want := strings.Join(types, " "), "ExecutionStarted StepStarted StepCompleted ExecutionCompleted "+
		"ExecutionStarted StepStarted StepErrored ExecutionErrored"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	type obj = map[string]any
	for key, want := range map[string]any{
		"e ExecutionStarted":   obj{"input": obj{"initialFileLocation": obj{"bucket": "in", "key": "mary/a.txt", "etag": "e1"}}},
		"e StepStarted":        obj{"input": obj{"fileLocation": obj{"backingStore": "S3", "bucket": "in", "key": "mary/a.txt", "etag": "e1"}}, "stepType": "COPY", "stepName": "a"},
		"e StepCompleted":      obj{"output": obj{}, "stepType": "COPY", "stepName": "a"},
		"e ExecutionCompleted": obj{},
		"f ExecutionStarted":   obj{"input": obj{"initialFileLocation": obj{"backingStore": "EFS", "filesystemId": "fs-01234567", "path": "/a"}}},
		"f StepErrored":        obj{"errorType": "NOT_FOUND", "errorMessage": "Cannot.", "stepType": "COPY", "stepName": "b"},
		"f ExecutionErrored":   obj{},
	} {
		if !reflect.DeepEqual(details[key], want) {
			t.Errorf("%s: details %v, want %v", key, details[key], want)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	l := newLedger(t)
	e := newEngine(t, l, all(stepFunc(func(_ context.Context, in *workflow.Input) error {
		if in.Spec.Name() == "flaky" && in.Attempt < 3 {
			return storage.ErrUnavailable
		}
		return nil
	})), func(c *workflow.Config) { c.Registerer = reg })
	for i := range 3 {
		id := fmt.Sprint(i)
		l.enqueue(execution(id, workflow.Plan{Steps: named("flaky")}))
		l.finish(e, workflow.ExecutionID(id))
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := f.GetName()
			for _, label := range m.Label {
				key += " " + label.GetValue()
			}
			if m.Histogram != nil {
				got[key] = float64(m.Histogram.GetSampleCount())
			} else {
				got[key] = m.Counter.GetValue()
			}
		}
	}
	want := map[string]float64{
		"transferd_executions_started_total OnUpload":   3,
		"transferd_execution_wait_seconds OnUpload":     3,
		"transferd_executions_total COMPLETED OnUpload": 3,
		"transferd_step_duration_seconds OK COPY":       3,
		"transferd_step_duration_seconds RETRY COPY":    6,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
	if _, err := workflow.New(workflow.Config{Registerer: reg}); err == nil {
		t.Error("a second engine on one registry: no error")
	}
}
