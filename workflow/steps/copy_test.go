package steps_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

func newWorld() (w world, in, out *bucket) {
	in, out = newBucket(), newBucket()
	return world{"S3:in-bucket": in, "S3:out-bucket": out, "S3:mary": newBucket(), "EFS:fs-01234567": newBucket()}, in, out
}

func TestCopyDestinations(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ bucket, key, wantBucket, wantKey string }{
		{"out-bucket", "processed/", "out-bucket", "processed/a.txt"},
		{"out-bucket", "processed/today", "out-bucket", "processed/today"},
		{"out-bucket", "", "out-bucket", "a.txt"},
		{"out-bucket", "/", "out-bucket", "a.txt"},
		{"out-bucket", "/x//y/", "out-bucket", "x/y/a.txt"},
		{"out-bucket", "${transfer:UserName}/${Transfer:UploadDate}/", "out-bucket", "mary/2026-11-22/a.txt"},
		{"${transfer:username}", "f", "mary", "f"},
		{"in-bucket", "b.txt", "in-bucket", "b.txt"},
	} {
		t.Run(tt.bucket+"/"+tt.key, func(t *testing.T) {
			t.Parallel()
			w, _, _ := newWorld()
			from := w.put(t, "in-bucket", "home/a.txt", "hello")
			in, err := w.step(t, copyTo(tt.bucket, tt.key), from, 1)
			if err != nil {
				t.Fatal(err)
			}
			if got := w.get(t, tt.wantBucket, tt.wantKey); got != "hello" {
				t.Errorf("copy is %q", got)
			}
			to := in.Output.S3FileLocation
			if to == nil || to.Bucket != tt.wantBucket || to.Key != tt.wantKey || to.Etag != from.S3FileLocation.Etag || to.VersionId == "" {
				t.Errorf("output %+v", to)
			}
			if w.get(t, "in-bucket", "home/a.txt") != "hello" {
				t.Error("the source is gone")
			}
		})
	}
}

func TestCopyRefusals(t *testing.T) {
	t.Parallel()
	copyNowhere := workflow.StepSpec{Type: workflow.TypeCopy, CopyStepDetails: &workflow.CopyStepDetails{}}
	tests := []struct {
		name string
		spec workflow.StepSpec
		from workflow.FileLocation
		want workflow.ErrorType
		text string
	}{
		{"onto itself", copyTo("in-bucket", "home/a.txt"), s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, "onto itself"},
		{"into its own folder", overwriting(copyTo("in-bucket", "home/")), s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, "onto itself"},
		{"from EFS, where nothing is", copyTo("out-bucket", "a"), efsFile("/a"), workflow.NotFound, "/fs-01234567/a to /out-bucket/a: no such file"},
		{"to an unknown file system", copyToEFS("fs-00000000", "/a"), s3File("in-bucket", "home/a.txt", ""), workflow.NotFound, "/fs-00000000/a"},
		{"no details", workflow.StepSpec{Type: workflow.TypeCopy}, s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, "no CopyStepDetails"},
		{"no destination", copyNowhere, s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, "no destination"},
		{"no bucket", copyTo("", "a"), s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, "no bucket"},
		{"dots", copyTo("out-bucket", "a/../../b"), s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, ".."},
		{"unknown variable", copyTo("out-bucket", "${transfer:Nonsense}"), s3File("in-bucket", "home/a.txt", ""), workflow.BadRequest, "${transfer:Nonsense}"},
		{"no source", copyTo("out-bucket", "a"), s3File("in-bucket", "home/missing", ""), workflow.NotFound, "/in-bucket/home/missing to /out-bucket/a: no such file"},
		{"no location", copyTo("out-bucket", "a"), workflow.FileLocation{}, workflow.BadRequest, "no file"},
		{"another source", copyTo("out-bucket", "a"), s3File("in-bucket", "home/a.txt", "old"), workflow.NotFound, "ETag constraint not met"},
		{"unknown bucket", copyTo("nowhere", "a"), s3File("in-bucket", "home/a.txt", ""), workflow.NotFound, "/nowhere/a"},
		{"target stands", copyTo("out-bucket", "taken"), s3File("in-bucket", "home/a.txt", ""), workflow.AlreadyExists, "exists"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, _, out := newWorld()
			w.put(t, "in-bucket", "home/a.txt", "hello")
			w.put(t, "out-bucket", "taken", "other")
			_, err := w.step(t, tt.spec, tt.from, 1)
			step := wantType(t, err, tt.want)
			if !strings.Contains(step.Message, tt.text) || strings.Contains(step.Message, "secret-host") {
				t.Errorf("message %q, want %q in it", step.Message, tt.text)
			}
			if workflow.Retriable(err) {
				t.Error("retriable")
			}
			if w.get(t, "out-bucket", "taken") != "other" || len(out.files) != 1 {
				t.Errorf("the target changed: %v", out.files)
			}
		})
	}
}

