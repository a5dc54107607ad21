package ftpd_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/transferd/transferd/server/session"
)

// Five hundred idle control connections and fifty that upload: all verdicts right, and no goroutine left (TestMain).
func TestManyConnections(t *testing.T) {
	t.Parallel()
	const idle, busy = 500, 50
	r := newRig(t)
	for i := range idle {
		p := r.connect(t)
		if i%50 == 0 {
			p.cmd("331", "USER "+user)
		}
	}
	peers := make([]*peer, busy)
	for i := range peers {
		peers[i] = r.login(t, versions[[]string{"plain", "tls12", "tls13"}[i%3]])
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	t.Logf("%d connections, heap and stacks of both sides: %d KiB", idle+busy, (stats.HeapInuse+stats.StackInuse)>>10)
	began := time.Now()
	open := make([]*dataConn, busy)
	for i, p := range peers {
		open[i] = p.open("STOR " + named("m", i))
	}
	for i := range 16 {
		for _, d := range open {
			mustWrite(t, d, body[i<<14:(i+1)<<14])
		}
	}
	for i, p := range peers {
		open[i].Close()
		p.expect("226")
	}
	t.Logf("%d uploads in %v", busy, time.Since(began))
	for i := range peers {
		r.journal.verdict(t, named("home/m", i), session.Complete, session.Closed)
	}
}
