package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// passwd runs the command with what is on its standard input.
func passwd(t *testing.T, stdin string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"passwd"}, args...)...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // the status says it
	return out.String(), cmd.ProcessState.ExitCode()
}

// TestPasswd: users are added, changed, checked and deleted; a comment stays, and so does the file's mode.
func TestPasswd(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "users.yaml")
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		{"", []string{"-check", "anna"}, 1, "no such file"},
		{"first\n", []string{"anna"}, 1, "-role ARN"},
		{"first\n", []string{"-role", devRole, "-home", "/b/anna", "anna"}, 0, "user anna is added"},
		{"first\n", []string{"-check", "anna"}, 0, "the password is right"},
		{"second\r\nmore\n", []string{"anna"}, 0, "user anna has a new password"},
		{"first", []string{"-check", "anna"}, 1, "the password is wrong"},
		{"second", []string{"anna", "-check"}, 0, "the password is right"},
		{"x\n", []string{"-role", devRole, "anna"}, 1, "already"},
		{"\n", []string{"anna"}, 1, "the password is empty"},
		{strings.Repeat("x", 1025), []string{"anna"}, 1, "longer than 1024"},
		{"x\n", []string{"-role", "nonsense", "bert"}, 1, "must be the ARN of a role"},
		{"x\n", []string{"-role", devRole, "../bert"}, 1, "must have 3 to 100 letters"},
		{"third\n", []string{"-role", devRole, "bert"}, 0, "user bert is added"},
		{"", []string{"-delete", "carl"}, 1, "has no user carl"},
		{"", []string{"-delete", "anna"}, 0, "user anna is deleted"},
		{"second", []string{"-check", "anna"}, 1, "there is no user anna"},
		{"", []string{"-delete", "-check", "bert"}, 2, "exclude each other"},
		{"", []string{}, 2, "USER is missing"},
		{"", []string{"one", "two"}, 2, "unexpected argument"},
	} {
		out, code := passwd(t, c.stdin, append([]string{"-file", name}, c.args...)...)
		if code != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "second") {
			t.Errorf("passwd %v: status %d, %s; want %d and %q", c.args, code, out, c.code, c.want)
		}
	}
	if out, code := passwd(t, "x\n", "anna"); code != 2 || !strings.Contains(out, "identity.users_file") {
		t.Errorf("without a file: status %d, %s", code, out)
	}
	if left, err := filepath.Glob(name + "*"); err != nil || len(left) != 1 {
		t.Errorf("files are left: %v %v", left, err)
	}
}

// TestPasswdKeeps: comments, the mode, the owner and a link stay, and a file that is wrong is not touched.
func TestPasswdKeeps(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "users.yaml")
	link := name + ".link"
	if err := os.WriteFile(name, []byte("# ours\nrole: "+devRole+"\nusers: []\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	if out, code := passwd(t, "pw\n", "-file", link, "anna"); code != 0 {
		t.Fatalf("status %d: %s", code, out)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if at, err := os.Readlink(link); err != nil || at != name {
		t.Errorf("the link is %q, %v", at, err)
	}
	if text := string(mustRead(t, name)); !strings.Contains(text, "# ours") || !strings.Contains(text, "name: anna") || strings.Contains(text, "pw\n") {
		t.Errorf("the file is\n%s", text)
	}
	broken := []byte("users: [{name: anna, password: hush}]")
	if err := os.WriteFile(name, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := passwd(t, "pw\n", "-file", name, "anna"); code != 1 || !strings.Contains(out, "mend it first") || strings.Contains(out, "hush") {
		t.Errorf("a broken file: status %d, %s", code, out)
	}
	if got := mustRead(t, name); !bytes.Equal(got, broken) {
		t.Errorf("a broken file was changed:\n%s", got)
	}
}

// TestPasswdTerminal: at a terminal the password is asked for twice and not shown.
func TestPasswdTerminal(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "users.yaml")
	ask := func(lines ...string) (string, error) {
		command := mainVariable + "=1 " + shellQuote(os.Args[0]) + " passwd -role " + devRole + " -file " + shellQuote(name) + " anna"
		cmd := exec.CommandContext(t.Context(), "python3", append([]string{"-c", terminal, command}, lines...)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := ask("s3cr3t", "other"); err == nil || !strings.Contains(out, "differ") || strings.Contains(out, "s3cr3t") {
		t.Errorf("two passwords: %v\n%s", err, out)
	}
	if out, err := ask("s3cr3t", "s3cr3t"); err != nil || !strings.Contains(out, "is added") || strings.Contains(out, "s3cr3t") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, code := passwd(t, "s3cr3t", "-file", name, "-check", "anna"); code != 0 {
		t.Errorf("the password that was typed: %s", out)
	}
}

// terminal runs a command at a terminal, types a line whenever it asks and hides what is typed, and prints what the
// terminal shows. It goes on reading while it waits for that, so a command that ends instead, or says something else, is
// seen to; and one that does neither is killed after a minute and a half.
const terminal = `
import os, pty, select, signal, sys, termios, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
lines, shown, asked, end = sys.argv[2:], b"", 0, time.monotonic() + 90
try:
    while True:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            shown += b" (killed)"
            break
        if select.select([fd], [], [], 0.01 if lines else 1)[0]:
            got = os.read(fd, 4096)
            if not got:
                break
            shown += got
        if lines and shown.count(b": ") > asked and not termios.tcgetattr(fd)[3] & termios.ECHO:
            asked += 1
            os.write(fd, lines.pop(0).encode() + b"\n")
except (OSError, termios.error): # the command has ended
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`
