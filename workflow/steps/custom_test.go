package steps_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

// function is a function of the test's.
type function func(ctx context.Context, c steps.Call) error

func (f function) Invoke(ctx context.Context, c steps.Call) error { return f(ctx, c) }

const target = "arn:aws:lambda:us-east-1:000000000000:function:f"

// customInput is what the engine gives a CUSTOM step about a file.
func customInput(at workflow.FileLocation, seconds int) *workflow.Input {
	return &workflow.Input{
		Spec: workflow.StepSpec{Type: workflow.TypeCustom, CustomStepDetails: &workflow.CustomStepDetails{
			Target: target, TimeoutSeconds: seconds}},
		Source: at, Workflow: "w-1", Execution: "e-1", Attempt: 3,
		User: workflow.UserDetails{UserName: "mary", ServerId: "s-1", SessionId: "ab"},
		Await: func(_ context.Context, timeout time.Duration) (workflow.Wait, error) {
			return workflow.Wait{Token: "T", Until: time.Now().Add(timeout)}, nil
		},
	}
}

func TestCustomPayload(t *testing.T) {
	t.Parallel()
	const head = `"serviceMetadata":{"executionDetails":{"workflowId":"w-1","executionId":"e-1"},` +
		`"transferDetails":{"sessionId":"ab","userName":"mary","serverId":"s-1"}},"fileLocation":`
	for _, tt := range []struct {
		at          workflow.FileLocation
		synchronous bool
		want        string
	}{
		{workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: "b", Key: "k", Etag: "e"}}, false,
			`{"token":"T",` + head + `{"domain":"S3","bucket":"b","key":"k","eTag":"e","versionId":null}}`},
		{workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: "b", Key: "k", Etag: "e", VersionId: "v"}}, true,
			`{"token":"",` + head + `{"domain":"S3","bucket":"b","key":"k","eTag":"e","versionId":"v"}}`},
		{workflow.FileLocation{EfsFileLocation: &workflow.EfsFileLocation{FileSystemId: "fs-1", Path: "/p"}}, false,
			`{"token":"T",` + head + `{"domain":"EFS","fileSystemId":"fs-1","path":"/p"}}`},
	} {
		var got steps.Call
		s := &steps.Custom{Targets: map[string]steps.Target{target: {Synchronous: tt.synchronous,
			Function: function(func(_ context.Context, c steps.Call) error { got = c; return nil })}}}
		if err := s.Run(t.Context(), customInput(tt.at, 1)); err != nil {
			t.Fatal(err)
		}
		if string(got.Payload) != tt.want || got.Attempt != 3 || got.Execution != "e-1" {
			t.Errorf("call %+v with\n%s, want\n%s", got, got.Payload, tt.want)
		}
	}
}

// TestCustomErrors: what a function says comes through, and nothing is called that cannot be.
func TestCustomErrors(t *testing.T) {
	t.Parallel()
	at := workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: "b", Key: "k"}}
	own := errors.New("own")
	for name, tt := range map[string]struct {
		change func(*workflow.Input)
		want   func(error) bool
	}{
		"own":     {func(*workflow.Input) {}, func(err error) bool { return errors.Is(err, own) }},
		"details": {func(in *workflow.Input) { in.Spec.CustomStepDetails = nil }, isType(workflow.BadRequest)},
		"target":  {func(in *workflow.Input) { in.Spec.CustomStepDetails.Target += "x" }, isType(workflow.BadRequest)},
		"file":    {func(in *workflow.Input) { in.Source = workflow.FileLocation{} }, isType(workflow.BadRequest)},
		"stale": {func(in *workflow.Input) {
			in.Await = func(context.Context, time.Duration) (workflow.Wait, error) { return workflow.Wait{}, workflow.ErrStale }
		}, func(err error) bool { return errors.Is(err, workflow.ErrStale) }},
	} {
		called := false
		s := &steps.Custom{Targets: map[string]steps.Target{target: {
			Function: function(func(context.Context, steps.Call) error { called = true; return own })}}}
		in := customInput(at, 0)
		tt.change(in)
		if err := s.Run(t.Context(), in); !tt.want(err) || called != (name == "own") {
			t.Errorf("%s: %v, called %v", name, err, called)
		}
	}
}

func isType(want workflow.ErrorType) func(error) bool {
	return func(err error) bool {
		var e *workflow.StepError
		return errors.As(err, &e) && e.Type == want
	}
}

// TestCustomTime: a call has the rest of the step's time, and a synchronous function no more than all of it.
func TestCustomTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at := workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: "b", Key: "k"}}
		for _, synchronous := range []bool{false, true} {
			s := &steps.Custom{Targets: map[string]steps.Target{target: {Synchronous: synchronous,
				Function: function(func(ctx context.Context, _ steps.Call) error { <-ctx.Done(); return ctx.Err() })}}}
			began := time.Now()
			err := s.Run(t.Context(), customInput(at, 7))
			if took := time.Since(began); took != 7*time.Second {
				t.Errorf("synchronous %v: %v", synchronous, took)
			}
			if synchronous && (!isType(workflow.StepTimeout)(err) || workflow.Retriable(err)) {
				t.Errorf("synchronous: %v", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := s.Run(ctx, customInput(at, 7)); !errors.Is(err, context.DeadlineExceeded) || isType(workflow.StepTimeout)(err) {
				t.Errorf("a daemon that stops: %v", err) // is no timeout of the step's
			}
			cancel()
		}
	})
}
