package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/storage/efs"
)

// TestClients: what real clients send is what the store holds and what comes back, on both domains.
func TestClients(t *testing.T) {
	t.Parallel()
	for domain, start := range map[string]func(*testing.T) (*proc, func(string) []byte){
		"S3": func(t *testing.T) (*proc, func(string) []byte) {
			p := startDaemon(t, startOptions{})
			return p, p.object
		},
		"EFS": func(t *testing.T) (*proc, func(string) []byte) {
			if err := efs.CanImpersonate(); err != nil {
				t.Skip("not as this user: ", err)
			}
			p := startDaemon(t, startOptions{})
			p.efsServer()
			return p, func(name string) []byte { return mustRead(t, filepath.Join(p.env["EFS_DIR"], "anna", name)) }
		},
	} {
		t.Run(domain, func(t *testing.T) {
			t.Parallel()
			p, stored := start(t)
			for name, c := range clients() {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					up := makeTree(t)
					down := filepath.Join(t.TempDir(), "down")
					c(t, p, up, name, down)
					for _, file := range tree() {
						want := mustRead(t, filepath.Join(up, file.name))
						if got := stored(name + "/" + file.name); !bytes.Equal(got, want) {
							t.Errorf("%s is %s, sent %s", file.name, sum(got), sum(want))
						}
						if got, err := os.ReadFile(filepath.Join(down, file.name)); err != nil || !bytes.Equal(got, want) {
							t.Errorf("%s came back as %s, %v; sent %s", file.name, sum(got), err, sum(want))
						}
					}
				})
			}
		})
	}
}

type treeFile struct {
	name string
	size int
}

// tree is what every client transfers.
func tree() []treeFile {
	return []treeFile{{"empty", 0}, {"one", 1}, {"large.bin", 9<<20 + 7}, {"sub/with space", 70_001}, {"sub/deeper/ünïcode", 32 << 10}}
}

func makeTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "up")
	for _, f := range tree() {
		name := filepath.Join(dir, f.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, noise(f.size), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// clients send a folder to a new one of the server and fetch it again.
func clients() map[string]func(t *testing.T, p *proc, up, remote, down string) {
	return map[string]func(t *testing.T, p *proc, up, remote, down string){
		"openssh": func(t *testing.T, p *proc, up, remote, down string) {
			half := filepath.Join(t.TempDir(), "half")
			content := mustRead(t, filepath.Join(up, "large.bin"))
			if err := os.WriteFile(half, content[:len(content)/2], 0o600); err != nil {
				t.Fatal(err)
			}
			batch(t, p, fmt.Sprintf("mkdir %[2]s\nput -R %[1]q/* %[2]s\nput %[3]q %[2]s/large.bin\nreput %[1]q/large.bin %[2]s/large.bin\nrename %[2]s %[2]s-moved\nrename %[2]s-moved %[2]s\nget -R %[2]s %[4]q", up, remote, half, down))
			if err := os.Truncate(filepath.Join(down, "large.bin"), 1<<20); err != nil {
				t.Fatal(err)
			}
			batch(t, p, fmt.Sprintf("reget %s/large.bin %q", remote, filepath.Join(down, "large.bin")))
		},
		"lftp": func(t *testing.T, p *proc, up, remote, down string) {
			script := fmt.Sprintf("set cmd:fail-exit yes; set net:max-retries 1; set sftp:connect-program '%s'; open -u %s, -p %s sftp://%s; mirror -R -P 4 %q %s; mirror -P 4 %s %q; bye",
				sshProgram(p), p.env["SFTP_USER"], p.env["SFTP_PORT"], p.env["SFTP_HOST"], up, remote, remote, down)
			succeed(t, exec.CommandContext(t.Context(), "lftp", "-c", script))
		},
		"rclone": func(t *testing.T, p *proc, up, remote, down string) {
			at := fmt.Sprintf(":sftp,host=%s,port=%s,user=%s,key_file=%q,shell_type=none,set_modtime=false:%s", p.env["SFTP_HOST"], p.env["SFTP_PORT"], p.env["SFTP_USER"], p.env["SFTP_KEY"], remote)
			for _, args := range [][]string{{"copy", up, at}, {"check", "--download", up, at}, {"copy", at, down}} {
				cmd := exec.CommandContext(t.Context(), "rclone", append(args, "--size-only", "--retries", "1")...)
				cmd.Env = append(os.Environ(), "RCLONE_CONFIG="+filepath.Join(t.TempDir(), "none"))
				succeed(t, cmd)
			}
		},
		"psftp": func(t *testing.T, p *proc, up, remote, down string) {
			psftp(t, p, fmt.Sprintf("put -r %q %s\nget -r %s %q\n", up, remote, remote, down))
		},
		"sshfs": func(t *testing.T, p *proc, up, remote, down string) {
			mount := mountSSHFS(t, p)
			at := filepath.Join(mount, remote)
			succeed(t, exec.CommandContext(t.Context(), "cp", "-r", up, at))
			succeed(t, exec.CommandContext(t.Context(), "cp", "-r", at, down))
			if p.env["SFTP_USER"] == devUser {
				return // files of S3 cannot be changed in their midst
			}
			changeThrough(t, at)
			if got := mustRead(t, filepath.Join(p.env["EFS_DIR"], "anna", remote, "changed")); string(got) != "one two THREE four five" {
				t.Errorf("what was changed through the mount is %q", got)
			}
		},
	}
}

// psftp is PuTTY's client with a batch of commands.
func psftp(t *testing.T, p *proc, commands string) {
	t.Helper()
	ppk, script := filepath.Join(t.TempDir(), "key.ppk"), filepath.Join(t.TempDir(), "script")
	succeed(t, exec.CommandContext(t.Context(), "puttygen", p.env["SFTP_KEY"], "-O", "private", "-o", ppk))
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-batch", "-P", p.env["SFTP_PORT"], "-i", ppk, "-b", script}
	for _, key := range hostKeyPrints(t, p) {
		args = append(args, "-hostkey", key)
	}
	cmd := exec.CommandContext(t.Context(), "psftp", append(args, p.env["SFTP_USER"]+"@"+p.env["SFTP_HOST"])...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	succeed(t, cmd)
}

// batch is OpenSSH's sftp, in a subtest.
func batch(t *testing.T, p *proc, lines string) {
	t.Helper()
	succeed(t, p.sftpCommand(t.Context(), p.env["SFTP_USER"], lines+"\n"))
}

func succeed(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// sshProgram is OpenSSH's ssh for clients that run it through a shell.
func sshProgram(p *proc) string {
	return "ssh -a -x " + strings.Join(p.sshOptions(), " ")
}

// hostKeyPrints are the fingerprints of the daemon's host keys, as PuTTY writes them.
func hostKeyPrints(t *testing.T, p *proc) []string {
	t.Helper()
	known := filepath.Join(t.TempDir(), "known")
	scan, err := exec.CommandContext(t.Context(), "ssh-keyscan", "-T", "60", "-p", p.env["SFTP_PORT"], p.env["SFTP_HOST"]).Output()
	if err == nil {
		err = os.WriteFile(known, scan, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-l", "-f", known).Output()
	if err != nil {
		t.Fatal(err)
	}
	var prints []string
	for line := range strings.Lines(string(out)) {
		prints = append(prints, strings.Fields(line)[1])
	}
	return prints
}

// mountSSHFS mounts the user's home, if this machine lets anybody mount with FUSE.
func mountSSHFS(t *testing.T, p *proc) string {
	t.Helper()
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		t.Skip("no FUSE on this machine: ", err)
	}
	if err := errors.Join(err, fuse.Close()); err != nil {
		t.Skip("no FUSE on this machine: ", err)
	}
	dir := filepath.Join(t.TempDir(), "mount")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "sshfs", "-p", p.env["SFTP_PORT"], "-F", "/dev/null",
		"-o", "IdentityFile="+p.env["SFTP_KEY"], "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes",
		p.env["SFTP_USER"]+"@"+p.env["SFTP_HOST"]+":", dir).CombinedOutput()
	if err != nil && strings.Contains(string(out), "fuse:") {
		t.Skipf("FUSE does not mount here: %s", out)
	}
	if err != nil {
		t.Fatalf("sshfs: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, "fusermount3", "-u", "-z", dir).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v\n%s", err, out)
		}
	})
	return dir
}

// changeThrough reads and writes one file through the same descriptor, and appends to it.
func changeThrough(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, "changed")
	if err := os.WriteFile(name, []byte("one two three four"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	_, err = f.ReadAt(got, 8)
	if err != nil || string(got) != "three" {
		t.Errorf("read %q, %v", got, err)
	}
	_, err = f.WriteAt(bytes.ToUpper(got), 8)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	f, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(" five")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
