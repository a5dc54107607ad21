package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/storage"
)

// As is the same view with stores that act for the home's user: with the user's role on S3, as the user of the
// PosixProfile on EFS. session names the session to whoever lends the role. The error wraps fs.ErrPermission if nobody
// may act so; then the user must not get in.
//
// A role that the stores know nothing about is the daemon's own. A file system has no such default: without a
// PosixProfile, or with stores that cannot take one on, the files would be touched as the daemon, which is root.
func (f *FS) As(ctx context.Context, session string) (*FS, error) {
	id, err := f.actor(session)
	if err != nil {
		return nil, err
	}
	i, can := f.stores.(storage.Impersonator)
	switch {
	case id.Posix != nil && !can:
		return nil, fmt.Errorf("these file systems cannot be used as a user of a PosixProfile: %w", fs.ErrPermission)
	case id.Role == "" && id.Posix == nil, !can:
		return f, nil
	}
	stores, err := i.As(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("act for %s: %w", f.home.UserName, err)
	}
	as := *f
	as.stores, as.identity = stores, id
	return &as, as.reachable(ctx)
}

// reachable asks each file system of the home whether it can be used as the user, so that a login is refused and not the
// first file. One that is not there shows no files, as on AWS (transfer-api 3.1). Others than the home's do not matter.
func (f *FS) reachable(ctx context.Context) error {
	if f.identity.Posix == nil {
		return nil
	}
	asked := map[string]bool{}
	for _, at := range f.grants.entries {
		if asked[at.store] {
			continue
		}
		asked[at.store] = true
		if _, err := f.stores.Backend(ctx, f.domain, at.store); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("act for %s: file system %s: %w", f.home.UserName, at.store, err)
		}
	}
	return nil
}

// Identity is on whose behalf the stores are touched; zero if it is the daemon itself.
func (f *FS) Identity() storage.Identity { return f.identity }

// actor is the home's user to its domain's stores. Whoever lends a role knows nothing of Transfer's variables.
func (f *FS) actor(session string) (storage.Identity, error) {
	h := f.home
	if h.Domain != domainEFS {
		id := storage.Identity{Role: h.Role, Session: session}
		if f.policy == nil {
			return id, nil
		}
		var err error
		if id.Policy, err = f.policy.Document(f.subject()); err != nil {
			return storage.Identity{}, fmt.Errorf("session policy: %w: %w", err, fs.ErrPermission)
		}
		return id, nil
	}
	if h.PosixProfile == nil {
		return storage.Identity{}, fmt.Errorf("a user of a file system needs a PosixProfile: %w", fs.ErrPermission)
	}
	posix, err := posix(*h.PosixProfile)
	if err != nil {
		return storage.Identity{}, err
	}
	return storage.Identity{Posix: posix}, nil
}

func posix(p server.PosixProfile) (*storage.Posix, error) {
	for _, id := range append([]int64{p.Uid, p.Gid}, p.SecondaryGids...) {
		if id < 0 || id >= math.MaxUint32 { // the highest means "nobody is meant" to the kernel, which then changes nothing
			return nil, fmt.Errorf("PosixProfile: id %d: %w", id, fs.ErrInvalid)
		}
	}
	out := &storage.Posix{UID: uint32(p.Uid), GID: uint32(p.Gid)}
	for _, g := range p.SecondaryGids {
		out.Groups = append(out.Groups, uint32(g))
	}
	return out, nil
}
