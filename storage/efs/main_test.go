package efs_test

import (
	"os"
	"os/exec"
	"testing"

	"go.uber.org/goleak"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/storagetest"
)

// childTask makes the test program another process: what it does, for the tests that need one.
const childTask = "TRANSFERD_EFS_CHILD"

func TestMain(m *testing.M) {
	if task := os.Getenv(childTask); task != "" {
		os.Exit(child(task))
	}
	goleak.VerifyTestMain(m)
}

// program is a command that runs this test program as a child with a task.
func program(t *testing.T, task string, before ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(before, self)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childTask+"="+task)
	return cmd
}

// TestConformance is the suite in place, on the disk, as the daemon, and with atomic names, in memory, as a user.
func TestConformance(t *testing.T) {
	t.Parallel()
	traits := storagetest.Traits{InPlace: true, Sparse: true, Unmarked: true}
	t.Run("InPlace", func(t *testing.T) {
		t.Parallel()
		storagetest.RunWith(t, traits, func(t *testing.T) storage.Backend { return open(t, efs.Config{}, t.TempDir()) })
	})
	t.Run("AtomicNames", func(t *testing.T) {
		t.Parallel()
		needRoot(t)
		traits := storagetest.Traits{Sparse: true, Unmarked: true}
		storagetest.RunWith(t, traits, func(t *testing.T) storage.Backend {
			dir := tmpfs(t, "512m")
			if err := os.Chown(dir, int(anna.UID), int(anna.GID)); err != nil {
				t.Fatal(err)
			}
			return as(t, open(t, efs.Config{AtomicNames: true, Durable: true}, dir), anna)
		})
	})
}

// open opens a file system that lives as long as the test. Without root it acts as whoever runs the test.
func open(t testing.TB, cfg efs.Config, dir string) *efs.Store {
	t.Helper()
	cfg.Dir, cfg.OwnIdentityOnly = dir, efs.CanImpersonate() != nil
	s, err := efs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// needRoot skips a test that has to act for other users.
func needRoot(t testing.TB) {
	t.Helper()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
}

func as(t testing.TB, s *efs.Store, who storage.Posix) *efs.Store {
	t.Helper()
	mine, err := s.As(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	return mine
}

// Three local accounts; anna and ben have a group in common.
var (
	anna  = storage.Posix{UID: 2001, GID: 2001, Groups: []uint32{3000}}
	ben   = storage.Posix{UID: 2002, GID: 2002, Groups: []uint32{3000, 3001}}
	carol = storage.Posix{UID: 2003, GID: 2003}
)
