package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

func TestComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	s := w.session(w.manager(func(c *session.Config) { c.Metrics = session.NewMetrics(reg) }))
	f := create(t, s, "a.txt")
	if f.Path() != "/bucket/home/a.txt" {
		t.Errorf("path %q", f.Path())
	}
	write(t, f, "hello ")
	write(t, f, "world")
	if _, ok := w.object("home/a.txt"); ok {
		t.Error("visible before Close")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.expect("create begin note write write commit end", "complete/closed 11/11")
	if got, _ := w.object("home/a.txt"); got != "hello world" {
		t.Errorf("object %q", got)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 11); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("WriteAt after Close: %v", err)
	}
	s.End(session.Disconnect)
	w.expect("create begin note write write commit end", "complete/closed 11/11")
	want := map[string]float64{
		"transferd_bytes_total in SFTP": 11, "transferd_bytes_total out SFTP": 0, "transferd_open_files": 0,
		"transferd_sessions SFTP": 0, "transferd_uploads_total closed SFTP complete": 1, "transferd_upload_seconds": 1,
		"transferd_recovery_pending": 0,
		"transferd_uploads_waiting":  0,
	}
	if got := gather(t, reg); !maps.Equal(got, want) {
		t.Errorf("metrics %v, want %v", got, want)
	}
}

// gather reads metrics by their name and label values; of a histogram it reads the count.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			key := family.GetName()
			for _, label := range m.GetLabel() {
				key += " " + label.GetValue()
			}
			values[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func TestClosedEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	f := create(t, s, "empty")
	if n, err := f.WriteAt(nil, 0); n != 0 || err != nil {
		t.Errorf("empty write: %d, %v", n, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.End(session.Disconnect)
	w.expect("create begin commit end", "complete/closed 0/0")
	if _, ok := w.object("home/empty"); !ok {
		t.Error("no object")
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	f := create(t, s, "a")
	write(t, f, "half")
	s.End(session.Timeout)
	s.End(session.Disconnect) // changes nothing
	w.expect("create begin note write commit end", "partial/timeout 4/4")
	if got, _ := w.object("home/a"); got != "half" {
		t.Errorf("object %q", got)
	}
	if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Close after the end: %v", err)
	}
	if _, err := s.Create("b", session.CreateOptions{}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Create after the end: %v", err)
	}
	if s.Context().Err() == nil {
		t.Error("the context lives on")
	}
	if !strings.Contains(w.log(), `"activity-type":"PARTIAL_CLOSE"`) {
		t.Error("no PARTIAL_CLOSE in the log")
	}
}

func TestCutBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/a"] = []byte("old")
	s := w.session(w.manager())
	create(t, s, "a")
	s.End(session.Disconnect)
	w.expect("create abort")
	if got, _ := w.object("home/a"); got != "old" {
		t.Errorf("the older file became %q", got)
	}
}

func TestCutReleasesABlockedWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	f := create(t, s, "a")
	write(t, f, "kept")
	w.block = make(chan struct{})
	result := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("lost"), 4)
		if closing := f.Close(); !errors.Is(closing, fs.ErrClosed) { // as a protocol may that has read a CLOSE behind it
			t.Errorf("Close: %v", closing)
		}
		result <- err
	}()
	<-w.block
	s.End(session.Disconnect)
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("WriteAt: %v", err)
	}
	w.expect("create begin note write commit end", "partial/disconnect 4/4")
}

