package ftpd_test

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/transferd/transferd/server/ftpd"
	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

// verdicts is how often each behaviour is played. A storm is -verdicts 40.
var verdicts = flag.Int("verdicts", 2, "runs of each client behaviour in each protocol")

// body is what the behaviours upload: more than socket buffers hold is not needed, a few writes are.
var body = []byte(strings.Repeat("0123456789abcdef", 16<<10))

// behaviour is what a client does with one upload.
type behaviour struct {
	name    string
	act     func(t testing.TB, p *peer, file string)
	outcome session.Outcome
	why     []session.Evidence // one of them
	tlsOnly bool
}

func behaviours(r *rig) []behaviour {
	whole := func(t testing.TB, p *peer, file string) *dataConn {
		d := p.open("STOR " + file)
		mustWrite(t, d, body)
		return d
	}
	half := func(t testing.TB, p *peer, file string) *dataConn {
		d := p.open("STOR " + file)
		mustWrite(t, d, body[:len(body)/2])
		return d
	}
	// A reset takes what is still on its way with it; without a byte there is no upload.
	begun := func(t testing.TB, p *peer, file string) *dataConn {
		d := half(t, p, file)
		doortest.Eventually(t, "bytes at the store", func() bool { return r.journal.HasBegunWith("home/" + file) })
		return d
	}
	closed := []session.Evidence{session.Closed}
	lost := []session.Evidence{session.ControlLost, session.Reset}
	return []behaviour{
		{name: "close, 226, QUIT", outcome: session.Complete, why: closed, act: func(t testing.TB, p *peer, f string) {
			whole(t, p, f).Close()
			p.expect("226")
			p.cmd("221", "QUIT")
		}},
		{name: "close, 226, gone without QUIT", outcome: session.Complete, why: closed, act: func(t testing.TB, p *peer, f string) {
			whole(t, p, f).Close()
			p.expect("226")
			p.conn.Close()
		}},
		{name: "close, 226, stays", outcome: session.Complete, why: closed, act: func(t testing.TB, p *peer, f string) {
			whole(t, p, f).Close()
			p.expect("226")
		}},
		{name: "QUIT during the transfer, then 226", outcome: session.Complete, why: closed, act: func(t testing.TB, p *peer, f string) {
			d := half(t, p, f)
			p.send("QUIT")
			mustWrite(t, d, body[len(body)/2:])
			d.Close()
			p.expect("226")
			p.expect("221")
		}},
		{name: "control dropped before the reply is read", outcome: session.Partial, why: lost, act: func(t testing.TB, p *peer, f string) {
			whole(t, p, f).Close()
			p.conn.Close()
		}},
		{name: "control closed with the reply unread", outcome: session.Partial, why: lost, act: func(t testing.TB, p *peer, f string) {
			whole(t, p, f).Close()
			doortest.Eventually(t, "a reply", func() bool { return unread(p.tcp) > 0 })
			p.tcp.Close()
		}},
		{name: "RST on data", outcome: session.Partial, why: []session.Evidence{session.Reset}, act: func(t testing.TB, p *peer, f string) {
			reset(t, begun(t, p, f).tcp)
			p.expect("426")
			p.cmd("200", "NOOP")
		}},
		{name: "RST on control", outcome: session.Partial, why: lost, act: func(t testing.TB, p *peer, f string) {
			half(t, p, f)
			reset(t, p.tcp)
		}},
		{name: "RST on both", outcome: session.Partial, why: lost, act: func(t testing.TB, p *peer, f string) {
			d := begun(t, p, f)
			reset(t, d.tcp)
			reset(t, p.tcp)
		}},
		{name: "FIN on control, data open", outcome: session.Partial, why: lost, act: func(t testing.TB, p *peer, f string) {
			half(t, p, f)
			p.tcp.Close()
		}},
		{name: "ABOR", outcome: session.Partial, why: []session.Evidence{session.Abort}, act: func(t testing.TB, p *peer, f string) {
			half(t, p, f)
			p.send("\xff\xf4\xff\xf2ABOR")
			p.expect("426")
			p.expect("226")
		}},
		{name: "no close_notify", tlsOnly: true, outcome: session.Complete, why: []session.Evidence{session.NoCloseNotify}, act: func(t testing.TB, p *peer, f string) {
			whole(t, p, f).tcp.Close()
			p.expect("226")
			p.cmd("200", "NOOP")
		}},
	}
}

// stalled is for a server that waits for data a second.
func stalled() behaviour {
	return behaviour{name: "stall", outcome: session.Partial, why: []session.Evidence{session.Timeout}, act: func(t testing.TB, p *peer, f string) {
		mustWrite(t, p.open("STOR "+f), body[:len(body)/2])
		p.expect("426")
	}}
}

func mustWrite(t testing.TB, w io.Writer, data []byte) {
	t.Helper()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

// TestVerdicts plays every behaviour in every protocol.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	usual := newRig(t)
	impatient := newRig(t, config(func(c *ftpd.Config) { c.DataTimeout = time.Second }))
	for protocol, version := range versions {
		for _, b := range append(behaviours(usual), stalled()) {
			if b.tlsOnly && version == 0 {
				continue
			}
			r := usual
			if b.name == stalled().name {
				r = impatient
			}
			t.Run(protocol+"/"+b.name, func(t *testing.T) {
				t.Parallel()
				for i := range *verdicts {
					file := strings.ReplaceAll(named(protocol+b.name, i), " ", "-")
					b.act(t, r.login(t, version), file)
					v := r.journal.Wait(t, "home/"+file)
					if v.Outcome != b.outcome || !contains(b.why, v.Evidence) {
						t.Errorf("run %d: %s %s, want %s %v", i, v.Outcome, v.Evidence, b.outcome, b.why)
					}
				}
			})
		}
	}
}

