// Package memory is a store that can fail and persist: for tests of everything that uses a storage.Backend, and for
// trying things out.
//
// It behaves as S3 does (parts that leave while the upload goes on, a token to find them again, directories that are
// prefixes), fails where Fail says so, with or without having done what was asked, keeps what a dead process left
// behind, and reports callers who break the contract of package storage.
//
// It knows nothing of protocols, sessions, servers, workflows or databases.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/transferd/transferd/storage"
)

// ErrCrashed is what an upload of a process that has died returns.
var ErrCrashed = errors.New("memory: the process of this upload has died")

// Op names what is about to be done, for Config.Fail.
type Op string

// The operations. Part is a part's upload, which happens inside WriteAt and Commit; Note stands before the caller's
// Note and after the multipart upload was made.
const (
	Stat    Op = "stat"
	ReadDir Op = "readdir"
	Open    Op = "open"
	Read    Op = "read"
	Create  Op = "create"
	Write   Op = "write"
	Note    Op = "note"
	Part    Op = "part"
	Commit  Op = "commit"
	Abort   Op = "abort"
	Mkdir   Op = "mkdir"
	Rename  Op = "rename"
	Remove  Op = "remove"
	Resume  Op = "resume"
	Copy    Op = "copy"
	Tag     Op = "tag"
)

// Config may be left empty.
type Config struct {
	// Fail is asked before each operation. With an error the operation returns it, and is carried out all the same if
	// apply: the answer got lost. It runs without locks held and may call Crash.
	Fail func(op Op, name string) (apply bool, err error)
	// Misuse is told of callers that break the contract, for example func(s string) { t.Error(s) }. Default: panic.
	Misuse func(what string)
	// PartSize is how many bytes leave at a time; default 8 MiB.
	PartSize int
	Now      func() time.Time
}

// Store is one bucket in memory.
type Store struct {
	cfg Config

	mu      sync.Mutex // guards all below
	files   map[string]*file
	dirs    map[string]bool
	parts   map[string]*multipart // by token
	used    map[string]bool       // upload ids
	last    int                   // number of the last ETag or token
	process int                   // number of the process that lives
}

// file is immutable but for its tags, so that a Reader may go on reading what was replaced.
type file struct {
	content []byte
	obj     storage.Object
	id      string
	meta    map[string]string
	tags    map[string]string // guarded by the store's mu
	copied  string            // the token of the copy in pieces that made it
}

// multipart is what has left the process of an upload that is not committed.
type multipart struct {
	name    string
	content []byte
	old     *file // what is to be changed; nil if a new file is made
	kept    int   // how much of content is old's
	of      *file // what is copied; nil if it is no copy
}

// New makes an empty store.
func New(cfg Config) *Store {
	if cfg.Misuse == nil {
		cfg.Misuse = func(what string) { panic("memory: " + what) }
	}
	if cfg.PartSize <= 0 {
		cfg.PartSize = 8 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Store{
		cfg: cfg, files: make(map[string]*file), dirs: make(map[string]bool),
		parts: make(map[string]*multipart), used: make(map[string]bool),
	}
}

// Crash is the death of the process: uploads under way can do nothing more, and what left them stays.
func (s *Store) Crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process++
}

// Backend makes the Store a storage.Stores in which every name is this one store.
func (s *Store) Backend(context.Context, string, string) (storage.Backend, error) { return s, nil }

// Dangling are the tokens of multipart uploads that are neither committed nor aborted.
func (s *Store) Dangling() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.parts))
}

// Content is a file's bytes, metadata and tags; false if there is no such file.
func (s *Store) Content(name string) (content []byte, meta, tags map[string]string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[name]
	if !ok {
		return nil, nil, nil, false
	}
	return f.content, maps.Clone(f.meta), maps.Clone(f.tags), true
}

