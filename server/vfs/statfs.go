package vfs

import (
	"context"
	"errors"

	"github.com/transferd/transferd/storage"
)

// Statfs tells how full the file system of a path is; errors.ErrUnsupported where the store cannot. S3 is never full.
func (f *FS) Statfs(ctx context.Context, p string) (storage.Statfs, error) {
	at, err := f.resolve("statfs", p)
	if err != nil {
		return storage.Statfs{}, err
	}
	if at.kind == synthetic {
		return storage.Statfs{}, at.fail("statfs", errors.ErrUnsupported)
	}
	b, err := f.backend(ctx, "statfs", at)
	if err != nil {
		return storage.Statfs{}, err
	}
	s, ok := b.(storage.Statfser)
	if !ok {
		return storage.Statfs{}, at.fail("statfs", errors.ErrUnsupported)
	}
	st, err := s.Statfs(ctx, at.name)
	return st, at.fail("statfs", err)
}

// HasStatfs says whether the stores of this home can tell that. It asks none on S3.
func (f *FS) HasStatfs(ctx context.Context) bool {
	if f.domain != domainEFS {
		return false
	}
	for _, at := range f.grants.entries {
		b, err := f.backend(ctx, "statfs", at)
		if err != nil {
			return false
		}
		_, ok := b.(storage.Statfser)
		return ok
	}
	return false
}
