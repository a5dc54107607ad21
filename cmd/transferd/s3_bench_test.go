package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

var (
	benchS3  = flag.Bool("bench-s3", false, "run TestBenchmarkS3: uploads to S3 beside SFTPGo, or rclone serve sftp, on the same store")
	sftpgo   = flag.String("sftpgo", "", "an SFTPGo program for -bench-s3; without it one is installed, or rclone takes its place")
	sftpgoAt = flag.String("sftpgo-version", "v2.7.0", "the version of SFTPGo to install")
)

const (
	benchS3Size  = 1 << 30
	benchFiles   = 1000 // of benchFile bytes, over benchStreams connections
	benchFile    = 10 << 10
	benchStreams = 8
)

// s3Figure is what one server took for one load.
type s3Figure struct {
	seconds float64
	cpu     float64 // CPU seconds of the server
	store   float64 // of the S3 store
	client  float64 // of the clients
	disk    float64 // MiB that the server had the kernel write to a disk
}

func (f s3Figure) String() string {
	return fmt.Sprintf("CPU s server %.2f store %.2f client %.2f, %.1f MiB to disk", f.cpu, f.store, f.client, f.disk)
}

// TestBenchmarkS3 measures uploads of one large file and of many small ones through SFTP into the same S3 store (on
// tmpfs), in turn into transferd and into another server, and prints figures and ratios. Both have their own state and
// their temporary files on a disk, where every byte counts. It judges nothing.
func TestBenchmarkS3(t *testing.T) {
	if !*benchS3 {
		t.Skip("a benchmark: run it with -bench-s3 (make bench-s3)")
	}
	shm, err := os.MkdirTemp("/dev/shm", "transferd-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	data, source := t.TempDir(), filepath.Join(shm, "source.bin")
	objects := filepath.Join(shm, "objects")
	if err := errors.Join(os.WriteFile(source, noise(benchS3Size), 0o600), os.Mkdir(objects, 0o755), os.Symlink(objects, filepath.Join(data, "s3"))); err != nil {
		t.Fatal(err)
	}
	p := startDaemon(t, startOptions{program: product(t), data: data, env: []string{"TMPDIR=" + t.TempDir()}})
	name, pid, port := p.rival(t)
	ours := benchTarget{p: p, pid: p.cmd.Process.Pid, port: p.env["SFTP_PORT"]}
	theirs := benchTarget{p: p, pid: pid, port: port}
	bare := benchTarget{p: p, pid: p.storePid(t)}
	for _, load := range []struct {
		name string
		unit float64 // how much one load is, in units
		run  func(benchTarget, *testing.T)
		bare func(benchTarget, *testing.T) // the same without a server: what the store itself can do
	}{
		{"one file, MiB", benchS3Size >> 20, func(b benchTarget, t *testing.T) { b.putLarge(t, source) }, benchTarget.partsLarge},
		{"10 KiB files over 8 connections, files", benchFiles, benchTarget.putSmall, benchTarget.objectsSmall},
	} {
		t.Run(load.name, func(t *testing.T) {
			t.Logf("%s: transferd beside %s", load.name, name)
			var speed, cpu []float64
			for i := range benchRounds {
				a, b := ours.measure(t, load.run), theirs.measure(t, load.run)
				speed, cpu = append(speed, b.seconds/a.seconds), append(cpu, a.cpu/b.cpu)
				t.Logf("round %d: %7.0f/s (%v), %s %7.0f/s (%v); ratio %.2f, CPU %.2f",
					i+1, load.unit/a.seconds, a, name, load.unit/b.seconds, b, speed[i], cpu[i])
			}
			f := bare.measure(t, load.bare)
			t.Logf("straight to the store, no server: %7.0f/s (CPU s store %.2f client %.2f)", load.unit/f.seconds, f.store, f.client)
			t.Logf("%s: ratio transferd/%s, median of %d (min–max): throughput %s, server CPU %s", load.name, name, benchRounds, spread(speed), spread(cpu))
		})
	}
}

// benchTarget is a server to measure, with the daemon's user and key.
type benchTarget struct {
	p    *proc
	pid  int
	port string
}

func (b benchTarget) measure(t *testing.T, load func(benchTarget, *testing.T)) s3Figure {
	t.Helper()
	storePid := b.p.storePid(t)
	cpu, store, client, disk, begun := cpuSeconds(t, b.pid), cpuSeconds(t, storePid), clientSeconds(t), written(t, b.pid), time.Now()
	load(b, t)
	return s3Figure{
		seconds: time.Since(begun).Seconds(), cpu: cpuSeconds(t, b.pid) - cpu,
		store: cpuSeconds(t, storePid) - store, client: clientSeconds(t) - client,
		disk: float64(written(t, b.pid)-disk) / (1 << 20),
	}
}

// clientSeconds is the CPU time of this process and of the clients that it has run.
func clientSeconds(t *testing.T) (sum float64) {
	t.Helper()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
	}
	return sum
}

// partsLarge sends one file in parts of 8 MiB, 4 at a time, with nothing that a server would have to do.
func (b benchTarget) partsLarge(t *testing.T) {
	t.Helper()
	const size, parallel = 8 << 20, 4
	client, part := b.p.s3(), noise(size)
	up, err := client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: aws.String(devBucket), Key: aws.String("bench-bare.bin")})
	if err != nil {
		t.Fatal(err)
	}
	done := make([]types.CompletedPart, benchS3Size/size)
	each(t, parallel, len(done), func(i int) error {
		n := aws.Int32(int32(i + 1))
		out, err := client.UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: up.Bucket, Key: up.Key, UploadId: up.UploadId, PartNumber: n, Body: bytes.NewReader(part),
		}, unsigned)
		if err == nil {
			done[i] = types.CompletedPart{PartNumber: n, ETag: out.ETag}
		}
		return err
	})
	if _, err := client.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: up.Bucket, Key: up.Key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	}); err != nil {
		t.Fatal(err)
	}
}

