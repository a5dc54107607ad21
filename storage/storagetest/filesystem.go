package storagetest

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
)

// tests are what is promised in place of the tests of the same names.
func (tr Traits) tests() map[string]func(*testing.T, storage.Backend) {
	instead := map[string]func(*testing.T, storage.Backend){}
	if tr.InPlace {
		instead["NothingShowsBeforeCommit"] = growsAtItsName
		instead["AbortLeavesNothing"] = abortInPlace
		instead["ConcurrentUploadsToOneName"] = uploadsShareOneFile
	}
	if tr.Sparse {
		instead["HoleEndsTheFile"] = holeIsKept
		instead["HoleAtTheStart"] = holeAtTheStartIsKept
	}
	if tr.Unmarked {
		instead["Resume"] = resumeOfNothing
		instead["ResumeReplacesAnOlderFile"] = resumeTakesWhatStands
		instead["ExclusiveResumed"] = exclusiveResumedOnce
		instead["DiscardOwn"] = discardOwnUnmarked
	}
	if tr.InPlace { // they are one file
		instead["ExclusiveResumed"] = func(t *testing.T, _ storage.Backend) { t.Skip("both write into one file") }
	}
	return instead
}

// growsAtItsName: what was written is there before Commit, and an older file keeps its bytes until the first one.
func growsAtItsName(t *testing.T, b storage.Backend) {
	Write(t, b, "old", []byte("old content"))
	u := create(t, b, "new", storage.CreateOptions{ID: "new"})
	over := create(t, b, "old", storage.CreateOptions{ID: "over"})
	wantContent(t, b, "old", []byte("old content"))
	fill(t, u, []byte("first"), 0)
	fill(t, over, []byte("second"), 0)
	wantContent(t, b, "new", []byte("first"))
	wantContent(t, b, "old", []byte("second"))
	fill(t, u, []byte(" more"), 5)
	wantContent(t, b, "new", []byte("first more"))
	commit(t, u, 10)
	commit(t, over, 6)
	wantList(t, b, "", "new", "old")
}

func abortInPlace(t *testing.T, b storage.Backend) {
	for _, content := range [][]byte{nil, Bytes(4, 1000)} {
		u := create(t, b, "gone", storage.CreateOptions{})
		fill(t, u, content, 0)
		if err := u.Abort(t.Context()); err != nil {
			t.Fatalf("abort after %d bytes: %v", len(content), err)
		}
		wantMissing(t, b, "gone")
	}
	Write(t, b, "kept", []byte("x"))
	if err := create(t, b, "kept", storage.CreateOptions{}).Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "kept", []byte("x"))
	u := create(t, b, "kept", storage.CreateOptions{})
	fill(t, u, []byte("yyy"), 0)
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantList(t, b, "")
}

// uploadsShareOneFile: as clients with several connections send one file.
func uploadsShareOneFile(t *testing.T, b storage.Backend) {
	content := Bytes(60, 300_000)
	first := create(t, b, "same", storage.CreateOptions{})
	fill(t, first, content[:100_000], 0)
	second := create(t, b, "same", storage.CreateOptions{Modify: true})
	fill(t, second, content[200_000:], 200_000)
	commit(t, second, 300_000)
	fill(t, first, content[100_000:200_000], 100_000)
	commit(t, first, 300_000)
	wantContent(t, b, "same", content)
}

func holeIsKept(t *testing.T, b storage.Backend) {
	content := Bytes(8, 200_000)
	u := create(t, b, "hole", storage.CreateOptions{})
	fill(t, u, content[:70_000], 0)
	fill(t, u, content[80_000:], 80_000)
	commit(t, u, 200_000)
	clear(content[70_000:80_000])
	wantContent(t, b, "hole", content)
}

