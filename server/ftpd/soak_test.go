package ftpd_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/server/session"
)

var (
	soakIdle = flag.Int("soak-idle", 500, "idle sessions of TestManyConnections")
	soakBusy = flag.Int("soak-busy", 50, "sessions of TestManyConnections that upload")
	soakFor  = flag.Duration("soak-for", 0, "how long TestManyConnections goes on uploading; 0: one file each")
)

// TestManyConnections holds idle sessions and uploads in others: all verdicts are right, nothing is left behind (here and
// in TestMain), and the log of the test says what an idle session costs. It runs before the parallel tests, alone.
//
//	go test ./server/ftpd -run TestManyConnections -v -soak-idle 5000 -soak-busy 200 -soak-for 10m -timeout 20m
func TestManyConnections(t *testing.T) {
	r := newRig(t)
	runtime.GC()
	goroutines := runtime.NumGoroutine()
	half := *soakIdle / 2
	for _, c := range []struct {
		protocol string
		sessions int
	}{{"plain", half}, {"tls13", *soakIdle - half}} {
		before, routines := footprint(), runtime.NumGoroutine()
		r.idlers(t, c.protocol, c.sessions)
		// One moment of measuring goes wrong when the collector is behind; there is no bound to hold, so the test only tells.
		t.Logf("%s: %d idle sessions, %d bytes and %.1f goroutines a session", c.protocol, c.sessions,
			(footprint()-before)/int64(c.sessions), float64(runtime.NumGoroutine()-routines)/float64(c.sessions))
	}
	r.busy(t)
	r.stop()
	// The two processes of idle clients are watched by a goroutine each until they are killed.
	doortest.Eventually(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	if n := r.gauge("transferd_ftp_connections"); n != 0 {
		t.Errorf("%v connections are left", n)
	}
}

// footprint is the memory that lives now, heap and stacks.
func footprint() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc + s.StackInuse)
}

// idlers logs in many times from a process of its own, so that only the server's side is measured, and stays.
func (r *rig) idlers(t *testing.T, protocol string, sessions int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestIdleClient$", "-test.timeout", "24h")
	cmd.Env = append(os.Environ(), "FTPD_TEST_ADDR="+r.addr, "FTPD_TEST_PROTOCOL="+protocol, "FTPD_TEST_SESSIONS="+strconv.Itoa(sessions))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cancel()
		_ = cmd.Wait() // it was killed
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "here\n" {
		t.Fatalf("idle clients: %q, %v", line, err)
	}
}

// TestIdleClient is the process of idlers.
func TestIdleClient(t *testing.T) {
	addr := os.Getenv("FTPD_TEST_ADDR")
	sessions, err := strconv.Atoi(os.Getenv("FTPD_TEST_SESSIONS"))
	if addr == "" || err != nil {
		t.Skip("only TestManyConnections runs it")
	}
	r := &rig{t: t, addr: addr}
	for range sessions {
		r.login(t, versions[os.Getenv("FTPD_TEST_PROTOCOL")])
	}
	fmt.Println("here")
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
}

// busy uploads in many sessions side by side, some of them cut off, for as long as the flag says.
func (r *rig) busy(t *testing.T) {
	t.Helper()
	peers := make([]*peer, *soakBusy)
	for i := range peers {
		peers[i] = r.login(t, versions[[]string{"plain", "tls12", "tls13"}[i%3]])
		if err := peers[i].tcp.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	began, files := time.Now(), 0
	for round := 0; round == 0 || time.Since(began) < *soakFor; round++ {
		open := make([]*dataConn, len(peers))
		for i, p := range peers {
			open[i] = p.open("STOR " + busyName(round, i))
		}
		for part := range 16 {
			for _, d := range open {
				mustWrite(t, d, body[part<<14:(part+1)<<14])
			}
		}
		for i, p := range peers {
			if i%10 == 9 {
				p.send("ABOR")
				p.expect("426")
				p.expect("226")
				continue
			}
			open[i].Close()
			p.expect("226")
		}
		for i := range peers {
			outcome, evidence := session.Complete, session.Closed
			if i%10 == 9 {
				outcome, evidence = session.Partial, session.Abort
			}
			r.journal.Verdict(t, "home/"+busyName(round, i), outcome, evidence)
			r.store.Drop("home/" + busyName(round, i))
		}
		files += len(peers)
	}
	t.Logf("%d uploads in %v, %d bytes live now", files, time.Since(began), footprint())
}

func busyName(round, i int) string { return fmt.Sprintf("m%d-%d", round, i) }
