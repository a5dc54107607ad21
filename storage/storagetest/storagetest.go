// Package storagetest is the suite that every storage.Backend passes: each promise of package storage has a test here.
//
// It knows nothing of any implementation.
package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/storage"
)

// Traits are where a store that is a file system may differ from one that is not, as package storage says.
type Traits struct {
	// InPlace: an upload shows at its name while it grows, and several to one name write into one file.
	InPlace bool
	// Sparse: bytes beyond a hole are kept.
	Sparse bool
	// Unmarked: a file does not say which upload it is.
	Unmarked bool
}

// Run runs the suite. open returns an empty backend that lives as long as the test it is given.
func Run(t *testing.T, open func(t *testing.T) storage.Backend) {
	t.Helper()
	RunWith(t, Traits{}, open)
}

// RunWith runs the suite for a store with traits.
func RunWith(t *testing.T, traits Traits, open func(t *testing.T) storage.Backend) {
	t.Helper()
	instead := traits.tests()
	for _, tt := range tests() {
		run := tt.run
		if other, differs := instead[tt.name]; differs {
			run = other
		}
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			run(t, open(t))
		})
	}
}

type test struct {
	name string
	run  func(t *testing.T, b storage.Backend)
}

func tests() []test {
	return []test{
		{"StatMissing", statMissing},
		{"StatRoot", statRoot},
		{"StatFileAndDirectory", statFileAndDirectory},
		{"CommitMakesTheFile", commitMakesTheFile},
		{"NothingShowsBeforeCommit", nothingShowsBeforeCommit},
		{"CommitReplaces", commitReplaces},
		{"AbortLeavesNothing", abortLeavesNothing},
		{"EmptyFile", emptyFile},
		{"LargeFile", largeFile},
		{"OutOfOrder", outOfOrder},
		{"SameBytesTwice", sameBytesTwice},
		{"HoleEndsTheFile", holeEndsTheFile},
		{"HoleAtTheStart", holeAtTheStart},
		{"InvalidOffset", invalidOffset},
		{"NoteIsCalledAtMostOnce", noteIsCalledAtMostOnce},
		{"OpenMissingAndDirectory", openMissingAndDirectory},
		{"ReadAt", readAt},
		{"ReadDirEmptyAndMissing", readDirEmptyAndMissing},
		{"ReadDirNested", readDirNested},
		{"ReadDirMany", readDirMany},
		{"ReadDirStopsEarly", readDirStopsEarly},
		{"Names", names},
		{"Mkdir", mkdir},
		{"Remove", remove},
		{"RemoveDirectory", removeDirectory},
		{"Rename", rename},
		{"RenameRefusals", renameRefusals},
		{"ConcurrentUploads", concurrentUploads},
		{"ConcurrentUploadsToOneName", concurrentUploadsToOneName},
		{"Resume", resume},
		{"ResumeKeepsWhatIsOurs", resumeKeepsWhatIsOurs},
		{"ResumeReplacesAnOlderFile", resumeReplacesAnOlderFile},
		{"ResumePrefix", resumePrefix},
		{"Discard", discard},
		{"DiscardUnnoted", discardUnnoted},
		{"DiscardOwn", discardOwn},
		{"Copy", copyFile},
		{"CopyConditions", copyConditions},
		{"CopyPieces", copyPieces},
		{"CopyPiecesRefused", copyPiecesRefused},
		{"CopyPiecesDropped", copyPiecesDropped},
		{"CopyPiecesOfAnotherFile", copyPiecesOfAnotherFile},
		{"Tag", tag},
		{"Exclusive", exclusive},
		{"ExclusiveResumed", exclusiveResumed},
		{"Modify", modify},
		{"ModifyAnywhere", modifyAnywhere},
		{"ModifyAborted", modifyAborted},
		{"ModifyBytes", modifyBytes},
		{"ModifyNothing", modifyNothing},
		{"ModifyBeyondTheEnd", modifyBeyondTheEnd},
		{"ModifyOutOfOrder", modifyOutOfOrder},
		{"ModifyCuts", modifyCuts},
		{"ModifyResumedUnnoted", modifyResumedUnnoted},
		{"Replace", replace},
		{"ReplaceItself", replaceItself},
		{"ReplaceByDirectory", replaceByDirectory},
		{"RenameLarge", renameLarge},
		{"RenameDirectory", renameDirectory},
		{"SetAttrs", setAttrs},
		{"Links", links},
	}
}

