package efs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// Copy implements storage.Copier, from this store as its identity to another efs store as that one's: by reflink or
// inside the kernel where the file systems can (copy_file_range). The copy shows when it is whole.
func (s *Store) Copy(ctx context.Context, src, ifMatch string, to storage.Backend, dst string, overwrite bool) (storage.Object, error) {
	target, ok := to.(*Store)
	if !ok {
		return storage.Object{}, fail("copy", src, errors.ErrUnsupported)
	}
	var source *os.File
	var st unix.Stat_t
	err := s.do(ctx, "copy", src, func() (err error) {
		source, st, err = s.openFile(src, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		if is := etag(int(source.Fd()), &st); ifMatch != "" && is != "" && is != ifMatch {
			return errors.Join(fmt.Errorf("ETag %q is not %q: %w", is, ifMatch, fs.ErrNotExist), source.Close())
		}
		return nil
	})
	if err != nil {
		return storage.Object{}, err
	}
	obj, err := target.take(ctx, source, st, dst, overwrite)
	return obj, errors.Join(err, fail("copy", src, source.Close()))
}

// take writes a copy of source beside dst and then moves it there.
func (s *Store) take(ctx context.Context, source *os.File, st unix.Stat_t, dst string, overwrite bool) (storage.Object, error) {
	u := &upload{s: s, name: dst, temp: tempName("")}
	var same bool
	err := s.do(ctx, "copy to", dst, func() (err error) {
		if dst == "" {
			return storage.ErrIsDirectory
		}
		if u.at, err = s.at(dst); err != nil {
			return err
		}
		if same, err = u.mayTake(st, overwrite); err == nil && !same {
			err = u.openTemp(u.temp, st.Mode&0o777, false)
			if err == nil {
				mark(int(u.file.Fd()), "")
			}
		}
		if err != nil {
			u.at.close()
		}
		return err
	})
	if err != nil {
		return storage.Object{}, err
	}
	defer u.at.close()
	if same {
		return object(int(source.Fd()), &st), nil
	}
	obj, err := u.fill(ctx, source, overwrite)
	if err != nil {
		return storage.Object{}, fail("copy to", dst, errors.Join(err, u.drop()))
	}
	return obj, nil
}

// mayTake looks at what stands at the place of a copy: nobody replaces what they may not write.
func (u *upload) mayTake(source unix.Stat_t, overwrite bool) (same bool, err error) {
	old, st, err := u.s.openFile(u.name, unix.O_WRONLY, 0)
	switch {
	case err == unix.ENOENT:
		return false, nil
	case err != nil:
		return false, err
	}
	if err := old.Close(); err != nil {
		return false, err
	}
	if !overwrite {
		return false, fs.ErrExist
	}
	return st.Dev == source.Dev && st.Ino == source.Ino, nil
}

// fill copies the bytes and moves the file to its name.
func (u *upload) fill(ctx context.Context, source *os.File, overwrite bool) (storage.Object, error) {
	err := copyBytes(ctx, u.file, source)
	if err == nil && u.s.fs.cfg.Durable {
		err = u.file.Sync()
	}
	var st unix.Stat_t
	if err == nil {
		st, err = stat(u.file)
	}
	if err == nil {
		err = u.s.as.do(func() error {
			from := entry{dir: u.at.dir, base: u.temp}
			if !overwrite {
				return move(from, u.at)
			}
			return unix.Renameat2(from.dir, from.base, u.at.dir, u.at.base, 0)
		})
	}
	if err == nil && u.s.fs.cfg.Durable {
		err = u.syncEntry()
	}
	obj := object(int(u.file.Fd()), &st)
	return obj, errors.Join(err, u.file.Close())
}

// copyBytes copies a whole file; os.File lets the kernel do it where it can. It looks at ctx every 64 MiB.
func copyBytes(ctx context.Context, to, from *os.File) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(to, from, 64<<20); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// CanModify implements storage.Modifier: writes may lie anywhere.
func (s *Store) CanModify() (anywhere bool) { return true }

// Resume implements storage.Resumer. In place the file is what it is: whatever stands at the name is what the dead
// upload left, all its bytes included that were there before with Modify. A hidden file is moved to the name. If there
// is nothing, somebody removed it: fs.ErrNotExist.
func (s *Store) Resume(ctx context.Context, name string, dead storage.DeadUpload) (storage.Object, error) {
	var obj storage.Object
	err := s.do(ctx, "resume", name, func() error {
		e, err := s.at(name)
		if err != nil {
			return err
		}
		u := &upload{s: s, name: name, at: e, temp: tempName(dead.ID), opt: storage.CreateOptions{Exclusive: dead.Exclusive}}
		obj, err = u.resume()
		e.close()
		return err
	})
	return obj, err
}

func (u *upload) resume() (storage.Object, error) {
	if err := gone(unix.Unlinkat(u.at.dir, u.temp+".copy", 0)); err != nil {
		return storage.Object{}, err
	}
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH}
	fd, err := openat2(u.at.dir, u.temp, &how)
	if err == unix.ENOENT {
		return u.s.resumed(u.name)
	}
	if err != nil {
		return storage.Object{}, err
	}
	u.file = os.NewFile(uintptr(fd), u.name)
	u.made, u.wrote = true, true
	st, err := stat(u.file)
	if err == nil {
		err = regular(&st)
	}
	if err != nil {
		return storage.Object{}, errors.Join(err, u.file.Close())
	}
	obj, err := u.finish()
	if errors.Is(err, fs.ErrExist) { // another file stands at the name: this one will never be there
		err = errors.Join(err, gone(unix.Unlinkat(u.at.dir, u.temp, 0)))
	}
	return obj, err
}

// resumed describes the file at a name, made durable.
func (s *Store) resumed(name string) (storage.Object, error) {
	file, st, err := s.openFile(name, unix.O_WRONLY, 0)
	if err != nil {
		return storage.Object{}, err
	}
	if s.fs.cfg.Durable {
		err = file.Sync()
	}
	obj := object(int(file.Fd()), &st)
	return obj, errors.Join(err, file.Close())
}
