package storagetest

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
)

// abandon uploads and then forgets the upload, as far as a test can: what it sent stays at the store, nobody commits
// it. It returns what the journal would know.
func abandon(t *testing.T, b storage.Backend, name, id string, content []byte) storage.DeadUpload {
	t.Helper()
	dead := storage.DeadUpload{ID: id, Begun: time.Now(), Metadata: map[string]string{"user-agent": "test"}}
	u := create(t, b, name, storage.CreateOptions{
		ID: id, Metadata: dead.Metadata,
		Note: func(_ context.Context, token string) error { dead.Token = token; return nil },
	})
	fill(t, u, content, 0)
	return dead
}

func resumer(t *testing.T, b storage.Backend) storage.Resumer {
	t.Helper()
	r, ok := b.(storage.Resumer)
	if !ok {
		t.Skip("not a Resumer")
	}
	return r
}

// resume: nothing arrived, not even a token.
func resume(t *testing.T, b storage.Backend) {
	r := resumer(t, b)
	dead := storage.DeadUpload{ID: "never", Begun: time.Now()}
	for range 2 {
		obj, err := r.Resume(t.Context(), "dir/f", dead)
		if err != nil || obj.Size != 0 {
			t.Fatalf("resume: %d bytes, %v; want an empty file", obj.Size, err)
		}
		wantContent(t, b, "dir/f", nil)
	}
}

func resumeKeepsWhatIsOurs(t *testing.T, b storage.Backend) {
	r := resumer(t, b)
	for _, size := range []int{100, 11 << 20} {
		name, content := fmt.Sprint("f", size), Bytes(31, size)
		dead := storage.DeadUpload{ID: name, Begun: time.Now()}
		u := create(t, b, name, storage.CreateOptions{
			ID: name, Note: func(_ context.Context, token string) error { dead.Token = token; return nil },
		})
		fill(t, u, content, 0)
		done := commit(t, u, int64(size))
		for range 2 {
			obj, err := r.Resume(t.Context(), name, dead)
			if err != nil || obj.Size != int64(size) || obj.ETag != done.ETag {
				t.Fatalf("resume: %+v, %v; want what Commit returned, %+v", obj, err, done)
			}
			wantContent(t, b, name, content)
		}
	}
}

// resumeReplacesAnOlderFile: what stood at the name was another upload's.
func resumeReplacesAnOlderFile(t *testing.T, b storage.Backend) {
	r := resumer(t, b)
	u := create(t, b, "f", storage.CreateOptions{ID: "older"})
	fill(t, u, []byte("an older file"), 0)
	commit(t, u, 13)
	obj, err := r.Resume(t.Context(), "f", storage.DeadUpload{ID: "newer", Begun: time.Now()})
	if err != nil || obj.Size != 0 {
		t.Fatalf("resume: %d bytes, %v; want an empty file", obj.Size, err)
	}
	wantContent(t, b, "f", nil)
}

func resumePrefix(t *testing.T, b storage.Backend) {
	r := resumer(t, b)
	content := Bytes(32, 14<<20)
	dead := abandon(t, b, "f", "dead", content)
	obj, err := r.Resume(t.Context(), "f", dead)
	if err != nil {
		t.Fatal(err)
	}
	if obj.Size > int64(len(content)) {
		t.Fatalf("resumed %d bytes of %d", obj.Size, len(content))
	}
	wantContent(t, b, "f", content[:obj.Size])
	again, err := r.Resume(t.Context(), "f", dead)
	if err != nil || again.Size != obj.Size || again.ETag != obj.ETag {
		t.Fatalf("second resume: %+v, %v; want %+v", again, err, obj)
	}
}

// exclusive: of uploads that must not replace a file one gets the name, in whatever order they begin and end.
func exclusive(t *testing.T, b storage.Backend) {
	Write(t, b, "old", []byte("stands"))
	_, err := begin(t, b, "old", storage.CreateOptions{ID: "over", Exclusive: true})
	wantErr(t, "an exclusive upload over a file", err, fs.ErrExist)
	first := create(t, b, "f", storage.CreateOptions{ID: "first", Exclusive: true})
	fill(t, first, []byte("first"), 0)
	second, err := begin(t, b, "f", storage.CreateOptions{ID: "second", Exclusive: true})
	if err == nil {
		fill(t, second, []byte("second"), 0)
	}
	commit(t, first, 5)
	if err == nil {
		_, err = second.Commit(t.Context())
	}
	wantErr(t, "the second exclusive upload", err, fs.ErrExist)
	wantContent(t, b, "f", []byte("first"))
	wantContent(t, b, "old", []byte("stands"))
	wantList(t, b, "", "f", "old")
}

