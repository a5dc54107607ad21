package session_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// recorder keeps what it is told, and may fail some times before.
type recorder struct {
	mu      sync.Mutex
	fails   int
	told    []string
	intents map[string]session.Deed
	only    session.DeedKind // "" wants all
}

func (r *recorder) Wants(kind session.DeedKind) bool { return r.only == "" || r.only == kind }

func (r *recorder) Intend(_ context.Context, d session.Deed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.fails--
		return errors.New("no database")
	}
	if r.intents == nil {
		r.intents = map[string]session.Deed{}
	}
	r.intents[d.ID] = d
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.told)
}

// left are the intents without a record.
func (r *recorder) left() (all []session.Deed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.intents {
		all = append(all, d)
	}
	return all
}

func (r *recorder) Record(_ context.Context, d session.Deed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.fails--
		return errors.New("no database")
	}
	if before, is := r.intents[d.ID]; d.ID != "" && (!is || before.Kind != d.Kind || before.Path != d.Path || before.From != d.From) {
		r.told = append(r.told, fmt.Sprintf("not intended: %+v", d))
	}
	delete(r.intents, d.ID)
	r.told = append(r.told, strings.TrimSpace(fmt.Sprint(d.Kind, " ", d.Path, " ", d.NewPath, " ", d.Bytes, " ", d.Cut, " ", d.Failure)))
	if d.User == "" || d.Session == "" || d.Began.IsZero() || d.Ended.Before(d.Began) {
		r.told = append(r.told, fmt.Sprintf("incomplete: %+v", d))
	}
	return nil
}

// TestRecorder: each thing that a client does to files, apart from uploads, is told once, in its order, also what failed.
func TestRecorder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/a"], w.objects["home/b"] = []byte("content"), []byte("x")
	r := &recorder{fails: 2}
	s := w.session(w.manager(func(c *session.Config) { c.Recorder, c.JournalTimeout = r, time.Minute })) // it fails twice first
	for range 2 {
		d, err := s.Open("a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadAt(make([]byte, 4), 0); err != nil {
			t.Error(err)
		}
		if r.count() == 0 {
			err = d.Close()
		} else {
			d.Abandon(session.Reset)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(s.Rename("a", "c"), s.Remove("b"), s.Mkdir("d")); err != nil {
		t.Error(err)
	}
	if s.Remove("missing") == nil {
		t.Error("a missing file was removed")
	}
	if _, err := s.Open("c"); err != nil {
		t.Fatal(err)
	}
	s.End(session.Disconnect)
	want := []string{
		"DOWNLOAD /bucket/home/a  4 false", "DOWNLOAD /bucket/home/a  4 true", "RENAME /bucket/home/a /bucket/home/c 0 false",
		"DELETE /bucket/home/b  0 false", "MKDIR /bucket/home/d  0 false", "DELETE /bucket/home/missing  0 false No such file",
		"DOWNLOAD /bucket/home/c  0 true",
	}
	if !slices.Equal(r.told, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(r.told, "\n"), strings.Join(want, "\n"))
	}
	if left := r.left(); len(left) > 0 {
		t.Errorf("intents are left: %+v", left)
	}
}

// TestRecorderRefuses: what cannot be noted before is not done; nobody is bothered with what nobody wants.
func TestRecorderRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.objects["home/a"], w.objects["home/b"] = []byte("content"), []byte("x")
	r := &recorder{fails: 1 << 30}
	s := w.session(w.manager(func(c *session.Config) { c.Recorder = r }))
	for what, err := range map[string]error{"rename": s.Rename("a", "c"), "remove": s.Remove("b")} {
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	d, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadAt(make([]byte, 4), 0); n > 0 || !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("%d bytes went out, %v", n, err)
	}
	r.mu.Lock()
	r.fails, r.only = 0, session.Renamed
	r.mu.Unlock()
	if err := errors.Join(d.Close(), s.Remove("b"), s.Rename("a", "c")); err != nil {
		t.Error(err)
	}
	s.End(session.Disconnect)
	want := []string{"DOWNLOAD /bucket/home/a  0 false", "RENAME /bucket/home/a /bucket/home/c 0 false"}
	if !slices.Equal(r.told, want) {
		t.Errorf("told %q, want %q", r.told, want)
	}
}

// TestDeeds: what a dead process meant to do is told as the store shows it, under the same ids; a store or a recorder that
// does not answer leaves it for later, and so does an upload that awaits its verdict there.
func TestDeeds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := func(name string) storage.Location { return storage.Location{Domain: "S3", Store: "bucket", Name: name} }
	w.objects["moved"], w.objects["unmoved"], w.objects["both-old"], w.objects["both-new"], w.objects["kept"] = nil, nil, nil, nil, nil
	deed := func(kind session.DeedKind, from, to string) session.Deed {
		return session.Deed{ID: string(kind) + from, Info: session.Info{User: "anna"}, Session: "s", Kind: kind, Path: from, NewPath: to,
			From: at(from), To: at(to), Began: time.Now()}
	}
	all := []session.Deed{
		deed(session.Renamed, "old", "moved"), deed(session.Renamed, "unmoved", "new"), deed(session.Renamed, "both-old", "both-new"),
		deed(session.Renamed, "none", "neither"), deed(session.Deleted, "gone", ""), deed(session.Deleted, "kept", ""),
		deed(session.MadeDir, "kept", ""), deed(session.MadeDir, "no", ""), deed(session.RemovedDir, "gone", ""), deed(session.Downloaded, "kept", ""),
	}
	r := &recorder{fails: 1, intents: map[string]session.Deed{}}
	for _, d := range all {
		r.intents[d.ID] = d
	}
	unsettled := "unmoved"
	left := &session.Deeds{Deeds: all, Recorder: r, Stores: w, Log: w.logger(), Now: time.Now,
		Unsettled: func(at storage.Location) bool { return at.Name == unsettled }}
	left.Settle(t.Context())
	if len(left.Deeds) != 2 || left.Deeds[0].Path != "old" || left.Deeds[1].Path != "unmoved" {
		t.Errorf("left are %+v", left.Deeds)
	}
	unsettled = ""
	left.Settle(t.Context())
	left.Run(t.Context()) // has nothing to do
	const killed = "transferd was killed before it was done"
	want := []string{
		"DELETE gone  0 false", "DELETE kept  0 false " + killed, "DOWNLOAD kept  -1 true", "MKDIR kept  0 false",
		"MKDIR no  0 false " + killed, "RENAME both-old both-new 0 false " + killed, "RENAME none neither 0 false " + killed,
		"RENAME old moved 0 false", "RENAME unmoved new 0 false " + killed, "RMDIR gone  0 false",
	}
	slices.Sort(r.told)
	if !slices.Equal(r.told, want) || len(r.left()) > 0 {
		t.Errorf("told\n%s\nwant\n%s\nleft %v", strings.Join(r.told, "\n"), strings.Join(want, "\n"), r.left())
	}
}
