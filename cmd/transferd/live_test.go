package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// soon is how long a change may take until it is true on the wire (AWS: ten minutes).
const soon = time.Second

// takesEffect polls until what the API was told is true on the wire. The clients are slow to start on a busy machine, so
// what counts is when the attempt began that showed it.
func (p *proc) takesEffect(what string, effect func() bool) {
	p.t.Helper()
	told := time.Now()
	for {
		began := time.Now()
		if effect() {
			if took := began.Sub(told); took > soon {
				p.t.Errorf("%s: true on the wire only after %v", what, took)
			} else {
				p.t.Logf("%s: true on the wire for a client started after %v, ended after %v", what, took.Round(time.Millisecond), time.Since(told).Round(time.Millisecond))
			}
			return
		}
		if time.Since(told) > 20*soon {
			p.t.Fatalf("%s: not true on the wire after %v", what, 20*soon)
		}
	}
}

// login tries an SFTP login and returns what OpenSSH says.
func (p *proc) login(batch string, options ...string) (string, bool) {
	args := append(options, p.sshOptions("-b", "-", p.env["SFTP_USER"]+"@"+p.env["SFTP_HOST"])...)
	cmd := exec.CommandContext(p.t.Context(), "sftp", args...)
	cmd.Stdin = strings.NewReader(batch)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

// TestLiveEffect: whatever the API changes is true for new sessions within a second, with OpenSSH as the judge.
func TestLiveEffect(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	id := p.env["SERVER_ID"]
	server := []string{"--server-id", id}
	user := append(server, "--user-name", "alice")
	p.addUser(id, "alice", "/dev-bucket/one")
	p.env["SFTP_USER"] = "alice"
	update := func(args ...string) { p.aws(append(append([]string{"update-server"}, server...), args...)...) }

	keys := p.aws(append([]string{"describe-user"}, user...)...)["User"].(map[string]any)["SshPublicKeys"].([]any)
	p.aws(append([]string{"delete-ssh-public-key", "--ssh-public-key-id", keys[0].(map[string]any)["SshPublicKeyId"].(string)}, user...)...)
	p.takesEffect("a key removed", func() bool { out, ok := p.login("pwd\n"); return !ok && strings.Contains(out, "Permission denied") })
	p.aws(append([]string{"import-ssh-public-key", "--ssh-public-key-body", "file://" + p.env["SFTP_KEY"] + ".pub"}, user...)...)
	p.takesEffect("a key added", func() bool { _, ok := p.login("pwd\n"); return ok })

	p.aws(append([]string{"update-user", "--home-directory-type", "LOGICAL", "--home-directory-mappings", "Entry=/in,Target=/dev-bucket/two"}, user...)...)
	p.takesEffect("a mapping changed", func() bool { out, _ := p.login("ls /\n"); return regexp.MustCompile(`(?m)^/?in\s*$`).MatchString(out) })

	update("--pre-authentication-login-banner", "Authorised use only: v7")
	p.takesEffect("a banner changed", func() bool {
		out, _ := p.login("pwd\n", "-oLogLevel=INFO")
		return strings.Contains(out, "Authorised use only: v7")
	})

	chacha := "-oCiphers=chacha20-poly1305@openssh.com"
	refuses := func() bool { _, ok := p.login("pwd\n", chacha); return !ok }
	if !refuses() {
		t.Error("the default policy takes chacha20")
	}
	update("--security-policy-name", "TransferSecurityPolicy-2018-11")
	p.takesEffect("a cipher more", func() bool { _, ok := p.login("pwd\n", chacha); return ok })
	update("--security-policy-name", "TransferSecurityPolicy-2024-01")
	p.takesEffect("a cipher less", refuses)
	if _, ok := p.login("pwd\n"); !ok {
		t.Error("with another cipher the login fails too")
	}

	p.workflowsLive(t, update)
	p.hostKeyLive(t, server)
	p.stopLive(t, server)
}

// workflowsLive attaches a workflow and takes it away; each file is put right after the API's answer.
func (p *proc) workflowsLive(t *testing.T, update func(...string)) {
	t.Helper()
	name, _ := file(t, 1000)
	steps := `[{"Type":"TAG","TagStepDetails":{"Name":"tag","Tags":[{"Key":"a","Value":"b"}]}}]`
	w := p.aws("create-workflow", "--steps", steps)["WorkflowId"].(string)
	attempt := 0
	triggered := func() bool {
		attempt++
		remote := fmt.Sprintf("live-%d.bin", attempt)
		if out, ok := p.login("put " + name + " /in/" + remote + "\n"); !ok {
			t.Fatalf("put: %s", out)
		}
		return len(p.executions(w, "two/"+remote)) == 1
	}
	if triggered() {
		t.Error("a workflow that is not attached ran")
	}
	update("--workflow-details", "OnUpload=[{WorkflowId="+w+",ExecutionRole="+devRole+"}]")
	p.takesEffect("a workflow attached", triggered)
	p.refused("still in use by server "+p.env["SERVER_ID"], "delete-workflow", "--workflow-id", w)
	update("--workflow-details", `{"OnUpload":[]}`)
	p.takesEffect("a workflow detached", func() bool { return !triggered() })
	p.aws("delete-workflow", "--workflow-id", w)
}

// hostKeyLive brings a host key and takes the old one of its type away.
func (p *proc) hostKeyLive(t *testing.T, server []string) {
	t.Helper()
	key := newSSHKey(t)
	old := ""
	for _, k := range p.aws(append([]string{"list-host-keys"}, server...)...)["HostKeys"].([]any) {
		if k := k.(map[string]any); k["Type"] == "ssh-ed25519" {
			old = k["HostKeyId"].(string)
		}
	}
	p.aws(append([]string{"import-host-key", "--host-key-body", string(mustRead(t, key))}, server...)...)
	if old != "" {
		p.aws(append([]string{"delete-host-key", "--host-key-id", old}, server...)...)
	}
	want := strings.Fields(string(mustRead(t, key+".pub")))[1]
	p.takesEffect("a host key rotated", func() bool {
		out, err := exec.CommandContext(t.Context(), "ssh-keyscan", "-T", "60", "-t", "ed25519", "-p", p.env["SFTP_PORT"], p.env["SFTP_HOST"]).Output()
		return err == nil && strings.Contains(string(out), want)
	})
}

// stopLive: StopServer ends sessions with their verdicts and frees the address, StartServer takes it again.
func (p *proc) stopLive(t *testing.T, server []string) {
	t.Helper()
	_, partial := p.attachWorkflows()
	conn := p.putPart(t, "in/stopped.bin", noise(1<<20))
	defer conn.Close() // the daemon closes it first
	p.aws(append([]string{"stop-server"}, server...)...)
	p.await("OFFLINE", func() bool { return p.server(p.env["SERVER_ID"])["State"] == "OFFLINE" })
	if out, ok := p.login("pwd\n"); ok || !strings.Contains(out, "Connection refused") {
		t.Errorf("a stopped server answers: %s", out)
	}
	e := p.awaitExecution(partial, "two/stopped.bin")
	if len(p.executions(partial, "two/stopped.bin")) != 1 {
		t.Errorf("the execution of a stopped upload: %v", e)
	}
	p.wantEvidence("two/stopped.bin", "server-stop")
	p.aws(append([]string{"start-server"}, server...)...)
	p.takesEffect("a server started on the same address", func() bool { _, ok := p.login("pwd\n"); return ok })
}

// TestUnsupportedServer: a server that asks for more than this build has is kept, and says why it does not start.
func TestUnsupportedServer(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	id := p.aws("create-server", "--identity-provider-type", "AWS_DIRECTORY_SERVICE", "--identity-provider-details", "DirectoryId=d-0123456789")["ServerId"].(string)
	p.await("START_FAILED", func() bool { return p.server(id)["State"] == "START_FAILED" })
	if why := p.tag(id, "aws:transferd:start-error"); why != "IdentityProviderType AWS_DIRECTORY_SERVICE is not supported yet" {
		t.Errorf("the reason is %q", why)
	}
	if stdout, _, _ := p.transferd("servers"); !strings.Contains(stdout, "START_FAILED IdentityProviderType AWS_DIRECTORY_SERVICE is not supported yet") {
		t.Errorf("transferd servers does not say why:\n%s", stdout)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
