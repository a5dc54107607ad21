// Package vfs turns what a client calls a path into a backend and a name: home directories and logical mappings.
//
// With a PATH home the client sees /bucket/key and lands in its home directory; with a LOGICAL home it sees the entries
// of its mappings and the synthetic directories above them, nothing else (transfer-api 3.2). A PATH user reaches the home
// bucket alone and everything else does not exist. On S3 a session policy then says what of that the user may do, and
// what the user may learn of (policy.go).
//
// It knows nothing of protocols, sessions, workflows or databases. No path leaves what the user was granted.
package vfs

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs/policy"
	"github.com/transferd/transferd/storage"
)

// The values of HomeDirectoryType, of a mapping's Type and of Domain, as the API spells them.
const (
	typePath    = "PATH"
	typeLogical = "LOGICAL"
	typeFile    = "FILE"
	typeDir     = "DIRECTORY"
	domainS3    = "S3"
	domainEFS   = "EFS"
)

// maxName is the longest name in bytes: that of an S3 key.
const maxName = 1024

// Home is what a user was granted.
type Home struct {
	Domain    string // S3 (the default) or EFS
	Type      string // PATH (the default) or LOGICAL
	Directory string // where the client lands; with PATH its first element is the home bucket
	Mappings  []server.HomeDirectoryMapEntry
	UserName  string

	// On whose behalf the stores are touched (identity.go).
	Role         string
	Policy       string
	PosixProfile *server.PosixProfile

	// What conditions of the policy may ask for.
	SourceIP string
	Now      func() time.Time // default time.Now
}

// FS is what one user sees. It may be used from many goroutines.
type FS struct {
	domain   string
	landing  string
	grants   grants
	stores   storage.Stores
	home     Home
	identity storage.Identity
	policy   *policy.Policy // nil allows everything
}

// New makes the view of home. The error wraps fs.ErrInvalid and is about the grant, not about any store: a home in a
// bucket that does not exist can be entered, its files are not found (transfer-api 3.1).
func New(home Home, stores storage.Stores) (*FS, error) {
	if home.Domain == "" {
		home.Domain = domainS3
	}
	g, landing, err := grant(home)
	if err != nil {
		return nil, err
	}
	f := &FS{domain: home.Domain, landing: landing, grants: g, stores: stores, home: home}
	f.policy, err = home.policy()
	return f, err
}

// Landing is the directory that relative paths start from.
func (f *FS) Landing() string { return f.landing }

// RealPath is the absolute, cleaned form of a client's path. It never rises above "/".
func (f *FS) RealPath(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = f.landing + "/" + p
	}
	return path.Clean(p)
}

// Locate says where a path lies. A synthetic directory lies nowhere: fs.ErrNotExist.
func (f *FS) Locate(p string) (storage.Location, error) {
	at, err := f.resolve("locate", p)
	if err != nil {
		return storage.Location{}, err
	}
	if at.kind == synthetic {
		return storage.Location{}, at.fail("locate", fs.ErrNotExist)
	}
	return storage.Location{Domain: f.domain, Store: at.store, Name: at.name}, nil
}

// Open opens a file for reading.
func (f *FS) Open(ctx context.Context, p string) (storage.Reader, error) {
	at, b, err := f.file(ctx, "open", p)
	if err != nil {
		return nil, err
	}
	if err := f.allow("open", at, policy.Get); err != nil {
		return nil, err
	}
	r, err := b.Open(ctx, at.name)
	return r, at.fail("open", f.conceal(at, err))
}

// Create begins an upload. A store that cannot change files says so to one that would: errors.ErrUnsupported.
func (f *FS) Create(ctx context.Context, p string, opt storage.CreateOptions) (storage.Upload, error) {
	at, b, err := f.file(ctx, "create", p)
	if err != nil {
		return nil, err
	}
	need := policy.Put
	if opt.Modify {
		need = policy.Change
	}
	if err := f.allow("create", at, need); err != nil {
		return nil, err
	}
	if _, can := b.(storage.Modifier); opt.Modify && !can {
		return nil, at.fail("modify", errors.ErrUnsupported)
	}
	u, err := b.Create(ctx, at.name, opt)
	return u, at.fail("create", f.conceal(at, err))
}

// CanModify says whether the store of a path can change a file that stands, and if so whether anywhere in it or only
// from a place that is not beyond its end on.
func (f *FS) CanModify(ctx context.Context, p string) (can, anywhere bool, err error) {
	at, b, err := f.file(ctx, "modify", p)
	if err == nil {
		err = f.allow("modify", at, policy.Put)
	}
	if err != nil {
		return false, false, err
	}
	m, can := b.(storage.Modifier)
	if !can {
		return false, false, nil
	}
	return true, m.CanModify(), nil
}

