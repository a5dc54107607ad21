package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var benchPut = flag.Bool("bench-put", false, "run TestBenchmarkPut: a 1 GiB put beside OpenSSH's sftp-server")

const benchRounds = 5

// putFigure is one measured put.
type putFigure struct {
	seconds float64 // wall clock of the client
	cpu     float64 // CPU seconds of the server's own processes
	store   float64 // CPU seconds of the S3 store, ours only
}

// TestBenchmarkPut measures a 1 GiB put over aes128-gcm with OpenSSH's sftp client, in turn into transferd (S3 store on
// tmpfs) and into OpenSSH's sshd with sftp-server (files on tmpfs), and prints figures and ratios. It judges nothing.
func TestBenchmarkPut(t *testing.T) {
	if !*benchPut {
		t.Skip("a benchmark: run it with -bench-put (make bench)")
	}
	const size = 1 << 30
	dir, err := os.MkdirTemp("/dev/shm", "transferd-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	source := filepath.Join(dir, "source.bin")
	if err := os.WriteFile(source, noise(size), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startDaemon(t, startOptions{program: product(t), data: filepath.Join(dir, "data")})
	var ours, theirs []putFigure
	for range benchRounds {
		ours = append(ours, p.benchOurs(t, source))
		theirs = append(theirs, benchOpenSSH(t, p, dir, source))
	}
	const gib = float64(size) / (1 << 30)
	t.Logf("round  transferd MiB/s  CPU-s/GiB  (store CPU-s/GiB)   OpenSSH MiB/s  CPU-s/GiB   ratio MiB/s  ratio CPU")
	var speed, cpu []float64
	for i := range ours {
		o, s := ours[i], theirs[i]
		speed, cpu = append(speed, s.seconds/o.seconds), append(cpu, o.cpu/s.cpu)
		t.Logf("%5d  %15.0f  %9.2f  %17.2f   %13.0f  %9.2f   %11.2f  %9.2f", i+1,
			1024*gib/o.seconds, o.cpu/gib, o.store/gib, 1024*gib/s.seconds, s.cpu/gib, speed[i], cpu[i])
	}
	t.Logf("ratio transferd/OpenSSH, median of %d (min–max): throughput %s, server CPU %s", benchRounds, spread(speed), spread(cpu))
}

func spread(v []float64) string {
	s := slices.Sorted(slices.Values(v))
	return fmt.Sprintf("%.2f (%.2f–%.2f)", s[len(s)/2], s[0], s[len(s)-1])
}

func (p *proc) benchOurs(t *testing.T, source string) putFigure {
	t.Helper()
	store := p.storePid(t)
	cpu, storeCPU := cpuSeconds(t, p.cmd.Process.Pid), cpuSeconds(t, store)
	cmd := p.sftpCommand(t.Context(), p.env["SFTP_USER"], "put "+source+" bench.bin\n", "-oCiphers=aes128-gcm@openssh.com")
	f := putFigure{seconds: timed(t, cmd)}
	f.cpu, f.store = cpuSeconds(t, p.cmd.Process.Pid)-cpu, cpuSeconds(t, store)-storeCPU
	p.sftp("rm bench.bin\n")
	return f
}

// benchOpenSSH runs an sshd for one put: its CPU time is what wait4 tells of it and its descendants.
func benchOpenSSH(t *testing.T, p *proc, dir, source string) putFigure {
	t.Helper()
	port := freePort(t)
	hostKey, authorized := filepath.Join(dir, "ssh_host"), filepath.Join(dir, "authorized")
	if _, err := os.Stat(hostKey); err != nil {
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	if err := os.WriteFile(authorized, mustRead(t, p.env["SFTP_KEY"]+".pub"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	sshd := exec.CommandContext(t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", hostKey, "-p", port,
		"-oListenAddress=127.0.0.1", "-oAuthorizedKeysFile="+authorized, "-oStrictModes=no", "-oPidFile=none", "-oPermitRootLogin=yes",
		"-oSubsystem=sftp /usr/lib/openssh/sftp-server", "-oUsePAM=no")
	if err := sshd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitPort(t, port)
	target := filepath.Join(dir, "openssh.bin")
	cmd := exec.CommandContext(t.Context(), "sftp", append(p.sshOptions("-oPort="+port, "-oCiphers=aes128-gcm@openssh.com"), "-b", "-", "root@127.0.0.1")...)
	// The first value of an option counts for OpenSSH, so the daemon's port must go.
	cmd.Args = slices.DeleteFunc(cmd.Args, func(a string) bool { return a == "-oPort="+p.env["SFTP_PORT"] })
	cmd.Stdin = strings.NewReader("put " + source + " " + target + "\n")
	f := putFigure{seconds: timed(t, cmd)}
	if err := os.Remove(target); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // let sshd reap the session, so that wait4 counts it
	if err := sshd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = sshd.Wait() // ended by the signal
	f.cpu = (sshd.ProcessState.UserTime() + sshd.ProcessState.SystemTime()).Seconds()
	return f
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