// do runs an operation as Fail has it.
func (s *Store) do(ctx context.Context, op Op, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("memory: %s %q: %w", op, name, err)
	}
	if name != "" && !fs.ValidPath(name) {
		s.cfg.Misuse(fmt.Sprintf("%s of %q: not a cleaned name", op, name))
	}
	var apply bool
	var failure error
	if s.cfg.Fail != nil {
		apply, failure = s.cfg.Fail(op, name)
	}
	if failure != nil && !apply {
		return failure
	}
	s.mu.Lock()
	err := f()
	s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("memory: %s %q: %w", op, name, err)
	}
	if failure != nil {
		return failure
	}
	return err
}

// info describes a file or a directory.
type info struct {
	name string
	dir  bool
	obj  storage.Object
}

// Name and the others make info an fs.FileInfo.
func (i info) Name() string { return i.name }

// Size is 0 for directories.
func (i info) Size() int64 { return i.obj.Size }

// Mode is the same for all files and for all directories.
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// ModTime is the epoch for directories, which have none.
func (i info) ModTime() time.Time {
	if i.dir {
		return time.Unix(0, 0)
	}
	return i.obj.ModTime
}

// IsDir reports whether it is a directory.
func (i info) IsDir() bool { return i.dir }

// Sys is the storage.Object of a file.
func (i info) Sys() any {
	if i.dir {
		return nil
	}
	return i.obj
}

// Stat implements storage.Backend.
func (s *Store) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	var fi fs.FileInfo
	err := s.do(ctx, Stat, name, func() (err error) {
		fi, err = s.stat(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return fi, nil
}

// stat is Stat with mu held.
func (s *Store) stat(name string) (fs.FileInfo, error) {
	if f, ok := s.files[name]; ok {
		return info{name: path.Base(name), obj: f.obj}, nil
	}
	if name == "" || s.dirs[name] || len(s.below(name)) > 0 {
		return info{name: path.Base(name), dir: true}, nil
	}
	return nil, fs.ErrNotExist
}

// below is the entries of a directory by base name; mu is held.
func (s *Store) below(dir string) map[string]info {
	entries := make(map[string]info)
	prefix := dir + "/"
	if dir == "" {
		prefix = ""
	}
	for name, f := range s.files {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if base, _, deeper := strings.Cut(rest, "/"); deeper {
			entries[base] = info{name: base, dir: true}
		} else if _, isDir := entries[base]; !isDir {
			entries[base] = info{name: base, obj: f.obj}
		}
	}
	for name := range s.dirs {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			base, _, _ := strings.Cut(rest, "/")
			entries[base] = info{name: base, dir: true}
		}
	}
	return entries
}

// ReadDir implements storage.Backend; the entries are sorted by name.
func (s *Store) ReadDir(ctx context.Context, name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		var entries map[string]info
		err := s.do(ctx, ReadDir, name, func() error {
			fi, err := s.stat(name)
			if err != nil {
				return err
			}
			if !fi.IsDir() {
				return fmt.Errorf("not a directory: %w", fs.ErrInvalid)
			}
			entries = s.below(name)
			return nil
		})
		if err != nil {
			yield(nil, err)
			return
		}
		for _, base := range slices.Sorted(maps.Keys(entries)) {
			if !yield(entries[base], nil) {
				return
			}
		}
	}
}

// CanModify implements storage.Modifier as S3 does: from some place on, and no more.
func (s *Store) CanModify() (anywhere bool) { return false }

// Mkdir implements storage.Backend.
func (s *Store) Mkdir(ctx context.Context, name string) error {
	return s.do(ctx, Mkdir, name, func() error {
		if _, err := s.stat(name); err == nil {
			return fs.ErrExist
		}
		if _, parentIsFile := s.files[path.Dir(name)]; parentIsFile {
			return fmt.Errorf("the parent is a file: %w", fs.ErrInvalid)
		}
		s.dirs[name] = true
		return nil
	})
}

// Rename implements storage.Backend; directories are renamed too.
func (s *Store) Rename(ctx context.Context, oldName, newName string) error {
	return s.do(ctx, Rename, oldName, func() error {
		fi, err := s.stat(oldName)
		if err != nil {
			return err
		}
		if _, err := s.stat(newName); err == nil {
			return fmt.Errorf("%q: %w", newName, fs.ErrExist)
		}
		if fi.IsDir() {
			return s.renameDir(oldName, newName)
		}
		s.files[newName] = s.files[oldName]
		delete(s.files, oldName)
		return nil
	})
}

