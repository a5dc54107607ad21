package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/server/events"
	"github.com/transferd/transferd/workflow/functions"
)

// hook is the far side of a webhook, over TLS.
type hook struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex
	closed bool   // it answers 503
	never  string // it answers 422 to events about this path
	ids    []string
	refuse int
}

func newHook(t *testing.T, closed bool) *hook {
	h := &hook{t: t, closed: closed}
	h.Server = httptest.NewTLSServer(h)
	t.Cleanup(h.Close)
	return h
}

const hookSecret = "only-a-test"

func (h *hook) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the daemon died
	}
	var e struct {
		SpecVersion, ID string
		Data            struct {
			Path string `json:"file-path"`
		}
	}
	seconds, _, _ := strings.Cut(strings.TrimPrefix(req.Header.Get(events.SignatureHeader), "t="), ",")
	at, err := strconv.ParseInt(seconds, 10, 64)
	// CUSTOM steps sign the same way: a receiver needs one check for both.
	if want := functions.Sign([]byte(hookSecret), time.Unix(at, 0), body); err != nil || req.Header.Get(events.SignatureHeader) != want {
		h.t.Errorf("signature %q, want %q, %v", req.Header.Get(events.SignatureHeader), want, err)
	}
	if err := json.Unmarshal(body, &e); err != nil || e.SpecVersion != "1.0" || req.Header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" {
		h.t.Errorf("no CloudEvent: %v, %v, %s", err, req.Header, body)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		h.refuse++
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if h.never != "" && e.Data.Path == h.never {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	h.ids = append(h.ids, e.ID)
}

// refuseFor has the hook refuse events about a path from now on; "" takes all.
func (h *hook) refuseFor(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.never = path
}

func (h *hook) open() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = false
}

func (h *hook) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.ids...)
}

// eventsOf writes the file that names the hook and a file of lines as sinks.
func eventsOf(t *testing.T, h *hook) (config, lines string) {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	lines = filepath.Join(dir, "events.jsonl")
	config = filepath.Join(dir, "events.yaml")
	text := fmt.Sprintf(`events:
  sinks:
    hook: {url: %q, secret: %s, ca: %q, format: cloudevents, tries: 2}
    lines: {file: %q}
`, h.URL, hookSecret, ca, lines)
	for name, b := range map[string][]byte{
		ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}), config: []byte(text),
	} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return config, lines
}

