package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
)

// overlay is what old becomes when content is written over it at off.
func overlay(old []byte, off int, content []byte) []byte {
	all := append(bytes.Clone(old[:off]), content...)
	return append(all, old[min(len(old), len(all)):]...)
}

// modifyBytes: wherever the writes begin and end in the old file.
func modifyBytes(t *testing.T, b storage.Backend) {
	modifier(t, b)
	for i, tt := range []struct{ old, off, n int }{
		{0, 0, 10}, {10, 10, 10}, {100_000, 99_999, 200_000}, {100_000, 0, 1}, {100_000, 70_000, 1000},
		{6 << 20, 6 << 20, 1}, {6 << 20, 100, 1 << 20}, {12 << 20, 7 << 20, 1 << 20},
	} {
		name := fmt.Sprint("f", i)
		old, content := Bytes(uint64(80+i), tt.old), Bytes(uint64(90+i), tt.n)
		Write(t, b, name, old)
		u := create(t, b, name, storage.CreateOptions{ID: name, Modify: true})
		fill(t, u, content, int64(tt.off))
		want := overlay(old, tt.off, content)
		commit(t, u, int64(len(want)))
		wantContent(t, b, name, want)
	}
}

// modifyNothing: without a file it is an ordinary upload, without a write nothing changes.
func modifyNothing(t *testing.T, b storage.Backend) {
	modifier(t, b)
	u := create(t, b, "new", storage.CreateOptions{ID: "new", Modify: true})
	fill(t, u, []byte("content"), 0)
	commit(t, u, 7)
	wantContent(t, b, "new", []byte("content"))
	u = create(t, b, "new", storage.CreateOptions{ID: "none", Modify: true})
	commit(t, u, 7)
	wantContent(t, b, "new", []byte("content"))
	u = create(t, b, "new", storage.CreateOptions{ID: "dropped", Modify: true})
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "new", []byte("content"))
}

// modifyBeyondTheEnd: bytes that nobody wrote are no file's.
func modifyBeyondTheEnd(t *testing.T, b storage.Backend) {
	if modifier(t, b) {
		t.Skip("writes may lie anywhere")
	}
	for i, size := range []int{0, 3, 100_000, 6 << 20, 12 << 20} {
		name, old := fmt.Sprint("f", i), Bytes(uint64(110+i), size)
		Write(t, b, name, old)
		for _, gap := range []int{1, 32 << 10, 1 << 30} {
			u := create(t, b, name, storage.CreateOptions{ID: fmt.Sprint("beyond-", size, gap), Modify: true})
			if _, err := u.WriteAt([]byte("x"), int64(size+gap)); err != nil {
				wantErr(t, "first write beyond the end", err, storage.ErrRandomAccess)
				if err := u.Abort(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				_, err := u.Commit(t.Context())
				wantErr(t, fmt.Sprintf("a gap of %d behind %d bytes that nobody filled", gap, size), err, storage.ErrRandomAccess)
			}
			wantContent(t, b, name, old)
		}
		u := create(t, b, name, storage.CreateOptions{ID: fmt.Sprint("prefix-", size), Modify: true})
		fill(t, u, []byte("added"), int64(size))
		fill(t, u, []byte("lost"), int64(size+6))
		commit(t, u, int64(size+5))
		old = append(old, "added"...)
		wantContent(t, b, name, old)
	}
}

// modifyOutOfOrder: blocks overtake each other from the first one on.
func modifyOutOfOrder(t *testing.T, b storage.Backend) {
	if modifier(t, b) {
		t.Skip("writes may lie anywhere")
	}
	const block, window = 4 << 10, 4
	for i, tt := range []struct{ old, off, n int }{
		{10, 10, 100_000}, {100_000, 100_000, 300_000}, {100_000, 90_000, 100_000}, {6 << 20, 6 << 20, 3 << 20}, {12 << 20, 12 << 20, 2 << 20},
		{12 << 20, 11 << 20, 3 << 20}, {12 << 20, 7 << 20, 1 << 20},
	} {
		name := fmt.Sprint("f", i)
		old, content := Bytes(uint64(120+i), tt.old), Bytes(uint64(130+i), tt.n)
		Write(t, b, name, old)
		u := create(t, b, name, storage.CreateOptions{ID: "scrambled " + name, Modify: true})
		for from := 0; from < tt.n; from += window * block {
			for k := window - 1; k >= 0; k-- { // the last of them first
				if at := from + k*block; at < tt.n {
					fill(t, u, content[at:min(at+block, tt.n)], int64(tt.off+at))
				}
			}
		}
		want := overlay(old, tt.off, content)
		commit(t, u, int64(len(want)))
		wantContent(t, b, name, want)
	}
}

// modifyCuts is an upload that is interrupted again and again and goes on where the file ends.
func modifyCuts(t *testing.T, b storage.Backend) {
	modifier(t, b)
	content := Bytes(100, 8<<20)
	rnd := rand.New(rand.NewPCG(11, 12))
	for i, have := 0, 0; have < len(content); i++ {
		u := create(t, b, "f", storage.CreateOptions{ID: fmt.Sprint("try-", i), Modify: true})
		to := min(len(content), have+rnd.IntN(len(content)/6)+1)
		fill(t, u, content[have:to], int64(have))
		commit(t, u, int64(to))
		have = to
	}
	wantContent(t, b, "f", content)
}

// modifyResumedUnnoted: an upload that died before the store noted anything of it leaves the old file, and makes none.
func modifyResumedUnnoted(t *testing.T, b storage.Backend) {
	modifier(t, b)
	r := resumer(t, b)
	old := Write(t, b, "f", []byte("the old file"))
	for range 2 {
		obj, err := r.Resume(t.Context(), "f", storage.DeadUpload{ID: "unnoted", Begun: time.Now(), Modify: true})
		if err != nil || obj.Size != old.Size || obj.ETag != old.ETag {
			t.Fatalf("resume: %+v, %v; want what stands, %+v", obj, err, old)
		}
		wantContent(t, b, "f", []byte("the old file"))
	}
	_, err := r.Resume(t.Context(), "gone", storage.DeadUpload{ID: "unnoted too", Begun: time.Now(), Modify: true})
	wantErr(t, "resume of a change of nothing", err, fs.ErrNotExist)
	wantMissing(t, b, "gone")
}

func replaceItself(t *testing.T, b storage.Backend) {
	r, ok := b.(storage.Replacer)
	if !ok {
		t.Skip("not a Replacer")
	}
	ctx := t.Context()
	wantErr(t, "replace by a missing file", r.Replace(ctx, "nothing", "x"), fs.ErrNotExist)
	Write(t, b, "a", []byte("new"))
	Write(t, b, "dir/b", []byte("an older one"))
	if err := r.Replace(ctx, "a", "dir/b"); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "a")
	wantContent(t, b, "dir/b", []byte("new"))
	if err := r.Replace(ctx, "dir/b", "dir/b"); err != nil {
		t.Fatalf("replace by itself: %v", err)
	}
	if err := r.Replace(ctx, "dir/b", "c"); err != nil {
		t.Fatalf("replace nothing: %v", err)
	}
	wantContent(t, b, "c", []byte("new"))
	Write(t, b, "dir2/d", nil)
	if err := r.Replace(ctx, "c", "dir2"); err == nil {
		t.Error("a directory was replaced by a file")
	}
	wantContent(t, b, "c", []byte("new"))
}

