package efs

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

var _ storage.Discarder = (*Store)(nil)

// Discard implements storage.Discarder: the hidden file goes. What was written in place is the newer file's by now.
func (s *Store) Discard(ctx context.Context, name string, dead storage.DeadUpload) (received int64, err error) {
	err = s.do(ctx, "discard", name, func() error {
		e, err := s.at(name)
		if err != nil {
			return err
		}
		defer e.close()
		temp := tempName(dead.ID)
		if err := gone(unix.Unlinkat(e.dir, temp+".copy", 0)); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(e.dir, temp, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return gone(err)
		}
		received = st.Size
		return gone(unix.Unlinkat(e.dir, temp, 0))
	})
	return received, err
}
