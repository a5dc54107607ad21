package efs_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/storagetest"
)

// TestEscapes: names and links that lead out of the store lead nowhere.
func TestEscapes(t *testing.T) {
	t.Parallel()
	ctx, outer := t.Context(), t.TempDir()
	dir := filepath.Join(outer, "store")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(outer, "secret"), []byte("secret"), 0o644)); err != nil {
		t.Fatal(err)
	}
	s := open(t, efs.Config{}, dir)
	for name, target := range map[string]string{"up": "../secret", "absolute": filepath.Join(outer, "secret"), "dir": "..", "inside": dir, "proc": "/proc/self/root", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"up", "absolute", "dir/secret", "dir/new", "inside/x", "proc/etc/passwd", "loop", "../secret", "/etc/passwd", ".", "..", "a/../../secret", "a//b", "a\x00b", "dir/store/x"} {
		for what, err := range attempts(ctx, s, name) {
			if err == nil {
				t.Errorf("%s of %q succeeded", what, name)
			}
		}
	}
	if got, err := os.ReadFile(filepath.Join(outer, "secret")); err != nil || string(got) != "secret" {
		t.Errorf("the file outside: %q, %v", got, err)
	}
	if entries, err := os.ReadDir(outer); err != nil || len(entries) != 2 {
		t.Errorf("the directory outside: %v, %v", entries, err)
	}
}

// attempts are what must not come through.
func attempts(ctx context.Context, s *efs.Store, name string) map[string]error {
	_, opened := s.Open(ctx, name)
	_, stated := s.Stat(ctx, name)
	mode := fs.FileMode(0o777)
	return map[string]error{
		"open": opened, "stat": stated, "write": put(ctx, s, name, "x", 0, false), "modify": put(ctx, s, name, "x", 0, true),
		"chmod": s.SetAttrs(ctx, name, storage.Attrs{Mode: &mode}), "mkdir": s.Mkdir(ctx, name+"/below"),
	}
}

