package doortest

import (
	"bytes"
	"context"
	"io/fs"
	"iter"
	"maps"
	"path"
	"strings"
	"sync"
	"testing/fstest"
	"time"

	"github.com/transferd/transferd/storage"
)

// Store is a bucket in memory whose far side does what a test says: it can stall, refuse and panic. Like S3 it takes
// bytes in order only.
type Store struct {
	mu     sync.Mutex
	files  fstest.MapFS
	Modify bool // like EFS it changes files that stand

	// Hooks, set before the first client comes.
	OnWrite  func(ctx context.Context, name string, off int64) error
	OnCommit func(ctx context.Context, name string) error
	OnStat   func(name string)
	OnOpen   func(ctx context.Context, name string) error
}

// NewStore makes a store that has one directory, home.
func NewStore() *Store { return &Store{files: fstest.MapFS{"home": {Mode: fs.ModeDir | 0o755}}} }

// Backend makes the Store a storage.Stores that has one bucket, bucket.
func (s *Store) Backend(_ context.Context, _, bucket string) (storage.Backend, error) {
	if bucket != "bucket" {
		return nil, fs.ErrNotExist
	}
	if s.Modify {
		return modifier{s}, nil
	}
	return s, nil
}

// modifier is a store that changes files anywhere, and their times.
type modifier struct{ *Store }

func (modifier) CanModify() bool { return true }

func (m modifier) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	u, err := m.Store.Create(ctx, name, storage.CreateOptions{ID: opt.ID})
	if err == nil && opt.Modify {
		u.(*upload).data = append([]byte{}, m.Get(name)...)
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

// Put makes a file.
func (s *Store) Put(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = &fstest.MapFile{Data: append([]byte{}, data...), Mode: 0o644, ModTime: time.Unix(1_700_000_000, 0)}
}

// Get is a committed file; nil if there is none.
func (s *Store) Get(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[name]; f != nil {
		return f.Data
	}
	return nil
}

// Link makes a symbolic link.
func (s *Store) Link(name, target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
}

// Drop forgets a file: a test that goes on for long has no room for all.
func (s *Store) Drop(name string) {
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

func (s *Store) Stat(_ context.Context, name string) (fs.FileInfo, error) {
	if s.OnStat != nil {
		s.OnStat(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files.Stat(clean(name))
}

func (s *Store) ReadDir(_ context.Context, name string) iter.Seq2[fs.FileInfo, error] {
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

func (s *Store) Open(ctx context.Context, name string) (storage.Reader, error) {
	if s.OnOpen != nil {
		if err := s.OnOpen(ctx, name); err != nil {
			return nil, err
		}
	}
	data := s.Get(name)
	if data == nil {
		return nil, fs.ErrNotExist
	}
	return reader{bytes.NewReader(data)}, nil
}

func (s *Store) Mkdir(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files[name] != nil {
		return fs.ErrExist
	}
	s.files[name] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return nil
}

func (s *Store) Rename(_ context.Context, from, to string) error {
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

func (s *Store) Remove(_ context.Context, name string) error {
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

func (s *Store) Create(ctx context.Context, name string, _ storage.CreateOptions) (storage.Upload, error) {
	if path.Base(name) == "forbidden" {
		return nil, fs.ErrPermission
	}
	return &upload{s: s, ctx: ctx, name: name}, nil
}

type upload struct {
	s    *Store
	ctx  context.Context
	name string
	data []byte
}

func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	if u.s.OnWrite != nil {
		if err := u.s.OnWrite(u.ctx, u.name, off); err != nil {
			return 0, err
		}
	}
	if off > int64(len(u.data)) || !u.s.Modify && off < int64(len(u.data)) {
		return 0, storage.ErrRandomAccess
	}
	u.data = append(u.data[:off], append(p[:len(p):len(p)], u.data[min(len(u.data), int(off)+len(p)):]...)...)
	return len(p), nil
}

func (u *upload) Commit(ctx context.Context) (storage.Object, error) {
	if u.s.OnCommit != nil {
		if err := u.s.OnCommit(ctx, u.name); err != nil {
			return storage.Object{}, err
		}
	}
	u.s.Put(u.name, u.data)
	return storage.Object{Size: int64(len(u.data)), ETag: "e"}, nil
}

func (u *upload) Abort(context.Context) error { return nil }
