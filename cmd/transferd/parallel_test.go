package main

import (
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

var (
	load     = flag.Bool("load", false, "run TestParallelUploads, TestLargeDirectory and TestLargeCopy")
	loadN    = flag.Int("load-uploads", 1000, "uploads of -load that are open at a time")
	loadSize = flag.Int64("load-size", 32<<20, "bytes of each")
	loadDir  = flag.String("load-entries", "10000,50000,200000", "objects of the directories that -load lists, one after the other")
)

// loadBudget is the memory that the daemon has by default.
const loadBudget = 1 << 30

// TestParallelUploads: a thousand uploads to S3 that are open at the same time under the default budget are all what was
// sent, in bounded memory and without a temporary file. The client is the test; the daemon is the product as shipped.
func TestParallelUploads(t *testing.T) {
	if !*load {
		t.Skip("a load test: run it with -load (make load)")
	}
	tmp := t.TempDir()
	p := startDaemon(t, startOptions{program: product(t), env: []string{"TMPDIR=" + tmp}, args: []string{"-buffers", strconv.Itoa(loadBudget)}})
	disk := written(t, p.cmd.Process.Pid)
	stopWatch, seen := p.watchFiles(t)

	files, conns := openMany(t, p, *loadN)
	begun := time.Now()
	sums := make([]string, len(files))
	errs := make([]error, len(files))
	var all sync.WaitGroup
	for i, f := range files {
		all.Go(func() {
			h := sha256.New()
			_, err := f.ReadFrom(io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)}), *loadSize), h))
			errs[i], sums[i] = errors.Join(err, f.Close()), fmt.Sprintf("%x", h.Sum(nil))
		})
	}
	all.Wait()
	took := time.Since(begun)
	stopWatch()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		_ = c.Close() // everything is sent
	}
	for i, want := range sums {
		if got := sumOfFile(t, filepath.Join(p.data, "s3", devBucket, loadName(i))); got != want {
			t.Errorf("object %d is %s, sent %s", i, got, want)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("temporary files: %v %v", left, err)
	}
	if len(seen()) != 0 {
		t.Errorf("files that the daemon had open beside its state: %v", seen())
	}
	peak := p.peakMemory()
	t.Logf("%d uploads of %d MiB in %v (%.0f MiB/s); peak resident memory %d MiB, buffers at most %.0f MiB of %d; %d MiB to disk besides the store",
		len(files), *loadSize>>20, took.Round(time.Second), float64(int64(len(files))**loadSize>>20)/took.Seconds(), peak>>20,
		p.metric("transferd_s3_buffer_peak_bytes")/(1<<20), loadBudget>>20, (written(t, p.cmd.Process.Pid)-disk)>>20)
	if peak > loadBudget {
		t.Errorf("peak resident memory is %d MiB, more than the %d MiB that were granted", peak>>20, loadBudget>>20)
	}
}

func loadName(i int) string { return fmt.Sprintf("load-%d.bin", i) }

// openMany opens so many uploads, each over a connection of its own.
func openMany(t *testing.T, p *proc, n int) ([]*sftp.File, []net.Conn) {
	t.Helper()
	files, conns, errs := make([]*sftp.File, n), make([]net.Conn, n), make([]error, n)
	slots := make(chan struct{}, 16) // handshakes at a time
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			conn, client, err := p.tryDial()
			if err == nil {
				conns[i] = conn
				files[i], err = client.OpenFile(loadName(i), os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
			}
			errs[i] = err
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return files, conns
}

// watchFiles looks ten times a second at the regular files that the daemon has open: none but its database and its log.
func (p *proc) watchFiles(t *testing.T) (stop func(), seen func() []string) {
	t.Helper()
	found := map[string]bool{}
	end, ended := make(chan struct{}), make(chan struct{})
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			fds, _ := os.ReadDir(dir) // it has ended if this fails, which the uploads tell
			for _, fd := range fds {
				name, err := os.Readlink(filepath.Join(dir, fd.Name()))
				known := strings.HasPrefix(name, filepath.Join(p.data, "db")) || strings.HasPrefix(name, filepath.Join(p.data, "transferd.log"))
				info, gone := os.Stat(filepath.Join(dir, fd.Name()))
				if err == nil && gone == nil && strings.HasPrefix(name, "/") && info.Mode().IsRegular() && !strings.HasPrefix(name, "/sys/") && !strings.HasPrefix(name, "/proc/") && !known {
					found[name] = true
				}
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended }, func() []string {
		var names []string
		for name := range found {
			names = append(names, name)
		}
		return names
	}
}

func sumOfFile(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestLargeDirectory lists directories of many objects through SFTP: all of them are there, and the daemon's memory does
// not grow with their number.
func TestLargeDirectory(t *testing.T) {
	if !*load {
		t.Skip("a load test: run it with -load (make load)")
	}
	p := startDaemon(t, startOptions{program: product(t), env: []string{"GOGC=400"}}) // without the floor, which hides small growth
	conn, client := p.dial()
	defer conn.Close()
	var first int64
	for number := range strings.SplitSeq(*loadDir, ",") {
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Mkdir(number); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if err := os.WriteFile(filepath.Join(p.data, "s3", devBucket, number, fmt.Sprintf("object-%06d", i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		entries, err := client.ReadDir(number)
		if err != nil || len(entries) != n {
			t.Fatalf("%d entries, %v", len(entries), err)
		}
		took, peak := time.Since(begun), p.peakMemory()
		if first == 0 {
			first = peak
		}
		lines, theirs := p.awsList(number + "/")
		t.Logf("%d objects listed in %v, aws s3 ls %d in %v, ratio %.2f; peak resident memory so far %d MiB",
			n, took.Round(time.Millisecond), lines, theirs.Round(time.Millisecond), took.Seconds()/theirs.Seconds(), peak>>20)
		// With GC percent 400 the pages' garbage is several times what lives.
		if grown := peak - first; grown > 48<<20 {
			t.Errorf("%d objects took %d MiB more than the first directory", n, grown>>20)
		}
	}
}

// awsList says how long `aws s3 ls` takes for the same.
func (p *proc) awsList(prefix string) (lines int, took time.Duration) {
	p.t.Helper()
	begun := time.Now()
	cmd := awsS3(p, "ls", "s3://"+devBucket+"/"+prefix)
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.t.Fatalf("aws s3 ls: %v\n%s", err, out)
	}
	return strings.Count(string(out), "\n"), time.Since(begun)
}

func awsS3(p *proc, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.t.Context(), "aws", append([]string{"s3", "--endpoint-url", p.env["S3_ENDPOINT"]}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_PAGER=", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_ACCESS_KEY_ID="+p.env["AWS_ACCESS_KEY_ID"], "AWS_SECRET_ACCESS_KEY="+p.env["AWS_SECRET_ACCESS_KEY"], "AWS_DEFAULT_REGION="+p.env["AWS_REGION"])
	return cmd
}
