package ftpd_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// store is a bucket in memory whose far side does what a test says: it can stall, refuse and panic. Like S3 it takes
// bytes in order only.
type store struct {
	mu     sync.Mutex
	files  fstest.MapFS
	modify bool // like EFS it changes files that stand

	// Hooks, set before the first client comes.
	onWrite  func(ctx context.Context, name string, off int64) error
	onCommit func(ctx context.Context, name string) error
	onStat   func(name string)
	onOpen   func(ctx context.Context, name string) error
}

func newStore() *store { return &store{files: fstest.MapFS{"home": {Mode: fs.ModeDir | 0o755}}} }

func (s *store) Backend(_ context.Context, _, bucket string) (storage.Backend, error) {
	if bucket != "bucket" {
		return nil, fs.ErrNotExist
	}
	if s.modify {
		return modifier{s}, nil
	}
	return s, nil
}

// modifier is a store that changes files anywhere, and their times.
type modifier struct{ *store }

func (modifier) CanModify() bool { return true }

func (m modifier) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	u, err := m.store.Create(ctx, name, storage.CreateOptions{ID: opt.ID})
	if err == nil && opt.Modify {
		u.(*upload).data = append([]byte{}, m.get(name)...)
	}
	return u, err
}

func (m modifier) SetAttrs(_ context.Context, name string, a storage.Attrs) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.files[name]
	if f == nil {
		return fs.ErrNotExist
	}
	if a.Mtime != nil {
		f.ModTime = *a.Mtime
	}
	return nil
}

func (s *store) put(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = &fstest.MapFile{Data: append([]byte{}, data...), Mode: 0o644, ModTime: time.Unix(1_700_000_000, 0)}
}

// get is a committed file; nil if there is none.
func (s *store) get(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[name]; f != nil {
		return f.Data
	}
	return nil
}

// link makes a symbolic link.
func (s *store) link(name, target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// drop forgets a file: a test that goes on for long has no room for all.
func (s *store) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, name)
}

func clean(name string) string {
	if name == "" {
		return "."
	}
	return name
}

func (s *store) Stat(_ context.Context, name string) (fs.FileInfo, error) {
	if s.onStat != nil {
		s.onStat(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files.Stat(clean(name))
}

func (s *store) ReadDir(_ context.Context, name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		s.mu.Lock()
		entries, err := s.files.ReadDir(clean(name))
		s.mu.Unlock()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, e := range entries {
			info, err := e.Info()
			if !yield(info, err) {
				return
			}
		}
	}
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

func (s *store) Open(ctx context.Context, name string) (storage.Reader, error) {
	if s.onOpen != nil {
		if err := s.onOpen(ctx, name); err != nil {
			return nil, err
		}
	}
	data := s.get(name)
	if data == nil {
		return nil, fs.ErrNotExist
	}
	return reader{bytes.NewReader(data)}, nil
}

func (s *store) Mkdir(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] != nil {
		return fs.ErrExist
	}
	s.files[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return nil
}

func (s *store) Rename(_ context.Context, from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.files[from] == nil:
		return fs.ErrNotExist
	case s.files[to] != nil:
		return fs.ErrExist
	}
	s.files[to] = s.files[from]
	delete(s.files, from)
	return nil
}

func (s *store) Remove(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] == nil {
		return fs.ErrNotExist
	}
	for other := range maps.Keys(s.files) {
		if strings.HasPrefix(other, name+"/") {
			return storage.ErrNotEmpty
		}
	}
	delete(s.files, name)
	return nil
}

func (s *store) Create(ctx context.Context, name string, _ storage.CreateOptions) (storage.Upload, error) {
	if path.Base(name) == "forbidden" {
		return nil, fs.ErrPermission
	}
	return &upload{s: s, ctx: ctx, name: name}, nil
}

type upload struct {
	s    *store
	ctx  context.Context
	name string
	data []byte
}

func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	if u.s.onWrite != nil {
		if err := u.s.onWrite(u.ctx, u.name, off); err != nil {
			return 0, err
		}
	}
	if off > int64(len(u.data)) || !u.s.modify && off < int64(len(u.data)) {
		return 0, storage.ErrRandomAccess
	}
	u.data = append(u.data[:off], append(p[:len(p):len(p)], u.data[min(len(u.data), int(off)+len(p)):]...)...)
	return len(p), nil
}

func (u *upload) Commit(ctx context.Context) (storage.Object, error) {
	if u.s.onCommit != nil {
		if err := u.s.onCommit(ctx, u.name); err != nil {
			return storage.Object{}, err
		}
	}
	u.s.put(u.name, u.data)
	return storage.Object{Size: int64(len(u.data)), ETag: "e"}, nil
}

func (u *upload) Abort(context.Context) error { return nil }

// counted is a hook for onWrite that counts.
func counted(writes chan<- struct{}) func(context.Context, string, int64) error {
	return func(context.Context, string, int64) error {
		writes <- struct{}{}
		return nil
	}
}

// ending is one verdict as the journal got it.
type ending struct {
	name    string
	verdict session.Verdict
}

// journal keeps verdicts in memory and tells when one comes.
type journal struct {
	mu           sync.Mutex
	begun, names map[string]bool
	sources      map[string]string // of names
	ended        []ending
	news         chan struct{} // closed and replaced at each verdict
}

func newJournal() *journal {
	return &journal{begun: map[string]bool{}, names: map[string]bool{}, sources: map[string]string{}, news: make(chan struct{})}
}

func (j *journal) Begin(_ context.Context, u session.Upload) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begun[u.ID] = true
	j.names[u.Location.Name] = true
	j.sources[u.Location.Name] = u.SourceIP
	return nil
}

func (j *journal) Note(context.Context, string, string) error { return nil }

func (j *journal) Committed(context.Context, string, session.Commit) error { return nil }

func (j *journal) End(_ context.Context, u session.Upload, v session.Verdict) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.begun[u.ID] {
		return io.ErrUnexpectedEOF // never in this order
	}
	j.ended = append(j.ended, ending{u.Location.Name, v})
	close(j.news)
	j.news = make(chan struct{})
	return nil
}

// verdicts are those of a name so far.
func (j *journal) verdicts(name string) []session.Verdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []session.Verdict
	for _, e := range j.ended {
		if e.name == name {
			found = append(found, e.verdict)
		}
	}
	return found
}

// verdict waits for the verdict of a name and checks it; there must be one only.
func (j *journal) verdict(t testing.TB, name string, outcome session.Outcome, evidence session.Evidence) session.Verdict {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		j.mu.Lock()
		news := j.news
		j.mu.Unlock()
		if found := j.verdicts(name); len(found) > 0 {
			if len(found) > 1 || found[0].Outcome != outcome || found[0].Evidence != evidence {
				t.Fatalf("verdicts of %s = %+v, want one %s %s", name, found, outcome, evidence)
			}
			return found[0]
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("no verdict of %s; there are %v", name, slices.Clone(j.ended))
		}
	}
}

// wait waits for the verdict of a name; there must be one only.
func (j *journal) wait(t testing.TB, name string) session.Verdict {
	t.Helper()
	eventually(t, "a verdict of "+name, func() bool { return len(j.verdicts(name)) > 0 })
	found := j.verdicts(name)
	if len(found) != 1 {
		t.Fatalf("verdicts of %s: %+v", name, found)
	}
	return found[0]
}

func (j *journal) hasBegun() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.begun) > 0
}

// source is where the last upload of a name came from.
func (j *journal) source(name string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.sources[name]
}

func (j *journal) hasBegunWith(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.names[name]
}
