package sftpd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/sftpd"
)

func TestGarbageOnThePort(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.HandshakeTimeout = 2 * time.Second }))
	t.Run("attacks", func(t *testing.T) {
		for name, attack := range map[string][]byte{
			"nothing": nil, "http": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "noise": doortest.Random(100_000),
			"version, then noise": append([]byte("SSH-2.0-x\r\n"), doortest.Random(10_000)...), "half a version": []byte("SSH-2.0-"),
			"endless line": bytes.Repeat([]byte("a"), 100_000),
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				throw(t, r.tcp(t), attack)
			})
		}
	})
	r.sftp(t) // the daemon lives
}

// throw sends bytes and waits for the server to close the connection.
func throw(t *testing.T, conn net.Conn, bytes []byte) {
	t.Helper()
	if _, err := conn.Write(bytes); err != nil && !isClosed(err) {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !isClosed(err) {
		t.Fatalf("not closed by the server: %v", err)
	}
}

// isClosed tells that the other side closed from a time-out of ours.
func isClosed(err error) bool {
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

func TestWhatIsNotSFTP(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.MaxChannels = 2 }))
	client := r.dial(t)
	if _, _, err := client.OpenChannel("direct-tcpip", nil); err == nil {
		t.Error("port forwarding accepted")
	}
	if ok, _, err := client.SendRequest("tcpip-forward", true, nil); ok || err != nil {
		t.Errorf("tcpip-forward: %v, %v", ok, err)
	}
	if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("keepalive not answered: %v", err)
	}
	ch, reqs, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	for typ, payload := range map[string][]byte{"shell": nil, "exec": str("id"), "env": join(str("A"), str("b")),
		"pty-req": nil, "subsystem": str("netconf"), "x11-req": nil} {
		if ok, err := ch.SendRequest(typ, true, payload); ok || err != nil {
			t.Errorf("%s: %v, %v", typ, ok, err)
		}
	}
	if ok, err := ch.SendRequest("subsystem", true, str("sftp")); !ok || err != nil {
		t.Fatalf("sftp: %v, %v", ok, err)
	}
	second, _, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.OpenChannel("session", nil); err == nil {
		t.Error("third channel accepted")
	}
	second.Close()
	doortest.Eventually(t, "room for a channel", func() bool {
		_, _, err := client.OpenChannel("session", nil)
		return err == nil
	})
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.MaxSessions = 1 }))
	first := r.sftp(t)
	if client, err := r.tryDial(r.tcp(t), user, r.key); err == nil {
		client.Close()
		t.Fatal("second connection let in")
	}
	if _, err := first.Getwd(); err != nil {
		t.Fatal(err)
	}
}

// gate is a hook that holds whoever comes until it is opened.
type gate struct {
	came chan struct{} // closed when the first has come
	open chan struct{}
	once sync.Once
}

func newGate() *gate { return &gate{came: make(chan struct{}), open: make(chan struct{})} }

