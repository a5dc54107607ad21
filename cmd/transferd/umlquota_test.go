package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The limits of anna on the disk of a diskWorld.
const (
	quotaKiB   = 2048
	quotaFiles = 12
)

// setQuota limits the blocks, in KiB, and the inodes of a user (-u) or a group (-g); 0 is no limit.
func (w *diskWorld) setQuota(t *testing.T, kind string, id, blocks, files int) {
	t.Helper()
	mustDo(t, "setquota", kind, strconv.Itoa(id), "0", strconv.Itoa(blocks), "0", strconv.Itoa(files), w.disk)
}

// used is how many KiB a user's files take on the disk.
func (w *diskWorld) used(t *testing.T, uid int) (kib int) {
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

// umlQuota: a user at the limit is refused, whatever they do and over either protocol, nobody else is, and what is freed is free.
func umlQuota(t *testing.T) { newDiskWorld(t, quotaDisk, nil).limits(t) }

func (w *diskWorld) limits(t *testing.T) {
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
func (w *diskWorld) resumed(t *testing.T, local string) {
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
func (w *diskWorld) overFTP(t *testing.T) {
	t.Helper()
	local, _ := file(t, 16_000)
	w.setQuota(t, "-u", 2001, w.used(t, 2001)+8, quotaFiles)
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

// inodes: directories, links and empty files count too. OpenSSH's sftp does not show what the server says, so another client looks
// at that.
func (w *diskWorld) inodes(t *testing.T) {
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
func (w *diskWorld) group(t *testing.T, local string) {
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
