package sftpd_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/sftpd"
)

// The attacker's list, as real requests against a file system: whatever the path is, nothing outside of what the user was
// granted is read, written or learnt to exist.

const secret = "the secret of somebody else"

// fortress is a file system with more in it than the user may have: theirs is home, and of shared one file.
func fortress(t *testing.T, logical bool) (*rig, string) {
	t.Helper()
	dir := t.TempDir()
	disk := onDisk(t, dir)
	r := newRig(t, func(r *rig, c *sftpd.Config) {
		disk(r, c)
		if logical {
			r.grant.HomeDirectoryType, r.grant.HomeDirectory = "LOGICAL", "/mine"
			r.grant.HomeDirectoryMappings = []server.HomeDirectoryMapEntry{
				{Entry: "/mine", Target: "/fs-1/home"}, {Entry: "/mine/sub/deep", Target: "/fs-1/shared/deep"},
				{Entry: "/one.csv", Target: "/fs-1/shared/one.csv", Type: "FILE"},
			}
		}
	})
	home := filepath.Join(dir, "home")
	made := errors.Join(
		os.MkdirAll(filepath.Join(dir, "secret"), 0o777), os.MkdirAll(filepath.Join(dir, "shared/deep"), 0o777),
		os.Mkdir(filepath.Join(home, "sub"), 0o777), os.Chmod(filepath.Join(home, "sub"), 0o777),
		os.Symlink("../secret", filepath.Join(home, "evil")), os.Symlink("../secret/file", filepath.Join(home, "evilfile")),
		os.Symlink("../secret/none", filepath.Join(home, "evilnone")), os.Symlink("/etc", filepath.Join(home, "abs")),
		os.Symlink("../../../../../../../etc", filepath.Join(home, "up")),
	)
	for name, data := range map[string]string{"secret/file": secret, "shared/other.csv": secret, "shared/one.csv": "theirs", "home/sub/file": "theirs"} {
		made = errors.Join(made, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o666), os.Chmod(filepath.Join(dir, name), 0o666))
	}
	mode := fs.FileMode(0o777) // nobody is kept out of the secret but by us
	if !logical {
		mode = 0o700 // whoever has the whole file system is kept out by the kernel
	}
	if err := errors.Join(made, os.Chmod(filepath.Join(dir, "secret"), mode)); err != nil {
		t.Fatal(err)
	}
	return r, dir
}

// outside is all that the user was not granted, as it is.
func outside(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	for _, top := range []string{"secret", "shared/other.csv"} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			data := []byte{}
			if !d.IsDir() {
				data, err = os.ReadFile(path)
			}
			fmt.Fprintln(&all, path, info.Mode(), info.Size(), info.ModTime().UnixNano(), string(data))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fmt.Fprintln(&all, e.Name())
	}
	return all.String()
}

// assault asks everything about a path and gives the answers, one a line.
func (c *raw) assault(path string) string {
	c.t.Helper()
	var answers strings.Builder
	p := str(path)
	for _, request := range [][]byte{
		join([]byte{17}, p), join([]byte{7}, p), join([]byte{19}, p),
		join([]byte{3}, p, u32(0x01), u32(0)), join([]byte{11}, p),
		join([]byte{9}, p, u32(4), u32(0o777)), join([]byte{9}, p, u32(1), u64(0)),
		join([]byte{3}, p, u32(0x02), u32(0)), join([]byte{3}, p, u32(0x06), u32(0)), join([]byte{3}, p, u32(0x1a), u32(0)),
		join([]byte{14}, p, u32(0)), join([]byte{20}, p, str("/mine/link")), join([]byte{20}, str("x"), p),
		join([]byte{200}, str("hardlink@openssh.com"), p, str("/mine/hard")),
		join([]byte{200}, str("posix-rename@openssh.com"), p, str("/mine/moved")),
		join([]byte{18}, p, str("/mine/moved")), join([]byte{13}, p), join([]byte{15}, p),
		join([]byte{200}, str("posix-rename@openssh.com"), str("/mine/sub/file"), p),
	} {
		c.request(request[0], request[1:])
		typ, body := c.answer()
		answer := string(body[4:])
		if typ == 102 { // OPEN and OPENDIR: what is in there?
			answer = "handle: " + c.inside(request[0], str(string(body[8:8+binary.BigEndian.Uint32(body[4:])])))
		}
		fmt.Fprintf(&answers, "%d.%d %q\n", request[0], typ, answer)
	}
	return answers.String()
}

