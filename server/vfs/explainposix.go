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

// posix says what a file system would: who the user is to the kernel, and which file or directory lets it be done or not.
// The error is a question that could not be asked.
func (x *Explanation) posix(ctx context.Context, f *FS, operation string, at, to place) error {
	p := f.home.PosixProfile
	if p == nil {
		x.rule(Rule{Kind: "posix", Text: "the user has no PosixProfile, so no session begins"})
		return nil
	}
	x.rule(Rule{Kind: "posix", Allowed: true, Text: fmt.Sprintf(
		"the user is uid %d, gid %d, groups %v to the kernel; session policies do not count on a file system", p.Uid, p.Gid, p.SecondaryGids)})
	if at.kind == synthetic {
		return nil
	}
	as, err := f.As(ctx, "explain")
	if err != nil {
		x.rule(Rule{Kind: "posix", Text: "no session begins: " + err.Error()})
		return nil
	}
	b, err := as.backend(ctx, operation, at)
	if errors.Is(err, fs.ErrNotExist) {
		x.rule(Rule{Kind: "posix", Text: "there is no file system " + at.store})
		return nil
	}
	if err != nil {
		return err
	}
	e, can := b.(storage.Examiner)
	if !can {
		x.rule(Rule{Kind: "posix", Allowed: true, Text: "what the modes of the files say, this store cannot tell"})
		return nil
	}
	k := &kernel{ctx: ctx, x: x, store: e, fs: f}
	k.ask(operation, at, to)
	return k.err
}

// kernel asks a file system one thing after the other, until one refuses.
type kernel struct {
	ctx   context.Context
	x     *Explanation
	store storage.Examiner
	fs    *FS
	err   error
}

// thing is what stands at a place.
type thing struct {
	storage.Permissions
	at   place
	info fs.FileInfo // nil if nothing is there
}

func (k *kernel) ask(operation string, at, to place) {
	ok := k.pass(at)
	if !ok {
		return
	}
	switch operation {
	case "get":
		t, ok := k.look(at, true)
		_ = ok && k.stands(t) && k.regular(t) && k.may(t, t.Read, "be read")
	case "put", "append":
		k.write(at, operation == "append")
	case "list":
		t, ok := k.look(at, true)
		_ = ok && k.stands(t) && k.directory(t) && k.may(t, t.Read, "be listed")
	case "stat":
		t, ok := k.look(at, true)
		_ = ok && k.stands(t)
	case "mkdir":
		t, ok := k.look(at, false)
		_ = ok && k.free(t) && k.change(at)
	case "delete", "rmdir":
		t, ok := k.look(at, false)
		ok = ok && k.stands(t)
		if ok && operation == "rmdir" {
			ok = k.directory(t) && (t.info.IsDir() || k.deny(t.at, "is a file"))
		} else if ok && t.info.IsDir() {
			ok = k.deny(at, "is a directory")
		}
		_ = ok && k.change(at) && k.unlink(t)
	case "rename":
		k.rename(at, to)
	}
}

// pass goes down to the directory of a place.
func (k *kernel) pass(at place) bool {
	if at.name == "" {
		return true
	}
	dir := place{store: at.store}
	for _, elem := range append([]string{""}, strings.Split(at.name, "/")...) {
		dir.name = path.Join(dir.name, elem)
		if dir.name == at.name {
			return true
		}
		t, ok := k.look(dir, true)
		if !ok || !k.stands(t) || !k.directory(t) || !k.may(t, t.Search, "be passed through") {
			return false
		}
	}
	return true
}

// look looks at a place, whose directory may be passed.
func (k *kernel) look(at place, follow bool) (thing, bool) {
	info, p, err := k.store.Examine(k.ctx, at.name, follow)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return thing{at: at}, true
	case errors.Is(err, fs.ErrPermission):
		return thing{}, k.deny(at, "is a link that leads to where the user may not go")
	case errors.Is(err, fs.ErrInvalid):
		return thing{}, k.deny(at, "is no name that the file system takes")
	case err != nil:
		k.err = err
		return thing{}, false
	}
	return thing{Permissions: p, at: at, info: info}, true
}

