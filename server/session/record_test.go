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
)

// recorder keeps what it is told, and may fail some times before.
type recorder struct {
	mu    sync.Mutex
	fails int
	told  []string
}

func (r *recorder) Record(_ context.Context, d session.Deed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.fails--
		return errors.New("no database")
	}
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
		if len(r.told) == 0 {
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
}
