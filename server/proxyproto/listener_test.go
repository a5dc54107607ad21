package proxyproto_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/server/proxyproto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a listener behind which lines are echoed with the addresses that the door sees.
type rig struct {
	t        *testing.T
	ln       *proxyproto.Listener
	registry *prometheus.Registry
	log      *logs
	mode     atomic.Int64
}

type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

func newRig(t *testing.T, mode proxyproto.Mode, change func(*proxyproto.Config)) *rig {
	t.Helper()
	below, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, registry: prometheus.NewRegistry(), log: &logs{}}
	r.mode.Store(int64(mode))
	c := proxyproto.Config{
		Mode:    func() proxyproto.Mode { return proxyproto.Mode(r.mode.Load()) },
		Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, HeaderTimeout: time.Minute,
		Log: slog.New(slog.NewTextHandler(r.log, nil)), Metrics: r.registry,
	}
	if change != nil {
		change(&c)
	}
	r.ln = proxyproto.Wrap(below, c)
	var doors sync.WaitGroup
	doors.Go(func() {
		for {
			conn, err := r.ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("Accept: %v", err)
				}
				return
			}
			doors.Go(func() { echo(conn) })
		}
	})
	t.Cleanup(func() {
		if err := r.ln.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		doors.Wait()
	})
	return r
}

// echo says who the door thinks is there, then gives back what comes.
func echo(conn net.Conn) {
	defer conn.Close()
	proxy := "none"
	if via, ok := conn.(*proxyproto.Conn); ok {
		proxy = via.Proxy().String()
	}
	_, _ = io.WriteString(conn, conn.RemoteAddr().String()+" "+conn.LocalAddr().String()+" "+proxy+"\n")
	_, _ = io.Copy(conn, struct{ io.Reader }{conn})
}

// dial connects from an address of the loopback network.
func (r *rig) dial(from string) *net.TCPConn {
	r.t.Helper()
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(r.t.Context(), "tcp", r.ln.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// say sends a client's bytes behind a header and gives the answer.
func say(t *testing.T, conn *net.TCPConn, header, text string) string {
	t.Helper()
	if _, err := io.WriteString(conn, header+text); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

func (r *rig) count(result string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "transferd_proxy_connections_total" && m.GetLabel()[0].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func (r *rig) await(result string) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for r.count(result) == 0 {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("no %s connection was counted", result)
		}
	}
}

func TestListener(t *testing.T) {
	t.Parallel()
	two := string(tcp("192.0.2.1:40000", "198.51.100.1:21"))
	one := "PROXY TCP4 192.0.2.1 198.51.100.1 40000 21\r\n"
	local := string(binaryHeader(0x20, 0, nil))
	applied := "192.0.2.1:40000 198.51.100.1:21 127.0.0.1\nhello"
	for _, c := range []struct {
		name, from, header string
		mode               proxyproto.Mode
		text               bool
		want, result       string // want is what the door saw, in which the client's own address stands as FROM; "" if it was refused
	}{
		{"v2", "127.0.0.1", two, proxyproto.Enforced, false, applied, "applied"},
		{"v2 trusted", "127.0.0.1", two, proxyproto.Trusted, false, applied, "applied"},
		{"v1", "127.0.0.1", one, proxyproto.Enforced, true, applied, "applied"},
		{"v1 unwanted", "127.0.0.1", one, proxyproto.Enforced, false, "", "bad"},
		{"health check", "127.0.0.1", local, proxyproto.Enforced, false, "FROM SELF 127.0.0.1\nhello", "local"},
		{"no header", "127.0.0.1", "", proxyproto.Trusted, false, "", "bad"},
		{"stranger with a header", "127.0.0.2", two, proxyproto.Enforced, false, "", "untrusted"},
		{"stranger", "127.0.0.2", "", proxyproto.Enforced, false, "", "untrusted"},
		{"direct client", "127.0.0.2", "", proxyproto.Trusted, false, "FROM SELF none\nhello", "direct"},
		{"direct client that lies", "127.0.0.2", two, proxyproto.Trusted, false, "FROM SELF none\n" + two + "hello", "direct"},
		{"off", "127.0.0.1", "", proxyproto.Off, false, "FROM SELF none\nhello", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, c.mode, func(f *proxyproto.Config) { f.Text = c.text })
			conn := r.dial(c.from)
			if c.want == "" {
				_, _ = io.WriteString(conn, c.header+"hello") // may be refused already
				if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, net.ErrClosed) {
					t.Errorf("the door answers %q, %v", b, err)
				}
				r.await(c.result)
				if !r.log.has("connection refused") {
					t.Error("nothing in the log")
				}
				return
			}
			want := strings.NewReplacer("FROM", conn.LocalAddr().String(), "SELF", r.ln.Addr().String()).Replace(c.want)
			if got := say(t, conn, c.header, "hello"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if c.result != "" && r.count(c.result) != 1 {
				t.Errorf("%v %s", r.count(c.result), c.result)
			}
		})
	}
}