// renameDir moves all that is below a directory; mu is held.
func (s *Store) renameDir(oldName, newName string) error {
	if oldName == "" || strings.HasPrefix(newName, oldName+"/") {
		return fmt.Errorf("%q is below it: %w", newName, fs.ErrInvalid)
	}
	moved := func(name string) (string, bool) {
		rest, ok := strings.CutPrefix(name, oldName+"/")
		return newName + "/" + rest, ok
	}
	for _, name := range slices.Collect(maps.Keys(s.files)) {
		if to, ok := moved(name); ok {
			s.files[to] = s.files[name]
			delete(s.files, name)
		}
	}
	for _, name := range slices.Collect(maps.Keys(s.dirs)) {
		if to, ok := moved(name); ok {
			s.dirs[to] = true
			delete(s.dirs, name)
		}
	}
	delete(s.dirs, oldName)
	s.dirs[newName] = true
	return nil
}

// Replace implements storage.Replacer.
func (s *Store) Replace(ctx context.Context, oldName, newName string) error {
	return s.do(ctx, Rename, oldName, func() error {
		f, ok := s.files[oldName]
		if !ok {
			return s.replaceByDir(oldName, newName)
		}
		if fi, err := s.stat(newName); err == nil && fi.IsDir() {
			return fmt.Errorf("%q: %w", newName, fs.ErrExist)
		}
		delete(s.files, oldName)
		s.files[newName] = f
		return nil
	})
}

// replaceByDir is Replace for a directory, which takes the place of nothing; mu is held.
func (s *Store) replaceByDir(oldName, newName string) error {
	if _, err := s.stat(oldName); err != nil || oldName == newName {
		return err
	}
	if _, err := s.stat(newName); err == nil {
		return fmt.Errorf("%q: %w", newName, fs.ErrExist)
	}
	return s.renameDir(oldName, newName)
}

// Remove implements storage.Backend.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.do(ctx, Remove, name, func() error {
		if name == "" {
			return fs.ErrPermission
		}
		fi, err := s.stat(name)
		if err != nil {
			return err
		}
		if fi.IsDir() && len(s.below(name)) > 0 {
			return storage.ErrNotEmpty
		}
		delete(s.files, name)
		delete(s.dirs, name)
		return nil
	})
}

// Copy implements storage.Copier, between files of this store.
func (s *Store) Copy(ctx context.Context, src, ifMatch string, to storage.Backend, dst string, overwrite bool) (storage.Object, error) {
	var obj storage.Object
	err := s.do(ctx, Copy, src, func() error {
		if to != storage.Backend(s) {
			return errors.ErrUnsupported
		}
		f, ok := s.files[src]
		if !ok || ifMatch != "" && f.obj.ETag != ifMatch {
			return fs.ErrNotExist
		}
		if _, stands := s.files[dst]; stands && !overwrite {
			return fmt.Errorf("%q: %w", dst, fs.ErrExist)
		}
		if dst == src {
			obj = f.obj
			return nil
		}
		obj = s.put(dst, f.id, f.content, f.meta)
		s.files[dst].tags = maps.Clone(f.tags)
		return nil
	})
	return obj, err
}

// Tag implements storage.Tagger.
func (s *Store) Tag(ctx context.Context, name string, tags map[string]string) error {
	return s.do(ctx, Tag, name, func() error {
		f, ok := s.files[name]
		if !ok {
			return fs.ErrNotExist
		}
		if f.tags == nil {
			f.tags = make(map[string]string)
		}
		maps.Copy(f.tags, tags)
		return nil
	})
}

// put makes a file; mu is held. content is not changed any more.
func (s *Store) put(name, id string, content []byte, meta map[string]string) storage.Object {
	s.last++
	obj := storage.Object{Size: int64(len(content)), ETag: fmt.Sprintf("etag-%d", s.last), ModTime: s.cfg.Now()}
	s.files[name] = &file{content: content, obj: obj, id: id, meta: maps.Clone(meta)}
	return obj
}
