package efs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
)

// tmpfs mounts a file system of its own, with a size such as 1m, for as long as the test.
func tmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size+",mode=0755"); err != nil {
		t.Skip("tmpfs cannot be mounted here: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// tree makes the same files in any directory.
func tree(t *testing.T, dir string) {
	t.Helper()
	script := `set -e; cd "$1"; umask 022
mkdir -m 750 anna; mkdir -m 711 anna/pass; mkdir -m 744 anna/names; mkdir -m 733 anna/drop; mkdir -m 1777 tmp; mkdir -m 2770 team
for f in private:600 shared:660 readonly:440 public:644; do printf content > anna/${f%:*}; chmod ${f#*:} anna/${f%:*}; done
printf deep > anna/pass/file; printf x > anna/names/file; printf mine > tmp/annas; printf team > team/file; chmod 664 team/file
printf suid > anna/suid; mkdir anna/full; printf x > anna/full/x
chown -R 2001:3000 anna team/file; chown 2001:2001 tmp/annas anna/suid; chown 0:3000 team; chmod 4775 anna/suid; chgrp 3000 anna/suid; chmod 4775 anna/suid
mkdir -m 755 root; printf secret > root/secret; chmod 600 root/secret; printf open > root/open`
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// step is one thing that a user does, by a command and through the store.
type step struct {
	command string // in sh, with $f and $g as the names
	do      func(ctx context.Context, s *efs.Store, f, g string) error
}

func number(n uint32) *uint32 { return &n }

func steps() map[string]step {
	mode, size, when := fs.FileMode(0o640), int64(3), time.Unix(1_000_000_000, 0)
	attrs := func(a storage.Attrs) func(context.Context, *efs.Store, string, string) error {
		return func(ctx context.Context, s *efs.Store, f, _ string) error { return s.SetAttrs(ctx, f, a) }
	}
	return map[string]step{
		"read": {`cat "$f"`, func(ctx context.Context, s *efs.Store, f, _ string) error {
			r, err := s.Open(ctx, f)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, 1<<20))
			return errors.Join(err, r.Close())
		}},
		"list": {`test -d "$f" && ls -U "$f"`, func(ctx context.Context, s *efs.Store, f, _ string) error {
			for _, err := range s.ReadDir(ctx, f) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		"stat":     {`stat -L "$f"`, func(ctx context.Context, s *efs.Store, f, _ string) error { _, err := s.Stat(ctx, f); return err }},
		"write":    {`printf written > "$f"`, func(ctx context.Context, s *efs.Store, f, _ string) error { return put(ctx, s, f, "written", 0, false) }},
		"append":   {`dd of="$f" bs=1 seek=7 conv=notrunc 2>/dev/null <<< more`, func(ctx context.Context, s *efs.Store, f, _ string) error { return put(ctx, s, f, "more\n", 7, true) }},
		"mkdir":    {`mkdir "$f"`, func(ctx context.Context, s *efs.Store, f, _ string) error { return s.Mkdir(ctx, f) }},
		"remove":   {`if test -d "$f" -a ! -L "$f"; then rmdir "$f"; else unlink "$f"; fi`, func(ctx context.Context, s *efs.Store, f, _ string) error { return s.Remove(ctx, f) }},
		"rename":   {`test ! -e "$g" && mv -T "$f" "$g" < /dev/null`, func(ctx context.Context, s *efs.Store, f, g string) error { return s.Rename(ctx, f, g) }},
		"link":     {`ln "$f" "$g"`, func(ctx context.Context, s *efs.Store, f, g string) error { return s.Link(ctx, f, g) }},
		"symlink":  {`ln -s "${f##*/}" "$g"`, func(ctx context.Context, s *efs.Store, f, g string) error { return s.Symlink(ctx, path.Base(f), g) }},
		"chmod":    {`chmod 640 "$f"`, attrs(storage.Attrs{Mode: &mode})},
		"truncate": {`test -e "$f" && truncate -s 3 "$f"`, attrs(storage.Attrs{Size: &size})},
		"touch":    {`touch -c -d @1000000000 "$f" && test -e "$f"`, attrs(storage.Attrs{Atime: &when, Mtime: &when})},
		"team":     {`chgrp 3000 "$f"`, attrs(storage.Attrs{GID: number(3000)})},
		"bens":     {`chgrp 3001 "$f"`, attrs(storage.Attrs{GID: number(3001)})},
		"chown":    {`chown 2002 "$f"`, attrs(storage.Attrs{UID: number(2002)})},
	}
}

func put(ctx context.Context, s *efs.Store, name, content string, off int64, modify bool) error {
	u, err := s.Create(ctx, name, storage.CreateOptions{Modify: modify})
	if err != nil {
		return err
	}
	if _, err := u.WriteAt([]byte(content), off); err != nil {
		return errors.Join(err, u.Abort(ctx))
	}
	_, err = u.Commit(ctx)
	return err
}

// TestAsLocalAccounts lets three users do everything to everything, once through the store and once with a shell under
// the same uid, gid and groups, and compares what was refused and what the two trees are afterwards.
func TestAsLocalAccounts(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root := tmpfs(t, "32m")
	for _, dir := range []string{"ours", "theirs"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		tree(t, filepath.Join(root, dir))
	}
	s := open(t, efs.Config{}, filepath.Join(root, "ours"))
	targets := []string{
		"anna/private", "anna/shared", "anna/readonly", "anna/public", "anna/pass", "anna/pass/file", "anna/pass/new", "anna/names", "anna/names/file",
		"anna/drop/new", "anna/suid", "anna/full", "tmp/annas", "tmp/new", "team/file", "team/new", "root", "root/secret", "root/open", "root/new", "nothing/there",
	}
	order := []string{"stat", "read", "list", "append", "chmod", "team", "bens", "chown", "touch", "link", "symlink", "write", "truncate", "mkdir", "rename", "remove"}
	all := steps()
	users := map[string]storage.Posix{"carol": carol, "ben": ben, "anna": anna}
	refused := 0
	for _, user := range []string{"carol", "ben", "anna"} {
		who := users[user]
		mine := as(t, s, who)
		script, errs := "", []error(nil)
		for _, f := range targets {
			for _, name := range order {
				g := f + "." + user + "." + name
				script += fmt.Sprintf("f=%s; g=%s; (%s) >/dev/null; echo \"$? %s %s\"\n", f, g, all[name].command, name, f)
				errs = append(errs, all[name].do(t.Context(), mine, f, g))
			}
		}
		answers := shell(t, filepath.Join(root, "theirs"), who, script)
		if len(answers) != len(errs) {
			t.Fatalf("%d answers of the shell to %d commands", len(answers), len(errs))
		}
		for i, answer := range answers {
			if local := strings.HasPrefix(answer, "0 "); local != (errs[i] == nil) {
				t.Errorf("%s: a local account's status of %q, through the store: %v", user, answer, errs[i])
			}
			if errors.Is(errs[i], fs.ErrPermission) {
				refused++
			}
		}
		ours, theirs := listing(t, filepath.Join(root, "ours")), listing(t, filepath.Join(root, "theirs"))
		if ours != theirs {
			t.Fatalf("after %s:\n%s\nthrough the store, and with local accounts:\n%s", user, ours, theirs)
		}
	}
	if refused < 200 {
		t.Errorf("only %d refusals: the tree does not ask much", refused)
	}
}

// shell runs a script as a local account would and gives its lines.
func shell(t *testing.T, dir string, who storage.Posix, script string) []string {
	t.Helper()
	groups := "--clear-groups"
	if len(who.Groups) > 0 {
		var list []string
		for _, g := range who.Groups {
			list = append(list, strconv.Itoa(int(g)))
		}
		groups = "--groups=" + strings.Join(list, ",")
	}
	cmd := exec.CommandContext(t.Context(), "setpriv", fmt.Sprintf("--reuid=%d", who.UID), fmt.Sprintf("--regid=%d", who.GID), groups, "bash", "-c", script)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// listing is everything about a tree but its times and inodes.
func listing(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c",
		`cd "$1" && find . -printf '%P %M %U %G %n %l ' \( -type d -printf '\n' -o -type l -printf '\n' -o -printf '%s ' -exec md5sum -z {} \; -printf '\n' \) | tr '\0' ' ' | LC_ALL=C sort`, "sh", dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestManySessions: 100 sessions of two users and the daemon's own work at once, on threads that are shared by all. Each
// file belongs to who made it, and nobody ever reads what is another's.
func TestManySessions(t *testing.T) {
	t.Parallel()
	needRoot(t)
	root := tmpfs(t, "64m")
	tree(t, root)
	s := open(t, efs.Config{AtomicNames: true}, root)
	if err := put(t.Context(), as(t, s, ben), "tmp/bens", "ben's", 0, false); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "tmp/bens"), 0o600); err != nil {
		t.Fatal(err)
	}
	var sessions sync.WaitGroup
	for i := range 110 {
		secret, uid := "tmp/bens", anna.UID
		mine := as(t, s, anna)
		switch {
		case i >= 100:
			mine, uid, secret = s, 0, ""
		case i%2 == 1:
			mine, uid, secret = as(t, s, ben), ben.UID, "anna/private"
		}
		sessions.Go(func() { session(t, mine, i, uid, secret) })
	}
	sessions.Wait()
}

// session is what one of them does.
func session(t *testing.T, s *efs.Store, i int, uid uint32, secret string) {
	ctx := t.Context()
	for round := range 20 {
		name := fmt.Sprintf("team/%d-%d", i, round)
		if err := put(ctx, s, name, name, 0, false); err != nil {
			t.Error(err)
			return
		}
		fi, err := s.Stat(ctx, name)
		if err != nil {
			t.Error(err)
			return
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != 3000 || fi.Size() != int64(len(name)) {
			t.Errorf("%s: uid %d, gid %d, %d bytes; want uid %d and the directory's group", name, st.Uid, st.Gid, fi.Size(), uid)
		}
		for _, name := range []string{"root/secret", secret} {
			if name == "" || uid == 0 {
				continue
			}
			if _, err := s.Open(ctx, name); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("uid %d opens %s: %v", uid, name, err)
			}
		}
		if err := s.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
}

// TestAs: which identities there are.
func TestAs(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	s := open(t, efs.Config{}, dir)
	for _, none := range []storage.Posix{{UID: 1<<32 - 1}, {GID: 1<<32 - 1}, {Groups: []uint32{1<<32 - 1}}} {
		if _, err := s.As(t.Context(), none); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%+v: %v", none, err)
		}
	}
	if err := put(t.Context(), as(t, s, storage.Posix{}), "roots", "x", 0, false); err != nil { // uid 0 is root, as on AWS
		t.Fatal(err)
	}
	if err := put(t.Context(), as(t, s, anna), "annas", "x", 0, false); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("anna writes into root's directory: %v", err)
	}
	own, err := efs.New(efs.Config{Dir: dir, OwnIdentityOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := own.As(t.Context(), anna); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "acts as itself alone") {
		t.Errorf("another identity: %v", err)
	}
	if _, err := own.As(t.Context(), storage.Posix{Groups: []uint32{3000}}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a group that the daemon has not: %v", err)
	}
	if _, err := own.As(t.Context(), storage.Posix{}); err != nil {
		t.Errorf("the daemon's own identity: %v", err)
	}
	if err := own.Close(); err != nil {
		t.Error(err)
	}
}
