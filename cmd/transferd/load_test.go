package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// metric reads one value of the daemon's metrics; name is the whole series, labels included.
func (p *proc) metric(name string) float64 {
	p.t.Helper()
	res, err := http.Get(p.env["METRICS_URL"])
	if err != nil {
		p.t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				p.t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

// TestManyUploads: 64 uploads at once, of random sizes up to 64 MiB, under a budget of 64 MiB: all byte-identical, the
// memory bounded, no temporary files. It drives the product as it is shipped, for its memory figure means nothing with
// the race detector in it.
func TestManyUploads(t *testing.T) {
	t.Parallel()
	const n, most, budget = 64, 64 << 20, 64 << 20
	tmp := t.TempDir()
	p := startDaemon(t, startOptions{program: product(t), env: []string{"TMPDIR=" + tmp}, args: []string{"-buffers", strconv.Itoa(budget)}})
	sums := make([]string, n)
	var all sync.WaitGroup
	errs := make(chan error, n)
	var total int64
	for i := range n {
		size := rand.Int64N(most + 1)
		switch i {
		case 0:
			size = 0
		case 1:
			size = most
		}
		total += size
		seed := [32]byte{byte(i), byte(size)}
		all.Go(func() {
			var err error
			sums[i], err = p.putStream(fmt.Sprintf("many-%d.bin", i), seed, size)
			if err != nil {
				errs <- fmt.Errorf("upload %d of %d bytes: %w", i, size, err)
			}
		})
	}
	begun := time.Now()
	all.Wait()
	took := time.Since(begun)
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	peak := p.peakMemory()
	for i := range n {
		if got := p.objectSum(fmt.Sprintf("many-%d.bin", i)); got != sums[i] {
			t.Errorf("object %d is %s, sent %s", i, got, sums[i])
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("temporary files: %v %v", left, err)
	}
	if used := p.metric("transferd_s3_buffer_used_bytes"); used != 0 {
		t.Errorf("%v bytes of buffers are still taken", used)
	}
	t.Logf("%d uploads, %d MiB in %v; peak resident memory %d MiB under a buffer budget of %d MiB", n, total>>20, took.Round(time.Millisecond), peak>>20, budget>>20)
	if limit := int64(leastLimit + unknown); peak > limit {
		t.Errorf("peak resident memory is %d MiB, more than %d MiB", peak>>20, limit>>20)
	}
}

// putStream uploads pseudo-random bytes of a seed without holding them, and returns their sum.
func (p *proc) putStream(remote string, seed [32]byte, size int64) (string, error) {
	conn, client, err := p.tryDial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	f, err := client.OpenFile(remote, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := f.ReadFrom(io.TeeReader(io.LimitReader(rand.NewChaCha8(seed), size), h)); err != nil {
		return "", err
	}
	if err := errors.Join(f.Close(), client.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes %x", size, h.Sum(nil)), nil
}

// objectSum is the sum of an object, read without holding it.
func (p *proc) objectSum(key string) string {
	p.t.Helper()
	out, err := p.s3().GetObject(p.t.Context(), &s3.GetObjectInput{Bucket: aws.String(devBucket), Key: aws.String(key)})
	if err != nil {
		p.t.Fatal(err)
	}
	h := sha256.New()
	n, err := io.Copy(h, out.Body)
	if err := errors.Join(err, out.Body.Close()); err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes %x", n, h.Sum(nil))
}

// peakMemory is the daemon's own high-water mark, the S3 store's process not counted.
func (p *proc) peakMemory() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	p.t.Fatal("no VmHWM")
	return 0
}

// TestStoreOutage: an outage of the store that is shorter than the retry budget goes unnoticed; a longer one fails the
// upload, starts no workflow, and leaves nothing half-made once the store is back.
func TestStoreOutage(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{args: []string{"-s3-retry", "3s"}})
	whole, partial := p.attachWorkflows()
	content := noise(40 << 20)

	t.Run("short", func(t *testing.T) {
		err := p.putAround("short.bin", content, func() {
			if err := syscall.Kill(p.storePid(t), syscall.SIGKILL); err != nil { // the daemon starts it again
				t.Fatal(err)
			}
		})
		if err != nil {
			t.Fatalf("the client noticed: %v", err)
		}
		p.awaitExecution(whole, "short.bin")
		if got := p.object("short.bin"); !bytes.Equal(got, content) {
			t.Errorf("the object is %s, want %s", sum(got), sum(content))
		}
	})
	t.Run("long", func(t *testing.T) {
		store := p.storePid(t)
		err := p.putAround("long.bin", content, func() {
			if err := syscall.Kill(store, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		})
		if err == nil {
			t.Error("the client got no error")
		} else if strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "PutObject") || strings.Contains(err.Error(), "UploadPart") {
			t.Errorf("the error has the backend's words: %v", err)
		}
		t.Logf("the client was told: %v", err)
		if err := syscall.Kill(store, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		p.await("the end of the half-made upload", func() bool { return len(p.danglingUploads()) == 0 })
		// A later upload's execution shows that the queue is past the failed one.
		if err := p.putAround("after.bin", content[:1<<20], func() {}); err != nil {
			t.Fatal(err)
		}
		p.awaitExecution(whole, "after.bin")
		if got := p.object("long.bin"); got != nil {
			t.Errorf("the refused upload left %s", sum(got))
		}
		if n := len(p.executions(whole, "long.bin")) + len(p.executions(partial, "long.bin")); n != 0 {
			t.Errorf("%d executions for a refused upload", n)
		}
	})
	p.stop()
}

// putAround uploads with something happening when half of the file is sent.
func (p *proc) putAround(remote string, content []byte, midway func()) error {
	conn, client, err := p.tryDial()
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := client.OpenFile(remote, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	half := len(content) / 2
	if _, err := f.ReadFrom(bytes.NewReader(content[:half])); err != nil {
		return err
	}
	midway()
	_, err = f.ReadFrom(bytes.NewReader(content[half:]))
	return errors.Join(err, f.Close())
}

// TestHostileClients: the daemon refuses clearly, lives, and keeps nothing.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	p.sftp("ls\n") // warm up what is made once
	before := p.settled()

	wrong := filepath.Join(t.TempDir(), "wrong")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	t.Run("wrong key", func(t *testing.T) { p.refuses(t, p.env["SFTP_USER"], wrong) })
	t.Run("unknown user", func(t *testing.T) { p.refuses(t, "nobody", p.env["SFTP_KEY"]) })
	t.Run("path traversal", func(t *testing.T) {
		for _, path := range []string{"../../../../etc/passwd", "/../etc/passwd", "a/../../../etc/passwd", `..\..\etc\passwd`} {
			out, err := p.sftpCommand(t.Context(), p.env["SFTP_USER"], "get "+path+" "+filepath.Join(t.TempDir(), "x")+"\n").CombinedOutput()
			if err == nil || strings.Contains(string(out), "root:") {
				t.Errorf("get %s: %v\n%s", path, err, out)
			}
		}
	})
	t.Run("garbage on the port", func(t *testing.T) {
		for range 20 {
			conn, err := net.Dial("tcp", net.JoinHostPort(p.env["SFTP_HOST"], p.env["SFTP_PORT"]))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write(noise(4 << 10)) // the daemon may have closed already
			_ = conn.Close()
		}
	})
	t.Run("200,000 opens in one session", func(t *testing.T) {
		conn, client := p.dial()
		defer conn.Close()
		p.sftp("put /etc/hostname hosts\n")
		opened := 0
		var refused error
		for range 200_000 {
			if _, err := client.Open("hosts"); err != nil {
				refused = err
				break
			}
			opened++
		}
		if refused == nil {
			t.Errorf("%d opens were granted", opened)
		}
		t.Logf("refused after %d: %v", opened, refused)
	})
	p.sftp("ls\n")
	p.await("what the hostile clients took is given back", func() bool {
		return p.metric(`transferd_sessions{protocol="SFTP"}`) == 0 && p.metric("transferd_open_files") == 0 && p.settled() <= before+idleConnections
	})
	if auth := p.logged("AUTH_FAILURE"); len(auth) < 2 {
		t.Errorf("%d AUTH_FAILURE entries", len(auth))
	}
	p.stop()
}

// idleConnections are the goroutines that the pool of connections to the S3 store keeps for a while: two each.
const idleConnections = 40

// settled is the number of goroutines of the daemon.
func (p *proc) settled() float64 { return p.metric("go_goroutines") }

func (p *proc) refuses(t *testing.T, user, key string) {
	t.Helper()
	saved := p.env["SFTP_KEY"]
	p.env["SFTP_KEY"] = key
	defer func() { p.env["SFTP_KEY"] = saved }()
	out, err := p.sftpCommand(t.Context(), user, "ls\n").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("%s with %s: %v\n%s", user, filepath.Base(key), err, out)
	}
}

var program = flag.String("program", "", "a transferd to measure, in place of one that is built from this source")

// product builds the program as it is shipped, once.
func product(t *testing.T) string {
	t.Helper()
	if *program != "" {
		return *program
	}
	buildOnce.Do(func() {
		dir, err := os.MkdirTemp("", "transferd-product-")
		if err != nil {
			buildErr = err
			return
		}
		builtAt = filepath.Join(dir, "transferd")
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "go", "build", "-o", builtAt, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			buildErr = fmt.Errorf("go build: %w\n%s", err, out)
		}
	})
	if buildErr != nil {
		t.Fatal(buildErr)
	}
	return builtAt
}

// The product is built once for all tests of this package; TestMain removes it.
var (
	buildOnce sync.Once
	buildErr  error
	builtAt   string
)

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
