package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

var (
	benchPut  = flag.Bool("bench-put", false, "run TestBenchmarkPut: uploads to a file system beside OpenSSH's sftp-server")
	putRounds = flag.Int("bench-put-rounds", benchRounds, "rounds of TestBenchmarkPut")
	putMiB    = flag.Int("bench-put-mib", 1024, "MiB of each of its uploads")
	putFiles  = flag.Int("bench-put-files", 4000, "small files of each of its uploads of small files")
)

// benchRounds is how often a benchmark does everything.
const benchRounds = 5

// putFigure is one measured upload.
type putFigure struct {
	seconds float64 // wall clock of the clients
	cpu     float64 // CPU seconds of the server's own processes
	client  float64 // of the clients; not known beside OpenSSH, whose processes count as clients too
}

// putBench is a server with the domain EFS whose files lie on tmpfs and whose state lies on the disk, and what is sent.
type putBench struct {
	t      *testing.T
	p      *proc
	dir    string // on tmpfs
	server string
	flow   bool // it has a workflow
}

// benchPlace is where a client logs in and puts things.
type benchPlace struct {
	user, host, port, dir string
}

// TestBenchmarkPut measures uploads over SFTP, in turn into transferd and into OpenSSH's sshd with sftp-server, the files
// of both on tmpfs, and prints figures and ratios. It judges nothing.
func TestBenchmarkPut(t *testing.T) {
	if !*benchPut {
		t.Skip("a benchmark: run it with -bench-put (make bench)")
	}
	b := newPutBench(t)
	variants := []struct {
		name string
		run  func(benchPlace)
		flow bool // ours has workflows attached
	}{
		{"8 logins and nothing else", b.logins, false}, // they are part of what the others take
		{"1 stream, aes128-gcm", func(at benchPlace) { b.streams(at, "aes128-gcm@openssh.com", 1) }, false},
		{"8 streams, aes128-gcm", func(at benchPlace) { b.streams(at, "aes128-gcm@openssh.com", benchStreams) }, false},
		{"1 stream, chacha20-poly1305", func(at benchPlace) { b.streams(at, "chacha20-poly1305@openssh.com", 1) }, false},
		{"1 stream, lftp, aes128-gcm", b.lftp, false},
		{"10 KiB files, 8 connections", b.small, false},
		{"the same with a workflow", b.small, true},
	}
	ours, theirs := map[string][]putFigure{}, map[string][]putFigure{}
	for round := range *putRounds {
		for _, v := range variants {
			b.attach(v.flow)
			for turn := range 2 {
				if (turn+round)%2 == 0 { // nobody is always first
					ours[v.name] = append(ours[v.name], b.ours(v.run))
				} else {
					theirs[v.name] = append(theirs[v.name], b.openSSH(v.run))
				}
			}
			o, s := ours[v.name][round], theirs[v.name][round]
			t.Logf("round %d, %s: %.2f s and %.2f s, CPU %.2f s and %.2f s", round+1, v.name, o.seconds, s.seconds, o.cpu, s.cpu)
		}
	}
	t.Logf("%d MiB or %d files of 10 KiB each time, %d rounds, median (min–max); files on tmpfs, transferd's state on disk", *putMiB, *putFiles, *putRounds)
	for _, v := range variants {
		var speed, cpu []float64
		for i, o := range ours[v.name] {
			s := theirs[v.name][i]
			speed, cpu = append(speed, s.seconds/o.seconds), append(cpu, o.cpu/s.cpu)
		}
		seconds, cost := func(f putFigure) float64 { return f.seconds }, func(f putFigure) float64 { return f.cpu }
		t.Logf("%-28s throughput ratio %s, server CPU ratio %s; seconds %s and %s, CPU seconds %s and %s, of our clients %s", v.name, spread(speed), spread(cpu),
			spreadOf(ours[v.name], seconds), spreadOf(theirs[v.name], seconds), spreadOf(ours[v.name], cost), spreadOf(theirs[v.name], cost),
			spreadOf(ours[v.name], func(f putFigure) float64 { return f.client }))
	}
}