func (g *gate) wait(ctx context.Context) error {
	g.once.Do(func() { close(g.came) })
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestSlowCommit: the commit of one file holds up neither the session's others nor their verdicts.
func TestSlowCommit(t *testing.T) {
	t.Parallel()
	g := newGate()
	r := newRig(t, backend(func(s *doortest.Store) {
		s.OnCommit = func(ctx context.Context, name string) error {
			if path.Base(name) == "slow" {
				return g.wait(ctx)
			}
			return nil
		}
	}))
	c := r.raw(t)
	slow, quick := c.open("slow"), c.open("quick")
	c.expect(0, 6, slow, u64(0), str("data"))
	closing := c.request(4, slow)
	<-g.came
	c.expect(0, 6, quick, u64(0), str("data"))
	c.expect(0, 4, quick)
	c.request(16, str("."))
	if typ, _ := c.answer(); typ != 104 {
		t.Errorf("REALPATH answered by %d", typ)
	}
	if got := r.journal.Verdicts("home/slow"); len(got) > 0 {
		t.Errorf("verdict before the commit: %v", got)
	}
	close(g.open)
	if id, code, text := c.status(); id != closing || code != 0 {
		t.Errorf("CLOSE: %d %d %q", id, code, text)
	}
	r.journal.Verdict(t, "home/slow", session.Complete, session.Closed)
}

// TestCloseThenGone: a CLOSE that was sent counts, also if nobody waits for its answer.
func TestCloseThenGone(t *testing.T) {
	t.Parallel()
	g := newGate()
	r := newRig(t, backend(func(s *doortest.Store) {
		s.OnCommit = func(ctx context.Context, _ string) error { return g.wait(ctx) }
	}))
	c := r.raw(t)
	h := c.open("closed")
	other := c.open("open")
	data := string(doortest.Random(10_000))
	c.expect(0, 6, other, u64(0), str("data"))
	c.request(6, h, u64(0), str(data))
	c.request(4, h)
	<-g.came
	c.Channel.Close()
	close(g.open)
	r.journal.Verdict(t, "home/closed", session.Complete, session.Closed)
	r.journal.Verdict(t, "home/open", session.Partial, session.Disconnect)
	if string(r.store.Get("home/closed")) != data || string(r.store.Get("home/open")) != "data" {
		t.Error("bytes are missing")
	}
}

// TestGoneInMidUpload: however a client goes, what it sent is kept and the file is partial.
func TestGoneInMidUpload(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(c *raw, conn net.Conn){
		"channel closed":  func(c *raw, _ net.Conn) { c.Channel.Close() },
		"channel EOF":     func(c *raw, _ net.Conn) { c.CloseWrite() },
		"connection gone": func(_ *raw, conn net.Conn) { conn.Close() },
		"reset":           func(_ *raw, conn net.Conn) { conn.(*net.TCPConn).SetLinger(0); conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			conn := r.tcp(t)
			client, err := r.tryDial(conn, user, r.key)
			if err != nil {
				t.Fatal(err)
			}
			ch, reqs, err := client.OpenChannel("session", nil)
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(reqs)
			if ok, err := ch.SendRequest("subsystem", true, str("sftp")); !ok || err != nil {
				t.Fatal(ok, err)
			}
			c := &raw{t: t, Channel: ch}
			c.packet(1, u32(3))
			c.answer()
			h := c.open("file")
			c.expect(0, 6, h, u64(0), str("received"))
			leave(c, conn)
			v := r.journal.Verdict(t, "home/file", session.Partial, session.Disconnect)
			if got := string(r.store.Get("home/file")); got != "received" || v.Received != 8 {
				t.Errorf("kept %q, received %d", got, v.Received)
			}
			r.log.Await(t, "DISCONNECTED")
		})
	}
}

// TestBackPressure: a store that takes nothing stops the client after a window, and nothing is lost.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	g := newGate()
	r := newRig(t, backend(func(s *doortest.Store) {
		s.OnWrite = func(ctx context.Context, _ string, _ int64) error { return g.wait(ctx) }
	}))
	c := r.raw(t)
	h := c.open("file")
	const block, blocks = 32 << 10, 320
	data := doortest.Random(block * blocks)
	var sent atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range int64(blocks) {
			c.request(6, h, u64(uint64(i*block)), str(string(data[i*block:(i+1)*block])))
			sent.Store(i + 1)
		}
	}()
	<-g.came
	// The window is 2 MiB, and what the front has read comes on top. When the sender no longer moves it is held up.
	last, still := int64(-1), 0
	doortest.Eventually(t, "sender held up", func() bool {
		if now := sent.Load(); now != last {
			last, still = now, 0
		} else {
			still++
		}
		return still > 50
	})
	if got := last * block; got > 4<<20 {
		t.Errorf("%d bytes taken from the client while the store takes none", got)
	}
	close(g.open)
	for range blocks {
		if _, code, text := c.status(); code != 0 {
			t.Fatalf("WRITE: %d %q", code, text)
		}
	}
	<-done
	c.expect(0, 4, h)
	if !bytes.Equal(r.store.Get("home/file"), data) {
		t.Error("the file differs")
	}
}

// TestBlockedWriteThenGone: a write that the store never takes does not hold the session when the client is gone, and a
// CLOSE behind it does not make the file whole.
func TestBlockedWriteThenGone(t *testing.T) {
	t.Parallel()
	g := newGate()
	r := newRig(t, config(func(c *sftpd.Config) { c.LingerTimeout = 50 * time.Millisecond }), backend(func(s *doortest.Store) {
		s.OnWrite = func(ctx context.Context, _ string, off int64) error {
			if off == 0 {
				return nil
			}
			return g.wait(ctx)
		}
	}))
	c := r.raw(t)
	h := c.open("file")
	c.request(6, h, u64(0), str("first"))
	c.request(6, h, u64(5), str("second"))
	c.request(4, h)
	<-g.came
	c.Channel.Close()
	r.journal.Verdict(t, "home/file", session.Partial, session.Disconnect)
	if got := string(r.store.Get("home/file")); got != "first" {
		t.Errorf("kept %q", got)
	}
}

