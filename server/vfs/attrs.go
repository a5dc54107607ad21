package vfs

import (
	"context"
	"errors"

	"github.com/transferd/transferd/server/vfs/policy"
	"github.com/transferd/transferd/storage"
)

// SetAttrs changes what a file or directory is beside its bytes; errors.ErrUnsupported where the store cannot.
func (f *FS) SetAttrs(ctx context.Context, p string, a storage.Attrs) error {
	at, err := f.inside("setattrs", p)
	if err != nil {
		return err
	}
	b, err := f.backend(ctx, "setattrs", at)
	if err != nil {
		return err
	}
	attrer, ok := b.(storage.Attrer)
	if !ok {
		return at.fail("setattrs", errors.ErrUnsupported)
	}
	if err := f.allow("setattrs", at, policy.Change); err != nil {
		return err
	}
	return at.fail("setattrs", f.conceal(at, attrer.SetAttrs(ctx, at.name, a)))
}

// HasAttrs says whether the store of a path can change what a file is beside its bytes.
func (f *FS) HasAttrs(ctx context.Context, p string) bool {
	at, err := f.inside("setattrs", p)
	if err != nil {
		return false
	}
	b, err := f.backend(ctx, "setattrs", at)
	if err != nil {
		return false
	}
	_, ok := b.(storage.Attrer)
	return ok
}

// Replace is Rename, but a file that stands at the new path is replaced. Where the store cannot do that, it is Rename.
func (f *FS) Replace(ctx context.Context, oldPath, newPath string) error {
	return f.move(ctx, oldPath, newPath, func(b storage.Backend) func(context.Context, string, string) error {
		if r, ok := b.(storage.Replacer); ok {
			return r.Replace
		}
		return b.Rename
	})
}
