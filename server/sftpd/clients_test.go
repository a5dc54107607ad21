package sftpd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

const fileSize = 5<<20 + 123

func TestOpenSSHSftp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	host, port := r.hostPort(t)
	data := doortest.Random(fileSize)
	local, back := doortest.File(t, data), filepath.Join(t.TempDir(), "back")
	batch := fmt.Sprintf("pwd\nput %s one\nls -l\nget one %s\nmkdir dir\nrename one dir/two\nls dir\n-rmdir dir\nrm dir/two\nrmdir dir\nput %s empty\n",
		local, back, doortest.File(t, nil))
	out, err := doortest.Run(t, batch, "sftp", append(r.sshOptions(), "-b", "-", "-P", port, user+"@"+host)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"Remote working directory: /bucket/home", "-rw-r--r--", "dir/two"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back differs (%d bytes, %v)", len(got), err)
	}
	if v := r.journal.Verdict(t, "home/one", session.Complete, session.Closed); v.Received != fileSize {
		t.Errorf("received %d bytes", v.Received)
	}
	r.journal.Verdict(t, "home/empty", session.Complete, session.Closed)
	if r.store.Get("home/dir/two") != nil || r.store.Get("home/dir") != nil {
		t.Error("rm and rmdir left something")
	}

	in := r.log.Await(t, "CONNECTED")
	for name, want := range map[string]string{
		"user": user, "source-ip": "127.0.0.1", "home-dir": "/bucket/home", "ssh-public-key-type": "ssh-ed25519",
		"ssh-public-key-fingerprint": ssh.FingerprintSHA256(r.key.PublicKey()), "resource-arn": r.settings.Server.Arn,
		"role": "arn:aws:iam::123456789012:role/r",
	} {
		if in[name] != want {
			t.Errorf("CONNECTED: %s = %v, want %s", name, in[name], want)
		}
	}
	for _, name := range []string{"client", "kex", "ciphers", "session-id", "ssh-public-key"} {
		if text, ok := in[name].(string); !ok || text == "" {
			t.Errorf("CONNECTED: %s = %v", name, in[name])
		}
	}
	if gone := r.log.Await(t, "DISCONNECTED"); gone["session-id"] != in["session-id"] {
		t.Errorf("DISCONNECTED %v after CONNECTED %v", gone, in)
	}
}

// TestKilledClient kills sftp and its ssh in the middle of an upload.
func TestKilledClient(t *testing.T) {
	t.Parallel()
	under := make(chan struct{})
	var once sync.Once
	r := newRig(t, backend(func(s *doortest.Store) {
		s.OnWrite = func(_ context.Context, _ string, off int64) error {
			if off > 1<<20 {
				once.Do(func() { close(under) })
			}
			return nil
		}
	}))
	host, port := r.hostPort(t)
	data := doortest.Random(32 << 20)
	// At 40 Mbit/s the file takes seconds.
	cmd := exec.CommandContext(t.Context(), "sftp", append(r.sshOptions(), "-l", "40000", "-b", "-", "-P", port, user+"@"+host)...)
	cmd.Stdin = strings.NewReader("put " + doortest.File(t, data) + " file\n")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-under
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("sftp ended well")
	}
	v := r.journal.Verdict(t, "home/file", session.Partial, session.Disconnect)
	kept := r.store.Get("home/file")
	if len(kept) <= 1<<20 || len(kept) == len(data) || !bytes.HasPrefix(data, kept) || v.Received != int64(len(kept)) {
		t.Errorf("%d bytes kept, %d received, prefix %v", len(kept), v.Received, bytes.HasPrefix(data, kept))
	}
}

func TestScp(t *testing.T) {
	t.Parallel()
	r := newRig(t, settings(func(s *server.Server) {
		s.ProtocolDetails = &server.ProtocolDetails{SetStatOption: "ENABLE_NO_OP"}
	}))
	host, port := r.hostPort(t)
	data := doortest.Random(fileSize)
	back := filepath.Join(t.TempDir(), "back")
	r.store.Put("home/file", doortest.Random(fileSize*2)) // scp does not truncate
	out, err := doortest.Run(t, "", "scp", append(r.sshOptions(), "-s", "-p", "-P", port, doortest.File(t, data), user+"@"+host+":file")...)
	if err != nil || strings.Contains(out, "remote") {
		t.Fatalf("%v\n%s", err, out)
	}
	if !bytes.Equal(r.store.Get("home/file"), data) {
		t.Error("the file differs")
	}
	if e := r.log.Await(t, "SETSTAT"); e["path"] != "/bucket/home/file" {
		t.Errorf("SETSTAT entry %v", e)
	}
	if out, err := doortest.Run(t, "", "scp", append(r.sshOptions(), "-s", "-P", port, user+"@"+host+":file", back)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back differs (%v)", err)
	}
}

func TestPsftp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	host, port := r.hostPort(t)
	data := doortest.Random(fileSize / 4)
	ppk := filepath.Join(t.TempDir(), "key.ppk")
	if out, err := doortest.Run(t, "", "puttygen", r.keyFile, "-O", "private", "-o", ppk); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	back := filepath.Join(t.TempDir(), "back")
	script := doortest.File(t, fmt.Appendf(nil, "put %s one\nls\nget one %s\nmv one two\ndel two\n", doortest.File(t, data), back))
	args := []string{"-batch", "-P", port, "-i", ppk, "-b", script}
	for _, key := range r.settings.HostKeys {
		args = append(args, "-hostkey", strings.TrimRight(key.Fingerprint, "="))
	}
	if out, err := doortest.Run(t, "", "psftp", append(args, user+"@"+host)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back differs (%v)", err)
	}
	r.journal.Verdict(t, "home/one", session.Complete, session.Closed)
}

