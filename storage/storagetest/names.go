package storagetest

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"

	"github.com/transferd/transferd/storage"
)

func readDirEmptyAndMissing(t *testing.T, b storage.Backend) {
	wantList(t, b, "")
	wantErr(t, "list a missing directory", listErr(t, b, "nothing"), fs.ErrNotExist)
	if err := b.Mkdir(t.Context(), "empty"); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "empty")
	wantList(t, b, "", "empty/")
	Write(t, b, "file", []byte("x"))
	if err := listErr(t, b, "file"); err == nil {
		t.Fatal("a file was listed as a directory")
	}
}

func readDirNested(t *testing.T, b storage.Backend) {
	for _, name := range []string{"a", "b/c", "b/d/e", "b/d/f", "bb/x"} {
		Write(t, b, name, []byte(name))
	}
	wantList(t, b, "", "a", "b/", "bb/")
	wantList(t, b, "b", "c", "d/")
	wantList(t, b, "b/d", "e", "f")
	for fi, err := range b.ReadDir(t.Context(), "b") {
		if err != nil {
			t.Fatal(err)
		}
		if fi.Name() == "c" && (fi.Size() != 3 || fi.Mode().Perm() == 0 || fi.ModTime().IsZero()) {
			t.Errorf("c: size %d, mode %v, time %v", fi.Size(), fi.Mode(), fi.ModTime())
		}
	}
}

// readDirMany has more entries than a page of any store.
func readDirMany(t *testing.T, b storage.Backend) {
	const many = 1030 // more than a page
	want := make([]string, many)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < many; i += 8 {
				want[i] = fmt.Sprintf("file-%05d", i)
				u, err := begin(t, b, "many/"+want[i], storage.CreateOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := u.Commit(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, b, "many"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Fatalf("listed %d entries, want all %d once", len(got), many)
	}
}

func readDirStopsEarly(t *testing.T, b storage.Backend) {
	for i := range 5 {
		Write(t, b, fmt.Sprint("f", i), nil)
	}
	n := 0
	for _, err := range b.ReadDir(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Fatalf("listed %d entries, want to have stopped after 2", n)
	}
}

func names(t *testing.T, b storage.Backend) {
	all := []string{
		"with space.txt", "plus+and%25percent", "ünïcödé-файл-文件-🙂.bin", "quote'\"<>&;,=@:!$()*[]{}", "#hash?query=1",
		"UPPER and lower", "back\\slash", "~tilde^caret`tick|pipe", ".hidden", "...", "-dash", "tab\there",
		strings.Repeat("n", 255), // the longest name of most file systems
	}
	for i, name := range all {
		Write(t, b, "names/"+name, fmt.Append(nil, i))
	}
	wantList(t, b, "names", all...)
	for i, name := range all {
		wantContent(t, b, "names/"+name, fmt.Append(nil, i))
		fi, err := b.Stat(t.Context(), "names/"+name)
		if err != nil || fi.Name() != name {
			t.Fatalf("stat %q: %v, %v", name, fi, err)
		}
	}
	deep := strings.Repeat("deeper/", 60) + "file"
	Write(t, b, deep, []byte("deep"))
	wantContent(t, b, deep, []byte("deep"))
	from, to := "names/"+all[2], "names/renamed "+all[3]
	if err := b.Rename(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, to, []byte("2"))
	wantMissing(t, b, from)
}

func mkdir(t *testing.T, b storage.Backend) {
	ctx := t.Context()
	if err := b.Mkdir(ctx, "dir"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "mkdir of a directory", b.Mkdir(ctx, "dir"), fs.ErrExist)
	Write(t, b, "file", []byte("x"))
	wantErr(t, "mkdir of a file", b.Mkdir(ctx, "file"), fs.ErrExist)
	if err := b.Mkdir(ctx, "file/below"); err == nil {
		t.Error("a directory was made below a file")
	}
	if err := b.Mkdir(ctx, "dir/sub"); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "dir", "sub/")
	Write(t, b, "dir/sub/f", []byte("x"))
	wantList(t, b, "dir/sub", "f")
}

func remove(t *testing.T, b storage.Backend) {
	ctx := t.Context()
	wantErr(t, "remove a missing file", b.Remove(ctx, "nothing"), fs.ErrNotExist)
	Write(t, b, "f", []byte("x"))
	if err := b.Remove(ctx, "f"); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "f")
	wantErr(t, "remove it again", b.Remove(ctx, "f"), fs.ErrNotExist)
	if err := b.Remove(ctx, ""); err == nil {
		t.Error("the root was removed")
	}
}

func removeDirectory(t *testing.T, b storage.Backend) {
	ctx := t.Context()
	if err := b.Mkdir(ctx, "dir"); err != nil {
		t.Fatal(err)
	}
	Write(t, b, "dir/f", []byte("x"))
	wantErr(t, "remove a directory with a file", b.Remove(ctx, "dir"), storage.ErrNotEmpty)
	wantContent(t, b, "dir/f", []byte("x"))
	if err := b.Remove(ctx, "dir/f"); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "dir")
	if err := b.Remove(ctx, "dir"); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "dir")
}

func rename(t *testing.T, b storage.Backend) {
	content := Bytes(20, 6<<20)
	Write(t, b, "a", content)
	if err := b.Rename(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "a")
	wantContent(t, b, "b", content)
}

func renameRefusals(t *testing.T, b storage.Backend) {
	ctx := t.Context()
	wantErr(t, "rename a missing file", b.Rename(ctx, "nothing", "x"), fs.ErrNotExist)
	Write(t, b, "a", []byte("a"))
	Write(t, b, "b", []byte("b"))
	wantErr(t, "rename onto a file", b.Rename(ctx, "a", "b"), fs.ErrExist)
	if err := b.Mkdir(ctx, "dir"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "rename onto a directory", b.Rename(ctx, "a", "dir"), fs.ErrExist)
	wantContent(t, b, "a", []byte("a"))
	wantContent(t, b, "b", []byte("b"))
	if err := b.Rename(ctx, "dir", "other"); err != nil {
		wantErr(t, "rename a directory", err, errors.ErrUnsupported)
		return
	}
	wantMissing(t, b, "dir")
	wantList(t, b, "other")
}