// Mkdir makes a directory.
func (f *FS) Mkdir(ctx context.Context, p string) error {
	at, err := f.resolve("mkdir", p)
	if err != nil {
		return err
	}
	if at.kind == synthetic {
		return at.fail("mkdir", fs.ErrExist)
	}
	b, err := f.backend(ctx, "mkdir", at)
	if err != nil {
		return err
	}
	if at.name == "" {
		return at.fail("mkdir", fs.ErrExist)
	}
	if err := f.allow("mkdir", at, policy.Mkdir); err != nil {
		return err
	}
	err = b.Mkdir(ctx, at.name)
	if errors.Is(err, fs.ErrExist) && !f.knows(at) {
		return nil // PutObject of a directory's key, which is what the user may do, says no more
	}
	return at.fail("mkdir", f.conceal(at, err))
}

// Rename moves a file inside one store; errors.ErrUnsupported across stores, fs.ErrExist if something stands there.
func (f *FS) Rename(ctx context.Context, oldPath, newPath string) error {
	return f.move(ctx, oldPath, newPath, func(b storage.Backend) func(context.Context, string, string) error { return b.Rename })
}

// move moves a file inside one store, as how says.
func (f *FS) move(ctx context.Context, oldPath, newPath string,
	how func(storage.Backend) func(ctx context.Context, oldName, newName string) error) error {
	from, err := f.inside("rename", oldPath)
	if err != nil {
		return err
	}
	to, err := f.inside("rename", newPath)
	if err != nil {
		return err
	}
	if from.store != to.store {
		return from.fail("rename", errors.ErrUnsupported)
	}
	b, err := f.backend(ctx, "rename", from)
	if err != nil {
		return err
	}
	if err := f.allowRename(ctx, b, from, to); err != nil {
		return err
	}
	return from.fail("rename", f.conceal(from, f.conceal(to, how(b)(ctx, from.name, to.name))))
}

// Remove deletes a file.
func (f *FS) Remove(ctx context.Context, p string) error { return f.remove(ctx, "remove", p, false) }

// Rmdir deletes an empty directory.
func (f *FS) Rmdir(ctx context.Context, p string) error { return f.remove(ctx, "rmdir", p, true) }

// remove looks first: to a Backend a file and an empty directory are the same thing to remove, to a client they are not.
func (f *FS) remove(ctx context.Context, op, p string, dir bool) error {
	at, err := f.inside(op, p)
	if err != nil {
		return err
	}
	b, err := f.backend(ctx, op, at)
	if err != nil {
		return err
	}
	need := policy.Delete
	if dir {
		need = policy.Rmdir
	}
	if err := f.allow(op, at, need); err != nil {
		return err
	}
	look := b.Stat
	if l, ok := b.(storage.Linker); ok {
		look = l.Lstat // a link is removed and not what it leads to
	}
	info, err := look(ctx, at.name)
	switch {
	case err != nil:
	case info.IsDir() && !dir:
		err = storage.ErrIsDirectory
	case !info.IsDir() && dir:
		err = errNotDirectory
	default:
		err = b.Remove(ctx, at.name)
	}
	return at.fail(op, f.conceal(at, err))
}

// Stat describes a file or directory. The name in it is the client's, not the store's.
func (f *FS) Stat(ctx context.Context, p string) (fs.FileInfo, error) {
	at, b, err := f.stored(ctx, p)
	switch {
	case err != nil:
		return nil, err
	case b == nil:
		return dirInfo(path.Base(at.client)), nil
	case f.policy != nil:
		return f.statLimited(ctx, b, at)
	}
	return f.statStore(ctx, b, at)
}

// Inspect is Stat for whoever acts for the user and must know what stands at a path whether the user may know or not,
// and which file it is (storage.Identify). What it says is not for the client.
func (f *FS) Inspect(ctx context.Context, p string) (fs.FileInfo, error) {
	at, b, err := f.stored(ctx, p)
	switch {
	case err != nil:
		return nil, err
	case b == nil:
		return dirInfo(path.Base(at.client)), nil
	}
	info, err := storage.Identify(ctx, b, at.name)
	return f.described(ctx, b, at, info, err)
}

// stored is where a path lies; a synthetic directory has no backend.
func (f *FS) stored(ctx context.Context, p string) (place, storage.Backend, error) {
	at, err := f.resolve("stat", p)
	if err != nil || at.kind == synthetic {
		return at, nil, err
	}
	b, err := f.backend(ctx, "stat", at)
	return at, b, err
}

func (f *FS) statStore(ctx context.Context, b storage.Backend, at place) (fs.FileInfo, error) {
	info, err := b.Stat(ctx, at.name)
	return f.described(ctx, b, at, info, err)
}