func TestLftp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	host, port := r.hostPort(t)
	data := doortest.Random(fileSize)
	back := filepath.Join(t.TempDir(), "back")
	program := "ssh -a -x " + strings.Join(r.sshOptions(), " ")
	script := fmt.Sprintf("set cmd:fail-exit yes; set net:max-retries 1; set sftp:connect-program '%s'; "+
		"open -u %s, -p %s sftp://%s; put %s -o one; ls; get one -o %s; mkdir d; rm one; rmdir d; bye",
		program, user, port, host, doortest.File(t, data), back)
	if out, err := doortest.Run(t, "", "lftp", "-c", script); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back differs (%v)", err)
	}
	r.journal.Verdict(t, "home/one", session.Complete, session.Closed)
}

// TestCurl uses the oldest policy: Debian's libssh2 knows neither GCM nor the -etm MACs.
func TestCurl(t *testing.T) {
	t.Parallel()
	r := newRig(t, settings(func(s *server.Server) { s.SecurityPolicyName = "TransferSecurityPolicy-2018-11" }))
	data := doortest.Random(fileSize)
	url := "sftp://" + r.addr + "/bucket/home/one"
	login := []string{"-sS", "--insecure", "-u", user + ":", "--key", r.keyFile, "--pubkey", r.keyFile + ".pub"}
	if out, err := doortest.Run(t, "", "curl", append(login, "-T", doortest.File(t, data), url)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	back := filepath.Join(t.TempDir(), "back")
	if out, err := doortest.Run(t, "", "curl", append(login, "-o", back, url)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what came back differs (%v)", err)
	}
	r.journal.Verdict(t, "home/one", session.Complete, session.Closed)
}

func TestPolicyOnTheWire(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	host, port := r.hostPort(t)
	try := func(options ...string) (string, error) {
		return doortest.Run(t, "bye\n", "sftp", append(r.sshOptions(options...), "-b", "-", "-P", port, user+"@"+host)...)
	}
	for _, options := range [][]string{
		{"Ciphers=chacha20-poly1305@openssh.com"}, {"KexAlgorithms=diffie-hellman-group14-sha256"},
		{"Ciphers=aes128-ctr", "MACs=hmac-sha2-256"}, {"HostKeyAlgorithms=ssh-rsa"}, {"PubkeyAcceptedAlgorithms=ssh-rsa"},
	} {
		if out, err := try(options...); err == nil {
			t.Errorf("%s: accepted\n%s", options, out)
		}
	}
	for _, options := range [][]string{
		{"Ciphers=aes256-gcm@openssh.com"}, {"KexAlgorithms=curve25519-sha256"}, {"KexAlgorithms=diffie-hellman-group16-sha512"},
		{"Ciphers=aes128-ctr", "MACs=hmac-sha2-512-etm@openssh.com"}, {"HostKeyAlgorithms=rsa-sha2-512"},
		{"HostKeyAlgorithms=ecdsa-sha2-nistp256"},
	} {
		if out, err := try(options...); err != nil {
			t.Errorf("%s: %v\n%s", options, err, out)
		}
	}
	failure := r.log.Await(t, "KEX_FAILURE")
	if failure["source-ip"] != "127.0.0.1" || failure["message"] == "" || failure["kex"] == "" {
		t.Errorf("KEX_FAILURE entry %v", failure)
	}
	// A change is live for the next connection.
	r.change(func(s *server.Server) { s.SecurityPolicyName = "TransferSecurityPolicy-2018-11" })
	if out, err := try("Ciphers=chacha20-poly1305@openssh.com", "HostKeyAlgorithms=ssh-rsa"); err != nil {
		t.Errorf("2018-11: %v\n%s", err, out)
	}
}

func TestBanner(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	host, port := r.hostPort(t)
	login := func() string {
		out, err := doortest.Run(t, "bye\n", "sftp", append(r.sshOptions(), "-b", "-", "-P", port, user+"@"+host)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return out
	}
	if out := login(); strings.Contains(out, "Authorized") {
		t.Errorf("banner out of nowhere:\n%s", out)
	}
	r.change(func(s *server.Server) { s.PreAuthenticationLoginBanner = "Authorized users only." })
	if out := login(); !strings.Contains(out, "Authorized users only.\r\n") && !strings.Contains(out, "Authorized users only.\n") {
		t.Errorf("no banner:\n%s", out)
	}
}

func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stranger, _ := newKey(t)
	for name, c := range map[string]struct {
		user string
		key  ssh.Signer
	}{
		"wrong key":    {user, stranger},
		"unknown user": {"mallory", r.key},
		"long name":    {strings.Repeat("a", 100_000), r.key},
		"no name":      {"", r.key},
	} {
		if client, err := r.tryDial(r.tcp(t), c.user, c.key); err == nil {
			client.Close()
			t.Errorf("%s: let in", name)
		}
	}
	seen := r.log.Await(t, "AUTH_FAILURE")
	if seen["method"] != "publickey" || !strings.Contains(fmt.Sprint(seen["message"]), "SHA256:") && seen["message"] != "user name too long" {
		t.Errorf("AUTH_FAILURE entry %v", seen)
	}
	if len(r.log.Entries("CONNECTED")) != 0 {
		t.Error("a session began")
	}
	conn := r.tcp(t)
	_, _, _, err := ssh.NewClientConn(conn, r.addr, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.Password("secret")}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err == nil {
		t.Error("password let in")
	}
}
