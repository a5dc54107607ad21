package efs

import (
	"context"
	"errors"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

var _ storage.Examiner = (*Store)(nil)

// Beside implements storage.Examiner.
func (s *Store) Beside() bool { return s.fs.cfg.AtomicNames }

// Examine implements storage.Examiner. It is the kernel that answers, to the thread that has the identity.
func (s *Store) Examine(ctx context.Context, name string, follow bool) (fs.FileInfo, storage.Permissions, error) {
	i := &info{name: path.Base("/" + name)}
	var p storage.Permissions
	err := s.do(ctx, "examine", name, func() error {
		flags := unix.O_PATH
		if !follow {
			flags |= unix.O_NOFOLLOW
		}
		fd, err := s.open(name, flags, 0)
		if err != nil {
			return err
		}
		err = unix.Fstat(fd, &i.st)
		for want, may := range map[uint32]*bool{unix.R_OK: &p.Read, unix.W_OK: &p.Write, unix.X_OK: &p.Search} {
			if err == nil {
				*may, err = access(fd, want)
			}
		}
		if err == nil {
			p.UID, p.GID = i.st.Uid, i.st.Gid
			p.Unlink, err = s.mayUnlink(name, &i.st)
		}
		return errors.Join(err, unix.Close(fd))
	})
	if err != nil {
		return nil, storage.Permissions{}, err
	}
	return i, p, nil
}

// access asks for one permission (faccessat2, Linux 5.8). With AT_EACCESS it is the thread's file system ids that count,
// and its capabilities, as for an open.
func access(fd int, want uint32) (bool, error) {
	err := unix.Faccessat2(fd, "", want, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	switch err {
	case nil:
		return true, nil
	case unix.EACCES, unix.EPERM, unix.EROFS, unix.ETXTBSY:
		return false, nil
	}
	return false, err
}

// mayUnlink is what the sticky bit of a file's directory says, and no more: may_delete in the kernel.
func (s *Store) mayUnlink(name string, st *unix.Stat_t) (bool, error) {
	if name == "" {
		return false, nil
	}
	e, err := s.at(name)
	if err != nil {
		return false, err
	}
	defer e.close()
	var dir unix.Stat_t
	if err := unix.Fstat(e.dir, &dir); err != nil {
		return false, err
	}
	uid := s.fs.self.uid
	if s.as != nil {
		uid = s.as.uid
	}
	return dir.Mode&unix.S_ISVTX == 0 || uid == 0 || uint32(uid) == st.Uid || uint32(uid) == dir.Uid, nil
}