// write is about an upload: into the file that stands, or into its directory. keeps says that it goes on with the file.
func (k *kernel) write(at place, keeps bool) {
	t, ok := k.look(at, true)
	if !ok {
		return
	}
	if t.info == nil {
		k.change(at)
		return
	}
	if !k.regular(t) || !k.may(t, t.Write, "be written") {
		return
	}
	if k.store.Beside() && k.change(at) && k.unlink(t) && keeps {
		k.may(t, t.Read, "be read, which begins the new one")
	}
}

// rename is rename(2): what stands at the new path is replaced, as with OpenSSH's sftp.
func (k *kernel) rename(from, to place) {
	old, ok := k.look(from, false)
	if !ok || !k.stands(old) || !k.change(from) || !k.unlink(old) || !k.pass(to) {
		return
	}
	there, ok := k.look(to, false)
	if !ok || !k.change(to) {
		return
	}
	if there.info != nil {
		ok = k.unlink(there)
		switch {
		case !ok:
			return
		case old.info.IsDir() && !there.info.IsDir():
			ok = k.deny(to, "is a file, which no directory replaces")
		case !old.info.IsDir() && there.info.IsDir():
			ok = k.deny(to, "is a directory, which no file replaces")
		}
	}
	if ok && old.info.IsDir() && path.Dir(from.name) != path.Dir(to.name) {
		k.may(old, old.Write, "change its parent directory, which is written in it")
	}
}

// change asks whether the directory of a place may get or lose an entry.
func (k *kernel) change(at place) bool {
	dir := place{store: at.store, name: path.Dir(at.name)}
	if dir.name == "." {
		dir.name = ""
	}
	t, ok := k.look(dir, true)
	return ok && k.stands(t) && k.directory(t) && k.may(t, t.Write && t.Search, "get or lose entries")
}

func (k *kernel) unlink(t thing) bool {
	if t.Unlink {
		return true
	}
	return k.deny(t.at, fmt.Sprintf("belongs to uid %d, and its directory has the sticky bit: nobody but its owner and the directory's takes it away", t.UID))
}

// may is a rule about the mode of something.
func (k *kernel) may(t thing, allowed bool, done string) bool {
	not := ""
	if !allowed {
		not = "not "
	}
	return k.x.rule(Rule{Kind: "posix", Allowed: allowed, Text: fmt.Sprintf("%s (%v, uid %d, gid %d) may %s%s",
		k.fs.whereis(t.at), symbolic(t.info.Mode()), t.UID, t.GID, not, done)})
}

func (k *kernel) deny(at place, why string) bool {
	return k.x.rule(Rule{Kind: "posix", Text: k.fs.whereis(at) + " " + why})
}

func (k *kernel) stands(t thing) bool { return t.info != nil || k.deny(t.at, "is not there") }

func (k *kernel) free(t thing) bool { return t.info == nil || k.deny(t.at, "is there already") }

func (k *kernel) directory(t thing) bool { return t.info.IsDir() || k.deny(t.at, "is no directory") }

func (k *kernel) regular(t thing) bool {
	switch {
	case t.info.IsDir():
		return k.deny(t.at, "is a directory")
	case !t.info.Mode().IsRegular():
		return k.deny(t.at, "is neither a file nor a directory")
	}
	return true
}

// symbolic is a mode as ls shows it, where Go has the special bits in front.
func symbolic(m fs.FileMode) string {
	text := []byte((m & (fs.ModeDir | fs.ModePerm)).String())
	if m&fs.ModeSymlink != 0 {
		text[0] = 'l'
	}
	for _, special := range []struct {
		bit    fs.FileMode
		at     int
		letter byte
	}{{fs.ModeSetuid, 3, 's'}, {fs.ModeSetgid, 6, 's'}, {fs.ModeSticky, 9, 't'}} {
		switch {
		case m&special.bit == 0:
		case text[special.at] == 'x':
			text[special.at] = special.letter
		default:
			text[special.at] = special.letter - 'a' + 'A'
		}
	}
	return string(text)
}
