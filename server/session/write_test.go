package session_test

import (
	"context"
	"testing"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// Not parallel: AllocsPerRun counts the whole process.
func TestWriteAtDoesNotAllocate(t *testing.T) {
	s, f := nullFile(t)
	defer s.End(session.Disconnect)
	p := make([]byte, 32<<10)
	off := int64(0)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		off += int64(len(p))
	}); n != 0 {
		t.Errorf("%v allocations a write", n)
	}
}

func BenchmarkWriteAt(b *testing.B) {
	s, f := nullFile(b)
	defer s.End(session.Disconnect)
	p := make([]byte, 32<<10)
	b.SetBytes(int64(len(p)))
	off := int64(0)
	for b.Loop() {
		if _, err := f.WriteAt(p, off); err != nil {
			b.Fatal(err)
		}
		off += int64(len(p))
	}
}

// nullFile is an upload into nothing.
func nullFile(tb testing.TB) (*session.Session, *session.File) {
	tb.Helper()
	view, err := vfs.New(vfs.Home{Directory: "/bucket"}, nullStores{})
	if err != nil {
		tb.Fatal(err)
	}
	s, err := session.NewManager(session.Config{Journal: nullJournal{}}).Start(tb.Context(), session.Info{}, view)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := s.Create("x", session.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return s, f
}

type nullJournal struct{}

func (nullJournal) Committed(context.Context, string, session.Commit) error    { return nil }
func (nullJournal) Begin(context.Context, session.Upload) error                { return nil }
func (nullJournal) Note(context.Context, string, string) error                 { return nil }
func (nullJournal) End(context.Context, session.Upload, session.Verdict) error { return nil }

type nullStores struct{}

func (nullStores) Backend(context.Context, string, string) (storage.Backend, error) {
	return nullBackend{}, nil
}

type nullBackend struct{ storage.Backend }

func (nullBackend) Create(context.Context, string, storage.CreateOptions) (storage.Upload, error) {
	return nullUpload{}, nil
}

type nullUpload struct{}

func (nullUpload) WriteAt(p []byte, _ int64) (int, error)         { return len(p), nil }
func (nullUpload) Commit(context.Context) (storage.Object, error) { return storage.Object{}, nil }
func (nullUpload) Abort(context.Context) error                    { return nil }
