package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
)

// TestExplainIsTrueOnDisk: what explain says of a file system is what the kernel does, whatever the modes and owners of the
// files and directories on the way are.
func TestExplainIsTrueOnDisk(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	const rounds = 400
	allowed := 0
	for round := range rounds {
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 1))
		dir := randomTree(t, random)
		operation := vfs.Operations()[random.IntN(len(vfs.Operations()))]
		from, to := somewhere(random), ""
		if operation == "rename" {
			to = somewhere(random)
		}
		view := diskView(t, efs.Config{Dir: dir, AtomicNames: round%3 == 0}, random)
		x, err := view.Explain(t.Context(), vfs.Question{Operation: operation, Path: from, To: to})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		as, err := view.As(t.Context(), "test")
		if err != nil {
			t.Fatal(err)
		}
		if err := really(t, as, operation, from, to); x.Allowed != (err == nil) && !unforeseen(operation, from, to, err) {
			t.Errorf("seed %d: %s %s %s: explained %+v, done %v", seed, operation, from, to, x, err)
		}
		if last := x.Rules[len(x.Rules)-1]; last.Allowed != x.Allowed {
			t.Errorf("the last rule is not the one that decides: %+v", x)
		}
		if x.Allowed {
			allowed++
		}
		if t.Failed() {
			return
		}
	}
	if allowed < rounds/10 || allowed > rounds*9/10 {
		t.Errorf("%d of %d were allowed, which tries little", allowed, rounds)
	}
}

// randomTree is a file system with random modes and owners.
func randomTree(t *testing.T, random *rand.Rand) string {
	t.Helper()
	dir := t.TempDir()
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/dir"), 0o700), os.MkdirAll(filepath.Join(dir, "b"), 0o700),
		os.WriteFile(filepath.Join(dir, "a/file"), []byte("old"), 0o600), os.WriteFile(filepath.Join(dir, "b/file"), []byte("old"), 0o600))
	for _, name := range []string{"a/dir", "a/file", "b/file", "a", "b", "."} {
		mode := []fs.FileMode{0o777, 0o777, 0o777, 0o755, 0o750, 0o700, 0o070, 0o311, 0o733, 0o444, 0o555, 0o666, 0o777 | fs.ModeSticky}[random.IntN(13)]
		path := filepath.Join(dir, name)
		err = errors.Join(err, os.Chown(path, []int{0, 2001, 2001, 2002}[random.IntN(4)], []int{0, 2001, 3000}[random.IntN(3)]), os.Chmod(path, mode))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func somewhere(random *rand.Rand) string {
	all := []string{"a/file", "a/file", "a/dir", "b/file", "a/new", "b/new", "a/dir/new", "a/none/new", "a/file/new", "b"}
	return "/fs-01234567/" + all[random.IntN(len(all))]
}

// diskView is a file system as some user sees it.
func diskView(t *testing.T, cfg efs.Config, random *rand.Rand) *vfs.FS {
	t.Helper()
	store, err := efs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	view, err := vfs.New(vfs.Home{Domain: domainEFS, Directory: "/fs-01234567", UserName: "anna", PosixProfile: []*server.PosixProfile{
		{Uid: 2001, Gid: 2001}, {Uid: 2001, Gid: 2001, SecondaryGids: []int64{3000}}, {Uid: 2002, Gid: 3000}, {},
	}[random.IntN(4)]}, &stores{buckets: noBuckets{}, files: map[string]*efs.Store{"fs-01234567": store}})
	if err != nil {
		t.Fatal(err)
	}
	return view
}

// really does it.
func really(t *testing.T, view *vfs.FS, operation, from, to string) error {
	t.Helper()
	switch operation {
	case "put", "append":
		u, err := view.Create(t.Context(), from, storage.CreateOptions{ID: "new", Modify: operation == "append"})
		if err != nil {
			return err
		}
		_, wrong := u.WriteAt([]byte("new"), 0)
		_, err = u.Commit(t.Context())
		return errors.Join(wrong, err)
	case "get":
		r, err := view.Open(t.Context(), from)
		if err == nil {
			err = r.Close()
		}
		return err
	case "list":
		for _, err := range view.ReadDir(t.Context(), from) {
			if err != nil {
				return err
			}
		}
		return nil
	case "stat":
		_, err := view.Stat(t.Context(), from)
		return err
	case "mkdir":
		return view.Mkdir(t.Context(), from)
	case "delete":
		return view.Remove(t.Context(), from)
	case "rmdir":
		return view.Rmdir(t.Context(), from)
	case "rename":
		return view.Replace(t.Context(), from, to)
	}
	return fmt.Errorf("operation %s", operation)
}

// unforeseen are refusals that have nothing to do with permissions, and that explain does not look for.
func unforeseen(operation, from, to string, err error) bool {
	return errors.Is(err, storage.ErrNotEmpty) || operation == "rename" && (strings.HasPrefix(to+"/", from+"/") || strings.HasPrefix(from+"/", to+"/"))
}