// objectsSmall puts as many objects as putSmall makes files.
func (b benchTarget) objectsSmall(t *testing.T) {
	t.Helper()
	client, content := b.p.s3(), noise(benchFile)
	each(t, benchStreams, benchFiles, func(i int) error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String(devBucket), Key: aws.String(fmt.Sprintf("bare-%d", i)), Body: bytes.NewReader(content),
		}, unsigned)
		return err
	})
}

func unsigned(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
}

// each does n things, so many at a time.
func each(t *testing.T, parallel, n int, do func(int) error) {
	t.Helper()
	errs := make([]error, n)
	var next atomic.Int64
	var all sync.WaitGroup
	for range parallel {
		all.Go(func() {
			for i := next.Add(1) - 1; int(i) < n; i = next.Add(1) - 1 {
				errs[i] = do(int(i))
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (b benchTarget) putLarge(t *testing.T, source string) {
	t.Helper()
	args := slices.DeleteFunc(b.p.sshOptions("-oCiphers=aes128-gcm@openssh.com"), func(a string) bool { return strings.HasPrefix(a, "-oPort=") })
	cmd := exec.CommandContext(t.Context(), "sftp", append(args, "-oPort="+b.port, "-b", "-", b.p.env["SFTP_USER"]+"@127.0.0.1")...)
	cmd.Stdin = strings.NewReader("put " + source + " bench.bin\n")
	timed(t, cmd)
}

// putSmall makes the same files with each server, anew each time.
func (b benchTarget) putSmall(t *testing.T) {
	t.Helper()
	content := noise(benchFile)
	each(t, benchStreams, benchStreams, func(i int) error { return b.putFiles(i, content) })
}

func (b benchTarget) putFiles(stream int, content []byte) error {
	pem, err := os.ReadFile(b.p.env["SFTP_KEY"])
	if err != nil {
		return err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return err
	}
	conn, err := ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", b.port), &ssh.ClientConfig{
		User: b.p.env["SFTP_USER"], Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	client, err := sftp.NewClient(conn)
	if err != nil {
		return err
	}
	for i := range benchFiles / benchStreams {
		f, err := client.OpenFile(fmt.Sprintf("small-%d-%d", stream, i), os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return client.Close()
}

// written is how many bytes a process has had the kernel write to a disk.
func written(t *testing.T, pid int) (n int64) {
	t.Helper()
	for line := range strings.Lines(string(mustRead(t, fmt.Sprintf("/proc/%d/io", pid)))) {
		if _, err := fmt.Sscanf(line, "write_bytes: %d", &n); err == nil {
			return n
		}
	}
	t.Fatal("no write_bytes")
	return 0
}

// rival starts the other server on the daemon's store.
func (p *proc) rival(t *testing.T) (name string, pid int, port string) {
	t.Helper()
	dir := t.TempDir()
	port = freePort(t)
	cmd := exec.Command(installSFTPGo(t), "portable", "-f", "s3fs", "-c", dir, "-d", dir, "-l", "", "-s", port, "-g", "*",
		"-u", p.env["SFTP_USER"], "-k", strings.TrimSpace(string(mustRead(t, p.env["SFTP_KEY"]+".pub"))),
		"--s3-endpoint", p.env["S3_ENDPOINT"], "--s3-bucket", devBucket, "--s3-region", p.env["AWS_REGION"], "--s3-force-path-style",
		"--s3-access-key", p.env["AWS_ACCESS_KEY_ID"], "--s3-access-secret", p.env["AWS_SECRET_ACCESS_KEY"])
	name = "SFTPGo"
	if cmd.Path == "" {
		name = "rclone serve sftp"
		cmd = exec.Command("rclone", "serve", "sftp", "--addr", "127.0.0.1:"+port, "--user", p.env["SFTP_USER"],
			"--authorized-keys", p.env["SFTP_KEY"]+".pub", "--vfs-cache-mode", "off", "--cache-dir", dir, ":s3:"+devBucket)
		cmd.Env = append(os.Environ(), "RCLONE_S3_PROVIDER=Other", "RCLONE_S3_ENDPOINT="+p.env["S3_ENDPOINT"], "RCLONE_S3_FORCE_PATH_STYLE=true",
			"RCLONE_S3_ACCESS_KEY_ID="+p.env["AWS_ACCESS_KEY_ID"], "RCLONE_S3_SECRET_ACCESS_KEY="+p.env["AWS_SECRET_ACCESS_KEY"], "RCLONE_CONFIG="+filepath.Join(dir, "none"))
	}
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	awaitPort(t, port)
	return name, cmd.Process.Pid, port
}

// installSFTPGo builds SFTPGo from its public source into a folder of its own; "" if it cannot be had.
func installSFTPGo(t *testing.T) string {
	t.Helper()
	if *sftpgo != "" {
		return *sftpgo
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "transferd-bench", "sftpgo-"+*sftpgoAt)
	program := filepath.Join(dir, "v2")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	cmd := exec.CommandContext(t.Context(), "go", "install", "-tags", "nogcs,noazblob,nomysql,nopgsql,nosqlite", "github.com/drakkan/sftpgo/v2@"+*sftpgoAt)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("SFTPGo cannot be had, rclone takes its place: %v\n%s", err, out)
		return ""
	}
	return program
}
