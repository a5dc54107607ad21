package efs

import (
	"context"
	"errors"
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// SetAttrs implements storage.Attrer; links are followed, as SFTP's SETSTAT does. The kernel says who may: the owner
// changes mode and times, root changes the owner, the owner gives a file to a group of theirs.
func (s *Store) SetAttrs(ctx context.Context, name string, a storage.Attrs) error {
	return s.do(ctx, "setattrs", name, func() error {
		if a.Size != nil {
			if err := s.truncate(name, *a.Size); err != nil {
				return err
			}
		}
		fd, err := s.open(name, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		return errors.Join(setAttrs(fd, a), unix.Close(fd))
	})
}

func (s *Store) truncate(name string, size int64) error {
	if size < 0 {
		return fs.ErrInvalid
	}
	file, _, err := s.openFile(name, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(size), file.Close())
}

// setAttrs changes what the path descriptor fd stands for. The owner comes before the mode, because a change of owner
// takes setuid and setgid away; the times come last.
func setAttrs(fd int, a storage.Attrs) error {
	if a.UID != nil || a.GID != nil {
		if err := unix.Fchownat(fd, "", id(a.UID), id(a.GID), unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if a.Mode != nil {
		// The kernel's own link to the descriptor: fchmod does not take one of a path, and fchmodat2 is new (Linux 6.6).
		if err := unix.Fchmodat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), bits(*a.Mode), 0); err != nil {
			return err
		}
	}
	if a.Atime == nil && a.Mtime == nil {
		return nil
	}
	times := []unix.Timespec{timespec(a.Atime), timespec(a.Mtime)}
	return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
}

func id(n *uint32) int {
	if n == nil {
		return -1 // leaves it
	}
	return int(*n)
}

// bits is a mode as the kernel writes it.
func bits(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		mode |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return mode
}

func timespec(t *time.Time) unix.Timespec {
	if t == nil {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
