package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestDemo runs the demo in this process and looks for what it leaves behind: nothing. It is not parallel, for goroutines
// of other tests would count as leaks.
func TestDemo(t *testing.T) {
	data := t.TempDir()
	before := goleak.IgnoreCurrent()
	var stdout, stderr bytes.Buffer
	any := "127.0.0.1:0"
	code := run(t.Context(), process{stdout: &stdout, stderr: &stderr}, []string{
		"dev", "-demo", "-demo-exit", "-data", data, "-api", any, "-sftp", any, "-ftp", any, "-s3", any, "-metrics", any,
	})
	if code != 0 {
		t.Fatalf("exit status %d\n%s%s", code, stdout.String(), stderr.String())
	}
	for _, want := range []string{"complete, evidence closed", "partial, evidence disconnect", "Everything is as promised.", "tags by=transferd status=processed"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the demo does not say %q:\n%s", want, stdout.String())
		}
	}
	t.Logf("\n%s", stdout.String())
	goleak.VerifyNone(t, before)
}

// TestRestart: a second start with the same data keeps ids, host keys, users and objects; the demo can be run again.
func TestRestart(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	name, content := file(t, 1<<20)
	p.sftp("put " + name + " kept.bin\n")
	hosts := mustRead(t, p.env["SFTP_KNOWN_HOSTS"])
	p.stop()

	again := startDaemon(t, startOptions{data: p.data})
	for _, k := range []string{"SERVER_ID", "SFTP_PORT", "SFTP_KEY", "AWS_ACCESS_KEY_ID"} {
		if p.env[k] != again.env[k] {
			t.Errorf("%s changed from %q to %q", k, p.env[k], again.env[k])
		}
	}
	if now := mustRead(t, again.env["SFTP_KNOWN_HOSTS"]); !bytes.Equal(hosts, now) {
		t.Errorf("host keys changed from\n%sto\n%s", hosts, now)
	}
	back := filepath.Join(t.TempDir(), "back")
	again.sftp("get kept.bin " + back + "\n")
	if got := mustRead(t, back); !bytes.Equal(got, content) {
		t.Errorf("the object is %s, want %s", sum(got), sum(content))
	}
	again.stop()
}

// TestTwoDaemonsOneFolder: the second one says what is wrong and ends.
func TestTwoDaemonsOneFolder(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	second := launch(t, startOptions{data: p.data})
	if err := second.awaitEnd(); err == nil || !strings.Contains(second.output(), "in use by another") {
		t.Errorf("the second daemon ended with %v:\n%s", err, second.output())
	}
	p.sftp("ls\n")
}

// TestUsage: what is typed wrong is answered with status 2 and what to type.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"nonsense"}, 2, `unknown command "nonsense"`},
		{[]string{"dev", "-nonsense"}, 2, "Flags:"},
		{[]string{"dev", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"dev", "-h"}, 0, "Examples:"},
		{nil, 0, "Commands:"},
		{[]string{"version"}, 0, "transferd"},
		{[]string{"healthcheck", "-url", "http://127.0.0.1:1"}, 1, "connection refused"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), process{stdout: &out, stderr: &out}, c.args); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("transferd %q: status %d, want %d and %q:\n%s", c.args, code, c.code, c.want, out.String())
		}
	}
}

// TestHealth: /healthz and /readyz answer, and so does the command that asks them.
func TestHealth(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	var out bytes.Buffer
	if code := run(t.Context(), process{stdout: &out, stderr: &out}, []string{"healthcheck", "-url", strings.TrimSuffix(p.env["METRICS_URL"], "/metrics")}); code != 0 {
		t.Errorf("healthcheck: status %d: %s", code, out.String())
	}
	if n := p.metric("go_goroutines"); n == 0 {
		t.Error("/metrics has no go_goroutines")
	}
}

// TestReadme tries the README line by line, with the product built as the first line builds it.
func TestReadme(t *testing.T) {
	t.Parallel()
	blocks := shellBlocks(t, filepath.Join("..", "..", "README.md"))
	if len(blocks) != 6 {
		t.Fatalf("README.md has %d shell blocks, want 6", len(blocks))
	}
	two := strings.Split(strings.TrimSpace(blocks[0]), "\n")
	if len(two) != 2 || two[1] != "make test" { // the second command is what runs this test
		t.Fatalf("the first block is not the two commands:\n%s", blocks[0])
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "transferd-data")
	flags := " -demo-exit -data " + data + " -api 127.0.0.1:0 -sftp 127.0.0.1:0 -ftp 127.0.0.1:0 -s3 127.0.0.1:0 -metrics 127.0.0.1:0"
	if out := shell(t, root, two[0]+flags, ""); !strings.Contains(out, "Everything is as promised.") {
		t.Errorf("%s does not show the demo:\n%s", two[0], out)
	}
	p := startDaemon(t, startOptions{data: data, program: product(t)})
	// What the blocks take for granted: `transferd` is the product, and the folder is the project's.
	for link, target := range map[string]string{"transferd": product(t), "deploy": filepath.Join(root, "deploy")} {
		if err := os.Symlink(target, filepath.Join(filepath.Dir(data), link)); err != nil {
			t.Fatal(err)
		}
	}
	script := "PATH=\"$PWD:$PATH\"\n" + strings.Join(blocks[1:], "")
	out := shell(t, filepath.Dir(data), script, "pwd\nput /etc/hostname\nls -l\n")
	for _, want := range []string{
		"Remote working directory: /", `"State": "ONLINE"`, "hostname", "Executions",
		"Plan: 3 to create", "created  user      partners/alice", "deploy/transferd.yaml is valid",
		": 0 wrong, ", "user anna is added", "ADDRESS",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the README's commands do not print %q:\n%s", want, out)
		}
	}
	p.stop()
}

func shellBlocks(t *testing.T, name string) []string {
	t.Helper()
	var blocks []string
	for i, part := range strings.Split(string(mustRead(t, name)), "```") {
		if code, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			blocks = append(blocks, code)
		}
	}
	return blocks
}

func shell(t *testing.T, dir, script, stdin string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-c", script)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "AWS_PAGER=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}
