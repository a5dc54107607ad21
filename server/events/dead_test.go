package events_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/events"
)

// picky is a receiver's taste: it answers some events with a status for as long as it is ill, and keeps what it took.
type picky struct {
	status int

	mu    sync.Mutex
	ill   map[string]bool // ids
	taken map[string][]string
	asked map[string]int
}

func newPicky(status int, ids ...string) *picky {
	p := &picky{status: status, ill: map[string]bool{}, taken: map[string][]string{}, asked: map[string]int{}}
	for _, id := range ids {
		p.ill[id] = true
	}
	return p
}

func (p *picky) answer(_ int, e events.Event, w http.ResponseWriter, _ *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[e.ID]++
	if p.ill[e.ID] {
		w.WriteHeader(p.status)
		return true
	}
	if ids := p.taken[e.Detail.FilePath]; !slices.Contains(ids, e.ID) {
		p.taken[e.Detail.FilePath] = append(ids, e.ID)
	}
	return true
}

func (p *picky) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ill = nil
}

func (p *picky) tries(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[id]
}

func (p *picky) got() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string][]string{}
	for path, ids := range p.taken {
		all[path] = slices.Clone(ids)
	}
	return all
}

func dead(t *testing.T, d *db.DB) []events.Dead {
	t.Helper()
	all, err := d.DeadEvents(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRefused: an event that its receiver refuses for good is given up after some tries, and is kept; those behind it, about
// its file too, go on in their order. A restart does not send it again, somebody may.
func TestRefused(t *testing.T) {
	t.Parallel()
	d := outbox(t, "hook")
	made := record(t, d, 3, 4)
	poison := made["/bucket/file-1"][1]
	p := newPicky(http.StatusBadRequest, poison)
	r := newReceiver(t, p.answer)
	target := r.target("hook", 2)
	target.Tries = 3
	reg := prometheus.NewRegistry()
	stop := deliver(t, d, reg, target)
	eventually(t, "all others have arrived", drained(t, d, "hook"))
	others := map[string][]string{}
	for path, ids := range made {
		others[path] = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == poison })
	}
	sameOrder(t, p.got(), others)
	all := dead(t, d)
	if len(all) != 1 || all[0].Event.ID != poison || all[0].Sink != "hook" || all[0].Tries != 3 || all[0].Reason == "" || all[0].Died.IsZero() {
		t.Fatalf("dead are %+v", all)
	}
	if n := gauges(t, reg, "transferd_events_dead")["hook"]; n != 1 {
		t.Errorf("the metric says %v", n)
	}
	stop()
	asked := p.tries(poison)
	deliver(t, d, nil, target)
	for path, ids := range record(t, d, 1, 2) {
		others[path] = append(others[path], ids...)
	}
	eventually(t, "the new ones have arrived", drained(t, d, "hook"))
	if n := p.tries(poison); n != asked {
		t.Errorf("it was sent %d times, and is dead since %d", n, asked)
	}
	if n, err := d.Revive(t.Context(), "hook", poison); err != nil || n != 1 {
		t.Errorf("revived %d, %v", n, err)
	}
	eventually(t, "it is dead again", func() bool {
		all := dead(t, d)
		return p.tries(poison) == asked+3 && len(all) == 1 && all[0].Tries == 6
	})
	p.heal()
	if n, err := d.Revive(t.Context(), "hook", ""); err != nil || n != 1 {
		t.Errorf("revived %d, %v", n, err)
	}
	eventually(t, "it is forgotten", func() bool { return len(dead(t, d)) == 0 })
	others["/bucket/file-1"] = append(others["/bucket/file-1"], poison)
	sameOrder(t, p.got(), others)
}

// TestGivenUp: what fails in a way that may pass is given up when the receiver takes others for long enough, and never while
// it takes nothing.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	d := outbox(t, "hook")
	made := record(t, d, 2, 2)
	poison := made["/bucket/file-0"][0]
	p := newPicky(http.StatusInternalServerError, poison, made["/bucket/file-1"][0])
	target := newReceiver(t, p.answer).target("hook", 2)
	target.Tries, target.GiveUp = 1, time.Nanosecond
	deliver(t, d, nil, target)
	eventually(t, "it was asked often", func() bool { return p.tries(poison) > 10 })
	if all := dead(t, d); len(all) > 0 {
		t.Fatalf("given up although the receiver is away: %+v", all)
	}
	p.mu.Lock()
	p.ill = map[string]bool{poison: true}
	p.mu.Unlock()
	eventually(t, "all others have arrived", drained(t, d, "hook"))
	if all := dead(t, d); len(all) != 1 || all[0].Event.ID != poison {
		t.Fatalf("dead are %+v", all)
	}
	sameOrder(t, p.got(), map[string][]string{"/bucket/file-0": made["/bucket/file-0"][1:], "/bucket/file-1": made["/bucket/file-1"]})
}