// A proxy that sends nothing holds up nobody else, and is sent away after its time.
func TestSlowProxy(t *testing.T) {
	t.Parallel()
	r := newRig(t, proxyproto.Enforced, func(c *proxyproto.Config) { c.HeaderTimeout = 2 * time.Second })
	slow := r.dial("127.0.0.1")
	if _, err := io.WriteString(slow, signature); err != nil {
		t.Fatal(err)
	}
	if got := say(t, r.dial("127.0.0.1"), string(tcp("192.0.2.1:1", "192.0.2.2:2")), "x"); !strings.HasPrefix(got, "192.0.2.1:1 ") {
		t.Errorf("got %q", got)
	}
	if b, err := io.ReadAll(slow); len(b) > 0 {
		t.Errorf("got %q, %v", b, err)
	}
	r.await("timeout")
}

// Health checks that connect and go are counted, and are no complaint.
func TestSilent(t *testing.T) {
	t.Parallel()
	r := newRig(t, proxyproto.Enforced, nil)
	r.dial("127.0.0.1").Close()
	reset := r.dial("127.0.0.1")
	if err := reset.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	reset.Close()
	r.await("silent")
	if r.log.has("refused") {
		t.Error("the log complains")
	}
}

// The mode may change while the listener listens.
func TestModeChanges(t *testing.T) {
	t.Parallel()
	r := newRig(t, proxyproto.Off, nil)
	if got := say(t, r.dial("127.0.0.1"), "", "x"); !strings.HasSuffix(got, " none\nx") {
		t.Errorf("off: %q", got)
	}
	r.mode.Store(int64(proxyproto.Enforced))
	if got := say(t, r.dial("127.0.0.1"), string(tcp("[2001:db8::1]:1", "[2001:db8::2]:2")), "x"); got != "[2001:db8::1]:1 [2001:db8::2]:2 127.0.0.1\nx" {
		t.Errorf("enforced: %q", got)
	}
}

// Close ends those that wait for their header, and those for whom there is no room to wait.
func TestCloseWithPending(t *testing.T) {
	t.Parallel()
	r := newRig(t, proxyproto.Enforced, func(c *proxyproto.Config) { c.Pending = 1 })
	first, second := r.dial("127.0.0.1"), r.dial("127.0.0.1")
	if _, err := io.WriteString(first, signature); err != nil {
		t.Fatal(err)
	}
	if err := r.ln.Close(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range []*net.TCPConn{first, second} {
		if b, err := io.ReadAll(conn); len(b) > 0 {
			t.Errorf("got %q, %v", b, err)
		}
	}
	if _, err := r.ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// flaky is a listener below that fails a few times before it works.
type flaky struct {
	net.Listener
	failures atomic.Int64
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	return f.Listener.Accept()
}

// Errors of the listener below reach the door one by one, and the listener goes on.
func TestAcceptErrors(t *testing.T) {
	t.Parallel()
	below, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{Listener: below}
	f.failures.Store(2)
	ln := proxyproto.Wrap(f, proxyproto.Config{Mode: func() proxyproto.Mode { return proxyproto.Off }})
	defer ln.Close()
	for range 2 {
		if _, err := ln.Accept(); err == nil || !strings.Contains(err.Error(), "too many") {
			t.Fatalf("Accept: %v", err)
		}
	}
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", below.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