// inside reads from a handle, writes to it and closes it.
func (c *raw) inside(opened byte, h []byte) (found string) {
	c.t.Helper()
	requests := [][]byte{join([]byte{12}, h)}
	if opened == 3 {
		requests = [][]byte{join([]byte{5}, h, u64(0), u32(1000)), join([]byte{6}, h, u64(0), str("overwritten")), join([]byte{10}, h, u32(1), u64(3))}
	}
	for _, request := range append(requests, join([]byte{4}, h)) {
		c.request(request[0], request[1:])
		_, body := c.answer()
		found += string(body[4:])
	}
	return found
}

func TestAttackerOfAMapping(t *testing.T) {
	t.Parallel()
	r, dir := fortress(t, true)
	before := outside(t, dir)
	c := r.raw(t)
	var ways []string
	for _, name := range []string{"file", "none", "", "new"} {
		for _, way := range []string{
			"/secret/%s", "/mine/../secret/%s", "../secret/%s", "../../../../secret/%s", "/mine/./../mine/../secret/%s", "//secret//%s",
			"/fs-1/secret/%s", "/mine/sub/../../secret/%s", "/mine/sub/deep/../../../../secret/%s", "/one.csv/../secret/%s", "/one.csv/%s",
			"/mine/evil/%s", "/mine/sub/../evil/%s", "/mine/evil/../secret/%s", "/mine/evil/./%s", "/mine/up/%s", "/mine/abs/%s",
			"/shared/%s", "/SECRET/%s", "/Mine/evil/%s", "/mine/EVIL/%s", "/mine\x00/../secret/%s", "/secret/%s\x00", "/mine/evil/%s\x00.txt",
			"/mine/\xc0\xae\xc0\xae/secret/%s", "/mine/..\xc0\xafsecret/%s", "\xff/../secret/%s",
			"/mine/sub/deep/../other.csv%s", "/mine/${transfer:UserName}/../../secret/%s", "/${transfer:HomeDirectory}/../secret/%s",
			"/mine\\..\\..\\secret\\%s", "\\secret\\%s", "/mine/..\\../secret/%s", "/mine/\x01/../../secret/%s", "/mine/..\x7f/secret/%s", "/mine/\r\n../secret/%s",
			"/secret./%s", "/secret/./%s.", "/secret/%s/", "/secret/%s/..//file", "/mine./../secret/%s", "/mine/... /../../secret/%s", "//..//secret//%s//",
			"/mine/\xe0\x80\xae\xe0\x80\xae/secret/%s", "/mine/\xf0\x80\x80\xae\xf0\x80\x80\xae/secret/%s", "/mine/．．/secret/%s", "／secret／%s",
			"/mine/\u202e../secret/%s", "/se\u0063\u0301ret/%s", "/mine/" + strings.Repeat("a/", 600) + strings.Repeat("../", 601) + "secret/%s",
			"/secret/" + strings.Repeat("n", 1100) + "/../%s",
			"/..", "/../..", "/mine/evil", "/mine/evilfile", "/mine/evilnone", "/mine/evil/", "/mine/evilfile/.", "/mine/evil/..//evil",
		} {
			ways = append(ways, strings.TrimSuffix(fmt.Sprintf(way, name), "%!(EXTRA string="+name+")"))
		}
	}
	for _, way := range ways {
		if answers := c.assault(way); strings.Contains(answers, secret) || strings.Contains(answers, dir) {
			t.Errorf("%q:\n%s", way, answers)
		}
	}
	if after := outside(t, dir); after != before {
		t.Errorf("outside was\n%sand is\n%s", before, after)
	}
	// What is there and what is not look the same.
	for _, way := range []string{"/secret/%s", "/mine/evil/%s", "/mine/evil%s", "../secret/%s", "/fs-1/secret/%s", "/mine/sub/deep/../%s"} {
		there, not := c.assault(fmt.Sprintf(way, "file")), c.assault(fmt.Sprintf(way, "none"))
		if there != not {
			t.Errorf("%q tells what is there:\n%s\n%s", way, there, not)
		}
	}
	for _, way := range []string{"/mine/evil", "/mine/abs", "/mine/up"} {
		if got := c.assault(way + "/passwd"); strings.Contains(got, "handle") {
			t.Errorf("%q:\n%s", way, got)
		}
	}
	// Names that only look like a way out are names: what they make lies in the home.
	for _, name := range []string{"..%2fsecret%2ffile", "%2e%2e", "．．", "..\\secret\\file", "․․", "∕etc", "....", "..;", "a\u0301", "á", "${transfer:UserName}"} {
		h := c.open(name)
		c.expect(0, 6, h, u64(0), str("mine"))
		c.expect(0, 4, h)
		wantFile(t, filepath.Join(dir, "home", name), []byte("mine"))
	}
	if after := outside(t, dir); after != before {
		t.Errorf("outside was\n%sand is\n%s", before, after)
	}
	listing, err := r.sftp(t).ReadDir("/mine")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range listing {
		if strings.HasPrefix(entry.Name(), "evil") || entry.Name() == "abs" || entry.Name() == "up" {
			t.Errorf("a link is listed: %s", entry.Name())
		}
	}
}