// described is what a store said of a place, as the client knows it.
func (f *FS) described(ctx context.Context, b storage.Backend, at place, info fs.FileInfo, err error) (fs.FileInfo, error) {
	if errors.Is(err, fs.ErrNotExist) && f.granted(ctx, b, at) {
		return dirInfo(path.Base(at.client)), nil
	}
	if err != nil {
		return nil, at.fail("stat", err)
	}
	return named{info, path.Base(at.client)}, nil
}

// ReadDir yields a directory's entries. The first error ends it.
func (f *FS) ReadDir(ctx context.Context, p string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		at, err := f.resolve("readdir", p)
		if err == nil && at.kind != synthetic {
			err = f.allow("readdir", at, policy.List)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		// What is mapped below this directory hides what the store has there under the same name: the longest entry wins.
		for _, child := range f.grants.children(at.client) {
			info, err := f.child(ctx, path.Join(at.client, child))
			if errors.Is(err, fs.ErrNotExist) || f.policy != nil && errors.Is(err, fs.ErrPermission) {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
		if at.kind != synthetic {
			f.readStore(ctx, at, yield)
		}
	}
}

// child describes a mapped entry or a synthetic directory for a listing. Only a mapped file needs its store.
func (f *FS) child(ctx context.Context, client string) (fs.FileInfo, error) {
	at, err := f.resolve("readdir", client)
	if err == nil && at.kind == mappedFile {
		return f.Stat(ctx, client)
	}
	return dirInfo(path.Base(client)), nil
}

// readStore yields what the store has in a directory.
func (f *FS) readStore(ctx context.Context, at place, yield func(fs.FileInfo, error) bool) {
	b, err := f.backend(ctx, "readdir", at)
	if err != nil {
		yield(nil, err)
		return
	}
	for info, err := range b.ReadDir(ctx, at.name) {
		if errors.Is(err, fs.ErrNotExist) && f.granted(ctx, b, at) {
			return
		}
		if err != nil {
			yield(nil, at.fail("readdir", f.conceal(at, err)))
			return
		}
		if f.grants.hides(at.client, info.Name()) || f.home.Type == typeLogical && info.Mode()&fs.ModeSymlink != 0 {
			continue
		}
		if !yield(info, nil) {
			return
		}
	}
}

// granted says whether a directory that its store does not know is there all the same, because the grant names it: the
// target of a mapping, the home directory and what lies above other mappings need no object on S3. That is AWS's
// DirectoryListingOptimization ENABLED (transfer-api 6.6); an EFS has real directories and makes no such promise. In a
// store that does not exist, nothing exists.
func (f *FS) granted(ctx context.Context, b storage.Backend, at place) bool {
	if f.domain != domainS3 || at.name == "" || !f.named(at) {
		return false
	}
	_, err := b.Stat(ctx, "")
	return err == nil
}

// named says whether the grant itself has this directory, so that its existence is no news.
func (f *FS) named(at place) bool {
	return at.kind == mappedDir || at.client == f.landing || len(f.grants.children(at.client)) > 0
}

// file resolves a path that must be able to hold a file.
func (f *FS) file(ctx context.Context, op, p string) (place, storage.Backend, error) {
	at, err := f.resolve(op, p)
	if err != nil {
		return place{}, nil, err
	}
	if at.kind == synthetic || at.kind == mappedDir {
		return place{}, nil, at.fail(op, storage.ErrIsDirectory)
	}
	b, err := f.backend(ctx, op, at)
	return at, b, err
}

// inside resolves a path that the user may take away: not the directories that the grant itself is made of.
func (f *FS) inside(op, p string) (place, error) {
	at, err := f.resolve(op, p)
	if err == nil && (at.kind == synthetic || at.kind == mappedDir) {
		err = at.fail(op, fs.ErrPermission)
	}
	return at, err
}

func (f *FS) backend(ctx context.Context, op string, at place) (storage.Backend, error) {
	b, err := f.stores.Backend(ctx, f.domain, at.store)
	if err == nil {
		b, err = f.withoutLinks(b)
	}
	return b, at.fail(op, err)
}

// resolve is the one way from a client's path to a place.
func (f *FS) resolve(op, p string) (place, error) {
	if strings.IndexByte(p, 0) >= 0 || !utf8.ValidString(p) {
		return place{}, &fs.PathError{Op: op, Path: strings.ToValidUTF8(p, "\uFFFD"), Err: fs.ErrInvalid}
	}
	client := f.RealPath(p)
	at, err := f.grants.find(client)
	if err == nil && len(at.name) > maxName {
		err = fs.ErrInvalid
	}
	if err != nil {
		return place{}, &fs.PathError{Op: op, Path: client, Err: err}
	}
	return at, nil
}
