package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// patience bounds every wait for something that must happen; it is generous because the machine may be busy.
const patience = 90 * time.Second

// proc is `transferd dev` in a process of its own.
type proc struct {
	t    *testing.T
	data string
	cmd  *exec.Cmd
	env  map[string]string // dev.env

	ended chan struct{}
	err   error // how it ended; read after ended is closed

	mu  sync.Mutex
	out bytes.Buffer
}

type startOptions struct {
	data    string // "" for a fresh one
	crash   string // a crash point
	args    []string
	env     []string
	program string // the program instead of the test binary
}

// startDaemon runs `transferd dev` on free ports and returns when it is ready. It is killed when the test ends.
func startDaemon(t *testing.T, opt startOptions) *proc {
	t.Helper()
	p := launch(t, opt)
	p.awaitReady()
	return p
}

func launch(t *testing.T, opt startOptions) *proc {
	t.Helper()
	if opt.data == "" {
		opt.data = t.TempDir()
	}
	any := "127.0.0.1:0"
	opt.args = append([]string{"dev", "-data", opt.data, "-api", any, "-sftp", any, "-ftp", any, "-s3", any, "-metrics", any}, opt.args...)
	return spawn(t, opt)
}

// spawn runs transferd with exactly the arguments of the options.
func spawn(t *testing.T, opt startOptions) *proc {
	t.Helper()
	if opt.program == "" {
		opt.program = os.Args[0]
	}
	p := &proc{t: t, data: opt.data, ended: make(chan struct{})}
	p.cmd = exec.Command(opt.program, opt.args...)
	p.cmd.Env = append(os.Environ(), mainVariable+"="+withStdin, crashVariable+"="+opt.crash)
	p.cmd.Env = append(p.cmd.Env, opt.env...)
	_, err := p.cmd.StdinPipe() // which ends with this process, whatever that dies of
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = &locked{p: p}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(&locked{p: p}, stdout) // ends with the process
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("daemon said:\n%s\nlog:\n%s", p.output(), p.logTail(40))
		}
	})
	return p
}

// startStore starts an S3 store beside the daemons, which ends with the test, and returns its URL.
func startStore(t *testing.T, dir, accessKey, secretKey string) string {
	t.Helper()
	store, err := startGateway(t.Context(), devFlags{data: dir, s3: "127.0.0.1:0"},
		&devState{AccessKey: accessKey, SecretKey: secretKey}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Stop(); err != nil {
			t.Error(err)
		}
	})
	return store.Endpoint()
}

// locked writes into the process's output buffer.
type locked struct{ p *proc }

func (l *locked) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.p.out.Write(b)
}

func (p *proc) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *proc) awaitReady() {
	p.t.Helper()
	p.await("ready", func() bool { return strings.Contains(p.output(), "\nready\n") })
	p.env = readEnv(p.t, filepath.Join(p.data, "dev.env"))
}

// await polls until done, or fails the test when the process ends or patience does. It asks ever more rarely: most of what
// done asks costs both sides CPU, which is what others wait for.
func (p *proc) await(what string, done func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for pause := 5 * time.Millisecond; !done(); pause = min(pause+pause/4, 100*time.Millisecond) {
		select {
		case <-p.ended:
			if done() {
				return
			}
			p.t.Fatalf("the daemon ended (%v) before: %s\n%s", p.err, what, p.output())
		case <-time.After(pause):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not within %v: %s\n%s", patience, what, p.logTail(20))
		}
	}
}

// kill ends the daemon as kill -9 does, and waits for its end.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.ended
}

// awaitEnd waits for the daemon to end by itself.
func (p *proc) awaitEnd() error {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		p.t.Fatalf("the daemon did not end within %v\n%s", patience, p.logTail(20))
		return nil
	}
}

// stop asks the daemon to end and expects that it does so cleanly.
func (p *proc) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.awaitEnd(); err != nil {
		p.t.Fatalf("SIGTERM: the daemon ended with %v\n%s", err, p.output())
	}
}