func spread(v []float64) string {
	s := slices.Sorted(slices.Values(v))
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s[len(s)/2], s[0], s[len(s)-1])
}

func newPutBench(t *testing.T) *putBench {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "transferd-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &putBench{t: t, dir: dir}
	data, efs := t.TempDir(), filepath.Join(dir, "efs")
	made := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(efs, 0o777), os.Symlink(efs, filepath.Join(data, "efs")), os.Mkdir(b.path("openssh"), 0o755))
	content := noise(*putMiB << 20)
	for i := range benchStreams {
		part := len(content) / benchStreams
		made = errors.Join(made, os.WriteFile(b.path(fmt.Sprint("part", i)), content[i*part:(i+1)*part], 0o600), os.Mkdir(b.path(fmt.Sprint("small", i)), 0o755))
	}
	made = errors.Join(made, os.WriteFile(b.path("whole"), content, 0o600))
	for i := range *putFiles {
		made = errors.Join(made, os.WriteFile(b.path(fmt.Sprintf("small%d/s%d", i%benchStreams, i)), content[i<<10:i<<10+10<<10], 0o600))
	}
	if made != nil {
		t.Fatal(made)
	}
	b.p = startDaemon(t, startOptions{program: product(t), data: data})
	b.p.efsServer()
	b.server = b.p.serverOf(types.DomainEfs)
	if _, err := b.p.api().UpdateServer(t.Context(), &transfer.UpdateServerInput{ // the policy that has all ciphers
		ServerId: &b.server, SecurityPolicyName: aws.String("TransferSecurityPolicy-2018-11"),
	}); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *putBench) path(name string) string { return filepath.Join(b.dir, name) }

