package efs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// Store is a file system as one identity sees it.
type Store struct {
	fs      *fileSystem
	as      *identity
	noLinks bool // names lead through no link
}

// fileSystem is what all identities share.
type fileSystem struct {
	cfg  Config
	self *self
	root atomic.Int64 // descriptor of the root directory, -1 when closed
}

// New opens a file system as the daemon itself. It refuses a process that cannot act for others, unless the
// configuration says that it need not.
func New(cfg Config) (*Store, error) {
	if strconv.IntSize < 64 {
		return nil, fmt.Errorf("efs: a 64-bit machine is needed: %w", errors.ErrUnsupported)
	}
	self, err := readSelf()
	if err != nil {
		return nil, err
	}
	if !cfg.OwnIdentityOnly {
		if err := self.canImpersonate(); err != nil {
			return nil, err
		}
	}
	fd, err := unix.Open(cfg.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("efs: directory of the file system: %w", &fs.PathError{Op: "open", Path: cfg.Dir, Err: err})
	}
	s := &Store{fs: &fileSystem{cfg: cfg, self: self}}
	s.fs.root.Store(int64(fd))
	if _, err := s.Stat(context.Background(), ""); err != nil {
		return nil, errors.Join(fmt.Errorf("efs: openat2 with RESOLVE_BENEATH (Linux 5.6, not blocked by a seccomp filter) is needed: %w", err), s.Close())
	}
	return s, nil
}

// As gives the store for an identity. The error wraps fs.ErrPermission if it cannot be had.
func (s *Store) As(_ context.Context, who storage.Posix) (*Store, error) {
	const none = 1<<32 - 1 // what the kernel means by no id at all
	if who.UID == none || who.GID == none || slices.Contains(who.Groups, none) {
		return nil, fmt.Errorf("efs: 4294967295 is no user or group: %w", fs.ErrPermission)
	}
	self := s.fs.self
	own := int(who.UID) == self.uid && int(who.GID) == self.gid
	if !s.fs.cfg.OwnIdentityOnly {
		return &Store{fs: s.fs, as: &identity{self: self, uid: int(who.UID), gid: int(who.GID), groups: slices.Clone(who.Groups)}}, nil
	}
	for _, g := range who.Groups {
		own = own && (int(g) == self.gid || slices.Contains(self.groups, g))
	}
	if !own {
		return nil, fmt.Errorf("efs: uid %d, gid %d, groups %v: this daemon acts as itself alone (uid %d, gid %d): %w",
			who.UID, who.GID, who.Groups, self.uid, self.gid, fs.ErrPermission)
	}
	return s, nil
}

// WithoutLinks implements storage.Linkless: the kernel refuses every path through a link.
func (s *Store) WithoutLinks() storage.Backend {
	without := *s
	without.noLinks = true
	return &without
}

// Close frees the root directory, for all identities. Open files stay open.
func (s *Store) Close() error {
	fd := s.fs.root.Swap(-1)
	if fd < 0 {
		return nil
	}
	return unix.Close(int(fd))
}

// do runs f as the store's identity and says what was done if it fails.
func (s *Store) do(ctx context.Context, op, name string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("efs: %s %q: %w", op, name, err)
	}
	return fail(op, name, s.as.do(f))
}

// Stat implements storage.Backend; it follows links.
func (s *Store) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	return s.stat(ctx, "stat", name, 0)
}

// Lstat implements storage.Linker.
func (s *Store) Lstat(ctx context.Context, name string) (fs.FileInfo, error) {
	return s.stat(ctx, "lstat", name, unix.O_NOFOLLOW)
}

func (s *Store) stat(ctx context.Context, op, name string, flags int) (fs.FileInfo, error) {
	i := &info{name: path.Base("/" + name)}
	err := s.do(ctx, op, name, func() error {
		fd, err := s.open(name, unix.O_PATH|flags, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fstat(fd, &i.st), unix.Close(fd))
	})
	if err != nil {
		return nil, err
	}
	return i, nil
}

// batch is how many entries of a directory are described at a time.
const batch = 128

// ReadDir implements storage.Backend: the entries in the file system's order, links as links.
func (s *Store) ReadDir(ctx context.Context, name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		dir, err := s.openDir(ctx, name)
		if err != nil {
			yield(nil, err)
			return
		}
		// Nothing was written: there is no error to lose.
		defer func() { _ = dir.Close() }()
		for {
			entries, more, err := s.describe(ctx, name, dir)
			for _, i := range entries {
				if !yield(i, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
			}
			if err != nil || !more {
				return
			}
		}
	}
}