// stalling is a connection whose client stops reading and answering.
type stalling struct {
	net.Conn
	stalled chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	select {
	case <-s.stalled:
		<-s.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (s *stalling) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

func TestKeepalive(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.KeepaliveInterval, c.KeepaliveMax = 100*time.Millisecond, 5 }))
	alive := r.sftp(t)
	conn := &stalling{Conn: r.tcp(t), stalled: make(chan struct{}), closed: make(chan struct{})}
	defer conn.Close()
	client, err := r.tryDial(conn, user, r.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sftp.NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	f := create(t, c, "file")
	if _, err := f.Write([]byte("received")); err != nil {
		t.Fatal(err)
	}
	close(conn.stalled)
	r.journal.Verdict(t, "home/file", session.Partial, session.Timeout)
	if got := string(r.store.Get("home/file")); got != "received" {
		t.Errorf("kept %q", got)
	}
	if _, err := alive.Getwd(); err != nil {
		t.Errorf("a client that answers was cut too: %v", err)
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.IdleTimeout = time.Second }))
	f := create(t, r.sftp(t), "file")
	if _, err := f.Write([]byte("received")); err != nil {
		t.Fatal(err)
	}
	r.journal.Verdict(t, "home/file", session.Partial, session.Timeout)
	if e := r.log.Await(t, "EXIT_REASON"); e["message"] != "client is idle" {
		t.Errorf("entry %v", e)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.raw(t)
	c.expect(0, 6, c.open("file"), u64(0), str("received"))
	idle := r.sftp(t)
	r.stop()
	v := r.journal.Verdicts("home/file") // durable before Serve returned
	if len(v) != 1 || v[0].Outcome != session.Partial || v[0].Evidence != session.ServerStop {
		t.Errorf("verdicts %+v", v)
	}
	if _, err := idle.Getwd(); err == nil {
		t.Error("a session lives on")
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.DrainTimeout = time.Minute }))
	c := r.raw(t)
	h := c.open("file")
	c.expect(0, 6, h, u64(0), str("first"))
	r.cancel()
	doortest.Eventually(t, "listener closed", func() bool {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	doortest.Eventually(t, "no new uploads", func() bool {
		c.request(3, str("other"), u32(0x1a), u32(0))
		typ, body := c.answer()
		if typ == 102 {
			c.expect(0, 4, body[4:])
			return false
		}
		return strings.Contains(string(body), "Server is stopping")
	})
	c.expect(0, 6, h, u64(5), str("second"))
	c.expect(0, 4, h)
	r.journal.Verdict(t, "home/file", session.Complete, session.Closed)
	c.ended()
	r.stop()
}

func TestDrainDeadline(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *sftpd.Config) { c.DrainTimeout = 50 * time.Millisecond }))
	c := r.raw(t)
	c.expect(0, 6, c.open("file"), u64(0), str("received"))
	r.stop()
	r.journal.Verdict(t, "home/file", session.Partial, session.ServerStop)
}

// TestParallelSessions drives many uploads at once through one connection and through several.
func TestParallelSessions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	shared := r.sftp(t)
	var wg sync.WaitGroup
	for i := range 12 {
		c := shared
		if i%3 == 0 {
			c = r.sftp(t)
		}
		name := "file" + string(rune('a'+i))
		data := doortest.Random(i * 300_000)
		f := create(t, c, name)
		wg.Go(func() {
			if _, err := f.ReadFrom(bytes.NewReader(data)); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			if got := r.store.Get("home/" + name); !bytes.Equal(got, data) {
				t.Errorf("%s differs", name)
			}
			back, err := c.Open(name)
			if err != nil {
				t.Error(err)
				return
			}
			defer back.Close()
			if got, err := io.ReadAll(back); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s came back differently (%v)", name, err)
			}
		})
	}
	wg.Wait()
}
