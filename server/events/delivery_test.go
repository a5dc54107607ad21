package events_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = 90 * time.Second

const secret = "only-a-test"

// outbox is a real one, with sinks that are known from the beginning.
func outbox(t *testing.T, sinks ...string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Sinks(t.Context(), sinks); err != nil {
		t.Fatal(err)
	}
	return d
}

var origin = events.Origin{Region: "us-east-1", Account: "000000000000"}

// record puts n events about each of so many files into the outbox, one file's after the other's. It returns the ids by file.
func record(t *testing.T, d *db.DB, files, n int) map[string][]string {
	t.Helper()
	ids := make([][]string, files)
	var writers sync.WaitGroup
	for f := range files {
		writers.Go(func() {
			for range n {
				e := origin.Event(events.Operation{
					Kind: events.Upload, Protocol: "SFTP", Server: "s-1", User: "ann", Path: fileName(f), Began: time.Now(), Ended: time.Now(),
				})
				if err := d.Record(t.Context(), e); err != nil {
					t.Error(err)
				}
				ids[f] = append(ids[f], e.ID)
			}
		})
	}
	writers.Wait()
	all := map[string][]string{}
	for f, made := range ids {
		all[fileName(f)] = made
	}
	return all
}

func fileName(f int) string { return fmt.Sprintf("/bucket/file-%d", f) }

// receiver is a webhook's other end, a real server over TLS. Behave says what it does with a request after it has noted it:
// true is a good answer.
type receiver struct {
	t      *testing.T
	behave func(n int, e events.Event, w http.ResponseWriter, r *http.Request) bool
	server *httptest.Server

	mu     sync.Mutex
	n      int
	got    []events.Event
	bodies map[string]string // by id
}

func newReceiver(t *testing.T, behave func(n int, e events.Event, w http.ResponseWriter, r *http.Request) bool) *receiver {
	t.Helper()
	r := &receiver{t: t, behave: behave, bodies: map[string]string{}}
	r.server = httptest.NewTLSServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // cut off by the sender's patience
	}
	var e events.Event
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Errorf("%v in %s", err, body)
	}
	var at int64
	if _, err := fmt.Sscanf(req.Header.Get(events.SignatureHeader), "t=%d,", &at); err != nil {
		r.t.Errorf("signature: %v", err)
	}
	if req.Header.Get(events.SignatureHeader) != events.Sign([]byte(secret), time.Unix(at, 0), body) || req.Header.Get(events.EventHeader) != e.ID {
		r.t.Errorf("headers %v for %s", req.Header, body)
	}
	r.mu.Lock()
	r.n++
	n := r.n
	r.got = append(r.got, e)
	if before, is := r.bodies[e.ID]; is && before != string(body) {
		r.t.Errorf("event %s was %s, and then %s", e.ID, before, body)
	}
	r.bodies[e.ID] = string(body)
	r.mu.Unlock()
	if !r.behave(n, e, w, req) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// firsts are the ids by file, each where it came first.
func (r *receiver) firsts() map[string][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	all := map[string][]string{}
	for _, e := range r.got {
		if !seen[e.ID] {
			seen[e.ID] = true
			all[e.Detail.FilePath] = append(all[e.Detail.FilePath], e.ID)
		}
	}
	return all
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

func (r *receiver) target(name string, parallel int) events.Target {
	return events.Target{Name: name, Parallel: parallel, Sink: &events.Webhook{
		URL: r.server.URL, Secret: []byte(secret), Shape: events.AWSShape, Client: r.server.Client(), Timeout: 2 * time.Second, Now: time.Now,
	}}
}

// deliver runs a delivery until the test ends or the returned function is called.
func deliver(t *testing.T, d *db.DB, reg prometheus.Registerer, targets ...events.Target) (stop func()) {
	t.Helper()
	dv, err := events.New(events.Config{
		Outbox: d, Dead: d, Targets: targets, Registerer: reg, Poll: 100 * time.Millisecond, Grace: 100 * time.Millisecond,
		Backoff: func(int) time.Duration { return 5 * time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); dv.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		case <-tick.C:
		}
	}
}

func drained(t *testing.T, d *db.DB, sink string) func() bool {
	return func() bool {
		b, err := d.Backlogs(t.Context(), []string{sink})
		if err != nil {
			t.Fatal(err)
		}
		return b[0].Events == 0
	}
}

// sameOrder compares ids by file.
func sameOrder(t *testing.T, got, want map[string][]string) {
	t.Helper()
	for path, ids := range want {
		if !slices.Equal(got[path], ids) {
			t.Errorf("%s: came %v, made %v", path, got[path], ids)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d", len(got), len(want))
	}
}

// TestReceiverMisbehaves: a receiver that fails, stalls, hangs up after it has taken an event, and answers late: each event
// arrives, none before an earlier one about its file, and what comes twice is the same, byte for byte.
func TestReceiverMisbehaves(t *testing.T) {
	t.Parallel()
	for _, parallel := range []int{1, 8} {
		t.Run(fmt.Sprint(parallel), func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, func(n int, _ events.Event, w http.ResponseWriter, r *http.Request) bool {
				switch n % 9 {
				case 2:
					return false
				case 4: // taken, and then no answer: it has to come again
					c, _, err := http.NewResponseController(w).Hijack()
					if err == nil {
						err = c.Close()
					}
					return err == nil
				case 6:
					if n < 20 { // it stalls longer than the sender waits
						<-r.Context().Done()
					}
				case 8:
					w.Header().Set("Location", "/elsewhere")
					w.WriteHeader(http.StatusTemporaryRedirect) // is not followed
					return true
				}
				return true
			})
			d := outbox(t, "hook")
			made := record(t, d, 6, 4)
			target := r.target("hook", parallel)
			target.Sink.(*events.Webhook).Timeout = 500 * time.Millisecond
			deliver(t, d, nil, target)
			for path, ids := range record(t, d, 6, 4) { // while it is at work
				made[path] = append(made[path], ids...)
			}
			eventually(t, "all have arrived", drained(t, d, "hook"))
			sameOrder(t, r.firsts(), made)
			if r.count() <= 48 {
				t.Errorf("%d requests for 48 events: nothing came twice", r.count())
			}
		})
	}
}

