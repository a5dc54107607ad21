package sftpd

import (
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"
)

// level is a gauge that can be read.
type level struct {
	prometheus.Gauge
	value float64
}

func (l *level) Add(n float64) { l.value += n }
func (l *level) Sub(n float64) { l.value -= n }

func newTestBudget(limit int) (*windowBudget, *level) {
	gauge := &level{}
	return &windowBudget{gauge: gauge, limit: limit}, gauge
}

// clock moves on by a step at each look.
type clock struct {
	at   time.Time
	step time.Duration
}

func (c *clock) now() time.Time {
	c.at = c.at.Add(c.step)
	return c.at
}

// endless has always so much to read.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) { return min(e.n, len(p)), nil }

// TestWindowGrowth: which uploads get a larger window, how it goes back, and that the books are right.
func TestWindowGrowth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		budget int
		step   time.Duration // a window's worth takes so long
		arrive int           // bytes that are there at a Read, of a buffer of 128 KiB
		upload bool
		want   int
	}{
		{"80 ms", 256 << 20, 80 * time.Millisecond, 32 << 10, true, maxWindow},
		{"small budget", 3 << 20, 80 * time.Millisecond, 32 << 10, true, smallWindow + 3<<20},
		{"no budget", -1, 80 * time.Millisecond, 32 << 10, true, smallWindow},
		{"local network", 256 << 20, time.Millisecond, 32 << 10, true, baseWindow},
		{"local network, little left", 3 << 20, time.Millisecond, 32 << 10, true, smallWindow},
		{"slow line", 256 << 20, 2 * time.Second, 32 << 10, true, baseWindow},
		{"slow store", 256 << 20, 80 * time.Millisecond, 128 << 10, true, baseWindow},
		{"no upload", 256 << 20, 80 * time.Millisecond, 32 << 10, false, smallWindow},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			budget, gauge := newTestBudget(c.budget)
			back := 0
			w := &window{pending: &endless{c.arrive}, adjust: func(n uint32) error { back += int(n); return nil }, budget: budget,
				now: (&clock{step: c.step}).now, size: smallWindow}
			w.bulk(c.upload)
			p, read := make([]byte, 128<<10), 0
			for read < 64<<20 {
				n, err := w.Read(p)
				if err != nil {
					t.Fatal(err)
				}
				read += n
			}
			if w.size != c.want || gauge.value != float64(w.size-smallWindow) || budget.used != w.size-smallWindow {
				t.Errorf("window %d, want %d; used %d, gauge %v", w.size, c.want, budget.used, gauge.value)
			}
			if got := back + w.credit - read; got != w.size-smallWindow {
				t.Errorf("%d bytes handed back beyond what was read, want %d", got, w.size-baseWindow)
			}

			w.pending = &endless{128 << 10} // the store falls behind
			for range 1024 {
				n, _ := w.Read(p)
				read += n
			}
			if w.size > baseWindow || back+w.credit-read != w.size-smallWindow {
				t.Errorf("window %d after a store that was slow, %d bytes out", w.size, back+w.credit-read)
			}
			w.close()
			if budget.used != 0 || gauge.value != 0 {
				t.Errorf("%d used after close", budget.used)
			}
		})
	}
}

// TestWindowShim holds what window.go needs of x/crypto/ssh: if an update of the module breaks it, this test says so.
func TestWindowShim(t *testing.T) {
	t.Parallel()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/crypto").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "ssh", "channel.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"func (c *channel) adjustWindow(adj uint32) error {", "n, err = c.pending.Read(data)", "err = c.adjustWindow(uint32(n))",
		"ch.windowMu.Lock()\n	if ch.myWindow < length {", "MyWindow:      ch.myWindow,",
		"channelMaxPacket = 1 << 15", "channelWindowSize = 64 * channelMaxPacket",
	} {
		if !strings.Contains(string(source), line) {
			t.Errorf("x/crypto/ssh has no %q any more: see window.go", line)
		}
	}

	server, client := channels(t)
	budget, _ := newTestBudget(256 << 20)
	w := newWindow(server, budget, (&clock{step: 100 * time.Millisecond}).now)
	if w == nil {
		t.Fatal("x/crypto/ssh's channel is not what window.go knows")
	}
	var sent atomic.Int64
	go func() {
		block := make([]byte, 32<<10)
		for {
			n, err := client.Write(block)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	p, read := make([]byte, 2*maxWindow), 0
	ahead := func() int { // how far the client gets if nobody reads
		last, still := int64(-1), 0
		for tick := time.NewTicker(5 * time.Millisecond); still < 40; <-tick.C {
			if now := sent.Load(); now != last {
				last, still = now, 0
			} else {
				still++
			}
		}
		return int(last) - read
	}
	if got := ahead(); got > smallWindow {
		t.Errorf("the client got %d bytes ahead before there was an upload, want %d", got, smallWindow)
	}
	w.bulk(true)
	for w.size < maxWindow {
		n, err := w.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	if got := ahead(); got < maxWindow-creditAt-64<<10 || got > maxWindow {
		t.Errorf("the client got %d bytes ahead, want %d", got, maxWindow)
	}
	w.bulk(false)
	for w.size > smallWindow {
		n, err := w.Read(p[:64<<10])
		if err != nil {
			t.Fatal(err)
		}
		read += n
	}
	if got := ahead(); got < smallWindow/2 || got > smallWindow {
		t.Errorf("the client got %d bytes ahead of a window that has shrunk, want %d", got, smallWindow)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, w); err != nil || n == 0 {
		t.Errorf("read %d bytes to the end: %v", n, err)
	}
}

// channels are the two ends of one SSH channel.
func channels(t *testing.T) (server, client ssh.Channel) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	there, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	accepted := make(chan ssh.Channel, 1)
	go func() {
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(signer)
		_, chans, reqs, err := ssh.NewServerConn(here, config)
		if err != nil {
			return // the client's side tells
		}
		go ssh.DiscardRequests(reqs)
		for offered := range chans {
			narrow(offered)
			if ch, requests, err := offered.Accept(); err == nil {
				go ssh.DiscardRequests(requests)
				accepted <- ch
			}
		}
	}()
	conn, chans, reqs, err := ssh.NewClientConn(there, "", &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	client, requests, err := ssh.NewClient(conn, chans, reqs).OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	return <-accepted, client
}