func holeAtTheStartIsKept(t *testing.T, b storage.Backend) {
	u := create(t, b, "hole", storage.CreateOptions{})
	fill(t, u, []byte("later"), 10)
	commit(t, u, 15)
	wantContent(t, b, "hole", []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00later"))
}

func resumeOfNothing(t *testing.T, b storage.Backend) {
	_, err := resumer(t, b).Resume(t.Context(), "f", storage.DeadUpload{ID: "never", Begun: time.Now()})
	wantErr(t, "resume of nothing", err, fs.ErrNotExist)
	wantMissing(t, b, "f")
}

func resumeTakesWhatStands(t *testing.T, b storage.Backend) {
	Write(t, b, "f", []byte("what stands"))
	obj, err := resumer(t, b).Resume(t.Context(), "f", storage.DeadUpload{ID: "newer", Begun: time.Now()})
	if err != nil || obj.Size != 11 {
		t.Fatalf("resume: %+v, %v; want the file that stands", obj, err)
	}
	wantContent(t, b, "f", []byte("what stands"))
}

func modifier(t *testing.T, b storage.Backend) (anywhere bool) {
	t.Helper()
	m, ok := b.(storage.Modifier)
	if !ok {
		_, err := b.Create(t.Context(), "f", storage.CreateOptions{Modify: true})
		wantErr(t, "modify without the ability", err, errors.ErrUnsupported)
		t.Skip("not a Modifier")
	}
	return m.CanModify()
}

// modify: appends, goes on from the middle, and makes what does not stand.
func modify(t *testing.T, b storage.Backend) {
	modifier(t, b)
	for _, size := range []int{0, 10, 12 << 20} {
		content := Bytes(61, size)
		Write(t, b, "f", content)
		more := Bytes(62, 100_000)
		u := create(t, b, "f", storage.CreateOptions{Modify: true})
		fill(t, u, more, int64(size))
		commit(t, u, int64(size+len(more)))
		content = append(content, more...)
		wantContent(t, b, "f", content)
		u = create(t, b, "f", storage.CreateOptions{Modify: true})
		fill(t, u, more[:20], int64(size/2))
		commit(t, u, int64(len(content)))
		copy(content[size/2:], more[:20])
		wantContent(t, b, "f", content)
	}
	u := create(t, b, "new", storage.CreateOptions{Modify: true})
	fill(t, u, []byte("new"), 0)
	commit(t, u, 3)
	wantContent(t, b, "new", []byte("new"))
	u = create(t, b, "new", storage.CreateOptions{Modify: true})
	commit(t, u, 3)
	wantContent(t, b, "new", []byte("new"))
}

func modifyAnywhere(t *testing.T, b storage.Backend) {
	if !modifier(t, b) {
		t.Skip("in order alone")
	}
	content := Bytes(63, 1<<20)
	Write(t, b, "f", content)
	u := create(t, b, "f", storage.CreateOptions{Modify: true})
	for _, at := range []int{900_000, 5, 400_000, 1<<20 - 3} {
		fill(t, u, []byte("here"), int64(at))
		content = append(content[:at], append([]byte("here"), content[min(at+4, len(content)):]...)...)
	}
	commit(t, u, int64(len(content)))
	wantContent(t, b, "f", content)
}

// modifyAborted: an upload to which nothing was written leaves the file; a file that it made goes.
func modifyAborted(t *testing.T, b storage.Backend) {
	modifier(t, b)
	Write(t, b, "f", []byte("content"))
	for _, name := range []string{"f", "new"} {
		if err := create(t, b, name, storage.CreateOptions{Modify: true}).Abort(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantContent(t, b, "f", []byte("content"))
	wantList(t, b, "", "f")
}

func replace(t *testing.T, b storage.Backend) {
	r, ok := b.(storage.Replacer)
	if !ok {
		t.Skip("not a Replacer")
	}
	ctx := t.Context()
	wantErr(t, "replace by a missing file", r.Replace(ctx, "nothing", "x"), fs.ErrNotExist)
	content := Bytes(64, 100_000)
	Write(t, b, "a", content)
	Write(t, b, "b", []byte("old"))
	for _, to := range []string{"b", "c"} {
		if err := r.Replace(ctx, "a", to); err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, to, content)
		wantMissing(t, b, "a")
		Write(t, b, "a", content)
	}
	if err := b.Mkdir(ctx, "dir"); err != nil {
		t.Fatal(err)
	}
	if err := r.Replace(ctx, "a", "dir"); err == nil {
		t.Error("a file replaced a directory")
	}
	wantContent(t, b, "a", content)
}

func setAttrs(t *testing.T, b storage.Backend) {
	a, ok := b.(storage.Attrer)
	if !ok {
		t.Skip("not an Attrer")
	}
	ctx := t.Context()
	mode, size, when := fs.FileMode(0o640), int64(5), time.Unix(1_000_000_000, 0)
	wantErr(t, "attributes of a missing file", a.SetAttrs(ctx, "nothing", storage.Attrs{Mode: &mode}), fs.ErrNotExist)
	Write(t, b, "f", []byte("content"))
	if err := a.SetAttrs(ctx, "f", storage.Attrs{Mode: &mode, Size: &size, Atime: &when, Mtime: &when}); err != nil {
		t.Fatal(err)
	}
	fi, err := b.Stat(ctx, "f")
	if err != nil || fi.Mode() != mode || fi.Size() != size || !fi.ModTime().Equal(when) {
		t.Fatalf("%+v, %v; want mode %v, size %d, time %v", fi, err, mode, size, when)
	}
	wantContent(t, b, "f", []byte("conte"))
	if err := a.SetAttrs(ctx, "f", storage.Attrs{}); err != nil {
		t.Fatal(err)
	}
	if again, err := b.Stat(ctx, "f"); err != nil || again.Mode() != mode || !again.ModTime().Equal(when) {
		t.Fatalf("%+v, %v; want nothing changed", again, err)
	}
}

func links(t *testing.T, b storage.Backend) {
	l, ok := b.(storage.Linker)
	if !ok {
		t.Skip("not a Linker")
	}
	ctx := t.Context()
	Write(t, b, "dir/f", []byte("content"))
	for target, name := range map[string]string{"dir/f": "relative", "../dir/f": "dir/up", "/dir/f": "dir/rooted"} {
		if err := l.Symlink(ctx, target, name); err != nil {
			t.Fatal(err)
		}
		wantContent(t, b, name, []byte("content"))
		fi, err := b.Stat(ctx, name)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() != 7 {
			t.Errorf("stat %s: %v, %v; want the file", name, fi, err)
		}
		if fi, err = l.Lstat(ctx, name); err != nil || fi.Mode().Type() != fs.ModeSymlink {
			t.Errorf("lstat %s: %v, %v; want the link", name, fi, err)
		}
		if got, err := l.ReadLink(ctx, name); err != nil || got == "" || got[0] == '/' {
			t.Errorf("readlink %s: %q, %v", name, got, err)
		}
	}
	wantErr(t, "a link out", l.Symlink(ctx, "../outside", "out"), fs.ErrPermission)
	wantErr(t, "a link onto a file", l.Symlink(ctx, "x", "dir/f"), fs.ErrExist)
	if _, err := l.ReadLink(ctx, "dir/f"); err == nil {
		t.Error("a file was read as a link")
	}
	if err := l.Link(ctx, "dir/f", "hard"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "a hard link onto a file", l.Link(ctx, "dir/f", "hard"), fs.ErrExist)
	if err := b.Remove(ctx, "dir/f"); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "hard", []byte("content"))
	_, err := b.Open(ctx, "relative")
	wantErr(t, "a link to nothing", err, fs.ErrNotExist)
	if err := b.Remove(ctx, "relative"); err != nil {
		t.Fatal(err)
	}
}
