package vfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/transferd/transferd/server/vfs/policy"
	"github.com/transferd/transferd/storage"
)

// policy reads the home's session policy; nil if there is none. "Amazon EFS does not use session policies" (Policy's page
// in the API reference).
func (h Home) policy() (*policy.Policy, error) {
	if h.Policy == "" || h.Domain == domainEFS {
		return nil, nil
	}
	p, err := policy.Parse(h.Policy)
	if err != nil {
		return nil, fmt.Errorf("session policy: %w: %w", err, fs.ErrInvalid)
	}
	return p, nil
}

// subject is whose policy it is, at this moment.
func (f *FS) subject() policy.Subject {
	now := f.home.Now
	if now == nil {
		now = time.Now
	}
	s := policy.Subject{UserName: f.home.UserName, SourceIP: f.home.SourceIP, Now: now()}
	if f.home.Type != typeLogical {
		s.Home = f.landing[1:]
		if s.Home != "" && strings.HasSuffix(f.home.Directory, "/") {
			s.Home += "/"
		}
	}
	return s
}

// Doubts name what the session policy asks for and nobody evaluates here; see package policy.
func (f *FS) Doubts() []string {
	if f.policy == nil {
		return nil
	}
	return f.policy.Doubts(f.subject())
}

// allow says whether the session policy lets the user do something at a place. The error wraps fs.ErrPermission and tells
// the log what decided.
func (f *FS) allow(op string, at place, what policy.Operation) error {
	if f.policy == nil {
		return nil
	}
	for _, r := range policy.Needs(what, at.store, at.name) {
		if d := f.policy.Evaluate(f.subject(), r); !d.Allowed {
			return at.fail(op, fmt.Errorf("session policy: %v: %v: %w", r, d, fs.ErrPermission))
		}
	}
	return nil
}

func (f *FS) may(what policy.Operation, store, name string) bool {
	return f.allow("", place{store: store, name: name}, what) == nil
}

// knows says whether the user may know whether something stands at a place and what: who may list the directory sees it
// there, and who may read the name and list below it can find out both ways. S3 answers others 403 and not 404 ("If the
// object you request does not exist", HeadObject's page).
func (f *FS) knows(at place) bool {
	if f.policy == nil || at.name == "" {
		return true
	}
	above := path.Dir(at.name)
	if above == "." {
		above = ""
	}
	return f.may(policy.List, at.store, above) || f.may(policy.Get, at.store, at.name) && f.may(policy.List, at.store, at.name)
}

// conceal makes an error that tells what stands at a place one that does not, for a user who may not know.
func (f *FS) conceal(at place, err error) error {
	tells := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrInvalid) ||
		errors.Is(err, storage.ErrIsDirectory) || errors.Is(err, storage.ErrNotEmpty)
	if f.policy == nil || !tells || f.knows(at) {
		return err
	}
	return fmt.Errorf("session policy: the user may not know that: %v: %w", err, fs.ErrPermission)
}

// statLimited is Stat for a user with a session policy. HeadObject needs s3:GetObject, a directory is seen by listing it,
// and who may list the directory above has seen either. What the grant itself names is no secret.
func (f *FS) statLimited(ctx context.Context, b storage.Backend, at place) (fs.FileInfo, error) {
	knows, get, list := f.knows(at), f.may(policy.Get, at.store, at.name), f.may(policy.List, at.store, at.name)
	named := at.kind != mappedFile && f.named(at)
	if !knows && !list && named {
		return dirInfo(path.Base(at.client)), nil
	}
	if !knows && !list && !get {
		return nil, f.allow("stat", at, policy.Get)
	}
	info, err := f.statStore(ctx, b, at)
	switch {
	case knows, err == nil && info.IsDir() && (list || named), err == nil && !info.IsDir() && get:
		return info, err
	case err == nil || errors.Is(err, fs.ErrNotExist):
		// A name that must not be told and one that is not there have the same answer.
		return nil, at.fail("stat", fmt.Errorf("session policy: the user may not know what stands there: %w", fs.ErrPermission))
	}
	return nil, err
}

// allowRename says whether the session policy lets the user move something: its bytes are read at the old name, written
// at the new one and deleted. A directory is all that lies in it: nobody takes along by the directory's name what is
// denied by its own.
func (f *FS) allowRename(ctx context.Context, b storage.Backend, from, to place) error {
	if f.policy == nil {
		return nil
	}
	if err := f.allowMove(from, to, ""); err != nil {
		return err
	}
	info, err := b.Stat(ctx, from.name)
	if err != nil {
		return from.fail("rename", f.conceal(from, err))
	}
	if !info.IsDir() {
		return nil
	}
	return f.allowTree(ctx, b, from, to)
}

// allowMove is about one object; slash is "/" for that of a directory.
func (f *FS) allowMove(from, to place, slash string) error {
	source, target := from, to
	source.name += slash
	target.name += slash
	if err := f.allow("rename", source, policy.RenameFrom); err != nil {
		return err
	}
	return f.allow("rename", target, policy.RenameTo)
}

func (f *FS) allowTree(ctx context.Context, b storage.Backend, from, to place) error {
	if err := f.allow("rename", from, policy.List); err != nil {
		return err
	}
	if err := f.allowMove(from, to, "/"); err != nil {
		return err
	}
	for info, err := range b.ReadDir(ctx, from.name) {
		if err != nil {
			return from.fail("rename", f.conceal(from, err))
		}
		source, target := from, to
		source.name, target.name = path.Join(from.name, info.Name()), path.Join(to.name, info.Name())
		if info.IsDir() {
			err = f.allowTree(ctx, b, source, target)
		} else {
			err = f.allowMove(source, target, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
