package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// hidden begins the names of files on their way (Config.AtomicNames). They are in no listing and cannot be named.
const hidden = ".transferd-upload-"

// open opens a name of the store. The kernel keeps it beneath the root whatever links stand on the way and whoever swaps
// them meanwhile; os.Root promises the same, but it opens each directory for reading, so a directory that may be passed
// and not listed (--x) would be closed, which no local user would find.
func (s *Store) open(name string, flags int, mode uint32) (int, error) {
	if err := check(name); err != nil {
		return -1, err
	}
	if strings.HasPrefix(path.Base(name), hidden) {
		return -1, fs.ErrPermission
	}
	if name == "" {
		name = "."
	}
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	if s.noLinks {
		how.Resolve |= unix.RESOLVE_NO_SYMLINKS
	}
	fd, err := openat2(int(s.fs.root.Load()), name, &how)
	if s.noLinks && err == unix.ELOOP {
		err = unix.ENOENT
	}
	return fd, err
}

// openat2 tries again where the kernel says so: after a signal, and when a rename somewhere raced with "..".
func openat2(dir int, name string, how *unix.OpenHow) (int, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, how)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN && try < 1000:
			continue
		case err == unix.EXDEV: // the path leaves the store, or would begin at the machine's root
			return -1, fmt.Errorf("leads out of the store: %w", fs.ErrPermission)
		case err != nil:
			return -1, err
		}
		return fd, nil
	}
}

// entry is a place in a directory: the directory is open and the name has one element, which the system calls that take
// both do not follow.
type entry struct {
	dir  int
	base string
}

// at finds the place of a name, which may be empty. Whoever gets it closes it.
func (s *Store) at(name string) (entry, error) {
	if err := check(name); err != nil {
		return entry{}, err
	}
	if strings.HasPrefix(path.Base(name), hidden) {
		return entry{}, fs.ErrPermission
	}
	if name == "" {
		return entry{}, fs.ErrPermission // the root has no place of its own
	}
	parent := path.Dir(name)
	if parent == "." {
		parent = ""
	}
	dir, err := s.open(parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return entry{}, err
	}
	return entry{dir: dir, base: path.Base(name)}, nil
}

func (e entry) close() {
	// Nothing was written through the descriptor of a path: there is no error to lose.
	_ = unix.Close(e.dir)
}

// stat describes what stands at the place, without following it.
func (e entry) stat() (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(e.dir, e.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// move renames without replacing anything. Where the file system cannot do that in one step (NFS in all versions), a file is
// linked and then unlinked, which refuses a name that stands as well. For what cannot be linked, such as directories, the name
// is looked at first.
func move(from, to entry) error {
	err := unix.Renameat2(from.dir, from.base, to.dir, to.base, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	st, err := from.stat()
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err := unix.Linkat(from.dir, from.base, to.dir, to.base, 0)
		if err == nil {
			if err = unix.Unlinkat(from.dir, from.base, 0); err != nil { // it may be linked and not taken away
				err = errors.Join(err, unix.Unlinkat(to.dir, to.base, 0))
			}
			return err
		}
		// Somebody else's file, which may be renamed and not linked (proc(5), protected_hardlinks); or there are no links.
		if err != unix.EPERM && err != unix.EMLINK && err != unix.ENOTSUP {
			return err
		}
	}
	if _, err := to.stat(); err != unix.ENOENT {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	return unix.Renameat2(from.dir, from.base, to.dir, to.base, 0)
}