func (p *proc) logTail(lines int) string {
	b, err := os.ReadFile(filepath.Join(p.data, "transferd.log"))
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// logged returns the log's entries that have the activity type.
func (p *proc) logged(activity string) []map[string]any {
	return p.logEntries("activity-type", activity)
}

// logEntries returns the log's entries that have a member with this value.
func (p *proc) logEntries(key, value string) []map[string]any {
	p.t.Helper()
	f, err := os.Open(filepath.Join(p.data, "transferd.log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	var found []map[string]any
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var entry map[string]any
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry[key] == value {
			found = append(found, entry)
		}
	}
	return found
}

func readEnv(t *testing.T, name string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !ok {
			t.Fatalf("%s: %q is no export line", name, line)
		}
		env[k] = strings.Trim(v, "'")
	}
	return env
}

func (p *proc) credentials() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(p.env["AWS_ACCESS_KEY_ID"], p.env["AWS_SECRET_ACCESS_KEY"], "")
}

func (p *proc) api() *transfer.Client {
	o := transfer.Options{Region: p.env["AWS_REGION"], BaseEndpoint: aws.String(p.env["TRANSFER_ENDPOINT"]), Credentials: p.credentials()}
	if bundle := p.env["AWS_CA_BUNDLE"]; bundle != "" {
		c, err := trusting(bundle)
		if err != nil {
			p.t.Fatal(err)
		}
		o.HTTPClient = c
	}
	return transfer.New(o)
}

// transferd runs another transferd command with dev.env's variables.
func (p *proc) transferd(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	for k, v := range p.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("transferd %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (p *proc) s3() *s3.Client {
	return s3.New(s3.Options{Region: p.env["AWS_REGION"], BaseEndpoint: aws.String(p.env["S3_ENDPOINT"]), Credentials: p.credentials(), UsePathStyle: true})
}

// aws runs the real aws CLI with dev.env's variables and returns its JSON answer.
func (p *proc) aws(args ...string) map[string]any {
	p.t.Helper()
	out := p.awsText(args...)
	if strings.TrimSpace(out) == "" {
		return nil
	}
	var answer map[string]any
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		p.t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return answer
}

func (p *proc) awsText(args ...string) string {
	p.t.Helper()
	stdout, stderr, err := p.tryAWS(args...)
	if err != nil {
		p.t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, stderr)
	}
	return stdout
}

