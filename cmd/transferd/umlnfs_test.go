package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// umlNFS: users of a file system on NFS are who they are on a disk, with the server's root_squash, in the versions there are.
func umlNFS(t *testing.T) {
	startNFS(t)
	for name, options := range map[string]string{"4.2": "vers=4.2", "4.0": "vers=4.0", "3": "vers=3,nolock"} {
		t.Run(name, func(t *testing.T) {
			w := newDiskWorld(t, quotaDisk, func(disk, dir string) { mountNFS(t, disk, dir, options) })
			w.twoAccounts(t, filepath.Join(w.disk, "anna"))
		})
		t.Run(name+" names", func(t *testing.T) {
			w := newDiskWorld(t, quotaDisk, func(disk, dir string) { mountNFS(t, disk, dir, options) })
			w.names(t)
			w.behind(t)
		})
		t.Run(name+" quota", func(t *testing.T) {
			newDiskWorld(t, quotaDisk, func(disk, dir string) { mountNFS(t, disk, dir, options) }).limits(t)
		})
	}
}

// startNFS starts the kernel's NFS server. It would wait for clients to come back, but there were none.
func startNFS(t *testing.T) {
	t.Helper()
	mustDo(t, "mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
	mustDo(t, "mount", "-t", "rpc_pipefs", "rpc", "/run/rpc_pipefs")
	if _, err := os.Stat("/etc/nfs.conf"); err == nil { // Debian's has manage-gids: groups would be those that the server knows
		mustDo(t, "mount", "--bind", "/dev/null", "/etc/nfs.conf")
	}
	mustDo(t, "rpcbind", "-w")
	mustDo(t, "rpc.mountd")
	mustDo(t, "rpc.nfsd", "4")
	if err := os.WriteFile("/proc/fs/nfsd/v4_end_grace", []byte("Y"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// mountNFS exports a directory and mounts it over NFS until the test ends.
func mountNFS(t *testing.T, disk, dir, options string) {
	t.Helper()
	export, from := "127.0.0.1:"+disk, "127.0.0.1:/" // fsid=0 is the root that version 4 mounts from
	if strings.HasPrefix(options, "vers=3") {
		from = export
	}
	mustDo(t, "exportfs", "-o", "rw,no_subtree_check,root_squash,insecure,fsid=0", export)
	mustDo(t, "mount", "-t", "nfs", "-o", options, from, dir)
	t.Cleanup(func() {
		mustDo(t, "umount", dir)
		mustDo(t, "exportfs", "-u", export)
		mustDo(t, "exportfs", "-f") // the server lets go of the disk
	})
}

// names: resumed uploads, renames onto names that stand and that do not, of one's own files and of others' in a directory that a
// group shares, and links.
func (w *diskWorld) names(t *testing.T) {
	t.Helper()
	shared := filepath.Join(w.disk, "shared")
	if err := errors.Join(os.Mkdir(shared, 0o770), os.Chown(shared, 0, 3000), os.Chmod(shared, 0o770|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	local, content := file(t, 300_000)
	part := filepath.Join(t.TempDir(), "part")
	if err := os.WriteFile(part, content[:100_000], 0o600); err != nil {
		t.Fatal(err)
	}
	w.must(t, "anna", "put \""+part+"\" resumed\nreput \""+local+"\" resumed\nput \""+part+"\" ../shared/old\nchmod 600 ../shared/old\n"+
		"put \""+part+"\" replaced\nput \""+local+"\" other\nrename other replaced\nmkdir dir\nrename dir moved\nln -s resumed link\nln resumed hard\n")
	for _, name := range []string{"resumed", "replaced", "link", "hard"} {
		w.holds(t, "anna/"+name, content)
	}
	w.must(t, "ben", "put \""+local+"\" ../shared/his\n")
	w.env["SFTP_USER"] = "ben"
	conn, client := w.dial()
	defer conn.Close()
	if err := client.Rename("../shared/old", "../shared/his"); err == nil {
		t.Error("a rename has replaced a file")
	}
	if err := client.Rename("../shared/old", "../shared/new"); err != nil { // which he may not read or link
		t.Error(err)
	}
	w.holds(t, "shared/old", nil)
	w.holds(t, "shared/new", content[:100_000])
	w.holds(t, "shared/his", content)
	if err := client.Rename("../anna/resumed", "stolen"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("out of anna's directory: %v", err)
	}
	w.holds(t, "ben/stolen", nil)
	w.holds(t, "anna/resumed", content)
	for name, uid := range map[string]uint32{"shared/new": 2001, "shared/his": 2002} {
		fi, err := os.Stat(filepath.Join(w.disk, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != 3000 {
			t.Errorf("%s is of %d:%d", name, st.Uid, st.Gid)
		}
	}
}

// behind: what another machine does to files that are open here. One that it removes is refused at CLOSE, and one that it
// writes is what is read next.
func (w *diskWorld) behind(t *testing.T) {
	t.Helper()
	w.env["SFTP_USER"] = "anna"
	conn, client := w.dial()
	defer conn.Close()
	content := noise(200_000)
	f, err := client.Create("removed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.disk, "anna", "removed")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err == nil {
		t.Error("a file that is nowhere was closed well")
	} else {
		w.discreet(t, err.Error())
	}
	w.verdict(t, "removed", "refused", "storage")
	for range 2 {
		content := noise(200_000)
		if err := os.WriteFile(filepath.Join(w.disk, "anna", "changed"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := client.Open("changed")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, content) {
			t.Errorf("what another machine wrote is %s, %v; want %s", sum(got), err, sum(content))
		}
	}
}