func contains(all []session.Evidence, one session.Evidence) bool {
	for _, e := range all {
		if e == one {
			return true
		}
	}
	return false
}

// The child of TestKills: a client that uploads, tells how far it is, and waits to be killed.
func TestKilledClient(t *testing.T) {
	addr, point := os.Getenv("FTPD_TEST_ADDR"), os.Getenv("FTPD_TEST_POINT")
	if addr == "" {
		t.Skip("only TestKills runs it")
	}
	r := &rig{t: t, addr: addr}
	p := r.login(t, versions[os.Getenv("FTPD_TEST_PROTOCOL")])
	say := func(what string) {
		if what == point {
			fmt.Println("here")
			_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
		}
	}
	d := p.open("STOR " + os.Getenv("FTPD_TEST_FILE"))
	mustWrite(t, d, body[:len(body)/3])
	say("early")
	mustWrite(t, d, body[len(body)/3:2*len(body)/3])
	say("late")
	mustWrite(t, d, body[2*len(body)/3:])
	say("all bytes")
	d.Close()
	say("closed")
	for unread(p.tcp) == 0 {
		time.Sleep(time.Millisecond)
	}
	say("reply unread")
	p.expect("226")
	say("reply read")
}

// TestKills kills a client's process with SIGKILL at five points before it took the reply: all partial.
func TestKills(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for protocol := range versions {
		for _, point := range []string{"early", "late", "all bytes", "closed", "reply unread"} {
			t.Run(protocol+"/"+point, func(t *testing.T) {
				t.Parallel()
				for i := range max(1, *verdicts/2) {
					file := strings.ReplaceAll(named(protocol+point, i), " ", "-")
					kill(t, r, protocol, point, file)
					if v := r.journal.Wait(t, "home/"+file); v.Outcome != session.Partial {
						t.Errorf("run %d: %s %s", i, v.Outcome, v.Evidence)
					}
				}
			})
		}
	}
}

func kill(t *testing.T, r *rig, protocol, point, file string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestKilledClient$")
	cmd.Env = append(os.Environ(), "FTPD_TEST_ADDR="+r.addr, "FTPD_TEST_POINT="+point, "FTPD_TEST_PROTOCOL="+protocol, "FTPD_TEST_FILE="+file)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 4)
	if _, err := io.ReadFull(stdout, word); err != nil || string(word) != "here" {
		t.Errorf("client: %q, %v", word, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("client ended: %v", err)
	}
}

// What a stopping server cuts off is partial, and so is an upload whose control connection idles out; drained ones end well.
func TestStop(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, tls.VersionTLS13)
	d := p.open("STOR a")
	mustWrite(t, d, body)
	doortest.Eventually(t, "bytes at the store", func() bool { return r.journal.HasBegun() })
	r.cancel()
	r.journal.Verdict(t, "home/a", session.Partial, session.ServerStop)
	<-r.served
}

func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *ftpd.Config) { c.DrainTimeout = 20 * time.Second }))
	idle, p := r.login(t, 0), r.login(t, 0)
	d := p.open("STOR a")
	mustWrite(t, d, body)
	doortest.Eventually(t, "bytes at the store", func() bool { return r.journal.HasBegun() })
	r.cancel()
	if _, err := idle.reply(); err == nil {
		t.Error("an idle connection lives on")
	}
	d.Close()
	p.expect("226")
	r.journal.Verdict(t, "home/a", session.Complete, session.Closed)
	<-r.served
}

// Without a data connection there is no upload.
func TestNoDataConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t, config(func(c *ftpd.Config) { c.ConnectTimeout = time.Second }))
	p := r.login(t, 0)
	p.cmd("425", "STOR a")
	p.pasv()
	p.cmd("425", "STOR a")
	p.cmd("200", "NOOP")
	p.cmd("221", "QUIT")
	doortest.Eventually(t, "the end", func() bool { return strings.Contains(r.log.String(), "DISCONNECTED") })
	if r.journal.HasBegun() || r.store.Get("home/a") != nil {
		t.Error("an upload without a data connection")
	}
}

// The storage refuses: the client is told, and no verdict of ours starts anything.
func TestRefusal(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.login(t, tls.VersionTLS12)
	d := p.open("STOR forbidden")
	d.Close()
	if reply := p.expect("550"); reply != "550 Permission denied.\r\n" {
		t.Errorf("reply %q", reply)
	}
}

// A storage that takes nothing holds neither a stopping server nor the connection of a client that is gone.
func TestBlockedStorage(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"stop", "gone", "gone with a command ahead"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			blocked := make(chan struct{}, 1)
			r := newRig(t, config(func(c *ftpd.Config) { c.LingerTimeout = 100 * time.Millisecond }), func(r *rig, _ *ftpd.Config) {
				r.store.OnWrite = func(ctx context.Context, _ string, off int64) error {
					if off == 0 {
						return nil
					}
					blocked <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				}
			})
			p := r.login(t, 0)
			d := p.open("STOR a")
			mustWrite(t, d, body[:100])
			doortest.Eventually(t, "the first bytes", func() bool { return r.journal.HasBegunWith("home/a") })
			mustWrite(t, d, body[:100])
			<-blocked
			switch how {
			case "stop":
				r.cancel()
			case "gone with a command ahead":
				p.send("NOOP")
				fallthrough
			default:
				p.tcp.Close()
			}
			if v := r.journal.Wait(t, "home/a"); v.Outcome != session.Partial || v.Received != 100 {
				t.Errorf("verdict %+v", v)
			}
			r.stop()
		})
	}
}
