package sftpd_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/sftpd"
	"github.com/transferd/transferd/storage"
)

var wan = flag.Bool("wan", false, "run TestWAN: uploads over a delayed line beside OpenSSH's sshd")

const (
	wanRounds = 3
	wanSize   = 256 << 20
)

// TestWAN measures uploads of OpenSSH's sftp through a proxy that delays, in turn into a rig that throws the bytes away
// and into OpenSSH's sshd with its sftp-server on tmpfs, and prints rates and ratios. It judges nothing.
func TestWAN(t *testing.T) {
	if !*wan {
		t.Skip("a benchmark: run it with -wan")
	}
	dir, err := os.MkdirTemp("/dev/shm", "transferd-wan-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, doortest.Random(wanSize), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(r *rig, c *sftpd.Config) { c.Stores = sink{r.store} })
	theirs := r.startSSHD(t, dir)
	for _, rtt := range []time.Duration{20 * time.Millisecond, 80 * time.Millisecond} {
		near, far := delayed(t, r.addr, rtt), delayed(t, theirs, rtt)
		var ratios []float64
		for range wanRounds {
			ours := r.put(t, near, user, source, "file")
			sshd := r.put(t, far, "root", source, filepath.Join(dir, "target"))
			ratios = append(ratios, sshd/ours)
			t.Logf("RTT %v: transferd %.1f MB/s, OpenSSH %.1f MB/s, ratio %.2f", rtt, wanSize/1e6/ours, wanSize/1e6/sshd, sshd/ours)
		}
		slices.Sort(ratios)
		t.Logf("RTT %v: ratio transferd/OpenSSH, median of %d: %.2f (%.2f–%.2f)", rtt, wanRounds, ratios[wanRounds/2], ratios[0], ratios[wanRounds-1])
	}
}

// put uploads a file and returns the seconds that it took.
func (r *rig) put(t *testing.T, addr, name, source, target string) float64 {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	args := append(r.sshOptions("Ciphers=aes128-gcm@openssh.com"), "-b", "-", "-P", port, name+"@"+host)
	if out, err := doortest.Run(t, "put "+source+" "+target+"\n", "sftp", args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return time.Since(begun).Seconds()
}

// startSSHD runs OpenSSH's server, which lets the rig's key in.
func (r *rig) startSSHD(t *testing.T, dir string) string {
	t.Helper()
	hostKey := filepath.Join(dir, "host")
	if out, err := doortest.Run(t, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	ln.Close()
	cmd := exec.CommandContext(t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", hostKey, "-p", port,
		"-oListenAddress=127.0.0.1", "-oAuthorizedKeysFile="+r.keyFile+".pub", "-oStrictModes=no", "-oPidFile=none",
		"-oPermitRootLogin=yes", "-oSubsystem=sftp /usr/lib/openssh/sftp-server", "-oUsePAM=no")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // ended by the signal
	})
	doortest.Eventually(t, "sshd", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}

// delayed is the address of a proxy whose line takes half of rtt each way and has room for everything.
func delayed(t *testing.T, addr string, rtt time.Duration) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				near.Close()
				return
			}
			wg.Go(func() { line(far, near, rtt/2) })
			wg.Go(func() { line(near, far, rtt/2) })
		}
	})
	return ln.Addr().String()
}

// line carries bytes one way, each after delay.
func line(to, from net.Conn, delay time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	under := make(chan piece, 8192)
	go func() {
		defer close(under)
		for {
			p := make([]byte, 32<<10)
			n, err := from.Read(p)
			if n > 0 {
				under <- piece{time.Now().Add(delay), p[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range under {
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	to.Close()
	for range under { // so that the reading side can end
	}
	from.Close()
}

// sink is a bucket whose uploads go nowhere.
type sink struct{ *doortest.Store }

func (s sink) Backend(context.Context, string, string) (storage.Backend, error) { return s, nil }

func (s sink) Create(context.Context, string, storage.CreateOptions) (storage.Upload, error) {
	return &sunk{}, nil
}

type sunk struct{ size int64 }

func (u *sunk) WriteAt(p []byte, off int64) (int, error) {
	if off != u.size {
		return 0, fmt.Errorf("WRITE at %d after %d bytes", off, u.size)
	}
	u.size += int64(len(p))
	return len(p), nil
}
func (u *sunk) Commit(context.Context) (storage.Object, error) {
	return storage.Object{Size: u.size, ETag: strings.Repeat("e", 32)}, nil
}
func (u *sunk) Abort(context.Context) error { return nil }