// A Close that has begun before the session's end stays complete, and End waits for it.
func TestEndWaitsForClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	closing, open := create(t, s, "closing"), create(t, s, "open")
	write(t, closing, "abc")
	write(t, open, "de")
	w.slow, w.inCommit = make(chan struct{}), make(chan struct{}, 2)
	closed := make(chan error, 1)
	go func() { closed <- closing.Close() }()
	<-w.inCommit
	ended := make(chan struct{})
	go func() { s.End(session.ServerStop); close(ended) }()
	<-w.inCommit // the other file
	select {
	case <-ended:
		t.Error("End did not wait")
	default:
	}
	close(w.slow)
	<-ended
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if got := fmt.Sprint(w.verdicts()); got != "[complete/closed 3/3 partial/server-stop 2/2]" {
		t.Error(got)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ fault, history, verdict string }{
		{"write", "create begin note write! abort end", "refused/storage 0/0"},
		{"note", "create begin note! abort end", "refused/storage 0/0"},
		{"begin", "create begin! abort", ""},
	} {
		for _, how := range []string{"close", "end"} {
			t.Run(c.fault+" then "+how, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.fail(c.fault, 1)
				s := w.session(w.manager())
				f := create(t, s, "a")
				_, err := f.WriteAt([]byte("abc"), 0)
				if !errors.Is(err, errFault) {
					t.Errorf("WriteAt: %v", err)
				}
				if _, again := f.WriteAt([]byte("abc"), 0); !errors.Is(again, errFault) {
					t.Errorf("second WriteAt: %v", again)
				}
				if how == "close" {
					if err := f.Close(); !errors.Is(err, errFault) {
						t.Errorf("Close: %v", err)
					}
				}
				s.End(session.Disconnect)
				var want []string
				if c.verdict != "" {
					want = []string{c.verdict}
				}
				w.expect(c.history, want...)
				if _, ok := w.object("home/a"); ok {
					t.Error("something was kept")
				}
			})
		}
	}
}

func TestCommitRefused(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"close", "end"} {
		w := newWorld(t)
		w.fail("commit", 1)
		s := w.session(w.manager())
		f := create(t, s, "a")
		write(t, f, "abc")
		if how == "close" {
			if err := f.Close(); !errors.Is(err, errFault) {
				t.Errorf("Close: %v", err)
			}
		}
		s.End(session.Disconnect)
		w.expect("create begin note write commit! end", "refused/storage 0/3")
		if !strings.Contains(w.log(), `"message":"Service unavailable"`) {
			t.Error("no ERROR in the log")
		}
	}
}

func TestRandomAccessIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager())
	defer s.End(session.Disconnect)
	f := create(t, s, "a")
	write(t, f, "abc")
	if _, err := f.WriteAt([]byte("x"), 1); !errors.Is(err, storage.ErrRandomAccess) {
		t.Errorf("WriteAt: %v", err)
	}
	if err := f.Close(); !errors.Is(err, storage.ErrRandomAccess) {
		t.Errorf("Close: %v", err)
	}
	w.expect("create begin note write abort end", "refused/storage 0/3")
	if _, err := f.WriteAt([]byte("x"), -1); err == nil {
		t.Error("negative offset taken")
	}
}

// A journal that is away for a moment delays the answer; one that stays away leaves the row open, says so to the client
// and in the log.
func TestJournalAwayAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	patient := w.session(w.manager(func(c *session.Config) { c.JournalTimeout = time.Minute }))
	defer patient.End(session.Disconnect)
	s := w.session(w.manager())
	f := create(t, patient, "a")
	write(t, f, "abc")
	w.fail("end", 2)
	if err := f.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	w.expect("create begin note write commit end! end! end", "complete/closed 3/3")
	g := create(t, s, "b")
	write(t, g, "abc")
	w.fail("end", 1_000_000)
	if err := g.Close(); !errors.Is(err, errFault) {
		t.Errorf("Close: %v", err)
	}
	s.End(session.Disconnect)
	if got := fmt.Sprint(w.verdicts()); got != "[complete/closed 3/3 open]" {
		t.Error(got)
	}
	if !strings.Contains(w.log(), "no verdict in the journal") {
		t.Error("nothing in the log")
	}
}

// The store does not answer in time after a disconnect: the row stays open for recovery.
func TestDeadlineAfterDisconnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.session(w.manager(func(c *session.Config) { c.CommitTimeout = 20 * time.Millisecond }))
	f := create(t, s, "a")
	write(t, f, "abc")
	w.slow, w.inCommit = make(chan struct{}), make(chan struct{}, 1)
	s.End(session.Disconnect)
	w.expect("create begin note write", "open")
	close(w.slow)
}

