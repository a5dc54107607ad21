package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
)

func statMissing(t *testing.T, b storage.Backend) {
	wantMissing(t, b, "nothing")
	wantMissing(t, b, "no/such/path")
}

func statRoot(t *testing.T, b storage.Backend) {
	fi, err := b.Stat(t.Context(), "")
	if err != nil || !fi.IsDir() {
		t.Fatalf("stat of the root: %v, %v; want a directory", fi, err)
	}
}

func statFileAndDirectory(t *testing.T, b storage.Backend) {
	start := time.Now()
	obj := Write(t, b, "dir/file.txt", []byte("hello"))
	fi, err := b.Stat(t.Context(), "dir/file.txt")
	if err != nil {
		t.Fatal(err)
	}
	if fi.Name() != "file.txt" || fi.Size() != 5 || fi.IsDir() || !fi.Mode().IsRegular() || fi.Mode().Perm() == 0 {
		t.Errorf("file: name %q, size %d, mode %v", fi.Name(), fi.Size(), fi.Mode())
	}
	if d := fi.ModTime().Sub(start); d < -time.Minute || d > time.Minute {
		t.Errorf("modification time %v is not now", fi.ModTime())
	}
	identified, err := storage.Identify(t.Context(), b, "dir/file.txt")
	if err != nil {
		t.Fatal(err)
	}
	if known, ok := identified.Sys().(storage.Object); ok && known.ETag != obj.ETag {
		t.Errorf("Stat shows ETag %q, Commit returned %q", known.ETag, obj.ETag)
	}
	fi, err = b.Stat(t.Context(), "dir")
	if err != nil {
		t.Fatal(err)
	}
	if fi.Name() != "dir" || !fi.IsDir() || !fi.Mode().IsDir() || fi.Mode().Perm() == 0 {
		t.Errorf("directory: name %q, mode %v", fi.Name(), fi.Mode())
	}
}

func commitMakesTheFile(t *testing.T, b storage.Backend) {
	content := Bytes(1, 100_000)
	obj := Write(t, b, "f", content)
	if d := time.Since(obj.ModTime); d < -time.Minute || d > time.Minute {
		t.Errorf("modification time %v is not now", obj.ModTime)
	}
	wantContent(t, b, "f", content)
}