// TestReplayWithDead: a replay from a time sends what was given up since then too, in its order, and forgets that it was.
func TestReplayWithDead(t *testing.T) {
	t.Parallel()
	d := outbox(t, "hook")
	made := record(t, d, 1, 3)
	p := newPicky(http.StatusGone, made["/bucket/file-0"][1])
	target := newReceiver(t, p.answer).target("hook", 2)
	target.Tries = 1
	deliver(t, d, nil, target)
	eventually(t, "all others have arrived", drained(t, d, "hook"))
	p.mu.Lock()
	p.ill, p.taken = nil, map[string][]string{}
	p.mu.Unlock()
	if n, err := d.Replay(t.Context(), "hook", time.Now().Add(-time.Hour)); err != nil || n != 3 {
		t.Errorf("replay of %d, %v", n, err)
	}
	eventually(t, "all have come", func() bool { return len(p.got()["/bucket/file-0"]) == 3 })
	sameOrder(t, p.got(), made)
	if all := dead(t, d); len(all) > 0 {
		t.Errorf("dead are %+v", all)
	}
}

// TestKinds: a sink gets the kinds that it wants, and what it does not want is no backlog.
func TestKinds(t *testing.T) {
	t.Parallel()
	d := outbox(t, "hook", "file")
	renamed := origin.Event(events.Operation{Kind: events.Rename, Protocol: "FTPS", Path: "/bucket/a", NewPath: "/bucket/b", Ended: time.Now()})
	record(t, d, 2, 2)
	if err := d.Record(t.Context(), renamed); err != nil {
		t.Fatal(err)
	}
	record(t, d, 2, 2)
	r := newReceiver(t, func(int, events.Event, http.ResponseWriter, *http.Request) bool { return true })
	target := r.target("hook", 2)
	target.Kinds = []events.Kind{events.Rename, events.DirectoryCreate}
	f := &failing{}
	deliver(t, d, nil, target, events.Target{Name: "file", Sink: f, Batch: 3, Kinds: target.Kinds})
	eventually(t, "there is no backlog", func() bool { return drained(t, d, "hook")() && drained(t, d, "file")() })
	r.mu.Lock()
	defer r.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.got) != 1 || r.got[0].ID != renamed.ID || r.got[0].Kind() != events.Rename || !slices.Equal(f.got, []string{renamed.ID}) {
		t.Errorf("came %+v and %v", r.got, f.got)
	}
}

// TestWhatIsRefused: which answers are about the event, and which are about anything that somebody may see to.
func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	const xml = `<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type><Code>InvalidParameter</Code></Error></ErrorResponse>`
	const denied = `<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Code>AuthorizationError</Code></Error></ErrorResponse>`
	for _, c := range []struct {
		service events.Service // "" is a webhook
		status  int
		body    string
		refused bool
	}{
		{"", 400, "", true}, {"", 410, "", true}, {"", 413, "", true}, {"", 415, "", true}, {"", 422, "", true},
		{"", 401, "", false}, {"", 403, "", false}, {"", 404, "", false}, {"", 408, "", false}, {"", 409, "", false}, {"", 429, "", false},
		{"", 500, "", false}, {"", 503, "", false}, {"", 302, "", false},
		{events.SQS, 400, `{"__type":"com.amazonaws.sqs#InvalidMessageContents","message":"no"}`, true},
		{events.SQS, 400, `{"__type":"com.amazon.coral.service#InvalidParameterValueException"}`, true},
		{events.SQS, 400, `{"__type":"com.amazonaws.sqs#QueueDoesNotExist"}`, false},
		{events.SQS, 400, `{"__type":"com.amazon.coral.availability#ThrottlingException"}`, false},
		{events.SQS, 403, `{"__type":"com.amazon.coral.service#AccessDeniedException"}`, false},
		{events.SQS, 413, ``, true}, {events.SQS, 500, ``, false},
		{events.SNS, 400, xml, true}, {events.SNS, 403, denied, false},
		{events.EventBridge, 400, `{"__type":"ValidationException"}`, true},
		{events.EventBridge, 200, `{"FailedEntryCount":1,"Entries":[{"ErrorCode":"MalformedDetail"}]}`, true},
		{events.EventBridge, 200, `{"FailedEntryCount":1,"Entries":[{"ErrorCode":"InternalFailure"}]}`, false},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body)) // the sender's end shows it
		}))
		var sink events.Sink = &events.Webhook{URL: s.URL, Client: s.Client(), Timeout: patience, Now: time.Now}
		if c.service != "" {
			sink = &events.AWS{Service: c.service, Target: "t", Endpoint: s.URL, Region: "r", Client: s.Client(), Timeout: patience, Now: time.Now,
				Credentials: credentials.NewStaticCredentialsProvider("a", "b", "")}
		}
		n, err := sink.Send(t.Context(), []events.Event{origin.Event(events.Operation{Kind: events.Delete, Path: "/b/k", Ended: time.Now()})})
		s.Close()
		if n != 0 || err == nil || errors.Is(err, events.ErrRefused) != c.refused {
			t.Errorf("%s %d %s: %d, %v", c.service, c.status, c.body, n, err)
		}
	}
}