// readEvents reads the lines of a sink that is a file.
func readEvents(t *testing.T, name string) []events.Event {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var all []events.Event
	for line := range bytes.Lines(b) {
		var e events.Event
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // is being written
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// said is an event in one line.
func said(e events.Event) string {
	d := e.Detail
	text := e.DetailType + " " + d.FilePath + d.DirectoryPath + d.OriginalPath
	if d.RenamedPath != "" {
		text += " to " + d.RenamedPath
	}
	if d.Bytes != nil {
		text += " " + strconv.FormatInt(*d.Bytes, 10)
	}
	return strings.TrimSpace(text + " " + string(d.FailureCode))
}

// TestEvents: what OpenSSH's sftp does comes out of every sink, in AWS's words and its order; replay sends it again.
func TestEvents(t *testing.T) {
	t.Parallel()
	h := newHook(t, false)
	config, lines := eventsOf(t, h)
	p := startDaemon(t, startOptions{args: []string{"-events", config}})
	name, content := file(t, 3000)
	back := filepath.Join(t.TempDir(), "back.bin")
	p.sftp(strings.Join([]string{
		"mkdir sub", "put " + name + " sub/a.bin", "rename sub/a.bin sub/b.bin", "get sub/b.bin " + back, "rm sub/b.bin", "rmdir sub",
		"-rm nowhere.bin", "",
	}, "\n"))
	if err := p.putPart(t, "cut.bin", content).Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"SFTP Server Directory Create Completed /dev-bucket/sub",
		"SFTP Server File Upload Completed /dev-bucket/sub/a.bin 3000",
		"SFTP Server File Rename Completed /dev-bucket/sub/a.bin to /dev-bucket/sub/b.bin",
		"SFTP Server File Download Completed /dev-bucket/sub/b.bin 3000",
		"SFTP Server File Delete Completed /dev-bucket/sub/b.bin",
		"SFTP Server Directory Delete Completed /dev-bucket/sub",
		"SFTP Server File Delete Failed /dev-bucket/nowhere.bin UNKNOWN_ERROR",
		"SFTP Server File Upload Failed /dev-bucket/cut.bin 3000 PARTIAL_UPLOAD",
	}
	p.await("both sinks have all", func() bool { return len(readEvents(t, lines)) >= len(want) && len(h.got()) >= len(want) })
	var got []string
	all := readEvents(t, lines)
	for _, e := range all {
		got = append(got, said(e))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	up := all[1]
	d := up.Detail
	if up.Version != "0" || up.Source != "aws.transfer" || up.Region != p.env["AWS_REGION"] || len(up.Resources) != 1 ||
		!strings.HasSuffix(up.Resources[0], ":server/"+p.env["SERVER_ID"]) || d.StatusCode != "COMPLETED" || d.Protocol != "SFTP" ||
		d.ClientIP != "127.0.0.1" || d.ETag == "" || strings.Contains(d.ETag, `"`) || d.ServerID != p.env["SERVER_ID"] || d.Username != devUser ||
		len(d.SessionID) != 16 || d.StartTimestamp.After(d.EndTimestamp) {
		t.Errorf("the upload's event is %+v", up)
	}

	shown, stderr, code := p.transferd("events", "--json", "-n", "3")
	if n := strings.Count(shown, "\n"); code != 0 || n != 3 || !strings.Contains(shown, all[7].ID) {
		t.Errorf("transferd events: status %d, %d lines\n%s%s", code, n, shown, stderr)
	}
	if shown, _, _ := p.transferd("events"); strings.Count(shown, "\n") != len(want)+1 {
		t.Errorf("transferd events prints\n%s", shown)
	}
	shown, stderr, code = p.transferd("events", "replay", "-sink", "lines", "-since", "1h")
	if code != 0 || !strings.HasPrefix(shown, "8 events") {
		t.Errorf("replay: status %d, %s%s", code, shown, stderr)
	}
	if _, stderr, code := p.transferd("events", "replay", "-sink", "nobody", "-since", "1h"); code != 1 || !strings.Contains(stderr, "nobody") {
		t.Errorf("replay to an unknown sink: status %d, %s", code, stderr)
	}
	p.await("the file has all twice", func() bool { return len(readEvents(t, lines)) >= 2*len(want) })
	for i, e := range readEvents(t, lines)[len(want):] {
		if e.ID != all[i].ID {
			t.Errorf("event %d was %s, and again %s", i, all[i].ID, e.ID)
		}
	}
	p.await("nothing is left", func() bool {
		var sinks []sinkView
		shown, _, _ := p.transferd("events", "sinks", "--json")
		return json.Unmarshal([]byte(shown), &sinks) == nil && len(sinks) == 2 && sinks[0].Backlog+sinks[1].Backlog == 0
	})
	p.stop()
}

// TestEventsRefused: a receiver refuses the events about one file for ever. They are given up and can be seen; the others
// arrive, also those about that file once it takes them, and what was given up when somebody asks for it.
func TestEventsRefused(t *testing.T) {
	t.Parallel()
	h := newHook(t, false)
	config, lines := eventsOf(t, h)
	p := startDaemon(t, startOptions{args: []string{"-events", config}})
	name, _ := file(t, 100)
	h.refuseFor("/dev-bucket/bad")
	p.sftp("put \"" + name + "\" bad\nput \"" + name + "\" good\n")
	var dead []deadView
	p.await("one is given up", func() bool {
		shown, _, code := p.transferd("events", "--dead", "--json")
		return code == 0 && json.Unmarshal([]byte(shown), &dead) == nil && len(dead) == 1
	})
	if d := dead[0]; d.Sink != "hook" || d.Tries != 2 || !strings.Contains(d.Reason, "status 422") || d.Event.Detail.FilePath != "/dev-bucket/bad" {
		t.Errorf("given up: %+v", d)
	}
	if shown, _, _ := p.transferd("events", "--dead"); strings.Count(shown, "\n") != 2 || !strings.Contains(shown, dead[0].Event.ID) {
		t.Errorf("transferd events --dead prints\n%s", shown)
	}
	h.refuseFor("")
	p.sftp("rm bad\n")
	p.await("the others have arrived", func() bool { return len(h.got()) == 2 && len(readEvents(t, lines)) == 3 })
	shown, stderr, code := p.transferd("events", "replay", "-sink", "hook", "-dead", "-event", dead[0].Event.ID)
	if code != 0 || !strings.HasPrefix(shown, "1 events") {
		t.Errorf("replay: status %d, %s%s", code, shown, stderr)
	}
	p.await("it has arrived", func() bool { got := h.got(); return len(got) == 3 && got[2] == dead[0].Event.ID })
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"replay", "-sink", "hook", "-dead", "-event", "nothing"}, 1}, {[]string{"forget", "-sink", "nobody"}, 1},
		{[]string{"forget", "-sink", "hook"}, 0}, {[]string{"forget"}, 2}, {[]string{"replay", "-sink", "hook", "-dead", "-since", "1h"}, 2},
	} {
		if shown, stderr, code := p.transferd(append([]string{"events"}, c.args...)...); code != c.code {
			t.Errorf("%v: status %d, %s%s", c.args, code, shown, stderr)
		}
	}
}

