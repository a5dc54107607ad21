package db

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/db/pgtest"
	"github.com/transferd/transferd/workflow"
)

// speed has TestSpeed measure: go test -run TestSpeed -speed 3 -v.
var speed = flag.Int("speed", 0, "how often both databases are measured, in turns; each round takes a minute or more")

// TestSpeed measures both databases in turns: from End to the first step at several rates, executions a second, the CPU of
// an idle node, and what five thousand executions leave on the disk.
func TestSpeed(t *testing.T) {
	if *speed == 0 {
		t.Skip("measures; give -speed ROUNDS")
	}
	cluster, err := pgtest.Start(t.Context(), "fsync=on", "full_page_writes=on")
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, cluster.Stop()) })
	for round := range *speed {
		for _, name := range []string{"sqlite", onPostgres} {
			cfg := Config{Dir: t.TempDir()}
			if name == onPostgres {
				base := fmt.Sprint("speed", round)
				must(t, cluster.Create(t.Context(), base, ""))
				cfg.URL = cluster.URL(base)
			}
			measure(t, name, open(t, cfg), cfg.Dir)
		}
	}
}

// speedWorkers is what a daemon has that is not told otherwise.
const speedWorkers = 16

// noStep takes no time: what is measured is what stands around it.
type noStep struct{}

func (noStep) Run(context.Context, *workflow.Input) error { return nil }

func measure(t *testing.T, name string, d *DB, dir string) {
	id := attached(t, d, 3)
	empty := size(t, d, dir) // not packed: PostgreSQL would take the tables to stay as small
	var mu sync.Mutex
	started := map[workflow.ExecutionID]time.Time{}
	var steps atomic.Int64
	e, err := workflow.New(workflow.Config{Executions: d, Log: slog.New(slog.DiscardHandler), Now: time.Now,
		Steps: map[string]workflow.Step{"COPY": noStep{}}})
	must(t, err)
	work(t, d, func(ctx context.Context, j workflow.Job, advance workflow.Advance) error {
		if steps.Add(1); j.Step == 0 {
			mu.Lock()
			started[j.Execution] = time.Now()
			mu.Unlock()
		}
		return e.Run(ctx, j, advance)
	}, speedWorkers)
	send(t, d, id, whole())
	eventually(t, "the queue works", long, func() bool { return steps.Load() == 3 })

	used, began := cpu(t), time.Now()
	time.Sleep(5 * time.Second)
	t.Logf("%s: idle %.2f %% of a core", name, 100*float64(cpu(t)-used)/float64(time.Since(began)))

	for _, rate := range []int{1, 50, 500} {
		n := min(10*rate, 2500)
		ended := make(map[workflow.ExecutionID]time.Time, n)
		var sent sync.WaitGroup
		tick := time.NewTicker(time.Second / time.Duration(rate))
		began := time.Now()
		for range n {
			<-tick.C
			sent.Go(func() {
				u := anUpload(d, id)
				if err := errors.Join(d.Begin(t.Context(), u), d.End(t.Context(), u, whole())); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ended[workflow.ExecutionID(u.ID)] = time.Now()
			})
		}
		sent.Wait()
		took := time.Since(began)
		tick.Stop()
		var waits []time.Duration
		eventually(t, "all have begun", long, func() bool {
			mu.Lock()
			defer mu.Unlock()
			waits = waits[:0]
			for e, at := range ended {
				if s, ok := started[e]; ok {
					waits = append(waits, s.Sub(at))
				}
			}
			return len(waits) == n
		})
		slices.Sort(waits)
		t.Logf("%s: %d uploads/s asked, %.0f sent: End to first step p50 %s, p99 %s", name, rate, float64(n)/took.Seconds(),
			waits[n/2].Round(10*time.Microsecond), waits[(n-1)*99/100].Round(10*time.Microsecond))
		want := steps.Load()
		eventually(t, "quiet", long, func() bool { was := want; want = steps.Load(); return was == want && idle(t, d) })
	}

	const many = 5000
	before, first := size(t, d, dir), steps.Load()
	began = time.Now()
	each(many, 32, func(int) {
		u := anUpload(d, id)
		if err := errors.Join(d.Begin(t.Context(), u), d.End(t.Context(), u, whole())); err != nil {
			t.Error(err)
		}
	})
	queued := time.Since(began)
	eventually(t, "all done", long, func() bool { return steps.Load() >= first+3*many })
	took := time.Since(began)
	t.Logf("%s: %d executions of 3 steps in %s: %.0f/s (all sent after %s)", name, many, took.Round(time.Millisecond), many/took.Seconds(),
		queued.Round(time.Millisecond))
	var all int
	must(t, d.reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM executions`).Scan(&all))
	t.Logf("%s: %.0f MB a million executions with their uploads; packed %.0f", name, float64(size(t, d, dir)-before)/many,
		float64(packed(t, d, dir)-empty)/float64(all))
	if n := len(value[[]workflow.Execution](t)(d.Executions(t.Context(), "w-whole", server.Page{Limit: 1}))); n != 1 {
		t.Error("no executions")
	}
}

func idle(t *testing.T, d *DB) bool { return jobs(t, d, "state <> 'completed'") == 0 }

func cpu(t *testing.T) time.Duration {
	var r syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// packed is what the database holds once it is written anew, without the room that rows have left to rows to come.
func packed(t *testing.T, d *DB, dir string) int64 {
	var err error
	if d.Clustered() {
		_, err = d.base.(*postgres).pool.Exec(t.Context(), `VACUUM FULL`)
	} else {
		_, err = d.base.(*sqlite).write.ExecContext(t.Context(), `VACUUM`)
	}
	must(t, err)
	return size(t, d, dir)
}

// size is what the database holds on the disk, its logs of changes apart.
func size(t *testing.T, d *DB, dir string) int64 {
	if !d.Clustered() {
		_, err := d.base.(*sqlite).write.ExecContext(t.Context(), `PRAGMA wal_checkpoint(TRUNCATE)`)
		must(t, err)
		info, err := os.Stat(filepath.Join(dir, fileName))
		must(t, err)
		return info.Size()
	}
	var n string
	must(t, d.reader().QueryRow(t.Context(), `SELECT pg_database_size(current_database())::TEXT`).Scan(&n))
	return value[int64](t)(strconv.ParseInt(n, 10, 64))
}
