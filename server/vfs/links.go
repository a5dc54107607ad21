package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/transferd/transferd/storage"
)

// A user of a LOGICAL home sees no links, neither to follow nor to make nor to read (transfer-api 3.2: "symlinks don't
// resolve for Restricted users"): one would lead out of what is mapped, to what else the store holds. A user of a PATH
// home has the whole store, and links lead nowhere out of that: the store sees to it.

// Lstat is Stat, but of a link itself where the store has links.
func (f *FS) Lstat(ctx context.Context, p string) (fs.FileInfo, error) {
	at, err := f.resolve("lstat", p)
	if err != nil || at.kind != inStore {
		return f.Stat(ctx, p)
	}
	b, err := f.backend(ctx, "lstat", at)
	if err != nil {
		return nil, err
	}
	l, ok := b.(storage.Linker)
	if !ok || f.policy != nil {
		return f.Stat(ctx, p)
	}
	info, err := l.Lstat(ctx, at.name)
	if err != nil {
		return nil, at.fail("lstat", err)
	}
	return named{info, path.Base(at.client)}, nil
}

// ReadLink is what a link says, as the client may understand it: a target within the store, relative to the link. What a
// link from elsewhere says that leads out, nobody learns.
func (f *FS) ReadLink(ctx context.Context, p string) (string, error) {
	at, l, err := f.linker(ctx, "readlink", p)
	if err != nil {
		return "", err
	}
	target, err := l.ReadLink(ctx, at.name)
	if err == nil && (path.IsAbs(target) || !within(at.name, target)) {
		err = fs.ErrPermission
	}
	if err != nil {
		return "", at.fail("readlink", err)
	}
	return target, nil
}

// Symlink makes a link at p. An absolute target is a path as the client sees it.
func (f *FS) Symlink(ctx context.Context, target, p string) error {
	at, l, err := f.linker(ctx, "symlink", p)
	if err != nil {
		return err
	}
	if !valid(target) || target == "" {
		return at.fail("symlink", fs.ErrInvalid)
	}
	if path.IsAbs(target) {
		to, err := f.resolve("symlink", target)
		if err != nil || to.kind == synthetic || to.store != at.store {
			return at.fail("symlink", fs.ErrPermission)
		}
		target = relative(at.name, to.name)
	}
	if !within(at.name, target) {
		return at.fail("symlink", fs.ErrPermission)
	}
	return at.fail("symlink", l.Symlink(ctx, target, at.name))
}

// Link makes a second name for a file, in the same store.
func (f *FS) Link(ctx context.Context, oldPath, p string) error {
	at, l, err := f.linker(ctx, "link", p)
	if err != nil {
		return err
	}
	from, _, err := f.linker(ctx, "link", oldPath)
	if err != nil {
		return err
	}
	if from.store != at.store {
		return at.fail("link", errors.ErrUnsupported)
	}
	return at.fail("link", l.Link(ctx, from.name, at.name))
}

// linker resolves a path in a store that has links, for a user who may see them.
func (f *FS) linker(ctx context.Context, op, p string) (place, storage.Linker, error) {
	at, err := f.inside(op, p)
	if err != nil {
		return place{}, nil, err
	}
	b, err := f.backend(ctx, op, at)
	if err != nil {
		return place{}, nil, err
	}
	l, ok := b.(storage.Linker)
	if !ok || f.home.Type == typeLogical || f.policy != nil { // no action of S3 is about links
		return place{}, nil, at.fail(op, errors.ErrUnsupported)
	}
	return at, l, nil
}

// withoutLinks is a store for a user who may see no links. One that cannot hide them is not for such users.
func (f *FS) withoutLinks(b storage.Backend) (storage.Backend, error) {
	if _, ok := b.(storage.Linker); !ok || f.home.Type != typeLogical {
		return b, nil
	}
	l, ok := b.(storage.Linkless)
	if !ok {
		return nil, fmt.Errorf("the store's links cannot be hidden from a LOGICAL home: %w", fs.ErrPermission)
	}
	return l.WithoutLinks(), nil
}

// within says whether a relative target leads a link at name nowhere out of the store.
func within(name, target string) bool {
	to := path.Join(path.Dir(name), target)
	return to != ".." && !strings.HasPrefix(to, "../")
}

// relative is the way from a link at name to another name of its store.
func relative(name, to string) string {
	from := strings.Split(path.Dir(name), "/")
	if path.Dir(name) == "." {
		from = nil
	}
	elements := strings.Split(to, "/")
	if to == "" {
		elements = nil
	}
	for len(from) > 0 && len(elements) > 0 && from[0] == elements[0] {
		from, elements = from[1:], elements[1:]
	}
	return path.Join(strings.Repeat("../", len(from)), strings.Join(elements, "/"), ".")
}
