package steps_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// plain is a store without the abilities that only some have.
type plain struct{ storage.Backend }

func TestTag(t *testing.T) {
	t.Parallel()
	w, in, _ := newWorld()
	from := w.put(t, "in-bucket", "a", "hello")
	for attempt := 1; attempt <= 2; attempt++ {
		got, err := w.step(t, tagged("scan", "clean", "by", "us"), from, attempt)
		if err != nil {
			t.Fatal(err)
		}
		if got.Outputs != `{"by":"us","scan":"clean"}` || !got.Output.IsZero() {
			t.Errorf("outputs %s, output %+v", got.Outputs, got.Output)
		}
	}
	if _, err := w.step(t, tagged("scan", "again"), from, 1); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"scan": "again", "by": "us"}; !maps.Equal(in.files["a"].tags, want) {
		t.Errorf("tags %v, want %v", in.files["a"].tags, want)
	}
}

func TestTagRefusals(t *testing.T) {
	t.Parallel()
	w, in, _ := newWorld()
	w["S3:plain"] = plain{in}
	w.put(t, "in-bucket", "a", "hello")
	for _, tt := range []struct {
		from workflow.FileLocation
		want workflow.ErrorType
		text string
	}{
		{efsFile("/a"), workflow.BadRequest, "Cannot tag Efs file"},
		{s3File("in-bucket", "b", ""), workflow.NotFound, "Cannot tag /in-bucket/b: no such file."},
		{s3File("in-bucket", "a", "old"), workflow.NotFound, "ETag constraint not met"},
		{s3File("plain", "a", ""), workflow.BadRequest, "no tags"},
		{s3File("in-bucket", "", ""), workflow.BadRequest, "no file"},
	} {
		for attempt := 1; attempt <= 2; attempt++ {
			_, err := w.step(t, tagged("k", "v"), tt.from, attempt)
			if step := wantType(t, err, tt.want); !strings.Contains(step.Message, tt.text) {
				t.Errorf("message %q, want %q in it", step.Message, tt.text)
			}
		}
	}
	if len(in.files["a"].tags) != 0 {
		t.Errorf("tags %v", in.files["a"].tags)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	w, in, _ := newWorld()
	from := w.put(t, "in-bucket", "a", "hello")
	in1, err := w.step(t, deleting(), from, 1)
	if err != nil || w.get(t, "in-bucket", "a") != "-" || !in1.Output.IsZero() {
		t.Fatalf("error %v, output %+v, file %q", err, in1.Output, w.get(t, "in-bucket", "a"))
	}
	_, err = w.step(t, deleting(), from, 1)
	wantType(t, err, workflow.NotFound)
	if _, err = w.step(t, deleting(), from, 2); err != nil {
		t.Errorf("repeat: %v", err)
	}
	// A newer upload of the same name is not ours to delete, neither at the first attempt nor at a repeat.
	w.put(t, "in-bucket", "a", "newer")
	_, err = w.step(t, deleting(), from, 1)
	if step := wantType(t, err, workflow.NotFound); !strings.Contains(step.Message, "has changed") {
		t.Errorf("message %q", step.Message)
	}
	if _, err = w.step(t, deleting(), from, 2); err != nil {
		t.Errorf("repeat: %v", err)
	}
	if w.get(t, "in-bucket", "a") != "newer" {
		t.Error("the newer upload is gone")
	}
	// A store that is down is no missing file.
	in.fail = func(string, string, bool) error { return fmt.Errorf("dial: %w", storage.ErrUnavailable) }
	_, err = w.step(t, deleting(), from, 2)
	if wantType(t, err, workflow.InternalServerError); !workflow.Retriable(err) {
		t.Errorf("not retriable: %v", err)
	}
}

func TestDeleteOnEFS(t *testing.T) {
	t.Parallel()
	w, _, _ := newWorld()
	disk := w["EFS:fs-01234567"].(*bucket)
	disk.set("home/a", []byte("hello"))
	if _, err := w.step(t, deleting(), efsFile("/home/a"), 1); err != nil || len(disk.files) != 0 {
		t.Errorf("error %v, files %v", err, disk.files)
	}
}

// TestErrorTypes shows what a store's errors become.
func TestErrorTypes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		err   error
		want  workflow.ErrorType
		again bool
	}{
		{fs.ErrNotExist, workflow.NotFound, false},
		{fs.ErrPermission, workflow.PermissionDenied, false},
		{fs.ErrExist, workflow.AlreadyExists, false},
		{fs.ErrInvalid, workflow.BadRequest, false},
		{errors.ErrUnsupported, workflow.BadRequest, false},
		{storage.ErrIsDirectory, workflow.BadRequest, false},
		{storage.ErrTooLarge, workflow.BadRequest, false},
		{storage.ErrNoSpace, workflow.InternalServerError, true},
		{storage.ErrQuota, workflow.InternalServerError, true},
		{storage.ErrUnavailable, workflow.InternalServerError, true},
		{fmt.Errorf("%w: %w", storage.ErrUnavailable, fs.ErrPermission), workflow.InternalServerError, true},
		{context.Canceled, workflow.InternalServerError, true},
		{errors.New("no idea"), workflow.InternalServerError, true},
	} {
		w, in, _ := newWorld()
		from := w.put(t, "in-bucket", "a", "hello")
		in.fail = func(op, _ string, done bool) error {
			if op == "stat" {
				return nil
			}
			return fmt.Errorf("secret-host: %w", tt.err)
		}
		for _, spec := range []workflow.StepSpec{copyTo("out-bucket", "a"), tagged("k", "v"), deleting()} {
			_, err := w.step(t, spec, from, 1)
			step := wantType(t, err, tt.want)
			if strings.Contains(step.Message, "secret-host") || !strings.Contains(step.Message, "/in-bucket/a") {
				t.Errorf("message %q", step.Message)
			}
			if workflow.Retriable(err) != tt.again {
				t.Errorf("%v: retriable is %v", err, !tt.again)
			}
		}
	}
}