// replaceByDirectory: some clients have no other rename.
func replaceByDirectory(t *testing.T, b storage.Backend) {
	r, ok := b.(storage.Replacer)
	if !ok {
		t.Skip("not a Replacer")
	}
	ctx := t.Context()
	Write(t, b, "old/sub/f", []byte("f"))
	Write(t, b, "file", []byte("a file"))
	Write(t, b, "full/g", []byte("g"))
	if err := r.Replace(ctx, "old", "new"); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("directories are not renamed")
	} else if err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "old")
	wantContent(t, b, "new/sub/f", []byte("f"))
	for _, taken := range []string{"file", "full", "new/sub/below"} {
		if err := r.Replace(ctx, "new", taken); err == nil {
			t.Errorf("a directory replaced %q", taken)
		}
	}
	if err := r.Replace(ctx, "new", "new"); err != nil {
		t.Errorf("replaced by itself: %v", err)
	}
	wantErr(t, "a missing directory", r.Replace(ctx, "old", "other"), fs.ErrNotExist)
	wantContent(t, b, "new/sub/f", []byte("f"))
	wantContent(t, b, "file", []byte("a file"))
	wantContent(t, b, "full/g", []byte("g"))
	wantList(t, b, "", "file", "full/", "new/")
}

func renameDirectory(t *testing.T, b storage.Backend) {
	ctx := t.Context()
	want := map[string][]byte{"f": []byte("f"), "sub/g": Bytes(101, 100_000), "sub/deeper/h": nil, "ünïcödé +&%": []byte("u")}
	for name, content := range want {
		Write(t, b, "old/"+name, content)
	}
	Write(t, b, "older", []byte("a neighbour"))
	if err := b.Mkdir(ctx, "old/empty"); err != nil {
		t.Fatal(err)
	}
	if err := b.Mkdir(ctx, "new"); err != nil { // which a file system needs
		t.Fatal(err)
	}
	err := b.Rename(ctx, "old", "new/place")
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("directories are not renamed")
	}
	if err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "old")
	wantContent(t, b, "older", []byte("a neighbour"))
	wantList(t, b, "new/place", "f", "sub/", "empty/", "ünïcödé +&%")
	wantList(t, b, "new/place/empty")
	for name, content := range want {
		wantContent(t, b, "new/place/"+name, content)
	}
	if err := b.Rename(ctx, "new/place", "new/place/below"); err == nil {
		t.Error("a directory was moved below itself")
	}
	if err := b.Mkdir(ctx, "taken"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "rename onto a directory", b.Rename(ctx, "new/place", "taken"), fs.ErrExist)
	wantErr(t, "rename onto a file", b.Rename(ctx, "new/place", "older"), fs.ErrExist)
	wantContent(t, b, "new/place/f", []byte("f"))
}
