package sftpd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/sftpd"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
)

// disk is the file system fs-1: a directory, as whoever asks for it.
type disk struct{ *efs.Store }

func (d disk) Backend(_ context.Context, domain, store string) (storage.Backend, error) {
	if domain != "EFS" || store != "fs-1" {
		return nil, fs.ErrNotExist
	}
	return d.Store, nil
}

func (d disk) As(ctx context.Context, id storage.Identity) (storage.Stores, error) {
	s, err := d.Store.As(ctx, *id.Posix)
	if err != nil {
		return nil, err
	}
	return disk{s}, nil
}

// onDisk serves a directory, with the home /fs-1/home.
func onDisk(t *testing.T, dir string, change ...func(*efs.Config)) option {
	t.Helper()
	cfg := efs.Config{Dir: dir, OwnIdentityOnly: os.Getuid() != 0}
	for _, c := range change {
		c(&cfg)
	}
	store, err := efs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 12345, 12345
	}
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o755), os.Chmod(dir, 0o755), os.Chown(home, uid, gid)); err != nil {
		t.Fatal(err)
	}
	return func(r *rig, c *sftpd.Config) {
		c.Stores = disk{store}
		r.settings.Server.Domain = "EFS"
		r.grant.HomeDirectory = "/fs-1/home"
		r.grant.PosixProfile = &server.PosixProfile{Uid: int64(uid), Gid: int64(gid)}
	}
}

// batch runs OpenSSH's sftp.
func (r *rig) batch(t *testing.T, lines ...string) (string, error) {
	t.Helper()
	host, port := r.hostPort(t)
	return doortest.Run(t, strings.Join(lines, "\n")+"\n", "sftp", append(r.sshOptions(), "-b", "-", "-P", port, user+"@"+host)...)
}

// stand makes a file of the user's.
func (r *rig) stand(t *testing.T, file, data string) {
	t.Helper()
	p := r.grant.PosixProfile
	if err := errors.Join(os.WriteFile(file, []byte(data), 0o600), os.Chown(file, int(p.Uid), int(p.Gid))); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, file string, data []byte) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s: %d bytes, %v; want %d bytes", filepath.Base(file), len(got), err, len(data))
	}
}

// TestDiskSpace: df of OpenSSH's sftp shows what the disk has; on S3 the server does not offer it.
func TestDiskSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, onDisk(t, dir))
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	out, err := r.batch(t, "df", "df -i .")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if size := strconv.FormatUint(st.Blocks*uint64(st.Frsize)/1024, 10); !slices.Contains(strings.Fields(out), size) {
		t.Errorf("df does not show the size, %s KiB:\n%s", size, out)
	}
	if out, err := r.batch(t, "df missing"); err == nil {
		t.Errorf("df of a missing file:\n%s", out)
	}
	if out, err := newRig(t).batch(t, "df"); err == nil || !strings.Contains(out, "does not support statvfs") {
		t.Errorf("df on S3: %v\n%s", err, out)
	}
}

func TestOpenSSHOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, onDisk(t, dir))
	home := filepath.Join(dir, "home")
	data := doortest.Random(300 << 10)
	local := doortest.File(t, data)
	then := time.Unix(1_600_000_000, 0)
	if err := errors.Join(os.Chmod(local, 0o750), os.Chtimes(local, then, then)); err != nil {
		t.Fatal(err)
	}
	out, err := r.batch(t,
		fmt.Sprintf("put -p %q one", local),
		fmt.Sprintf("put %q two", local),
		"chmod 600 two", "ln -s one soft", "ln -s /fs-1/home/one absolute", "ln two hard",
		"-ln -s /etc/passwd out", "-ln -s ../../../etc/passwd up", "-chown 0 two", "-get up /dev/null", "ls -la",
		fmt.Sprintf("get absolute %q", local+".back"),
		"rename one three", "rm soft",
	)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wantFile(t, local+".back", data)
	wantFile(t, filepath.Join(home, "three"), data)
	for name, mode := range map[string]fs.FileMode{"three": 0o750, "hard": 0o600} {
		if info, err := os.Stat(filepath.Join(home, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	if info, err := os.Stat(filepath.Join(home, "three")); err != nil || !info.ModTime().Equal(then) {
		t.Errorf("three is of %v, %v", info.ModTime(), err)
	}
	if target, err := os.Readlink(filepath.Join(home, "absolute")); err != nil || target != "one" {
		t.Errorf("the link says %q, %v", target, err)
	}
	for _, name := range []string{"out", "up", "soft"} {
		if _, err := os.Lstat(filepath.Join(home, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, want := range []string{"lrwxrwxrwx", "-rwxr-x---", "Permission denied"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, dir) {
		t.Errorf("a server's path in\n%s", out)
	}
	for _, name := range []string{"home/one", "home/two"} {
		r.journal.Verdict(t, name, session.Complete, session.Closed)
	}
	// A link that somebody else made tells nothing about the machine.
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(home, "foreign")), os.Symlink("../../x", filepath.Join(home, "foreign2"))); err != nil {
		t.Fatal(err)
	}
	c := r.raw(t)
	for _, name := range []string{"foreign", "foreign2"} {
		c.expect(3, 19, str(name))
	}
	c.request(19, str("absolute"))
	if typ, body := c.answer(); typ != 104 || !strings.Contains(string(body), "one") {
		t.Errorf("READLINK: %d %q", typ, body)
	}
	c.request(7, str("absolute")) // LSTAT
	if typ, body := c.answer(); typ != 105 || body[7]&2 == 0 || body[26]>>4 != 0xa {
		t.Errorf("LSTAT: %d %x", typ, body)
	}
}

// OpenSSH's reput goes on where an upload stopped; each end is an upload's end.
func TestReput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, onDisk(t, dir))
	data := doortest.Random(3 << 20)
	for _, n := range []int{1 << 20, 2<<20 + 7, 3 << 20} {
		put := "reput" // needs a file that stands
		if n == 1<<20 {
			put = "put"
		}
		if out, err := r.batch(t, fmt.Sprintf("%s %q file", put, doortest.File(t, data[:n]))); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		wantFile(t, filepath.Join(dir, "home/file"), data[:n])
	}
	var received int64
	for _, v := range r.journal.Verdicts("home/file") {
		if received += v.Received; v.Outcome != session.Complete || v.Object.Size != received {
			t.Errorf("%+v", v)
		}
	}
	if received != 3<<20 {
		t.Errorf("%d bytes received", received)
	}
}

func TestRenames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, onDisk(t, dir))
	for _, name := range []string{"a", "b", "c"} {
		r.stand(t, filepath.Join(dir, "home", name), name)
	}
	c := r.raw(t)
	c.expect(4, 18, str("a"), str("b"))
	c.expect(0, 200, str("posix-rename@openssh.com"), str("a"), str("b"))
	c.expect(4, 200, str("hardlink@openssh.com"), str("b"), str("c"))
	c.expect(0, 200, str("hardlink@openssh.com"), str("b"), str("d"))
	wantFile(t, filepath.Join(dir, "home/b"), []byte("a"))
	wantFile(t, filepath.Join(dir, "home/d"), []byte("a"))
}

