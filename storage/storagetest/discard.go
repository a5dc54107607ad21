package storagetest

import (
	"context"
	"io/fs"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
)

func discarder(t *testing.T, b storage.Backend) storage.Discarder {
	t.Helper()
	d, ok := b.(storage.Discarder)
	if !ok {
		t.Skip("not a Discarder")
	}
	return d
}

// discard: what a dead upload left goes, and what stands at the name stays, be it a newer file or nothing.
func discard(t *testing.T, b storage.Backend) {
	d := discarder(t, b)
	for _, name := range []string{"taken", "free"} {
		dead := storage.DeadUpload{ID: "dead " + name, Begun: time.Now()}
		u := create(t, b, name, storage.CreateOptions{ID: dead.ID, Whole: true,
			Note: func(_ context.Context, token string) error { dead.Token = token; return nil }})
		content := Bytes(46, 14<<20)
		fill(t, u, content, 0)
		if name == "taken" {
			Write(t, b, name, []byte("newer"))
		}
		// The upload is not as dead as it should be: a part that was on its way may arrive after it was discarded.
		for try, received := 0, int64(1); try < 2 || received > 0; try++ {
			var err error
			received, err = d.Discard(t.Context(), name, dead)
			if err != nil || received < 0 || received > int64(len(content)) || try > 20 {
				t.Fatalf("%s: discarded %d bytes at try %d: %v", name, received, try, err)
			}
		}
		if r, ok := b.(storage.Resumer); ok && name == "taken" {
			// Nothing is left that could come back.
			if obj, err := r.Resume(t.Context(), name, storage.DeadUpload{ID: dead.ID, Token: dead.Token, Begun: dead.Begun, Exclusive: true}); err == nil && obj.Size > 5 {
				t.Errorf("resumed %d bytes of what was discarded", obj.Size)
			}
		}
	}
	wantList(t, b, "", "taken")
	wantContent(t, b, "taken", []byte("newer"))
}

// discardUnnoted: an upload that left nothing has nothing to discard.
func discardUnnoted(t *testing.T, b storage.Backend) {
	d := discarder(t, b)
	Write(t, b, "f", []byte("newer"))
	received, err := d.Discard(t.Context(), "f", storage.DeadUpload{ID: "never", Begun: time.Now()})
	if err != nil || received != 0 {
		t.Errorf("discarded %d bytes: %v", received, err)
	}
	wantContent(t, b, "f", []byte("newer"))
}

// discardOwn: the upload had been committed, so there is nothing newer.
func discardOwn(t *testing.T, b storage.Backend) {
	d := discarder(t, b)
	dead := storage.DeadUpload{ID: "done", Begun: time.Now()}
	content := Bytes(47, 11<<20)
	u := create(t, b, "f", storage.CreateOptions{ID: dead.ID, Whole: true,
		Note: func(_ context.Context, token string) error { dead.Token = token; return nil }})
	fill(t, u, content, 0)
	commit(t, u, int64(len(content)))
	_, err := d.Discard(t.Context(), "f", dead)
	wantErr(t, "discard a file that was committed", err, fs.ErrExist)
	wantContent(t, b, "f", content)
}

// discardOwnUnmarked: a store that cannot tell whose a file is leaves it.
func discardOwnUnmarked(t *testing.T, b storage.Backend) {
	d := discarder(t, b)
	Write(t, b, "f", []byte("whoever's"))
	if received, err := d.Discard(t.Context(), "f", storage.DeadUpload{ID: "done", Begun: time.Now()}); err != nil || received != 0 {
		t.Errorf("discarded %d bytes: %v", received, err)
	}
	wantContent(t, b, "f", []byte("whoever's"))
}