func nothingShowsBeforeCommit(t *testing.T, b storage.Backend) {
	for _, size := range []int{10, 11 << 20} { // kept back by any store, and on its way with any
		name := fmt.Sprintf("new-%d", size)
		Write(t, b, "old", []byte("old content"))
		u := create(t, b, name, storage.CreateOptions{ID: name})
		over := create(t, b, "old", storage.CreateOptions{ID: "over-" + name})
		fill(t, u, Bytes(2, size), 0)
		fill(t, over, Bytes(3, size), 0)
		wantMissing(t, b, name)
		wantList(t, b, "", "old")
		wantContent(t, b, "old", []byte("old content"))
		for _, u := range []storage.Upload{u, over} {
			if err := u.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func commitReplaces(t *testing.T, b storage.Backend) {
	Write(t, b, "f", Bytes(1, 50_000))
	first, err := b.Stat(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	Write(t, b, "f", []byte("shorter"))
	wantContent(t, b, "f", []byte("shorter"))
	if first.Size() != 50_000 {
		t.Errorf("an earlier FileInfo changed: size %d", first.Size())
	}
}

func abortLeavesNothing(t *testing.T, b storage.Backend) {
	for _, size := range []int{0, 1000, 11 << 20} {
		u := create(t, b, "gone", storage.CreateOptions{ID: fmt.Sprint("abort-", size)})
		fill(t, u, Bytes(4, size), 0)
		if err := u.Abort(t.Context()); err != nil {
			t.Fatalf("abort after %d bytes: %v", size, err)
		}
		wantMissing(t, b, "gone")
	}
	Write(t, b, "kept", []byte("x"))
	u := create(t, b, "kept", storage.CreateOptions{})
	fill(t, u, []byte("yyy"), 0)
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantContent(t, b, "kept", []byte("x"))
	wantList(t, b, "", "kept")
}

func emptyFile(t *testing.T, b storage.Backend) {
	Write(t, b, "empty", nil)
	fi, err := b.Stat(t.Context(), "empty")
	if err != nil || fi.Size() != 0 || fi.IsDir() {
		t.Fatalf("stat: %v, %v; want an empty file", fi, err)
	}
	wantContent(t, b, "empty", nil)
}

func largeFile(t *testing.T, b storage.Backend) {
	content := Bytes(5, 18<<20+12345)
	Write(t, b, "large", content)
	wantContent(t, b, "large", content)
}

func outOfOrder(t *testing.T, b storage.Backend) {
	const block, group = 32 << 10, 16 // a client with 16 writes of 32 KiB under way
	content := Bytes(6, 13<<20+777)
	u := create(t, b, "scrambled", storage.CreateOptions{ID: "scrambled"})
	rnd := rand.New(rand.NewPCG(1, 2))
	for start := 0; start < len(content); start += group * block {
		end := min(start+group*block, len(content))
		n := (end - start + block - 1) / block
		for _, i := range rnd.Perm(n) {
			from := start + i*block
			fill(t, u, content[from:min(from+block, end)], int64(from))
		}
	}
	commit(t, u, int64(len(content)))
	wantContent(t, b, "scrambled", content)
}

func sameBytesTwice(t *testing.T, b storage.Backend) {
	content := Bytes(7, 1000)
	u := create(t, b, "twice", storage.CreateOptions{})
	fill(t, u, content[:600], 0)
	fill(t, u, content[400:], 400)
	fill(t, u, content[400:], 400)
	commit(t, u, 1000)
	wantContent(t, b, "twice", content)
}

func holeEndsTheFile(t *testing.T, b storage.Backend) {
	content := Bytes(8, 200_000)
	u := create(t, b, "hole", storage.CreateOptions{})
	fill(t, u, content[:70_000], 0)
	fill(t, u, content[70_001:150_000], 70_001)
	fill(t, u, content[160_000:], 160_000)
	commit(t, u, 70_000)
	wantContent(t, b, "hole", content[:70_000])
}

func holeAtTheStart(t *testing.T, b storage.Backend) {
	u := create(t, b, "hole", storage.CreateOptions{})
	fill(t, u, []byte("later"), 10)
	commit(t, u, 0)
	wantContent(t, b, "hole", nil)
}

func invalidOffset(t *testing.T, b storage.Backend) {
	u := create(t, b, "negative", storage.CreateOptions{})
	if _, err := u.WriteAt([]byte("x"), -1); err == nil {
		t.Error("a write before the file's start was taken")
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "negative")
}

func noteIsCalledAtMostOnce(t *testing.T, b storage.Backend) {
	var mu sync.Mutex
	var tokens []string
	u := create(t, b, "noted", storage.CreateOptions{ID: "noted", Note: func(_ context.Context, token string) error {
		mu.Lock()
		defer mu.Unlock()
		tokens = append(tokens, token)
		return nil
	}})
	content := Bytes(9, 13<<20)
	fill(t, u, content, 0)
	commit(t, u, int64(len(content)))
	if len(tokens) > 1 || len(tokens) == 1 && tokens[0] == "" {
		t.Errorf("noted %q; want at most one token and that not empty", tokens)
	}
	if len(tokens) == 0 {
		return // a store without tokens
	}
	refuse := errors.New("journal is gone")
	u = create(t, b, "unnoted", storage.CreateOptions{ID: "unnoted", Note: func(context.Context, string) error { return refuse }})
	var err error
	for off := 0; off < len(content) && err == nil; off += 1 << 20 {
		_, err = u.WriteAt(content[off:off+1<<20], int64(off))
	}
	wantErr(t, "write after a Note that failed", err, refuse)
	if err := u.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMissing(t, b, "unnoted")
}

func openMissingAndDirectory(t *testing.T, b storage.Backend) {
	_, err := b.Open(t.Context(), "nothing")
	wantErr(t, "open a missing file", err, fs.ErrNotExist)
	if err := b.Mkdir(t.Context(), "dir"); err != nil {
		t.Fatal(err)
	}
	_, err = b.Open(t.Context(), "dir")
	wantErr(t, "open a directory", err, storage.ErrIsDirectory)
	_, err = b.Open(t.Context(), "")
	wantErr(t, "open the root", err, storage.ErrIsDirectory)
}

func readAt(t *testing.T, b storage.Backend) {
	content := Bytes(10, 8<<20+99)
	Write(t, b, "f", content)
	r, err := b.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	check := func(off, n int) {
		p := make([]byte, n)
		got, err := r.ReadAt(p, int64(off))
		want := content[min(off, len(content)):min(off+n, len(content))]
		switch {
		case len(want) < n && !errors.Is(err, io.EOF):
			t.Errorf("read %d at %d: error %v, want EOF", n, off, err)
		case len(want) == n && err != nil:
			t.Errorf("read %d at %d: %v", n, off, err)
		case string(p[:got]) != string(want):
			t.Errorf("read %d at %d: wrong bytes", n, off)
		}
	}
	check(0, 10)
	check(len(content)-5, 10)
	check(len(content), 1)
	check(len(content)+100, 1)
	check(5<<20, 3<<20)
	check(1, 1<<20)
	var wg sync.WaitGroup
	for worker := range 8 { // as a server's workers do: in order all in all, scrambled by a few blocks
		wg.Go(func() {
			for off := worker * 32 << 10; off < len(content); off += 8 * 32 << 10 {
				check(off, 32<<10)
			}
		})
	}
	wg.Wait()
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a read before the file's start succeeded")
	}
}

func concurrentUploads(t *testing.T, b storage.Backend) {
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			content := Bytes(uint64(100+i), i*i*40_000)
			name := fmt.Sprintf("dir%d/file%d", i%3, i)
			u, err := begin(t, b, name, storage.CreateOptions{ID: name})
			if err != nil {
				t.Errorf("create %s: %v", name, err)
				return
			}
			if _, err := u.WriteAt(content, 0); err != nil {
				t.Errorf("write %s: %v", name, err)
			}
			if obj, err := u.Commit(t.Context()); err != nil || obj.Size != int64(len(content)) {
				t.Errorf("commit %s: %d bytes, %v; want %d", name, obj.Size, err, len(content))
			}
		})
	}
	wg.Wait()
	for i := range 12 {
		wantContent(t, b, fmt.Sprintf("dir%d/file%d", i%3, i), Bytes(uint64(100+i), i*i*40_000))
	}
}

// concurrentUploadsToOneName: the file is one of them as a whole, never a mixture.
func concurrentUploadsToOneName(t *testing.T, b storage.Backend) {
	var wg sync.WaitGroup
	const size = 9 << 20
	for i := range 4 {
		wg.Go(func() {
			u, err := b.Create(t.Context(), "same", storage.CreateOptions{ID: fmt.Sprint("same-", i)})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := u.WriteAt(Bytes(uint64(i), size), 0); err != nil {
				t.Error(err)
			}
			if _, err := u.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := string(Read(t, b, "same"))
	for i := range 4 {
		if got == string(Bytes(uint64(i), size)) {
			return
		}
	}
	t.Fatalf("the file (%d bytes) is none of those that were uploaded", len(got))
}