// TestSwappedDirectory: while a directory turns into a link to the outside and back, again and again, nothing outside is
// read or changed.
func TestSwappedDirectory(t *testing.T) {
	t.Parallel()
	ctx, outer := t.Context(), t.TempDir()
	inner, outside := filepath.Join(outer, "store"), filepath.Join(outer, "outside")
	for _, dir := range []string{inner, outside, filepath.Join(inner, "x")} {
		if err := errors.Join(os.Mkdir(dir, 0o777), os.WriteFile(filepath.Join(dir, "f"), []byte(filepath.Base(dir)), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(inner, "link")); err != nil {
		t.Fatal(err)
	}
	s := open(t, efs.Config{}, inner)
	done := make(chan struct{})
	var attackers sync.WaitGroup
	attackers.Go(func() {
		x, link, third := filepath.Join(inner, "x"), filepath.Join(inner, "link"), filepath.Join(inner, "third")
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := errors.Join(os.Rename(x, third), os.Rename(link, x), os.Rename(x, link), os.Rename(third, x)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var clients sync.WaitGroup
	for worker := range 4 {
		clients.Go(func() {
			for i := range 300 {
				name := fmt.Sprintf("x/new-%d-%d", worker, i)
				if r, err := s.Open(ctx, "x/f"); err == nil {
					got := make([]byte, 7)
					n, _ := r.ReadAt(got, 0)
					if string(got[:n]) != "x" {
						t.Errorf("read %q", got[:n])
					}
					_ = r.Close()
				}
				_ = put(ctx, s, name, "x", 0, false) // may fail, may succeed inside: the outside is looked at below
				_ = s.Mkdir(ctx, name+".d")
				_ = s.Rename(ctx, name, name+".renamed")
				_ = s.Symlink(ctx, "f", name+".link")
				_ = s.Remove(ctx, "x/f.none")
			}
		})
	}
	clients.Wait()
	close(done)
	attackers.Wait()
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside are now %d entries, %v", len(entries), err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "f")); err != nil || string(got) != "outside" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
}

// TestPipe: what is no file holds nobody up and is not written.
func TestPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	s := open(t, efs.Config{}, dir)
	if _, err := s.Open(t.Context(), "pipe"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("open: %v", err)
	}
	if _, err := s.Create(t.Context(), "pipe", storage.CreateOptions{}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("create: %v", err)
	}
}

// TestFull: a file that does not fit is refused and leaves nothing.
func TestFull(t *testing.T) {
	t.Parallel()
	for _, atomic := range []bool{false, true} {
		s := open(t, efs.Config{AtomicNames: atomic}, tmpfs(t, "1m"))
		u, err := s.Create(t.Context(), "big", storage.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for off := int64(0); err == nil && off < 8<<20; off += 64 << 10 {
			_, err = u.WriteAt(make([]byte, 64<<10), off)
		}
		if !errors.Is(err, storage.ErrNoSpace) {
			t.Errorf("a write into a full file system: %v", err)
		}
		if err := u.Abort(t.Context()); err != nil {
			t.Error(err)
		}
		if err := put(t.Context(), s, "small", strings.Repeat("x", 500_000), 0, false); err != nil {
			t.Errorf("after the big one was dropped: %v", err)
		}
	}
}

// TestFarOffset: offsets beyond what fits into 32 bits, or on the disk.
func TestFarOffset(t *testing.T) {
	t.Parallel()
	s := open(t, efs.Config{}, t.TempDir())
	const far = 5 << 40
	err := put(t.Context(), s, "far", "x", far-1, false)
	if errors.Is(err, storage.ErrTooLarge) {
		t.Skip("no sparse file of 5 TiB here")
	}
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := s.Stat(t.Context(), "far"); err != nil || fi.Size() != far {
		t.Errorf("%v, %v; want 5 TiB", fi, err)
	}
	// tmpfs takes that too.
	if err := put(t.Context(), s, "farther", "x", 1<<63-10, false); err != nil && !errors.Is(err, storage.ErrTooLarge) && !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("at the end of all offsets: %v", err)
	}
}

func TestLongName(t *testing.T) {
	t.Parallel()
	s := open(t, efs.Config{}, t.TempDir())
	if err := put(t.Context(), s, strings.Repeat("n", 256), "x", 0, false); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a name of 256 bytes: %v", err)
	}
}

// TestAtomicNames: until Commit the old file stands, whole; the hidden one cannot be seen or named; mode and permissions
// of the old one count.
func TestAtomicNames(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	s := open(t, efs.Config{AtomicNames: true}, dir)
	storagetest.Write(t, s, "f", []byte("old"))
	mode := fs.FileMode(0o604)
	if err := s.SetAttrs(ctx, "f", storage.Attrs{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	u, err := s.Create(ctx, "f", storage.CreateOptions{ID: "id", Modify: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte("er"), 3); err != nil {
		t.Fatal(err)
	}
	if got := storagetest.Read(t, s, "f"); string(got) != "old" {
		t.Errorf("before Commit: %q", got)
	}
	for fi := range s.ReadDir(ctx, "") {
		if fi.Name() != "f" {
			t.Errorf("the listing shows %s", fi.Name())
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v; want the file and a hidden one", entries, err)
	}
	for what, err := range attempts(ctx, s, entries[0].Name()) {
		if err == nil {
			t.Errorf("%s of %s succeeded", what, entries[0].Name())
		}
	}
	if _, err := u.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	fi, err := s.Stat(ctx, "f")
	if got := storagetest.Read(t, s, "f"); string(got) != "older" || err != nil || fi.Mode() != mode {
		t.Errorf("after Commit: %q, %v, %v", got, fi, err)
	}
}

// TestRemovedMeanwhile: bytes of a file that somebody removed are nowhere, and Commit says so.
func TestRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	s := open(t, efs.Config{}, t.TempDir())
	u, err := s.Create(t.Context(), "f", storage.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("commit of a removed file: %v", err)
	}
}

// TestDescriptors: nothing stays open. It runs alone: the process's descriptors are counted.
func TestDescriptors(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	dir := t.TempDir()
	for _, atomic := range []bool{false, true} {
		s := open(t, efs.Config{AtomicNames: atomic, Durable: true}, dir)
		everything(t, s) // what the runtime opens for itself the first time
		before := count()
		for range 20 {
			everything(t, s)
		}
		if after := count(); after != before {
			t.Errorf("atomic names %v: %d descriptors, %d before", atomic, after, before)
		}
	}
}

// everything calls each method, with and without success.
func everything(t *testing.T, s *efs.Store) {
	ctx := t.Context()
	content := storagetest.Bytes(1, 1000)
	storagetest.Write(t, s, "f", content)
	storagetest.Write(t, s, "f", content)
	_ = storagetest.Read(t, s, "f")
	for _, modify := range []bool{false, true} {
		u, err := s.Create(ctx, "g", storage.CreateOptions{ID: "x", Modify: modify})
		if err != nil {
			t.Fatal(err)
		}
		if err := u.Abort(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Copy(ctx, "f", "", s, "copy", true); err != nil {
		t.Fatal(err)
	}
	size := int64(10)
	if err := errors.Join(s.Replace(ctx, "copy", "copy2"), s.Mkdir(ctx, "d"), s.Symlink(ctx, "f", "l"), s.Link(ctx, "f", "h"),
		s.SetAttrs(ctx, "f", storage.Attrs{Size: &size}), s.Rename(ctx, "l", "l2")); err != nil {
		t.Fatal(err)
	}
	for range s.ReadDir(ctx, "") {
		break
	}
	for range s.ReadDir(ctx, "f") {
	}
	if _, err := s.Resume(ctx, "f", storage.DeadUpload{ID: "y"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Mkdir(ctx, "d"); !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	for name := range map[string]error{"none": nil, "f/below": nil, "none/below": nil, "d": nil} {
		_ = put(ctx, s, name, "x", 0, false)
		_, _ = s.Copy(ctx, "f", "", s, name, false)
		_ = s.Rename(ctx, name, "f")
		_, _ = s.ReadLink(ctx, name)
		_, _ = s.Resume(ctx, name, storage.DeadUpload{ID: "z"})
	}
	for _, name := range []string{"h", "l2", "copy2", "d", "f"} {
		if err := s.Remove(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Remove(ctx, "none")
}

// TestUnprivileged: a process that cannot act for others says at once what it lacks.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	needRoot(t)
	cmd := program(t, "unprivileged", "setpriv", "--bounding-set=-setuid,-setgid")
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if want := "this process (uid 0) lacks CAP_SETGID and CAP_SETUID"; !strings.Contains(string(out), want) {
		t.Errorf("%s\nwant: %s", out, want)
	}
}

// TestAmbientCapabilities: a daemon that is not root and has capabilities, also such as pass all permissions, acts for
// users who have none of them.
func TestAmbientCapabilities(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program") // where another uid may run it
	content, err := os.ReadFile(self)
	if err := errors.Join(err, os.WriteFile(program, content, 0o755), os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755),
		os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600), os.Chmod(filepath.Join(dir, "secret"), 0)); err != nil {
		t.Fatal(err)
	}
	for _, caps := range []string{"+setuid,+setgid", "+setuid,+setgid,+chown,+dac_override,+dac_read_search,+fowner,+fsetid"} {
		cmd := exec.CommandContext(t.Context(), "setpriv", "--reuid=1999", "--regid=1999", "--clear-groups", "--inh-caps="+caps, "--ambient-caps="+caps, program)
		cmd.Env = append(os.Environ(), childTask+"=ambient")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasSuffix(string(out), fmt.Sprintf("\ndaemon opens it: %v\n", strings.Contains(caps, "dac"))) {
			t.Errorf("%s: %v: %s", caps, err, out)
		}
	}
}

// ambient says who can open a file that nobody may open.
func ambient(ctx context.Context) error {
	s, err := efs.New(efs.Config{Dir: "."})
	if err != nil {
		return err
	}
	opens := func(s *efs.Store) bool {
		r, err := s.Open(ctx, "secret")
		if err == nil {
			err = r.Close()
		}
		return err == nil
	}
	for i := range 50 {
		user, err := s.As(ctx, storage.Posix{UID: anna.UID, GID: anna.GID, Groups: anna.Groups})
		if err != nil {
			return err
		}
		if opens(user) {
			return errors.New("a user passes the permissions of files")
		}
		name := fmt.Sprint("new", i)
		if err := put(ctx, user, name, "x", 0, false); err != nil {
			return err
		}
		fi, err := s.Stat(ctx, name)
		if err != nil {
			return err
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != anna.UID || st.Gid != anna.GID {
			return fmt.Errorf("the user's file is %d:%d's", st.Uid, st.Gid)
		}
		if err := user.Remove(ctx, name); err != nil {
			return err
		}
	}
	fmt.Println("\ndaemon opens it:", opens(s))
	return s.Close()
}

// TestKilled: a process is killed while it writes; what it had been told was taken is there afterwards, under the name.
func TestKilled(t *testing.T) {
	t.Parallel()
	content := storagetest.Bytes(70, 64<<20)
	for task, cfg := range map[string]efs.Config{"write": {}, "write-atomic": {AtomicNames: true}} {
		t.Run(task, func(t *testing.T) {
			t.Parallel()
			cmd := program(t, task)
			cmd.Dir = t.TempDir()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			taken := 0
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if taken, err = strconv.Atoi(lines.Text()); err != nil {
					t.Errorf("%q: %v", lines.Text(), err)
				}
				if taken > 5<<20 {
					break
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // killed
			s := open(t, cfg, cmd.Dir)
			if _, err := s.Stat(t.Context(), "f"); (err == nil) == cfg.AtomicNames {
				t.Errorf("before the resumption: %v", err)
			}
			for range 2 {
				obj, err := s.Resume(t.Context(), "f", storage.DeadUpload{ID: "killed"})
				got := storagetest.Read(t, s, "f")
				if err != nil || obj.Size != int64(len(got)) || len(got) < taken || !bytes.HasPrefix(content, got) {
					t.Fatalf("resumed: %+v, %v; %d bytes, of which %d were taken", obj, err, len(got), taken)
				}
			}
			if entries, err := os.ReadDir(cmd.Dir); err != nil || len(entries) != 1 {
				t.Errorf("left: %v, %v", entries, err)
			}
		})
	}
}

// child is this program as another process.
func child(task string) int {
	if err := runChild(context.Background(), task); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func runChild(ctx context.Context, task string) error {
	if call, found := strings.CutPrefix(task, "refused "); found {
		return refused(ctx, call)
	}
	if task == "ambient" {
		return ambient(ctx)
	}
	if task == "unprivileged" {
		_, err := efs.New(efs.Config{Dir: "."})
		fmt.Println(err)
		s, err := efs.New(efs.Config{Dir: ".", OwnIdentityOnly: true})
		if err != nil {
			return err
		}
		if _, err := s.As(ctx, storage.Posix{}); err != nil {
			return err
		}
		return s.Close()
	}
	s, err := efs.New(efs.Config{Dir: ".", AtomicNames: task == "write-atomic", OwnIdentityOnly: true})
	if err != nil {
		return err
	}
	u, err := s.Create(ctx, "f", storage.CreateOptions{ID: "killed"})
	if err != nil {
		return err
	}
	content := storagetest.Bytes(70, 64<<20)
	for off := 0; off < len(content); off += 32 << 10 {
		if _, err := u.WriteAt(content[off:off+32<<10], int64(off)); err != nil {
			return err
		}
		fmt.Println(off + 32<<10)
	}
	select {}
}
