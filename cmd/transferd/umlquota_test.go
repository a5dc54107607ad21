package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/transfer/types"

	"github.com/transferd/transferd/server/identity/usersfile"
)

// The limits of anna on the disk of a quotaWorld.
const (
	quotaKiB   = 2048
	quotaFiles = 12
)

// quotaWorld is a daemon whose file system is a disk with quotas: anna has one, ben has none.
type quotaWorld struct {
	*proc
	disk string // where the disk is mounted, which is the file system or what an NFS server exports
	ftp  string // address of an FTP server with the same users
}

func newQuotaWorld(t *testing.T, mount func(disk, dir string)) *quotaWorld {
	t.Helper()
	data := t.TempDir()
	dir := filepath.Join(data, "efs")
	w := &quotaWorld{disk: dir}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if mount != nil {
		w.disk = t.TempDir()
	}
	quotaDisk(t, w.disk)
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

// setQuota limits the blocks, in KiB, and the inodes of a user (-u) or a group (-g); 0 is no limit.
func (w *quotaWorld) setQuota(t *testing.T, kind string, id, blocks, files int) {
	t.Helper()
	mustDo(t, "setquota", kind, strconv.Itoa(id), "0", strconv.Itoa(blocks), "0", strconv.Itoa(files), w.disk)
}

// used is how many KiB a user's files take on the disk.
func (w *quotaWorld) used(t *testing.T, uid int) (kib int) {
	t.Helper()
	mustDo(t, "sync")
	for line := range strings.Lines(mustDo(t, "repquota", "-v", "-u", "-n", w.disk)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "#"+strconv.Itoa(uid) {
			kib, err := strconv.Atoi(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	return 0
}

// user runs OpenSSH's sftp as a user; whether it must succeed is for the caller to say.
func (w *quotaWorld) user(t *testing.T, name, batch string) (said string, ok bool) {
	t.Helper()
	out, err := w.sftpCommand(t.Context(), name, batch).CombinedOutput()
	return string(out), err == nil
}

func (w *quotaWorld) must(t *testing.T, name, batch string) {
	t.Helper()
	if said, ok := w.user(t, name, batch); !ok {
		t.Fatalf("%s: %s\n%s", name, batch, said)
	}
}

// refuses runs a batch of anna's that must fail, with no word of what lies behind the daemon.
func (w *quotaWorld) refuses(t *testing.T, batch string) {
	t.Helper()
	said, ok := w.user(t, "anna", batch)
	if ok {
		t.Errorf("%s: done beyond the quota\n%s", batch, said)
	}
	w.discreet(t, said)
}

func (w *quotaWorld) discreet(t *testing.T, said string) {
	t.Helper()
	for _, secret := range []string{w.disk, w.data, "disk quota", "EDQUOT", "efs:"} {
		if strings.Contains(said, secret) {
			t.Errorf("the client is told %q:\n%s", secret, said)
		}
	}
}

// verdict waits for the one on a file's latest upload and expects it.
func (w *quotaWorld) verdict(t *testing.T, name, outcome, evidence string) {
	t.Helper()
	w.await("a verdict on "+name, func() bool { return w.uploadsOf()[name].Ended != nil })
	if v := w.uploadsOf()[name]; v.Outcome != outcome || v.Evidence != evidence {
		t.Errorf("%s: verdict %s (%s), want %s (%s)", name, v.Outcome, v.Evidence, outcome, evidence)
	}
}

// holds compares a file on the disk; nil is none.
func (w *quotaWorld) holds(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(w.disk, name))
	switch {
	case want == nil && !errors.Is(err, fs.ErrNotExist):
		t.Errorf("%s is there: %s, %v", name, sum(got), err)
	case want != nil && !bytes.Equal(got, want):
		t.Errorf("%s is %s, %v; want %s", name, sum(got), err, sum(want))
	}
}

// umlQuota: a user at the limit is refused, whatever they do and over either protocol, nobody else is, and what is freed is free.
func umlQuota(t *testing.T) { newQuotaWorld(t, nil).limits(t) }

func (w *quotaWorld) limits(t *testing.T) {
	w.setQuota(t, "-u", 2001, quotaKiB, quotaFiles)
	ofRoot := w.used(t, 0)
	first, content := file(t, 1_500_000)
	second, more := file(t, 1_000_000)
	w.must(t, "anna", "put \""+first+"\" first\n")
	w.refuses(t, "put \""+second+"\" second\n")
	w.verdict(t, "second", "refused", "storage")
	w.holds(t, "anna/second", nil)
	w.resumed(t, first)
	w.overFTP(t)
	w.inodes(t)
	w.must(t, "ben", "put \""+first+"\" first\nput \""+second+"\" second\nmkdir dir\n")
	w.verdict(t, "second", "complete", "closed")
	w.group(t, second)
	if used := w.used(t, 2001); used < 1_400 || used > quotaKiB {
		t.Errorf("anna's files take %d KiB", used)
	}
	if used := w.used(t, 0); used != ofRoot {
		t.Errorf("root's files took %d KiB and take %d", ofRoot, used)
	}
	w.holds(t, "anna/first", content)
	w.must(t, "anna", "rm first\nput \""+second+"\" again\n")
	w.verdict(t, "again", "complete", "closed")
	w.holds(t, "anna/again", more)
}

// resumed: what is added to a file at the limit is refused, and what stood stays alone.
func (w *quotaWorld) resumed(t *testing.T, local string) {
	t.Helper()
	content := mustRead(t, local)
	begun := filepath.Join(t.TempDir(), "begun")
	if err := os.WriteFile(begun, content[:200_000], 0o600); err != nil {
		t.Fatal(err)
	}
	w.must(t, "anna", "put \""+begun+"\" grown\n")
	w.refuses(t, "reput \""+local+"\" grown\n")
	w.verdict(t, "grown", "refused", "storage")
	w.holds(t, "anna/grown", content[:200_000])
	w.must(t, "anna", "rm grown\n")
}

// overFTP: 552, for STOR, APPE and MKD. The files are small: curl does not look at the reply when it cannot send all.
func (w *quotaWorld) overFTP(t *testing.T) {
	t.Helper()
	local, _ := file(t, 60_000)
	w.setQuota(t, "-u", 2001, w.used(t, 2001)+20, quotaFiles)
	for name, args := range map[string][]string{"stored": nil, "appended": {"--append"}} {
		said, err := w.curlFTP(t, append([]string{"-T", local}, args...), name).CombinedOutput()
		if err == nil || !strings.Contains(string(said), "< 552 Exceeded storage allocation") {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
		w.verdict(t, name, "refused", "storage")
		w.holds(t, "anna/"+name, nil)
	}
	w.setQuota(t, "-u", 2001, quotaKiB, 1)
	said, err := w.curlFTP(t, []string{"-Q", "MKD dir"}, "").CombinedOutput()
	if err == nil || !strings.Contains(string(said), "< 552 Exceeded storage allocation") {
		t.Errorf("MKD: %v\n%s", err, said)
	}
	w.setQuota(t, "-u", 2001, quotaKiB, quotaFiles)
}

// curlFTP is curl as anna, which shows what both sides say.
func (w *quotaWorld) curlFTP(t *testing.T, args []string, name string) *exec.Cmd {
	args = append([]string{"-sSv", "-u", "anna:" + ftpPassword, "ftp://" + w.ftp + "/" + name}, args...)
	return exec.CommandContext(t.Context(), "curl", args...)
}

// inodes: directories, links and empty files count too. OpenSSH's sftp does not show what the server says, so another client looks
// at that.
func (w *quotaWorld) inodes(t *testing.T) {
	t.Helper()
	made := 0
	for said, ok := "", true; ok && made <= quotaFiles; made++ {
		if said, ok = w.user(t, "anna", fmt.Sprintf("mkdir dir%d\n", made)); !ok {
			w.discreet(t, said)
		}
	}
	if made > quotaFiles {
		t.Errorf("anna has %d directories", made)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.refuses(t, "put \""+empty+"\" empty\n")
	w.refuses(t, "ln -s first link\n")
	conn, client := w.dial()
	defer conn.Close()
	const want = `sftp: "Quota exceeded" (SSH_FX_FAILURE)`
	_, created := client.Create("file")
	for what, err := range map[string]error{"MKDIR": client.Mkdir("dir"), "OPEN": created, "SYMLINK": client.Symlink("first", "link")} {
		if err == nil || err.Error() != want {
			t.Errorf("%s at the limit: %v, want %s", what, err, want)
		}
	}
	if err := client.Rename("first", "moved"); err != nil { // takes nothing
		t.Error(err)
	}
	if err := client.Rename("moved", "first"); err != nil {
		t.Error(err)
	}
	for i := range made - 1 {
		if err := client.RemoveDirectory(fmt.Sprintf("dir%d", i)); err != nil {
			t.Error(err)
		}
	}
	w.holds(t, "anna/empty", nil)
}

// group: the quota of a group counts what is the group's.
func (w *quotaWorld) group(t *testing.T, local string) {
	t.Helper()
	const gid = 2002
	w.setQuota(t, "-g", gid, 1, 0)
	if said, ok := w.user(t, "ben", "put \""+local+"\" third\n"); ok {
		t.Errorf("beyond the quota of the group:\n%s", said)
	}
	w.verdict(t, "third", "refused", "storage")
	w.holds(t, "ben/third", nil)
	w.setQuota(t, "-g", gid, 0, 0)
	w.must(t, "ben", "put \""+local+"\" fourth\n")
}