// A user of the whole file system follows links in it as far as the kernel lets them, and none out of it.
func TestAttackerOfAFileSystem(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can keep the user out by permissions")
	}
	r, dir := fortress(t, false)
	before := outside(t, dir)
	c := r.raw(t)
	for _, way := range []string{"/etc/passwd", "/fs-1/../etc/passwd", "/fs-2/x", "../../../etc/passwd", "abs/passwd", "up/passwd", "/fs-1/home/abs/passwd",
		"/fs-1/secret/file", "evil/file", "evilfile", "/fs-1/secret", "evil/new"} {
		if answers := c.assault(way); strings.Contains(answers, secret) || strings.Contains(answers, "root:") || strings.Contains(answers, dir) {
			t.Errorf("%q:\n%s", way, answers)
		}
	}
	for _, target := range []string{"/etc/passwd", "../../etc/passwd", "../../../etc", "/", "/fs-2/x", ""} {
		c.request(20, str(target), str("made"))
		if _, code, _ := c.status(); code == 0 {
			t.Errorf("a link to %q was made", target)
		}
	}
	if after := outside(t, dir); after != before {
		t.Errorf("outside was\n%sand is\n%s", before, after)
	}
}

// Somebody swaps a directory and a link that leads out, as fast as they can, while the user works through it.
func TestSwappedLinks(t *testing.T) {
	t.Parallel()
	for _, logical := range []bool{true, false} {
		t.Run(fmt.Sprint("logical ", logical), func(t *testing.T) {
			t.Parallel()
			r, dir := fortress(t, logical)
			beyond := filepath.Join(dir, "secret") // another part of the store
			if !logical {
				beyond = t.TempDir() // another part of the machine
				if err := errors.Join(os.WriteFile(filepath.Join(beyond, "file"), []byte(secret), 0o666), os.Chmod(beyond, 0o777)); err != nil {
					t.Fatal(err)
				}
			}
			swap := filepath.Join(dir, "home/swap")
			if err := errors.Join(os.Mkdir(swap, 0o777), os.Chmod(swap, 0o777), os.WriteFile(filepath.Join(swap, "file"), []byte("inside"), 0o600),
				os.Symlink(beyond, swap+".link")); err != nil {
				t.Fatal(err)
			}
			if logical {
				if err := errors.Join(os.Remove(swap+".link"), os.Symlink("../secret", swap+".link")); err != nil {
					t.Fatal(err)
				}
			}
			p := r.grant.PosixProfile
			if err := os.Chown(filepath.Join(swap, "file"), int(p.Uid), int(p.Gid)); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			var swapping sync.WaitGroup
			swapping.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := errors.Join(os.Rename(swap, swap+".dir"), os.Rename(swap+".link", swap),
						os.Rename(swap, swap+".link"), os.Rename(swap+".dir", swap)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			c := r.raw(t)
			for range 100 {
				for _, request := range [][]byte{
					join([]byte{3}, str("swap/file"), u32(1), u32(0)), join([]byte{3}, str("swap/new"), u32(0x1a), u32(0)),
					join([]byte{3}, str("swap/file"), u32(0x02), u32(0)), join([]byte{11}, str("swap")),
				} {
					c.request(request[0], request[1:])
					typ, body := c.answer()
					if typ != 102 {
						continue
					}
					if found := c.inside(request[0], str(string(body[8:8+binary.BigEndian.Uint32(body[4:])]))); strings.Contains(found, secret) {
						t.Errorf("read from beyond the link: %q", found)
					}
				}
			}
			close(stop)
			swapping.Wait()
			if data, err := os.ReadFile(filepath.Join(beyond, "file")); err != nil || string(data) != secret {
				t.Errorf("beyond the link stands %q, %v", data, err)
			}
			if entries, err := os.ReadDir(beyond); err != nil || len(entries) != 1 {
				t.Errorf("beyond the link are %v, %v", entries, err)
			}
		})
	}
}
