//go:build linux

package efs_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/storagetest"
)

// TestWhole: with CreateOptions.Whole nothing shows before Commit although names are not atomic otherwise, Abort leaves
// what stood there, a dead upload of the same ID leaves nothing, and Exclusive holds.
func TestWhole(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	s := open(t, efs.Config{}, dir)
	storagetest.Write(t, s, "f", []byte("old"))
	begin := func(name, id string, exclusive bool) storage.Upload {
		t.Helper()
		u, err := s.Create(ctx, name, storage.CreateOptions{ID: id, Whole: true, Exclusive: exclusive})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.WriteAt([]byte("newer"), 0); err != nil {
			t.Fatal(err)
		}
		if got := storagetest.Read(t, s, "f"); string(got) != "old" {
			t.Errorf("before the end there is %q", got)
		}
		return u
	}
	count := func(want int) {
		t.Helper()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
			t.Errorf("%v, %v; want %d files", entries, err, want)
		}
	}
	if err := begin("f", "aborted", false).Abort(ctx); err != nil {
		t.Fatal(err)
	}
	count(1)
	begin("f", "dead", false) // as if its process had died
	count(2)
	again := begin("f", "dead", false)
	count(2)
	if err := again.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	count(1)
	if _, err := s.Create(ctx, "f", storage.CreateOptions{ID: "x", Whole: true, Exclusive: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive where a file stands: %v", err)
	}
	u := begin("g", "late", true)
	storagetest.Write(t, s, "g", []byte("first"))
	if _, err := u.Commit(ctx); !errors.Is(err, fs.ErrExist) {
		t.Errorf("exclusive where a file came meanwhile: %v", err)
	}
	if got := storagetest.Read(t, s, "g"); string(got) != "first" {
		t.Errorf("the other file is %q", got)
	}
	count(2)
	if err := s.Symlink(ctx, "g", "link"); err != nil {
		t.Fatal(err)
	}
	if _, err := begin("link", "over a link", false).Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if got := storagetest.Read(t, s, "g"); string(got) != "first" {
		t.Errorf("through a link %q was written", got)
	}
	if got := storagetest.Read(t, s, "link"); string(got) != "newer" {
		t.Errorf("in the link's place is %q", got)
	}
	count(3)
}
