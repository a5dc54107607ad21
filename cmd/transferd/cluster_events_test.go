package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/transferd/transferd/server/events"
)

// ledger is a receiver that writes down every request that it took, slowly.
type ledger struct {
	t *testing.T

	mu     sync.Mutex
	bodies map[string]string // by id
	first  map[string][]events.Event
	twice  int
}

func (l *ledger) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the daemon died
	}
	var e events.Event
	if err := json.Unmarshal(body, &e); err != nil {
		l.t.Errorf("%v in %s", err, body)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if before, is := l.bodies[e.ID]; is {
		l.twice++
		if before != string(body) {
			l.t.Errorf("event %s was %s, and then %s", e.ID, before, body)
		}
		return
	}
	l.bodies[e.ID] = string(body)
	path := e.Detail.FilePath + e.Detail.OriginalPath
	l.first[path] = append(l.first[path], e)
	time.Sleep(5 * time.Millisecond) // so that the kill finds events under way: its randomness, not a wait
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.bodies)
}

// sender is the node that sends to a sink.
func (r *rig) sender(sink string) *proc {
	r.t.Helper()
	conn, err := pgx.Connect(r.t.Context(), r.postgres.URL("postgres"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close(r.t.Context())
	var name string
	if err := conn.QueryRow(r.t.Context(), `SELECT node FROM event_sinks WHERE name = $1`, sink).Scan(&name); err != nil {
		r.t.Fatal(err)
	}
	for _, p := range r.nodes {
		if b, err := os.ReadFile(filepath.Join(p.data, "data", "db", "node")); err == nil && string(b) == name {
			return p
		}
	}
	return nil
}

// TestClusterEvents: the node that sends events to a webhook kills itself -9 when it has renamed a file and not yet written
// that down. The other one goes on where it was and tells of the rename: each event arrives, none before an earlier one about
// its file, and what comes twice is the same, byte for byte. transferd servers tells who is there.
func TestClusterEvents(t *testing.T) {
	t.Parallel()
	l := &ledger{t: t, bodies: map[string]string{}, first: map[string][]events.Event{}}
	hook := httptest.NewServer(l)
	t.Cleanup(hook.Close)
	r := newRig(t)
	r.crash = crashBeforeRecord
	r.config = fmt.Sprintf("events: {sinks: {hook: {url: %q, secret: only-a-test, parallel: 4}}}\n", hook.URL)
	for range 2 {
		r.launch(t.TempDir())
	}
	for _, p := range r.nodes {
		r.awaitNode(p)
	}
	r.furnish()
	var dying *proc
	r.nodes[0].await("a node sends", func() bool { dying = r.sender("hook"); return dying != nil })
	other := r.nodes[0]
	if other == dying {
		other = r.nodes[1]
	}
	r.served(other, dying.env["SFTP_PORT"], other.env["SFTP_PORT"])

	const files, before, after = 4, 6, 3
	for _, p := range []*proc{other, dying} {
		for range before / 2 {
			p.putGrowing(files)
		}
	}
	name, _ := file(t, 77)
	if out, err := dying.sftpCommand(t.Context(), "alice", "put \""+name+"\" old\nrename old new\n").CombinedOutput(); err == nil {
		t.Errorf("the rename had its answer\n%s", out)
	}
	if err := dying.awaitEnd(); !killed(err) {
		t.Fatalf("the daemon ended with %v, not by its own kill", err)
	}
	died, had := time.Now(), l.count()
	for range after {
		other.putGrowing(files)
	}
	all := files*(before+after) + 2
	other.await("all events have arrived", func() bool { return l.count() == all })
	t.Logf("%d of %d events had arrived at the kill, all of them %v after it, %d twice", had, all, time.Since(died).Round(time.Millisecond), l.twice)
	r.served(other, other.env["SFTP_PORT"])
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range files {
		path := fmt.Sprintf("/%s/file-%d", devBucket, i)
		var began time.Time
		for n, e := range l.first[path] {
			if e.Detail.StatusCode != "COMPLETED" || e.Detail.StartTimestamp.Before(began) {
				t.Errorf("%s: event %d is %s, began %v after one that began %v", path, n, said(e), e.Detail.StartTimestamp, began)
			}
			began = e.Detail.StartTimestamp
		}
		if n := len(l.first[path]); n != before+after {
			t.Errorf("%s has %d events", path, n)
		}
	}
	var got []string
	for _, e := range l.first["/"+devBucket+"/old"] {
		got = append(got, said(e))
	}
	want := "SFTP Server File Upload Completed /dev-bucket/old 77\nSFTP Server File Rename Completed /dev-bucket/old to /dev-bucket/new"
	if strings.Join(got, "\n") != want {
		t.Errorf("of the renamed file came\n%s", strings.Join(got, "\n"))
	}
}

// putGrowing uploads small files in one session, each of them once more.
func (p *proc) putGrowing(files int) {
	p.t.Helper()
	conn, client := p.dial()
	defer conn.Close()
	for i := range files {
		f, err := client.Create(fmt.Sprintf("file-%d", i))
		if err == nil {
			_, err = f.Write([]byte("content"))
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// served checks what transferd servers tells of the rig's server, asked on one node: the ports of these nodes and no others.
func (r *rig) served(p *proc, ports ...string) {
	r.t.Helper()
	var views []serverView
	p.await(fmt.Sprint("transferd servers tells of ", ports), func() bool {
		shown, stderr, code := p.transferd("servers", "--json")
		if code != 0 || json.Unmarshal([]byte(shown), &views) != nil || len(views) != 1 {
			r.t.Fatalf("status %d, %s%s", code, shown, stderr)
		}
		alive := map[string]bool{}
		for _, n := range views[0].Nodes {
			_, port := splitPort(n.Address)
			alive[port] = n.State == "alive" && n.Node != "" && n.Unseen < patience.Seconds()
		}
		for _, port := range ports {
			if !alive[port] {
				return false
			}
		}
		return len(views[0].Nodes) == len(ports)
	})
	if shown, _, _ := p.transferd("servers"); strings.Count(shown, r.server) != len(ports) || !strings.Contains(shown, " ago") {
		r.t.Errorf("transferd servers prints\n%s", shown)
	}
}
