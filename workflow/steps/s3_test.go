package steps_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3"
	"github.com/transferd/transferd/storage/s3/gateway"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

// s3World is two buckets of a real S3 store, and that store.
func s3World(t *testing.T) (world, *gateway.Process) {
	t.Helper()
	process := gatewaytest.Start(t)
	budget, err := s3.NewBudget(32<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, err := s3.New(s3.Config{
		Endpoint: process.URL(), Region: gatewaytest.Region, AccessKey: gatewaytest.AccessKey, SecretKey: gatewaytest.SecretKey,
		PathStyle: true, PartSize: 5 << 20, CopyLimit: 12 << 20, Parallel: 2, RetryBudget: 300 * time.Millisecond, Budget: budget,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	w := world{}
	for _, name := range []string{"in-bucket", "out-bucket"} {
		if err := store.CreateBucket(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		w["S3:"+name] = store.Bucket(name)
	}
	return w, process
}

// client is another program's at the store.
func client(url string) *awss3.Client {
	return awss3.New(awss3.Options{
		BaseEndpoint: &url, Region: gatewaytest.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(gatewaytest.AccessKey, gatewaytest.SecretKey, ""),
	})
}

// tagsOf looks at the store with another client.
func tagsOf(t *testing.T, url, bucket, key string) map[string]string {
	t.Helper()
	out, err := client(url).GetObjectTagging(t.Context(), &awss3.GetObjectTaggingInput{Bucket: &bucket, Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]string{}
	for _, tag := range out.TagSet {
		tags[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
	}
	return tags
}

// one is an execution in memory, with its only job.
type one struct {
	x    workflow.Execution
	next *workflow.Job
}

func (o *one) Execution(context.Context, workflow.ExecutionID) (workflow.Execution, error) {
	return o.x, nil
}

func (o *one) Resume(context.Context, workflow.Transition, string) error { return workflow.ErrStale }

func (o *one) advance(_ context.Context, t workflow.Transition) error {
	if t.From.Phase == workflow.Nominal {
		o.x.Results.Steps = append(o.x.Results.Steps, t.Result)
	} else {
		o.x.Results.OnExceptionSteps = append(o.x.Results.OnExceptionSteps, t.Result)
	}
	o.x.Previous, o.x.Status, o.next = t.Previous, t.Status, t.Next
	return nil
}

// TestWorkflowOnS3 runs AWS's example, copy, tag, delete, on a real store:
// https://docs.aws.amazon.com/transfer/latest/userguide/nominal-steps-workflow.html#sourcefile-workflow.
func TestWorkflowOnS3(t *testing.T) {
	t.Parallel()
	w, process := s3World(t)
	from := w.put(t, "in-bucket", "mary/a.txt", "hello")
	tidy := deleting()
	tidy.DeleteStepDetails.SourceFileLocation = workflow.OriginalFile
	o := &one{x: workflow.Execution{
		InitialFileLocation: from, Status: workflow.InProgress, Began: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		ServiceMetadata: workflow.ServiceMetadata{UserDetails: workflow.UserDetails{UserName: "mary"}},
		Plan: workflow.Plan{
			Steps: []workflow.StepSpec{
				copyTo("out-bucket", "${transfer:UserName}/${transfer:UploadDate}/"), tagged("name", "demo"), tidy,
				copyTo("out-bucket", "late"), // of ${previous.file}, which is the deleted one
			},
			OnExceptionSteps: []workflow.StepSpec{tagged("state", "failed")},
		},
	}, next: &workflow.Job{Phase: workflow.Nominal, Attempt: 1}}
	e, err := workflow.New(workflow.Config{
		Executions: o, Steps: steps.New(w), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	for o.next != nil {
		if err := e.Run(t.Context(), *o.next, o.advance); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, r := range append(o.x.Results.Steps, o.x.Results.OnExceptionSteps...) {
		word := r.StepType + " " + r.Outputs
		if r.Error != nil {
			word = r.StepType + " " + string(r.Error.Type)
		}
		got = append(got, strings.TrimSpace(word))
	}
	if want := `COPY|TAG {"name":"demo"}|DELETE|COPY NOT_FOUND|TAG NOT_FOUND`; strings.Join(got, "|") != want {
		t.Errorf("results %s, want %s", strings.Join(got, "|"), want)
	}
	if o.x.Status != workflow.Exception {
		t.Errorf("status %s", o.x.Status)
	}
	if got := w.get(t, "out-bucket", "mary/2026-11-22/a.txt"); got != "hello" {
		t.Errorf("copy is %q", got)
	}
	if got := w.get(t, "in-bucket", "mary/a.txt"); got != "-" {
		t.Errorf("the upload is still there: %q", got)
	}
	if got := tagsOf(t, process.URL(), "out-bucket", "mary/2026-11-22/a.txt"); !maps.Equal(got, map[string]string{"name": "demo"}) {
		t.Errorf("tags %v", got)
	}
}

// TestCopyOnS3 shows overwriting, the binding to the ETag and repeats, for small files and for multipart uploads, whose
// copies have other ETags.
func TestCopyOnS3(t *testing.T) {
	t.Parallel()
	w, _ := s3World(t)
	for name, content := range map[string]string{"small": "hello", "multipart": strings.Repeat("0123456789abcdef", 11<<16)} {
		from := w.put(t, "in-bucket", name, content)
		spec := copyTo("out-bucket", name)
		first, err := w.step(t, spec, from, 1)
		if err != nil {
			t.Fatal(err)
		}
		if w.get(t, "out-bucket", name) != content {
			t.Errorf("%s: the copy differs", name)
		}
		made := first.Output.S3FileLocation.Etag
		if multipart := strings.Contains(from.S3FileLocation.Etag, "-"); multipart != (name == "multipart") || multipart == (made == from.S3FileLocation.Etag) {
			t.Errorf("%s: ETag %s, of the copy %s", name, from.S3FileLocation.Etag, made)
		}
		again, err := w.step(t, spec, from, 2)
		if err != nil || again.Output.S3FileLocation.Etag != made {
			t.Errorf("%s: repeat: %v, output %+v", name, err, again.Output.S3FileLocation)
		}
		_, err = w.step(t, spec, from, 1)
		wantType(t, err, workflow.AlreadyExists)

		other := w.put(t, "out-bucket", name, strings.Repeat("X", len(content)))
		_, err = w.step(t, spec, from, 2)
		wantType(t, err, workflow.AlreadyExists)
		_, err = w.step(t, overwriting(copyTo("in-bucket", name+"2")), s3File("out-bucket", name, made), 1)
		wantType(t, err, workflow.NotFound)
		if _, err := w.step(t, overwriting(copyTo("in-bucket", name)), other, 1); err != nil {
			t.Error(err)
		}
		if w.get(t, "in-bucket", name) != strings.Repeat("X", len(content)) {
			t.Errorf("%s: not overwritten", name)
		}
		// The first upload is gone from its name now.
		for _, spec := range []workflow.StepSpec{copyTo("out-bucket", "late"), tagged("k", "v"), deleting()} {
			_, err := w.step(t, spec, from, 1)
			if step := wantType(t, err, workflow.NotFound); !strings.Contains(step.Message, "ETag constraint not met") {
				t.Errorf("%s: %s", spec.Type, step.Message)
			}
		}
	}
}

// TestStoreDown: a store that does not answer is worth another attempt.
func TestStoreDown(t *testing.T) {
	t.Parallel()
	w, process := s3World(t)
	from := w.put(t, "in-bucket", "a", "hello")
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	for typ, step := range steps.New(w) {
		spec := map[string]workflow.StepSpec{"COPY": copyTo("out-bucket", "a"), "TAG": tagged("k", "v"), "DELETE": deleting()}[typ]
		err := step.Run(t.Context(), &workflow.Input{Spec: spec, Source: from, Attempt: 1})
		if wantType(t, err, workflow.InternalServerError); !workflow.Retriable(err) || !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: %v", typ, err)
		}
	}
}

// TestCopyInPieces: a long copy goes on from the state that it left, is bound to its source, and leaves nothing where it
// fails.
func TestCopyInPieces(t *testing.T) {
	t.Parallel()
	w, process := s3World(t)
	content := strings.Repeat("0123456789abcdef", 36<<16) // three times 12 MiB
	step := &steps.Copy{Stores: w, Piece: 1}
	var saved json.RawMessage
	piece := func(from workflow.FileLocation, attempt int) (*workflow.Input, error) {
		in := &workflow.Input{Spec: copyTo("out-bucket", "long"), Source: from, Attempt: attempt, State: saved}
		in.Save = func(_ context.Context, state json.RawMessage) error { saved = state; return nil }
		return in, step.Run(t.Context(), in)
	}
	goesOn := func(err error) {
		t.Helper()
		more, ok := errors.AsType[*workflow.Continue](err)
		if !ok {
			t.Fatalf("a piece ended with %v", err)
		}
		saved = more.State
	}
	from := w.put(t, "in-bucket", "long", content)
	_, err := piece(from, 1)
	goesOn(err)
	in, err := piece(from, 1)
	if err != nil || w.get(t, "out-bucket", "long") != content {
		t.Fatalf("the copy differs: %v", err)
	}
	again, err := piece(from, 2) // its result was not written
	if err != nil || *again.Output.S3FileLocation != *in.Output.S3FileLocation {
		t.Errorf("repeat: %v, %+v, want %+v", err, again.Output.S3FileLocation, in.Output.S3FileLocation)
	}
	saved = nil
	if _, err = piece(from, 1); saved != nil {
		t.Errorf("saved %s before the target was looked at", saved)
	}
	wantType(t, err, workflow.AlreadyExists)

	if err := w["S3:out-bucket"].Remove(t.Context(), "long"); err != nil {
		t.Fatal(err)
	}
	_, err = piece(from, 1)
	goesOn(err)
	w.put(t, "in-bucket", "long", "another file")
	_, err = piece(from, 1)
	if step := wantType(t, err, workflow.NotFound); !strings.Contains(step.Message, "ETag constraint not met") {
		t.Error(step.Message)
	}
	if n := unfinished(t, process.URL(), "out-bucket"); n != 1 {
		t.Errorf("%d multipart uploads of the failed copy", n)
	}
	for range 2 {
		if err := step.Drop(t.Context(), saved); err != nil {
			t.Fatal(err)
		}
		if n := unfinished(t, process.URL(), "out-bucket"); n != 0 {
			t.Errorf("%d multipart uploads stay", n)
		}
	}
	gone := strings.Replace(string(saved), "out-bucket", "no-bucket", 1)
	if err := step.Drop(t.Context(), json.RawMessage(gone)); err != nil {
		t.Errorf("of a bucket that is gone: %v", err)
	}
}

// unfinished counts a bucket's multipart uploads.
func unfinished(t *testing.T, url, bucket string) int {
	t.Helper()
	out, err := client(url).ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}
