package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/identity/usersfile"
	"github.com/transferd/transferd/storage/efs"
)

// diskWorld is a daemon whose file system is a disk of its own, with users anna and ben over SFTP and FTP.
type diskWorld struct {
	*proc
	disk string // where the disk is mounted, which is the file system or what an NFS server exports
	ftp  string // address of an FTP server with the same users
}

// newDiskWorld has makeDisk mount one; mount shows it elsewhere, nil where it is.
func newDiskWorld(t *testing.T, makeDisk func(*testing.T, string), mount func(disk, dir string)) *diskWorld {
	t.Helper()
	data := t.TempDir()
	dir := filepath.Join(data, "efs")
	w := &diskWorld{disk: dir}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if mount != nil {
		w.disk = t.TempDir()
	}
	makeDisk(t, w.disk)
	efsHomes(t, w.disk)
	if mount != nil {
		mount(w.disk, dir)
	}
	users := filepath.Join(t.TempDir(), "users.yaml")
	text := "role: " + devRole + "\nusers:\n"
	for name, uid := range efsAccounts() {
		text += fmt.Sprintf("  - {name: %s, password_hash: %q, home_directory: /%s/%s, posix_profile: {uid: %d, gid: %d, secondary_gids: [3000]}}\n",
			name, usersfile.HashPassword(ftpPassword), devFileSystem, name, uid, uid)
	}
	if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.proc = startDaemon(t, startOptions{data: data, args: []string{"-users", users}})
	w.efsUsers()
	_, w.ftp = w.ftpServerOf(types.DomainEfs, &types.ProtocolDetails{}, "127.0.0.1:0", types.ProtocolFtp)
	return w
}

// user runs OpenSSH's sftp as a user; whether it must succeed is for the caller to say.
func (w *diskWorld) user(t *testing.T, name, batch string) (said string, ok bool) {
	t.Helper()
	out, err := w.sftpCommand(t.Context(), name, batch).CombinedOutput()
	return string(out), err == nil
}

func (w *diskWorld) must(t *testing.T, name, batch string) {
	t.Helper()
	if said, ok := w.user(t, name, batch); !ok {
		t.Fatalf("%s: %s\n%s", name, batch, said)
	}
}

// refuses runs a batch of anna's that must fail, with no word of what lies behind the daemon.
func (w *diskWorld) refuses(t *testing.T, batch string) {
	t.Helper()
	said, ok := w.user(t, "anna", batch)
	if ok {
		t.Errorf("%s: done beyond the quota\n%s", batch, said)
	}
	w.discreet(t, said)
}

func (w *diskWorld) discreet(t *testing.T, said string) {
	t.Helper()
	for _, secret := range []string{w.disk, w.data, "disk quota", "EDQUOT", "efs:"} {
		if strings.Contains(said, secret) {
			t.Errorf("the client is told %q:\n%s", secret, said)
		}
	}
}

// verdict waits for the one on a file's latest upload and expects it.
func (w *diskWorld) verdict(t *testing.T, name, outcome, evidence string) {
	t.Helper()
	w.await("a verdict on "+name, func() bool { return w.uploadsOf()[name].Ended != nil })
	if v := w.uploadsOf()[name]; v.Outcome != outcome || v.Evidence != evidence {
		t.Errorf("%s: verdict %s (%s), want %s (%s)", name, v.Outcome, v.Evidence, outcome, evidence)
	}
}

// holds compares a file on the disk; nil is none.
func (w *diskWorld) holds(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(w.disk, name))
	switch {
	case want == nil && !errors.Is(err, fs.ErrNotExist):
		t.Errorf("%s is there: %s, %v", name, sum(got), err)
	case want != nil && !bytes.Equal(got, want):
		t.Errorf("%s is %s, %v; want %s", name, sum(got), err, sum(want))
	}
}

// curlFTP is curl as anna, which shows what both sides say.
func (w *diskWorld) curlFTP(t *testing.T, args []string, name string) *exec.Cmd {
	args = append([]string{"-sSv", "-u", "anna:" + ftpPassword, "ftp://" + w.ftp + "/" + name}, args...)
	return exec.CommandContext(t.Context(), "curl", args...)
}

// TestFullDisk: what does not fit is refused over both protocols and leaves nothing; what is freed is free. The disk is in memory.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if err := efs.CanImpersonate(); err != nil {
		t.Skip("not as this user: ", err)
	}
	w := newDiskWorld(t, func(t *testing.T, dir string) {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=1777"); err != nil {
			t.Skip("no file system in memory here: ", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}, nil)
	first, content := file(t, 1_036_000) // leaves three pages
	w.must(t, "anna", "put \""+first+"\" first\n")
	second, _ := file(t, 400_000)
	w.refuses(t, "put \""+second+"\" second\n")
	local, _ := file(t, 16_000)
	said, err := w.curlFTP(t, []string{"-T", local}, "stored").CombinedOutput()
	if err == nil || !strings.Contains(string(said), "< 452 Insufficient storage space") {
		t.Errorf("STOR on a full disk: %v\n%s", err, said)
	}
	w.discreet(t, string(said))
	for _, name := range []string{"second", "stored"} {
		w.verdict(t, name, "refused", "storage")
		w.holds(t, "anna/"+name, nil)
	}
	w.refuses(t, "reput \""+w.longer(t, content)+"\" first\n")
	w.holds(t, "anna/first", content)
	w.must(t, "anna", "rm first\nput \""+second+"\" second\n")
	w.verdict(t, "second", "complete", "closed")
}

// longer is a file that begins with a content and goes on beyond a full disk.
func (w *diskWorld) longer(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "longer")
	if err := os.WriteFile(name, append(bytes.Clone(content), noise(400_000)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