// Bytes are n bytes that look random and are the same for the same seed.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	if _, err := src.Read(b); err != nil {
		panic(err) // documented never to happen
	}
	return b
}

// Write uploads a file in pieces of 32 KiB, as SFTP clients send it.
func Write(t testing.TB, b storage.Backend, name string, content []byte) storage.Object {
	t.Helper()
	u := create(t, b, name, storage.CreateOptions{})
	fill(t, u, content, 0)
	return commit(t, u, int64(len(content)))
}

func create(t testing.TB, b storage.Backend, name string, opt storage.CreateOptions) storage.Upload {
	t.Helper()
	u, err := begin(t, b, name, opt)
	if err != nil {
		t.Fatalf("create %q: %v", name, err)
	}
	return u
}

// begin is Create, also in a store whose files lie in directories that somebody must make.
func begin(t testing.TB, b storage.Backend, name string, opt storage.CreateOptions) (storage.Upload, error) {
	u, err := b.Create(t.Context(), name, opt)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(name, "/") {
		return u, err
	}
	if err := mkdirs(t, b, path.Dir(name)); err != nil {
		return nil, err
	}
	return b.Create(t.Context(), name, opt)
}

func mkdirs(t testing.TB, b storage.Backend, dir string) error {
	for i, r := range dir + "/" {
		if r != '/' {
			continue
		}
		if err := b.Mkdir(t.Context(), dir[:i]); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func fill(t testing.TB, u storage.Upload, content []byte, off int64) {
	t.Helper()
	for p := range slices.Chunk(content, 32<<10) {
		n, err := u.WriteAt(p, off)
		if err != nil || n != len(p) {
			t.Fatalf("write %d bytes at %d: wrote %d: %v", len(p), off, n, err)
		}
		off += int64(len(p))
	}
}

func commit(t testing.TB, u storage.Upload, want int64) storage.Object {
	t.Helper()
	obj, err := u.Commit(t.Context())
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	if obj.Size != want {
		t.Fatalf("committed %d bytes, want %d", obj.Size, want)
	}
	return obj
}

// Read reads a whole file in pieces.
func Read(t testing.TB, b storage.Backend, name string) []byte {
	t.Helper()
	r, err := b.Open(t.Context(), name)
	if err != nil {
		t.Fatalf("open %q: %v", name, err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Errorf("close %q: %v", name, err)
		}
	}()
	fi, err := b.Stat(t.Context(), name)
	if err != nil {
		t.Fatalf("stat %q: %v", name, err)
	}
	all := make([]byte, fi.Size()+1) // one more, so that the end is seen: bytes that grow by and by are slow under -race
	n := 0
	for err == nil && n < len(all) {
		var m int
		m, err = r.ReadAt(all[n:min(n+1<<20, len(all))], int64(n))
		n += m
	}
	if err == nil || !errors.Is(err, io.EOF) {
		t.Fatalf("read %q: %d bytes, then %v; want the end after %d", name, n, err, fi.Size())
	}
	return all[:n]
}

func wantContent(t testing.TB, b storage.Backend, name string, want []byte) {
	t.Helper()
	if got := Read(t, b, name); !bytes.Equal(got, want) {
		t.Fatalf("%q has %d bytes, want %d; first difference at %d", name, len(got), len(want), differ(got, want))
	}
}

func differ(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v, want one that wraps %q", what, err, want)
	}
}

func wantMissing(t testing.TB, b storage.Backend, name string) {
	t.Helper()
	_, err := b.Stat(t.Context(), name)
	wantErr(t, fmt.Sprintf("stat %q", name), err, fs.ErrNotExist)
}

// list is a directory's entries, sorted, directories with a slash.
func list(t testing.TB, b storage.Backend, name string) []string {
	t.Helper()
	var all []string
	for fi, err := range b.ReadDir(t.Context(), name) {
		if err != nil {
			t.Fatalf("list %q: %v", name, err)
		}
		entry := fi.Name()
		if fi.IsDir() {
			entry += "/"
		}
		all = append(all, entry)
	}
	slices.Sort(all)
	return all
}

func wantList(t testing.TB, b storage.Backend, name string, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if got := list(t, b, name); !slices.Equal(got, want) {
		t.Fatalf("list %q: %q, want %q", name, got, want)
	}
}

// listErr is the error that ends a listing.
func listErr(t testing.TB, b storage.Backend, name string) error {
	t.Helper()
	for _, err := range b.ReadDir(t.Context(), name) {
		if err != nil {
			return err
		}
	}
	return nil
}
