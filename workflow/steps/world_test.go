package steps_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
)

// world is what the steps work on: buckets by their names, and a file system for Domain EFS.
type world map[string]storage.Backend

func (w world) Backend(_ context.Context, domain, store string) (storage.Backend, error) {
	b, ok := w[domain+":"+store]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return b, nil
}

func (w world) put(t *testing.T, bucket, key, content string) workflow.FileLocation {
	t.Helper()
	b := w["S3:"+bucket]
	up, err := b.Create(t.Context(), key, storage.CreateOptions{ID: rand.Text()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	o, err := up.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s3File(bucket, key, o.ETag)
}

// get is a file's content, "-" if there is none.
func (w world) get(t *testing.T, bucket, key string) string {
	t.Helper()
	b := w["S3:"+bucket]
	info, err := b.Stat(t.Context(), key)
	if errors.Is(err, fs.ErrNotExist) {
		return "-"
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.NewSectionReader(r, 0, info.Size())); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func s3File(bucket, key, etag string) workflow.FileLocation {
	return workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{Bucket: bucket, Key: key, Etag: etag}}
}

func efsFile(path string) workflow.FileLocation {
	return workflow.FileLocation{EfsFileLocation: &workflow.EfsFileLocation{FileSystemId: "fs-01234567", Path: path}}
}

func copyTo(bucket, key string) workflow.StepSpec {
	return workflow.StepSpec{Type: workflow.TypeCopy, CopyStepDetails: &workflow.CopyStepDetails{
		DestinationFileLocation: &workflow.InputFileLocation{S3FileLocation: &workflow.S3InputFileLocation{Bucket: bucket, Key: key}},
	}}
}

func copyToEFS(id, path string) workflow.StepSpec {
	return workflow.StepSpec{Type: workflow.TypeCopy, CopyStepDetails: &workflow.CopyStepDetails{
		DestinationFileLocation: &workflow.InputFileLocation{EfsFileLocation: &workflow.EfsFileLocation{FileSystemId: id, Path: path}},
	}}
}

func overwriting(s workflow.StepSpec) workflow.StepSpec {
	s.CopyStepDetails.OverwriteExisting = "TRUE"
	return s
}

func tagged(pairs ...string) workflow.StepSpec {
	d := &workflow.TagStepDetails{}
	for i := 0; i < len(pairs); i += 2 {
		d.Tags = append(d.Tags, workflow.Tag{Key: pairs[i], Value: pairs[i+1]})
	}
	return workflow.StepSpec{Type: workflow.TypeTag, TagStepDetails: d}
}

func deleting() workflow.StepSpec {
	return workflow.StepSpec{Type: workflow.TypeDelete, DeleteStepDetails: &workflow.DeleteStepDetails{}}
}

// step runs one attempt at a step.
func (w world) step(t *testing.T, spec workflow.StepSpec, from workflow.FileLocation, attempt int) (*workflow.Input, error) {
	t.Helper()
	in := &workflow.Input{
		Spec: spec, Source: from, Original: from, Previous: from, Attempt: attempt,
		User:       workflow.UserDetails{UserName: "mary"},
		UploadDate: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
	}
	return in, steps.New(w)[spec.Type].Run(t.Context(), in)
}

func wantType(t *testing.T, err error, want workflow.ErrorType) *workflow.StepError {
	t.Helper()
	var step *workflow.StepError
	if !errors.As(err, &step) {
		t.Fatalf("error %v, want a StepError of type %s", err, want)
	}
	if step.Type != want {
		t.Errorf("error %v, want type %s", err, want)
	}
	return step
}