// tryAWS runs the real aws CLI, which may fail.
func (p *proc) tryAWS(args ...string) (stdout, stderr string, err error) {
	p.t.Helper()
	args = append([]string{"transfer", "--endpoint-url", p.env["TRANSFER_ENDPOINT"], "--output", "json"}, args...)
	cmd := exec.CommandContext(p.t.Context(), "aws", args...)
	cmd.Env = append(os.Environ(), "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_ACCESS_KEY_ID="+p.env["AWS_ACCESS_KEY_ID"], "AWS_SECRET_ACCESS_KEY="+p.env["AWS_SECRET_ACCESS_KEY"],
		"AWS_DEFAULT_REGION="+p.env["AWS_REGION"])
	for _, name := range []string{"AWS_CA_BUNDLE", "AWS_MAX_ATTEMPTS"} {
		if value := p.env[name]; value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// sshOptions are what OpenSSH's tools need to reach the daemon.
func (p *proc) sshOptions(extra ...string) []string {
	return append([]string{
		"-F", "/dev/null", "-i", p.env["SFTP_KEY"], "-oIdentitiesOnly=yes", "-oBatchMode=yes", "-oStrictHostKeyChecking=no",
		"-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "-oPort=" + p.env["SFTP_PORT"],
	}, extra...)
}

// sftpCommand is OpenSSH's sftp with a batch of commands on its stdin.
func (p *proc) sftpCommand(ctx context.Context, user, batch string, extra ...string) *exec.Cmd {
	args := append(p.sshOptions(extra...), "-b", "-", user+"@"+p.env["SFTP_HOST"])
	cmd := exec.CommandContext(ctx, "sftp", args...)
	cmd.Stdin = strings.NewReader(batch)
	// A group of its own: sftp runs ssh as a child, and a kill has to reach both.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// sftp runs a batch to its end and returns what it printed.
func (p *proc) sftp(batch string) string {
	p.t.Helper()
	out, err := p.sftpCommand(p.t.Context(), p.env["SFTP_USER"], batch).CombinedOutput()
	if err != nil {
		p.t.Fatalf("sftp: %v\n%s", err, out)
	}
	return string(out)
}

// dial opens an SFTP session of our own over a connection that the test may break.
func (p *proc) dial() (net.Conn, *sftp.Client) {
	p.t.Helper()
	conn, client, err := p.tryDial()
	if err != nil {
		p.t.Fatal(err)
	}
	return conn, client
}

func (p *proc) tryDial() (net.Conn, *sftp.Client, error) {
	addr := net.JoinHostPort(p.env["SFTP_HOST"], p.env["SFTP_PORT"])
	pem, err := os.ReadFile(p.env["SFTP_KEY"])
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	sc, chans, reqs, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: p.env["SFTP_USER"], Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	client, err := sftp.NewClient(ssh.NewClient(sc, chans, reqs))
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, client, nil
}

// attachWorkflows makes a workflow for whole uploads (copy into processed/, tag) and one for partial ones (copy into
// quarantine/), and attaches them to the dev server.
func (p *proc) attachWorkflows() (whole, partial string) {
	p.t.Helper()
	s := &devServer{client: p.api(), state: &devState{ServerID: serverID(p.env["SERVER_ID"])}}
	whole, partial, err := s.demoWorkflows(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return whole, partial
}

// executions lists the executions of a workflow whose file is key.
func (p *proc) executions(workflow, key string) []*types.DescribedExecution {
	p.t.Helper()
	s := &devServer{client: p.api()}
	ids, err := s.executionsOf(p.t.Context(), &demoUpload{name: key, workflow: workflow})
	if err != nil {
		p.t.Fatal(err)
	}
	var found []*types.DescribedExecution
	for _, id := range ids {
		out, err := s.client.DescribeExecution(p.t.Context(), &transfer.DescribeExecutionInput{WorkflowId: aws.String(workflow), ExecutionId: id})
		if err != nil {
			p.t.Fatal(err)
		}
		found = append(found, out.Execution)
	}
	return found
}

// awaitExecution waits until the file has an execution of the workflow that has ended, and returns it.
func (p *proc) awaitExecution(workflow, key string) *types.DescribedExecution {
	p.t.Helper()
	var ended *types.DescribedExecution
	p.await("an ended execution of "+workflow+" for "+key, func() bool {
		for _, e := range p.executions(workflow, key) {
			if e.Status == types.ExecutionStatusCompleted || e.Status == types.ExecutionStatusException {
				ended = e
				return true
			}
		}
		return false
	})
	return ended
}

// object reads an object of the dev bucket whole; nil if there is none.
func (p *proc) object(key string) []byte {
	p.t.Helper()
	out, err := p.s3().GetObject(p.t.Context(), &s3.GetObjectInput{Bucket: aws.String(devBucket), Key: aws.String(key)})
	if err != nil {
		if strings.Contains(err.Error(), "NoSuchKey") {
			return nil
		}
		p.t.Fatal(err)
	}
	b, err := io.ReadAll(out.Body)
	if err := errors.Join(err, out.Body.Close()); err != nil {
		p.t.Fatal(err)
	}
	return b
}

// danglingUploads are the multipart uploads that the store still has.
func (p *proc) danglingUploads() []string {
	p.t.Helper()
	out, err := p.s3().ListMultipartUploads(p.t.Context(), &s3.ListMultipartUploadsInput{Bucket: aws.String(devBucket)})
	if err != nil {
		p.t.Fatal(err)
	}
	var keys []string
	for _, u := range out.Uploads {
		keys = append(keys, aws.ToString(u.Key)+" "+aws.ToString(u.UploadId))
	}
	return keys
}

// file makes a file of n bytes that differ everywhere, and returns its name and content.
func file(t *testing.T, n int) (name string, content []byte) {
	t.Helper()
	content = noise(n)
	name = filepath.Join(t.TempDir(), fmt.Sprintf("file-%d.bin", n))
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name, content
}

func noise(n int) []byte { return seeded(seed(), n) }

func seed() (s [32]byte) {
	for i := range s {
		s[i] = byte(rand.IntN(256))
	}
	return s
}

// seeded are the n bytes that belong to a seed.
func seeded(seed [32]byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

func sum(b []byte) string { return fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b)) }