// A store that is deaf to its context holds up End for its time and no longer.
func TestDeafStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager(func(c *session.Config) { c.CommitTimeout = 50 * time.Millisecond })
	s := w.session(m)
	f := create(t, s, "a")
	w.written, w.deaf = make(chan struct{}), make(chan struct{})
	result := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("abc"), 0)
		result <- err
	}()
	<-w.deaf
	s.End(session.Disconnect) // returns
	if !strings.Contains(w.log(), "session ended before its uploads did") {
		t.Error("not a word in the log")
	}
	close(w.written)
	if err := m.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-result; err != nil {
		t.Errorf("WriteAt: %v", err)
	}
	w.expect("create begin note write commit end", "partial/disconnect 3/3")
}

func TestCreateOptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/full"], w.objects["home/empty"] = []byte("x"), nil
	s := w.session(w.manager())
	defer s.End(session.Disconnect)
	create(t, s, "uploading")
	for _, c := range []struct {
		path string
		opt  session.CreateOptions
		want error
	}{
		{"full", session.CreateOptions{Exclusive: true}, fs.ErrExist},
		{"uploading", session.CreateOptions{Exclusive: true}, fs.ErrExist},
		{"new", session.CreateOptions{Exclusive: true}, nil},
		{"full", session.CreateOptions{Append: true}, errors.ErrUnsupported},
		{"empty", session.CreateOptions{Append: true}, nil},
		{"new2", session.CreateOptions{Append: true}, nil},
		{"full", session.CreateOptions{}, nil},
		{"/other/x", session.CreateOptions{}, fs.ErrNotExist},
		{"/", session.CreateOptions{}, fs.ErrNotExist},
	} {
		if _, err := s.Create(c.path, c.opt); !errors.Is(err, c.want) {
			t.Errorf("Create(%q, %+v): %v, want %v", c.path, c.opt, err, c.want)
		}
	}
}

func TestStatWhileUploading(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/a"] = []byte("a long old file")
	s := w.session(w.manager())
	defer s.End(session.Disconnect)
	size := func() int64 {
		t.Helper()
		info, err := s.Stat("../home/a")
		if err != nil || info.Name() != "a" || info.IsDir() {
			t.Fatalf("%v, %v", info, err)
		}
		return info.Size()
	}
	if got := size(); got != 15 {
		t.Errorf("before: %d", got)
	}
	first := create(t, s, "a")
	write(t, first, "12345")
	second := create(t, s, "a")
	write(t, second, "123")
	if got := size(); got != 3 {
		t.Errorf("of the latest: %d", got)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if got := size(); got != 5 {
		t.Errorf("of the one that is left: %d", got)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.verdicts()); got != "[complete/closed 3/3 complete/closed 5/5]" {
		t.Error(got)
	}
}

func TestDownload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/a"] = []byte("content")
	s := w.session(w.manager())
	d, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if n, err := d.ReadAt(b, 3); n != 4 || err != nil || string(b) != "tent" {
		t.Errorf("%d, %v, %q", n, err, b)
	}
	if info, err := d.Stat(); err != nil || info.Size() != 7 {
		t.Errorf("%v, %v", info, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	cut, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	s.End(session.Disconnect)
	if _, err := cut.ReadAt(b, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("ReadAt after the end: %v", err)
	}
	if log := w.log(); !strings.Contains(log, `"bytes-out":"4"`) || !strings.Contains(log, "PARTIAL_CLOSE") {
		t.Error(log)
	}
}

func TestTreeOperationsAndLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/old"] = []byte("x")
	w.objects["home/uploading"] = []byte("older")
	s := w.session(w.manager())
	if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(s.ID()) {
		t.Errorf("session id %q", s.ID())
	}
	f := create(t, s, "fresh")
	create(t, s, "uploading")
	steps := []struct {
		what string
		do   func() error
		want error
	}{
		{"mkdir", func() error { return s.Mkdir("dir") }, nil},
		{"rename", func() error { return s.Rename("old", "new") }, nil},
		{"rename of what is not committed", func() error { return s.Rename("fresh", "x") }, fs.ErrNotExist},
		{"remove of what is not committed", func() error { return s.Remove("fresh") }, fs.ErrNotExist},
		{"remove of an older file", func() error { return s.Remove("uploading") }, nil},
		{"remove of a file", func() error { return s.Remove("new") }, nil},
		{"rmdir", func() error { return s.Rmdir("missing") }, fs.ErrNotExist},
		{"close", f.Close, nil},
	}
	for _, step := range steps {
		if err := step.do(); !errors.Is(err, step.want) {
			t.Errorf("%s: %v, want %v", step.what, err, step.want)
		}
	}
	for info, err := range s.ReadDir("") {
		if err != nil || info.Name() == "uploading" {
			t.Errorf("listed %v, %v", info, err)
		}
	}
	if s.BackendPath("x") != "/bucket/home/x" || s.BackendPath("/other") != "/other" || s.RealPath("..") != "/bucket" {
		t.Error("paths", s.BackendPath("x"), s.BackendPath("/other"), s.RealPath(".."))
	}
	s.End(session.Disconnect)
	checkLog(t, w.log(), s.ID())
}

// checkLog holds the log against AWS's form: every value a string, every entry with session and resource.
func checkLog(t *testing.T, log, id string) {
	t.Helper()
	seen := map[string]int{}
	for line := range strings.Lines(log) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		for k, v := range e {
			if _, ok := v.(string); !ok {
				t.Errorf("%s is %T: %s", k, v, line)
			}
		}
		if e["session-id"] != id || e["resource-arn"] != "arn:s-1" {
			t.Errorf("whose entry is %s", line)
		}
		activity, _ := e["activity-type"].(string)
		seen[activity]++
		if activity == "OPEN" && e["mode"] != "CREATE|TRUNCATE|WRITE" {
			t.Errorf("mode: %s", line)
		}
		if activity == "RENAME" && (e["path"] != "/bucket/home/old" || e["new-path"] != "/bucket/home/new") {
			t.Errorf("paths: %s", line)
		}
	}
	want := map[string]int{"OPEN": 2, "MKDIR": 1, "RENAME": 1, "DELETE": 2, "CLOSE": 1, "PARTIAL_CLOSE": 1, "ERROR": 3}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("entries %v, want %v", seen, want)
	}
}

