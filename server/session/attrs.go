package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/transferd/transferd/storage"
)

// SetAttrs changes what a file is beside its bytes; of one that this session is uploading, as File.SetAttrs does.
// errors.ErrUnsupported where the store cannot; what that means to a client is the protocol's business.
func (s *Session) SetAttrs(p string, a storage.Attrs) error {
	if f := s.uploading(s.fs.RealPath(p)); f != nil {
		return f.SetAttrs(a)
	}
	if !s.fs.HasAttrs(s.ctx, p) {
		return errors.ErrUnsupported
	}
	return s.change("SETSTAT", p, func(ctx context.Context, p string) error { return s.fs.SetAttrs(ctx, p, a) })
}

// SetAttrs changes what the file will be beside its bytes. It is there for good when the bytes are committed; a file that
// shows while it grows (storage/efs) has it at once, so that its client hears of what it may not do.
//
// A size is what the file will have, as far as the store can do that: a size of 0 before the first byte means that
// nothing of what stands is kept, a smaller one than was written cuts it off at the end, a larger one fills it up with
// zeros when it is closed. It is also what the client declared (CreateOptions.Declared).
func (f *File) SetAttrs(a storage.Attrs) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.failure != nil:
		return f.failure
	case f.closed:
		return fs.ErrClosed
	}
	if a.Size != nil {
		f.declared = *a.Size
		if *a.Size == 0 && !f.begun && f.row.Modify {
			if err := f.anew(); err != nil {
				return err
			}
			a.Size = nil
			if a == (storage.Attrs{}) {
				return nil
			}
		}
	}
	if !f.s.fs.HasAttrs(f.s.ctx, f.path) {
		return errors.ErrUnsupported
	}
	if err := f.resize(a.Size); err != nil {
		return err
	}
	a.Size = nil
	err := f.s.fs.SetAttrs(f.s.ctx, f.path, a)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a file that does not show yet gets them at its commit
		f.s.failed("SETSTAT", f.path, err)
		return err
	}
	f.attrs = merge(f.attrs, a)
	f.s.event("SETSTAT", slog.String("path", f.row.Location.Path()))
	return nil
}

// anew begins again, with nothing of what stands: its client has cut it to nothing. mu is held.
func (f *File) anew() error {
	if err := f.abort(); err != nil {
		return fmt.Errorf("begin anew: %w", err)
	}
	f.up, f.undecided = nil, false
	f.row.ID, f.row.Modify, f.row.Base = f.s.m.newUploadID(), false, 0
	f.size.Store(0)
	f.got = ranges{}
	return f.open()
}

// resize notes the size that the file is to have. mu is held.
func (f *File) resize(size *int64) error {
	switch {
	case size == nil:
		return nil
	case *size < 0:
		return fs.ErrInvalid
	case *size == f.size.Load() && f.resized == nil:
		return nil
	case *size < f.size.Load():
		f.shrunk = true
		f.got.cut(*size)
	}
	n := *size
	f.resized = &n
	f.size.Store(n)
	return nil
}

// grow makes room for a write in a file that was resized. One that leaves a gap behind the place where the file was cut
// off would show old bytes there, so it is refused. mu is held.
func (f *File) grow(off, n int64) error {
	if f.resized == nil {
		return nil
	}
	if f.shrunk && off > *f.resized {
		return fmt.Errorf("write at %d of a file that was cut to %d: %w", off, *f.resized, storage.ErrRandomAccess)
	}
	*f.resized = max(*f.resized, off+n)
	return nil
}

// merge is what a and then b ask for.
func merge(a, b storage.Attrs) storage.Attrs {
	if b.Mode != nil {
		a.Mode = b.Mode
	}
	if b.UID != nil {
		a.UID, a.GID = b.UID, b.GID
	}
	if b.Atime != nil {
		a.Atime = b.Atime
	}
	if b.Mtime != nil {
		a.Mtime = b.Mtime
	}
	return a
}

// dress gives a committed file the attributes that its client asked for. A file that was cut does not grow to its size.
// An error is logged: the client had its answer, and the bytes are there. mu is held.
func (f *File) dress(ctx context.Context, obj *storage.Object, outcome Outcome) {
	a := f.attrs
	if f.resized != nil && (*f.resized < obj.Size || *f.resized > obj.Size && outcome == Complete) {
		a.Size = f.resized
	}
	if a == (storage.Attrs{}) {
		return
	}
	if err := f.s.fs.SetAttrs(ctx, f.path, a); err != nil {
		f.s.failed("SETSTAT", f.path, err, slog.String("upload-id", f.row.ID))
		return
	}
	if a.Size != nil {
		obj.Size = *a.Size
	}
}