// What clients do to a file that is open or stands, byte by byte.
func TestAttributesOfAnUpload(t *testing.T) {
	t.Parallel()
	for _, atomic := range []bool{false, true} {
		t.Run(fmt.Sprint("atomic ", atomic), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := newRig(t, onDisk(t, dir, func(c *efs.Config) { c.AtomicNames = atomic }))
			c := r.raw(t)
			for name, steps := range map[string]struct {
				flags uint32
				do    func(h []byte)
				want  string
			}{
				"cut to what was written": {0x0a, func(h []byte) { c.expect(0, 6, h, u64(0), str("new")); c.expect(0, 10, h, u32(1), u64(3)) }, "new"},
				"cut before":              {0x02, func(h []byte) { c.expect(0, 10, h, u32(1), u64(0)); c.expect(0, 6, h, u64(0), str("new")) }, "new"},
				"cut and go on":           {0x02, func(h []byte) { c.expect(0, 10, h, u32(1), u64(2)); c.expect(0, 6, h, u64(2), str("new")) }, "annew"},
				"cut alone":               {0x02, func(h []byte) { c.expect(0, 10, h, u32(1), u64(2)) }, "an"},
				"patch":                   {0x02, func(h []byte) { c.expect(0, 6, h, u64(3), str("new")) }, "an new file"},
				"append":                  {0x06, func(h []byte) { c.expect(0, 6, h, u64(0), str("new")) }, "an old filenew"},
				"longer":                  {0x1a, func(h []byte) { c.expect(0, 10, h, u32(1), u64(4)); c.expect(0, 6, h, u64(0), str("ab")) }, "ab\x00\x00"},
			} {
				file := filepath.Join(dir, "home", name)
				r.stand(t, file, "an old file")
				c.request(3, str(name), u32(steps.flags), u32(0))
				typ, body := c.answer()
				if typ != 102 {
					t.Fatalf("%s: OPEN answered by %d %q", name, typ, body)
				}
				steps.do(body[4:])
				c.expect(0, 10, body[4:], u32(12), u32(0o640), u32(1_600_000_000), u32(1_600_000_000))
				c.expect(0, 4, body[4:])
				wantFile(t, file, []byte(steps.want))
				if info, err := os.Stat(file); err != nil || info.Mode() != 0o640 || info.ModTime().Unix() != 1_600_000_000 {
					t.Errorf("%s: %v of %v, %v", name, info.Mode(), info.ModTime(), err)
				}
			}
			// A file that is made has the mode that OPEN says, without what others may write.
			c.request(3, str("made"), u32(0x1a), u32(4), u32(0o777))
			if typ, body := c.answer(); typ == 102 {
				c.expect(0, 4, body[4:])
			}
			if info, err := os.Stat(filepath.Join(dir, "home/made")); err != nil || info.Mode() != 0o755 {
				t.Errorf("made: %v, %v", info.Mode(), err)
			}
		})
	}
}

// Nobody works on a file system as the daemon: without a PosixProfile there is no session.
func TestNoPosixProfile(t *testing.T) {
	t.Parallel()
	disk := onDisk(t, t.TempDir())
	r := newRig(t, func(r *rig, c *sftpd.Config) {
		disk(r, c)
		r.grant.PosixProfile = nil
	})
	c := r.bare(t)
	c.packet(1, u32(3))
	c.ended()
	if entry := r.log.Await(t, "ERROR"); !strings.Contains(fmt.Sprint(entry), "needs a PosixProfile") {
		t.Errorf("no reason in the log: %v", entry)
	}
}