// attach gives our server a workflow for whole uploads, or takes it away.
func (b *putBench) attach(flow bool) {
	b.t.Helper()
	b.flow = flow
	details := &types.WorkflowDetails{OnUpload: []types.WorkflowDetail{}}
	if flow {
		out, err := b.p.api().CreateWorkflow(b.t.Context(), &transfer.CreateWorkflowInput{Steps: []types.WorkflowStep{deleteStep()}})
		if err != nil {
			b.t.Fatal(err)
		}
		details.OnUpload = append(details.OnUpload, types.WorkflowDetail{WorkflowId: out.WorkflowId, ExecutionRole: aws.String(devRole)})
	}
	if _, err := b.p.api().UpdateServer(b.t.Context(), &transfer.UpdateServerInput{ServerId: &b.server, WorkflowDetails: details}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *putBench) ours(run func(benchPlace)) putFigure {
	b.t.Helper()
	home := filepath.Join(b.p.env["EFS_DIR"], "anna")
	before, clients, begun := cpuSeconds(b.t, b.p.cmd.Process.Pid), clientSeconds(b.t), time.Now()
	run(benchPlace{b.p.env["SFTP_USER"], b.p.env["SFTP_HOST"], b.p.env["SFTP_PORT"], "."})
	f := putFigure{seconds: time.Since(begun).Seconds(), cpu: cpuSeconds(b.t, b.p.cmd.Process.Pid) - before, client: clientSeconds(b.t) - clients}
	if b.flow {
		b.p.await("the steps, which delete", func() bool {
			left, err := os.ReadDir(home)
			return err == nil && len(left) == 0
		})
	}
	b.empty(home)
	return f
}

// openSSH runs an sshd for one upload: its CPU time is what wait4 tells of it and its descendants.
func (b *putBench) openSSH(run func(benchPlace)) putFigure {
	t := b.t
	t.Helper()
	port := freePort(t)
	hostKey, authorized := b.path("ssh_host"), b.path("authorized")
	if _, err := os.Stat(hostKey); err != nil {
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	if err := errors.Join(os.WriteFile(authorized, mustRead(t, b.p.env["SFTP_KEY"]+".pub"), 0o600), os.MkdirAll("/run/sshd", 0o755)); err != nil {
		t.Fatal(err)
	}
	sshd := exec.CommandContext(t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", hostKey, "-p", port,
		"-oListenAddress=127.0.0.1", "-oAuthorizedKeysFile="+authorized, "-oStrictModes=no", "-oPidFile=none", "-oPermitRootLogin=yes",
		"-oSubsystem=sftp /usr/lib/openssh/sftp-server", "-oUsePAM=no", "-oMaxStartups=100")
	if err := sshd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitPort(t, port)
	begun := time.Now()
	run(benchPlace{"root", "127.0.0.1", port, b.path("openssh")})
	f := putFigure{seconds: time.Since(begun).Seconds()}
	b.empty(b.path("openssh"))
	time.Sleep(200 * time.Millisecond) // let sshd reap the session, so that wait4 counts it
	if err := sshd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = sshd.Wait() // ended by the signal
	f.cpu = (sshd.ProcessState.UserTime() + sshd.ProcessState.SystemTime()).Seconds()
	return f
}

// empty removes what was put into a directory.
func (b *putBench) empty(dir string) {
	b.t.Helper()
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// sftp is OpenSSH's client with a batch.
func (b *putBench) sftp(at benchPlace, cipher, batch string) *exec.Cmd {
	cmd := exec.CommandContext(b.t.Context(), "sftp", append(b.options(at, cipher), "-b", "-", at.user+"@"+at.host)...)
	cmd.Stdin = strings.NewReader(batch)
	return cmd
}

func (b *putBench) options(at benchPlace, cipher string) []string {
	// The first value of an option counts for OpenSSH.
	return append([]string{"-oPort=" + at.port, "-oCiphers=" + cipher}, b.p.sshOptions()...)
}

func (b *putBench) streams(at benchPlace, cipher string, n int) {
	b.t.Helper()
	if n == 1 {
		timed(b.t, b.sftp(at, cipher, fmt.Sprintf("put %s %s/whole\n", b.path("whole"), at.dir)))
		return
	}
	b.all(n, func(i int) *exec.Cmd {
		return b.sftp(at, cipher, fmt.Sprintf("put %s %s/part%d\n", b.path(fmt.Sprint("part", i)), at.dir, i))
	})
}

func (b *putBench) logins(at benchPlace) {
	b.t.Helper()
	b.all(benchStreams, func(int) *exec.Cmd { return b.sftp(at, "aes128-gcm@openssh.com", "pwd\n") })
}

func (b *putBench) small(at benchPlace) {
	b.t.Helper()
	b.all(benchStreams, func(i int) *exec.Cmd {
		return b.sftp(at, "aes128-gcm@openssh.com", fmt.Sprintf("put %s/* %s/\n", b.path(fmt.Sprint("small", i)), at.dir))
	})
}

func (b *putBench) lftp(at benchPlace) {
	b.t.Helper()
	program := "ssh -a -x " + strings.Join(b.options(at, "aes128-gcm@openssh.com"), " ")
	timed(b.t, exec.CommandContext(b.t.Context(), "lftp", "-c", fmt.Sprintf("set cmd:fail-exit yes; set net:max-retries 1; set sftp:connect-program '%s'; open -u %s, -p %s sftp://%s; put %s -o %s/whole; bye",
		program, at.user, at.port, at.host, b.path("whole"), at.dir)))
}

// all runs commands side by side.
func (b *putBench) all(n int, command func(i int) *exec.Cmd) {
	b.t.Helper()
	errs := make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() {
			if out, err := command(i).CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%w\n%s", err, out)
			}
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		b.t.Fatal(err)
	}
}

func timed(t *testing.T, cmd *exec.Cmd) float64 {
	t.Helper()
	begun := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return time.Since(begun).Seconds()
}

// cpuSeconds is the CPU time that a process has used, in units of 10 ms.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	stat := string(mustRead(t, fmt.Sprintf("/proc/%d/stat", pid)))
	_, rest, _ := strings.Cut(stat, ") ")
	f := strings.Fields(rest)
	var ticks int
	for _, i := range []int{11, 12} { // utime and stime, fields 14 and 15 of proc(5)
		n, err := strconv.Atoi(f[i])
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port := splitPort(l.Addr().String())
	return port
}

func awaitPort(t *testing.T, port string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