// TestEventsKilled: the daemon is killed -9 right after the verdict is committed, while the receiver is away. The event is
// there when both are back, and it is the same one.
func TestEventsKilled(t *testing.T) {
	t.Parallel()
	h := newHook(t, true)
	config, lines := eventsOf(t, h)
	args := []string{"-events", config}
	dying := startDaemon(t, startOptions{crash: crashAfterEnd, args: args})
	dying.putUntilDeath(noise(crashFile), false)
	if err := dying.awaitEnd(); !killed(err) {
		t.Fatalf("the daemon ended with %v, not by its own kill", err)
	}
	if len(h.got()) > 0 {
		t.Fatal("the receiver was not away")
	}
	h.open()
	p := startDaemon(t, startOptions{data: dying.data, args: args})
	var uploads []uploadView
	p.await("the event has arrived", func() bool { return len(h.got()) > 0 && len(readEvents(t, lines)) > 0 })
	shown, stderr, _ := p.transferd("uploads", "--json")
	if err := json.Unmarshal([]byte(shown), &uploads); err != nil || len(uploads) != 1 {
		t.Fatalf("uploads: %v\n%s%s", err, shown, stderr)
	}
	for _, id := range h.got() {
		if id != uploads[0].UploadId {
			t.Errorf("event %s, the upload is %s", id, uploads[0].UploadId)
		}
	}
	for _, e := range readEvents(t, lines) {
		if e.ID != uploads[0].UploadId || said(e) != fmt.Sprintf("SFTP Server File Upload Completed /dev-bucket/crash.bin %d", crashFile) {
			t.Errorf("event %+v", e)
		}
	}
}

