package efs

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// Statfs implements storage.Statfser.
func (s *Store) Statfs(ctx context.Context, name string) (storage.Statfs, error) {
	var st unix.Statfs_t
	err := s.do(ctx, "statfs", name, func() error {
		fd, err := s.open(name, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fstatfs(fd, &st), unix.Close(fd))
	})
	if err != nil {
		return storage.Statfs{}, err
	}
	return storage.Statfs{
		BlockSize: uint64(st.Frsize), TransferSize: uint64(st.Bsize), Blocks: st.Blocks, BlocksFree: st.Bfree, BlocksAvailable: st.Bavail,
		Files: st.Files, FilesFree: st.Ffree, NameMax: uint64(st.Namelen), ReadOnly: st.Flags&unix.ST_RDONLY != 0,
	}, nil
}