func TestCopyOverwrites(t *testing.T) {
	t.Parallel()
	w, _, _ := newWorld()
	from := w.put(t, "in-bucket", "a", "new")
	w.put(t, "out-bucket", "a", "old")
	if _, err := w.step(t, overwriting(copyTo("out-bucket", "a")), from, 1); err != nil {
		t.Fatal(err)
	}
	if got := w.get(t, "out-bucket", "a"); got != "new" {
		t.Errorf("target is %q", got)
	}
}

// TestCopyRepeated runs a step again after a crash between the copy and its record.
func TestCopyRepeated(t *testing.T) {
	t.Parallel()
	for _, salt := range []bool{false, true} {
		t.Run(fmt.Sprintf("salted ETags %v", salt), func(t *testing.T) {
			t.Parallel()
			w, in, out := newWorld()
			in.salt, out.salt = salt, salt
			from := w.put(t, "in-bucket", "a", strings.Repeat("hello", 1<<19))
			first, err := w.step(t, copyTo("out-bucket", "a"), from, 1)
			if err != nil {
				t.Fatal(err)
			}
			wantAgain, err := w.step(t, copyTo("out-bucket", "a"), from, 2)
			if err != nil {
				t.Fatalf("repeat: %v", err)
			}
			if *wantAgain.Output.S3FileLocation != *first.Output.S3FileLocation {
				t.Errorf("output %+v, first %+v", wantAgain.Output.S3FileLocation, first.Output.S3FileLocation)
			}
			if out.puts != 1 {
				t.Errorf("%d writes to the target", out.puts)
			}
			_, err = w.step(t, copyTo("out-bucket", "a"), from, 1)
			wantType(t, err, workflow.AlreadyExists)

			// What stands there is not ours: of another size, or of the same.
			for _, other := range []string{"other", strings.Repeat("hellO", 1<<19)} {
				w.put(t, "out-bucket", "a", other)
				_, err = w.step(t, copyTo("out-bucket", "a"), from, 2)
				wantType(t, err, workflow.AlreadyExists)
				if w.get(t, "out-bucket", "a") != other {
					t.Error("the other file is gone")
				}
			}
			// The source is another file now: no telling what stands at the target.
			w.put(t, "in-bucket", "a", "changed")
			_, err = w.step(t, copyTo("out-bucket", "a"), from, 2)
			wantType(t, err, workflow.NotFound)
		})
	}
}

// TestCopyRepeatedWithoutSource: the copy was made, and then somebody took the source away.
func TestCopyRepeatedWithoutSource(t *testing.T) {
	t.Parallel()
	w, in, _ := newWorld()
	from := w.put(t, "in-bucket", "a", "hello")
	if _, err := w.step(t, copyTo("out-bucket", "a"), from, 1); err != nil {
		t.Fatal(err)
	}
	if err := in.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	_, err := w.step(t, copyTo("out-bucket", "a"), from, 2)
	if err != nil {
		t.Errorf("repeat: %v", err)
	}
	_, err = w.step(t, copyTo("out-bucket", "b"), from, 2)
	wantType(t, err, workflow.NotFound)
}

// TestCopyAnswerLost: the store did it and the answer was lost, so that the step is tried again.
func TestCopyAnswerLost(t *testing.T) {
	t.Parallel()
	w, in, out := newWorld()
	from := w.put(t, "in-bucket", "a", "hello")
	in.fail = func(op, _ string, done bool) error {
		if op == "copy" && done {
			in.fail = nil
			return fmt.Errorf("secret-host: %w", storage.ErrUnavailable)
		}
		return nil
	}
	_, err := w.step(t, copyTo("out-bucket", "a"), from, 1)
	if step := wantType(t, err, workflow.InternalServerError); strings.Contains(step.Message, "secret-host") {
		t.Errorf("message %q", step.Message)
	}
	if !workflow.Retriable(err) || !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("not retriable: %v", err)
	}
	if _, err := w.step(t, copyTo("out-bucket", "a"), from, 2); err != nil || out.puts != 1 {
		t.Errorf("repeat: %v, %d writes", err, out.puts)
	}
}