// TestDeedsKilled: the daemon is killed -9 before and after it does what a client asks for, and after it has written that
// down. At the next start the event of each is there, once, and tells what became of the file.
func TestDeedsKilled(t *testing.T) {
	t.Parallel()
	_, lines := eventsOf(t, newHook(t, false))
	config := filepath.Join(t.TempDir(), "events.yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf("events:\n  sinks:\n    lines: {file: %q}\n", lines)), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-events", config}
	name, _ := file(t, 2000)
	data := ""
	want := []string{"SFTP Server File Upload Completed /dev-bucket/a 2000"}
	for _, c := range []struct{ point, batch, want string }{
		{crashAfterIntent, "put \"" + name + "\" a\nrename a b", "SFTP Server File Rename Failed /dev-bucket/a to /dev-bucket/b UNKNOWN_ERROR"},
		{crashBeforeRecord, "rename a b", "SFTP Server File Rename Completed /dev-bucket/a to /dev-bucket/b"},
		{crashBeforeRecord, "get b \"" + name + ".back\"", "SFTP Server File Download Failed /dev-bucket/b PARTIAL_DOWNLOAD"},
		{crashAfterIntent, "rm b", "SFTP Server File Delete Failed /dev-bucket/b UNKNOWN_ERROR"},
		{crashAfterRecord, "mkdir c", "SFTP Server Directory Create Completed /dev-bucket/c"},
		{crashBeforeRecord, "rm b", "SFTP Server File Delete Completed /dev-bucket/b"},
	} {
		p := startDaemon(t, startOptions{data: data, crash: c.point, args: args})
		data = p.data
		if out, err := p.sftpCommand(t.Context(), p.env["SFTP_USER"], c.batch+"\n").CombinedOutput(); err == nil {
			t.Errorf("%s at %s: the client had its answer\n%s", c.batch, c.point, out)
		}
		if err := p.awaitEnd(); !killed(err) {
			t.Fatalf("%s at %s: the daemon ended with %v, not by its own kill", c.batch, c.point, err)
		}
		want = append(want, c.want)
	}
	p := startDaemon(t, startOptions{data: data, args: args})
	p.await("all events", func() bool { return len(readEvents(t, lines)) >= len(want) })
	p.stop() // what would come twice has come
	seen := map[string]events.Event{}
	var got []string
	for _, e := range readEvents(t, lines) {
		if before, is := seen[e.ID]; is && said(before) != said(e) {
			t.Errorf("event %s was %s, and then %s", e.ID, said(before), said(e))
		} else if !is {
			got = append(got, said(e))
		}
		seen[e.ID] = e
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestExecutionViews: one execution with its steps and its file's verdict, and the one that does it over again.
func TestExecutionViews(t *testing.T) {
	t.Parallel()
	p := startDaemon(t, startOptions{})
	whole, _ := p.attachWorkflows()
	name, _ := file(t, 1000)
	p.sftp("put " + name + " done.bin\n")
	e := p.awaitExecution(whole, "done.bin")
	first := p.execution(*e.ExecutionId)
	if first.Status != "COMPLETED" || first.Trigger != "OnUpload" || first.Evidence != "closed" || first.File != "/dev-bucket/done.bin" ||
		first.Ended == nil || first.Upload == nil || first.Upload.Outcome != "complete" || first.Upload.Received != 1000 || len(first.Steps) == 0 {
		t.Errorf("the execution is %+v", first)
	}
	for _, s := range first.Steps {
		if s.Phase == "nominal" && (s.Status != "COMPLETED" || s.Attempt < 1 || s.Took == "" || s.Ended == nil) ||
			s.Phase == "exception" && s.Status != "SKIPPED" {
			t.Errorf("step %+v", s)
		}
	}
	shown, stderr, code := p.transferd("retry", *e.ExecutionId)
	if code != 0 {
		t.Fatalf("retry: status %d, %s", code, stderr)
	}
	fresh := strings.TrimSpace(shown)
	p.await("the second one has ended", func() bool { return p.execution(fresh).Ended != nil })
	second := p.execution(fresh)
	if second.RetryOf != *e.ExecutionId || second.Upload == nil || second.Upload.UploadId != *e.ExecutionId || second.Evidence != "closed" {
		t.Errorf("the second one is %+v", second)
	}
	if table, _, code := p.transferd("execution", fresh); code != 0 || !strings.Contains(table, "complete closed") || !strings.Contains(table, *e.ExecutionId) {
		t.Errorf("status %d\n%s", code, table)
	}
	for _, command := range []string{"execution", "retry"} {
		if _, stderr, code := p.transferd(command, "nothing"); code != 1 || !strings.Contains(stderr, "nothing") {
			t.Errorf("%s of nothing: status %d, %s", command, code, stderr)
		}
	}
}

func (p *proc) execution(id string) (e executionDetail) {
	p.t.Helper()
	shown, stderr, code := p.transferd("execution", "--json", id)
	if err := json.Unmarshal([]byte(shown), &e); err != nil || code != 0 {
		p.t.Fatalf("transferd execution: status %d, %v\n%s%s", code, err, shown, stderr)
	}
	return e
}