// exclusiveResumed: recovery does not replace a file either, however often it is tried.
func exclusiveResumed(t *testing.T, b storage.Backend) { resumeExclusive(t, b, 2) }

// exclusiveResumedOnce: asked again, a store that cannot tell whose a file is takes what stands.
func exclusiveResumedOnce(t *testing.T, b storage.Backend) { resumeExclusive(t, b, 1) }

func resumeExclusive(t *testing.T, b storage.Backend, times int) {
	r := resumer(t, b)
	dead := storage.DeadUpload{ID: "dead", Begun: time.Now(), Exclusive: true}
	u := create(t, b, "f", storage.CreateOptions{
		ID: dead.ID, Exclusive: true, Note: func(_ context.Context, token string) error { dead.Token = token; return nil },
	})
	fill(t, u, Bytes(33, 9<<20), 0)
	over, err := begin(t, b, "f", storage.CreateOptions{ID: "over"})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, over, []byte("another file"), 0)
	if _, err := over.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range times {
		_, err = r.Resume(t.Context(), "f", dead)
		wantErr(t, "resume over another file", err, fs.ErrExist)
		wantContent(t, b, "f", []byte("another file"))
		wantList(t, b, "", "f")
	}
}

func copier(t *testing.T, b storage.Backend) storage.Copier {
	t.Helper()
	c, ok := b.(storage.Copier)
	if !ok {
		t.Skip("not a Copier")
	}
	return c
}

func copyFile(t *testing.T, b storage.Backend) {
	c := copier(t, b)
	content := Bytes(40, 6<<20)
	src := Write(t, b, "src", content)
	if err := b.Mkdir(t.Context(), "to"); err != nil {
		t.Fatal(err)
	}
	obj, err := c.Copy(t.Context(), "src", "", b, "to/dst", false)
	if err != nil || obj.Size != src.Size {
		t.Fatalf("copy: %+v, %v", obj, err)
	}
	wantContent(t, b, "to/dst", content)
	wantContent(t, b, "src", content)
	fi, err := storage.Identify(t.Context(), b, "to/dst")
	if err != nil {
		t.Fatal(err)
	}
	if known, ok := fi.Sys().(storage.Object); ok && known.ETag != obj.ETag {
		t.Errorf("Stat shows ETag %q, Copy returned %q", known.ETag, obj.ETag)
	}
}

func copyConditions(t *testing.T, b storage.Backend) {
	c, ctx := copier(t, b), t.Context()
	_, err := c.Copy(ctx, "nothing", "", b, "dst", true)
	wantErr(t, "copy a missing file", err, fs.ErrNotExist)
	old := Write(t, b, "src", []byte("one"))
	Write(t, b, "dst", []byte("stands"))
	_, err = c.Copy(ctx, "src", "", b, "dst", false)
	wantErr(t, "copy onto a file", err, fs.ErrExist)
	wantContent(t, b, "dst", []byte("stands"))
	_, err = c.Copy(ctx, "src", "", b, "src", false)
	wantErr(t, "copy onto itself", err, fs.ErrExist)
	if _, err := c.Copy(ctx, "src", old.ETag, b, "dst", true); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "dst", []byte("one"))
	Write(t, b, "src", []byte("another"))
	if old.ETag == "" {
		return
	}
	_, err = c.Copy(ctx, "src", old.ETag, b, "dst", true)
	wantErr(t, "copy of what was replaced", err, fs.ErrNotExist)
	wantContent(t, b, "dst", []byte("one"))
}

func tag(t *testing.T, b storage.Backend) {
	tg, ok := b.(storage.Tagger)
	if !ok {
		t.Skip("not a Tagger")
	}
	ctx := t.Context()
	wantErr(t, "tag a missing file", tg.Tag(ctx, "nothing", map[string]string{"a": "1"}), fs.ErrNotExist)
	Write(t, b, "f", []byte("x"))
	if err := tg.Tag(ctx, "f", map[string]string{"a": "1", "b": "2"}); err != nil {
		t.Fatal(err)
	}
	if err := tg.Tag(ctx, "f", map[string]string{"b": "3", strings.Repeat("k", 60): "with space"}); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "f", []byte("x"))
}
