package db

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/workflow"
)

func TestThrottle(t *testing.T) { both(t, testThrottle) }

// What comes too fast is dropped and logged, and its upload has its verdict all the same.
func testThrottle(t *testing.T) {
	var log bytes.Buffer
	var clock atomic.Int64
	clock.Store(1_700_000_000_000)
	d := open(t, Config{Throttle: Throttle{PerSecond: 0.5, Burst: 3}, Log: slog.New(slog.NewJSONHandler(&log, nil)),
		Now: func() time.Time { return time.UnixMilli(clock.Load()) }})
	id := attached(t, d, 1)
	begun := func() int {
		return len(value[[]workflow.Execution](t)(d.Executions(t.Context(), "w-whole", server.Page{})))
	}
	for range 5 {
		send(t, d, id, whole())
	}
	if n := begun(); n != 3 {
		t.Errorf("%d executions of 5, want the burst of 3", n)
	}
	if n := strings.Count(log.String(), `"type":"ExecutionThrottled"`); n != 2 {
		t.Errorf("%d logged as throttled:\n%s", n, &log)
	}
	clock.Add(1900)
	if send(t, d, id, whole()); begun() != 3 {
		t.Error("began before its time")
	}
	clock.Add(200)
	if send(t, d, id, whole()); begun() != 4 {
		t.Error("did not begin in its time")
	}
	cut := whole()
	cut.Outcome = "partial"
	send(t, d, id, cut) // another workflow's bucket is full
	if n := len(value[[]workflow.Execution](t)(d.Executions(t.Context(), "w-cut", server.Page{}))); n != 1 {
		t.Errorf("%d executions of the other workflow", n)
	}
	if open := value[[]UploadRecord](t)(d.Uploads(t.Context(), server.Page{})); len(open) != 8 || open[4].Verdict == nil {
		t.Errorf("%d uploads", len(open))
	}
}

func TestNoThrottle(t *testing.T) {
	t.Parallel()
	var b buckets
	for range 1000 {
		if !b.take("w", time.Time{}) {
			t.Fatal("throttled")
		}
	}
}