// TestDeadSink: a sink that never answers holds up neither another one nor whoever records, and its backlog is a metric.
func TestDeadSink(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	dead := newReceiver(t, func(_ int, _ events.Event, _ http.ResponseWriter, r *http.Request) bool {
		select {
		case <-r.Context().Done():
		case <-release:
		}
		return true
	})
	t.Cleanup(func() { close(release) })
	good := newReceiver(t, func(int, events.Event, http.ResponseWriter, *http.Request) bool { return true })
	d := outbox(t, "dead", "good")
	reg := prometheus.NewRegistry()
	target := dead.target("dead", 4)
	target.Sink.(*events.Webhook).Timeout = time.Hour
	deliver(t, d, reg, target, good.target("good", 4))
	made := record(t, d, 6, 5)
	eventually(t, "the good one has all", drained(t, d, "good"))
	sameOrder(t, good.firsts(), made)
	backlog := gauges(t, reg, "transferd_events_backlog")
	age := gauges(t, reg, "transferd_events_oldest_seconds")
	if backlog["dead"] != 30 || backlog["good"] != 0 || age["dead"] <= 0 || age["good"] != 0 {
		t.Errorf("backlogs %v, ages %v", backlog, age)
	}
}

// gauges are a metric's values by sink.
func gauges(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				values[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return values
}

// TestPoison: an event that its receiver never takes holds up those about its file, and no others.
func TestPoison(t *testing.T) {
	t.Parallel()
	var ok sync.Map // ids that are taken
	r := newReceiver(t, func(_ int, e events.Event, _ http.ResponseWriter, _ *http.Request) bool {
		if e.Detail.FilePath == "/bucket/file-0" {
			_, is := ok.Load("all")
			return is
		}
		return true
	})
	d := outbox(t, "hook")
	made := record(t, d, 4, 5)
	stop := deliver(t, d, nil, r.target("hook", 2))
	eventually(t, "the others have arrived", func() bool {
		f := r.firsts()
		return len(f["/bucket/file-1"])+len(f["/bucket/file-2"])+len(f["/bucket/file-3"]) == 15
	})
	if f := r.firsts()["/bucket/file-0"]; len(f) != 1 {
		t.Errorf("of the refused one's file came %v", f)
	}
	if drained(t, d, "hook")() {
		t.Error("the refused one is forgotten")
	}
	stop()
	ok.Store("all", true)
	deliver(t, d, nil, r.target("hook", 2))
	eventually(t, "all have arrived", drained(t, d, "hook"))
	sameOrder(t, r.firsts(), made)
}

// TestReplay: a replay under way sends everything again, under the same ids.
func TestReplay(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, func(int, events.Event, http.ResponseWriter, *http.Request) bool { return true })
	d := outbox(t, "hook")
	deliver(t, d, nil, r.target("hook", 2))
	made := record(t, d, 2, 3)
	eventually(t, "all have arrived", func() bool { return r.count() == 6 })
	if n, err := d.Replay(t.Context(), "hook", time.Now().Add(-time.Hour)); err != nil || n != 6 {
		t.Errorf("replay of %d, %v", n, err)
	}
	eventually(t, "all came again", func() bool { return r.count() == 12 })
	eventually(t, "that is kept", drained(t, d, "hook"))
	sameOrder(t, r.firsts(), made)
}

// TestRestart: a delivery that ends goes on where it was, at the earliest with what had no answer.
func TestRestart(t *testing.T) {
	t.Parallel()
	stalled := make(chan struct{}, 100)
	r := newReceiver(t, func(n int, _ events.Event, _ http.ResponseWriter, r *http.Request) bool {
		if n > 2 && n < 7 {
			stalled <- struct{}{}
			<-r.Context().Done()
		}
		return true
	})
	d := outbox(t, "hook")
	made := record(t, d, 1, 8)
	target := r.target("hook", 1)
	target.Sink.(*events.Webhook).Timeout = time.Hour
	for range 4 {
		stop := deliver(t, d, nil, target)
		select {
		case <-stalled:
		case <-time.After(patience):
			t.Fatal("nothing came")
		}
		stop()
	}
	deliver(t, d, nil, target)
	eventually(t, "all have arrived", drained(t, d, "hook"))
	sameOrder(t, r.firsts(), made)
	if n := r.count(); n != 8+4 {
		t.Errorf("%d requests: more came twice than what had no answer", n)
	}
}

// failing is a sink that takes some of a batch.
type failing struct {
	mu    sync.Mutex
	calls int
	got   []string
}

func (f *failing) Send(_ context.Context, all []events.Event) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	take := len(all)
	var err error
	if f.calls%2 == 1 {
		take, err = len(all)/2, errors.New("full")
	}
	for _, e := range all[:take] {
		f.got = append(f.got, e.ID)
	}
	return take, err
}

// TestBatches: what a batch leaves begins the next one.
func TestBatches(t *testing.T) {
	t.Parallel()
	d := outbox(t, "file")
	f := &failing{}
	made := record(t, d, 1, 15)
	deliver(t, d, nil, events.Target{Name: "file", Sink: f, Batch: 4})
	eventually(t, "all have arrived", drained(t, d, "file"))
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.got, made["/bucket/file-0"]) {
		t.Errorf("came %v, made %v", f.got, made)
	}
}