func (s *Store) openDir(ctx context.Context, name string) (*os.File, error) {
	var dir *os.File
	err := s.do(ctx, "readdir", name, func() error {
		fd, err := s.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			dir = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return dir, err
}

// describe reads the next names of a directory and looks at each.
func (s *Store) describe(ctx context.Context, name string, dir *os.File) (entries []*info, more bool, err error) {
	err = s.do(ctx, "readdir", name, func() error {
		names, err := dir.Readdirnames(batch)
		more = len(names) == batch
		if len(names) == 0 {
			return nil // io.EOF, or a directory that was removed meanwhile
		}
		if err != nil {
			return err
		}
		fd := int(dir.Fd())
		for _, base := range names {
			if strings.HasPrefix(base, hidden) {
				continue
			}
			i := &info{name: base}
			switch err := unix.Fstatat(fd, base, &i.st, unix.AT_SYMLINK_NOFOLLOW); err {
			case nil, unix.EACCES: // a directory that may be listed and not passed shows names and nothing else
				entries = append(entries, i)
			case unix.ENOENT: // gone since
			default:
				return err
			}
		}
		return nil
	})
	return entries, more, err
}

// Open implements storage.Backend.
func (s *Store) Open(ctx context.Context, name string) (storage.Reader, error) {
	var file *os.File
	err := s.do(ctx, "open", name, func() (err error) {
		file, _, err = s.openFile(name, unix.O_RDONLY, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &reader{ctx: ctx, name: name, file: file}, nil
}

// openFile opens a regular file. O_NONBLOCK keeps a pipe from holding the caller; files do not mind it.
func (s *Store) openFile(name string, flags int, mode uint32) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := s.open(name, flags|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	if err != nil {
		return nil, st, err
	}
	if err := errors.Join(unix.Fstat(fd, &st)); err != nil {
		return nil, st, errors.Join(err, unix.Close(fd))
	}
	if err := regular(&st); err != nil {
		return nil, st, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), st, nil
}

// reader reads an open file. Its permissions were looked at when it was opened.
type reader struct {
	ctx  context.Context
	name string
	file *os.File
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fmt.Errorf("efs: read %q: %w", r.name, err)
	}
	n, err := r.file.ReadAt(p, off)
	if err != nil && kindOf(err) != nil {
		err = fail("read", r.name, err)
	}
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error { return fail("close", r.name, r.file.Close()) }

// Mkdir implements storage.Backend. The directory must stand in one; the daemon's umask applies.
func (s *Store) Mkdir(ctx context.Context, name string) error {
	return s.do(ctx, "mkdir", name, func() error {
		if name == "" {
			return fs.ErrExist
		}
		e, err := s.at(name)
		if err != nil {
			return err
		}
		defer e.close()
		return unix.Mkdirat(e.dir, e.base, 0o777)
	})
}

// Remove implements storage.Backend: a file, a link (not what it points to) or an empty directory.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.do(ctx, "remove", name, func() error {
		e, err := s.at(name)
		if err != nil {
			return err
		}
		defer e.close()
		st, err := e.stat()
		if err != nil {
			return err
		}
		flags := 0
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		return unix.Unlinkat(e.dir, e.base, flags)
	})
}

// Rename implements storage.Backend, for directories too.
func (s *Store) Rename(ctx context.Context, oldName, newName string) error {
	return s.pair(ctx, "rename", oldName, newName, move)
}

// Replace implements storage.Replacer.
func (s *Store) Replace(ctx context.Context, oldName, newName string) error {
	return s.pair(ctx, "replace", oldName, newName, func(from, to entry) error {
		return unix.Renameat2(from.dir, from.base, to.dir, to.base, 0)
	})
}

// Link implements storage.Linker.
func (s *Store) Link(ctx context.Context, oldName, name string) error {
	return s.pair(ctx, "link", oldName, name, func(from, to entry) error {
		return unix.Linkat(from.dir, from.base, to.dir, to.base, 0)
	})
}

// pair does something with two places of the store.
func (s *Store) pair(ctx context.Context, op, oldName, newName string, f func(from, to entry) error) error {
	return s.do(ctx, op, oldName, func() error {
		from, err := s.at(oldName)
		if err != nil {
			return err
		}
		defer from.close()
		to, err := s.at(newName)
		if err != nil {
			return err
		}
		defer to.close()
		return f(from, to)
	})
}

// ReadLink implements storage.Linker.
func (s *Store) ReadLink(ctx context.Context, name string) (target string, err error) {
	err = s.do(ctx, "readlink", name, func() error {
		e, err := s.at(name)
		if err != nil {
			return err
		}
		defer e.close()
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(e.dir, e.base, buf)
		if err != nil {
			return err
		}
		target = string(buf[:n])
		return nil
	})
	return target, err
}

// Symlink implements storage.Linker. A target that begins with a slash counts from the root of the store and is written
// as a relative one, so that the link means the same wherever the file system is mounted. One that would lead out of the
// store is refused: nobody who comes through us could follow it, others might.
func (s *Store) Symlink(ctx context.Context, target, name string) error {
	return s.do(ctx, "symlink", name, func() error {
		e, err := s.at(name)
		if err != nil {
			return err
		}
		defer e.close()
		if target == "" || strings.IndexByte(target, 0) >= 0 {
			return fs.ErrInvalid
		}
		if rest, absolute := strings.CutPrefix(target, "/"); absolute {
			up := strings.Repeat("../", strings.Count(name, "/"))
			target = path.Clean(up + path.Clean("/" + rest)[1:])
		}
		if to := path.Join(path.Dir(name), target); to == ".." || strings.HasPrefix(to, "../") {
			return fmt.Errorf("target %q leads out of the store: %w", target, fs.ErrPermission)
		}
		return unix.Symlinkat(target, e.dir, e.base)
	})
}