func TestManager(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.manager()
	a, b := w.session(m), w.session(m)
	create(t, a, "x")
	views := m.Sessions()
	if len(views) != 2 || views[0].OpenFiles+views[1].OpenFiles != 1 || views[0].User != "anna" {
		t.Errorf("%+v", views)
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Wait(short); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with sessions open: %v", err)
	}
	view, err := vfs.New(vfs.Home{}, w)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), session.Info{}, view); !errors.Is(err, session.ErrDraining) {
		t.Errorf("Start while draining: %v", err)
	}
	a.End(session.ServerStop)
	b.End(session.ServerStop)
	if err := m.Wait(t.Context()); err != nil || len(m.Sessions()) != 0 {
		t.Errorf("%v, %v", err, m.Sessions())
	}
}

// Many writers, closers and an End at any moment: every file has one verdict, complete if its Close said so.
func TestEndAtAnyMoment(t *testing.T) {
	t.Parallel()
	for round := range 200 {
		w := newWorld(t)
		s := w.session(w.manager())
		var done sync.WaitGroup
		closed := make(chan bool, 8)
		for i := range 8 {
			f := create(t, s, fmt.Sprint("f", i))
			done.Go(func() {
				for range 5 {
					if _, err := f.WriteAt([]byte("data"), f.Size()); err != nil {
						break
					}
				}
				closed <- i%2 == 0 && f.Close() == nil
			})
		}
		if round%2 == 0 {
			done.Go(func() { s.End(session.Disconnect) })
		}
		done.Wait()
		s.End(session.Disconnect)
		close(closed)
		complete := 0
		for ok := range closed {
			if ok {
				complete++
			}
		}
		all := fmt.Sprint(w.verdicts())
		if strings.Count(all, "complete") != complete || strings.Contains(all, "open") || strings.Contains(all, "refused") {
			t.Fatalf("%d closed well: %s\n%s", complete, all, w.log())
		}
	}
}
