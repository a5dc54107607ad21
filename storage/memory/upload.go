package memory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"sync/atomic"

	"github.com/transferd/transferd/storage"
)

// upload is a file on its way. What lies below len(multipart.content) has left the process.
type upload struct {
	store   *Store
	ctx     context.Context
	name    string
	opt     storage.CreateOptions
	process int // it lives as long as the store's process has this number

	busy atomic.Bool // someone is inside WriteAt, Commit or Abort
	over atomic.Bool // Commit or Abort was called

	// The caller's goroutine owns these.
	token string
	old   *file  // what the upload changes; nil if it makes a new file
	wrote bool   // the first write has come
	sent  int64  // bytes that have left
	held  []byte // the bytes from sent on, with holes
	end   int    // held[:end] was written
	ahead []span // what of held was written beyond end
	err   error  // the first error, which is final
}

// span is [from, to) of held.
type span struct{ from, to int }

// Create implements storage.Backend.
func (s *Store) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	u := &upload{store: s, ctx: ctx, name: name, opt: opt}
	err := s.do(ctx, Create, name, func() error {
		if name == "" {
			return storage.ErrIsDirectory
		}
		if opt.ID != "" && s.used[opt.ID] {
			s.cfg.Misuse(fmt.Sprintf("upload id %q was used before", opt.ID))
		}
		s.used[opt.ID] = true
		if _, stands := s.files[name]; stands && opt.Exclusive {
			return fs.ErrExist
		}
		if opt.Modify {
			u.old = s.files[name]
		}
		u.process = s.process
		return nil
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// enter notices callers that break the contract of storage.Upload.
func (u *upload) enter(what string, last bool) func() {
	if !u.busy.CompareAndSwap(false, true) {
		u.store.cfg.Misuse(fmt.Sprintf("%s of %q while another call is under way", what, u.name))
	}
	if u.over.Load() {
		u.store.cfg.Misuse(fmt.Sprintf("%s of %q after Commit or Abort", what, u.name))
	}
	if last {
		u.over.Store(true)
	}
	return func() { u.busy.Store(false) }
}

// do is the store's do, in the upload's process.
func (u *upload) do(ctx context.Context, op Op, f func() error) error {
	return u.store.do(ctx, op, u.name, func() error {
		if u.process != u.store.process {
			return ErrCrashed
		}
		return f()
	})
}

// WriteAt implements storage.Upload.
func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	defer u.enter("WriteAt", false)()
	if u.err != nil {
		u.store.cfg.Misuse(fmt.Sprintf("WriteAt of %q after the error %q", u.name, u.err))
	}
	u.err = u.write(p, off)
	if u.err != nil {
		return 0, u.err
	}
	return len(p), nil
}

func (u *upload) write(p []byte, off int64) error {
	if off < 0 {
		return fmt.Errorf("memory: write at %d: %w", off, fs.ErrInvalid)
	}
	if err := u.do(u.ctx, Write, func() error { return nil }); err != nil {
		return err
	}
	if u.old != nil && !u.wrote && len(p) > 0 {
		u.start(off)
	}
	for len(p) > 0 {
		window := 2 * int64(u.store.cfg.PartSize)
		if off >= u.sent+window && u.old != nil {
			u.fill(len(u.held))
			if err := u.sendFull(); err != nil {
				return err
			}
		}
		if off < u.sent || off >= u.sent+window {
			return fmt.Errorf("memory: write at %d, sent up to %d: %w", off, u.sent, storage.ErrRandomAccess)
		}
		at := int(off - u.sent)
		n := min(len(p), int(window)-at)
		if grow := at + n - len(u.held); grow > 0 {
			u.held = append(u.held, make([]byte, grow)...)
		}
		copy(u.held[at:], p[:n])
		u.mark(span{at, at + n})
		p, off = p[n:], off+int64(n)
		if err := u.sendFull(); err != nil {
			return err
		}
	}
	return nil
}

func (u *upload) sendFull() error {
	for u.end > u.store.cfg.PartSize { // more than one part: S3 sends the first
		if err := u.send(u.store.cfg.PartSize); err != nil {
			return err
		}
	}
	return nil
}

// start takes the offset of the first write to a file that is changed. As on S3, what fills parts before it leaves by a
// copy; the rest is filled in when it is needed, and writes that the first one overtook may follow.
func (u *upload) start(off int64) {
	u.wrote = true
	part := int64(u.store.cfg.PartSize)
	if from := min(off, int64(len(u.old.content))) - part/4; from >= part {
		u.sent = from
	}
}

// fill takes what of held[:to] nobody wrote from the old file.
func (u *upload) fill(to int) {
	if u.old == nil {
		return
	}
	rest := u.old.content[min(u.sent, int64(len(u.old.content))):]
	to = min(to, len(rest))
	if grow := to - len(u.held); grow > 0 {
		u.held = append(u.held, make([]byte, grow)...)
	}
	for u.end < to {
		gap := span{u.end, to}
		for _, s := range u.ahead {
			gap.to = min(gap.to, s.from)
		}
		copy(u.held[gap.from:gap.to], rest[gap.from:gap.to])
		u.mark(gap)
	}
}

// mark notes that a span was written.
func (u *upload) mark(s span) {
	u.ahead = append(u.ahead, s)
	for {
		i := slices.IndexFunc(u.ahead, func(s span) bool { return s.from <= u.end })
		if i < 0 {
			return
		}
		u.end = max(u.end, u.ahead[i].to)
		u.ahead = slices.Delete(u.ahead, i, i+1)
	}
}

// send lets the first n held bytes leave the process.
func (u *upload) send(n int) error {
	if u.token == "" {
		if err := u.begin(); err != nil {
			return err
		}
	}
	err := u.do(context.WithoutCancel(u.ctx), Part, func() error {
		m, ok := u.store.parts[u.token]
		if !ok {
			return fs.ErrNotExist // somebody resumed or aborted it
		}
		m.content = append(m.content, u.held[:n]...)
		return nil
	})
	if err != nil {
		return err
	}
	u.sent += int64(n)
	u.held, u.end = slices.Delete(u.held, 0, n), u.end-n
	for i := range u.ahead {
		u.ahead[i].from, u.ahead[i].to = u.ahead[i].from-n, u.ahead[i].to-n
	}
	return nil
}

func (u *upload) begin() error {
	ctx := context.WithoutCancel(u.ctx)
	err := u.do(ctx, Note, func() error {
		u.store.last++
		u.token = fmt.Sprintf("token-%d", u.store.last)
		m := &multipart{name: u.name, old: u.old}
		if u.old != nil {
			m.content, m.kept = slices.Clone(u.old.content[:u.sent]), int(u.sent)
		}
		u.store.parts[u.token] = m
		return nil
	})
	if err != nil || u.opt.Note == nil {
		return err
	}
	if err := u.opt.Note(ctx, u.token); err != nil {
		return fmt.Errorf("memory: note the upload of %q: %w", u.name, err)
	}
	return nil
}

// Commit implements storage.Upload.
func (u *upload) Commit(ctx context.Context) (storage.Object, error) {
	defer u.enter("Commit", true)()
	var obj storage.Object
	err := u.err
	if err == nil && u.old != nil && !u.wrote {
		return u.unchanged(ctx)
	}
	u.fill(math.MaxInt)
	if err == nil && u.old != nil && len(u.ahead) > 0 && u.sent+int64(u.end) == int64(len(u.old.content)) {
		err = fmt.Errorf("memory: nothing was written at the end of %d bytes, but behind it: %w", len(u.old.content), storage.ErrRandomAccess)
	}
	if err == nil && u.end > 0 && (u.token != "" || u.sent > 0) {
		err = u.send(u.end)
	}
	if err == nil {
		err = u.do(ctx, Commit, func() error {
			if _, stands := u.store.files[u.name]; stands && u.opt.Exclusive {
				return fs.ErrExist
			}
			content := slices.Clone(u.held[:u.end])
			if u.token != "" {
				m, ok := u.store.parts[u.token]
				if !ok {
					return fs.ErrNotExist
				}
				content = m.content
			}
			delete(u.store.parts, u.token)
			obj = u.store.put(u.name, u.opt.ID, content, u.opt.Metadata)
			return nil
		})
	}
	if err != nil {
		u.drop()
		return storage.Object{}, err
	}
	return obj, nil
}

// unchanged is the end of an upload that was to change a file and wrote nothing.
func (u *upload) unchanged(ctx context.Context) (obj storage.Object, err error) {
	err = u.do(ctx, Commit, func() error {
		f, ok := u.store.files[u.name]
		if !ok {
			return fs.ErrNotExist
		}
		obj = f.obj
		return nil
	})
	return obj, err
}

// Abort implements storage.Upload.
func (u *upload) Abort(ctx context.Context) error {
	defer u.enter("Abort", true)()
	return u.do(context.WithoutCancel(ctx), Abort, func() error {
		delete(u.store.parts, u.token)
		return nil
	})
}

// drop removes what a failed Commit left, unless the process is dead.
func (u *upload) drop() {
	u.store.mu.Lock()
	defer u.store.mu.Unlock()
	if u.process == u.store.process {
		delete(u.store.parts, u.token)
	}
}

// Resume implements storage.Resumer.
func (s *Store) Resume(ctx context.Context, name string, dead storage.DeadUpload) (storage.Object, error) {
	var obj storage.Object
	err := s.do(ctx, Resume, name, func() error {
		if f, ok := s.files[name]; ok && f.id == dead.ID {
			obj = f.obj
			delete(s.parts, dead.Token)
			return nil
		}
		if _, taken := s.files[name]; taken && dead.Exclusive {
			delete(s.parts, dead.Token)
			return fs.ErrExist
		}
		var content []byte
		if m, ok := s.parts[dead.Token]; ok {
			content = m.content
			if m.old != nil && len(content) < len(m.old.content) { // never shorter than what stood
				content = slices.Concat(content, m.old.content[len(content):])
			}
		}
		delete(s.parts, dead.Token)
		if dead.Token == "" {
			s.dropUnnoted(name)
		}
		if dead.Token == "" && dead.Modify {
			f, ok := s.files[name]
			if !ok {
				return fs.ErrNotExist
			}
			obj = f.obj
			return nil
		}
		obj = s.put(name, dead.ID, content, dead.Metadata)
		return nil
	})
	return obj, err
}

// reader reads one version of a file.
type reader struct {
	store   *Store
	ctx     context.Context
	name    string
	content []byte
	closed  atomic.Bool
}

// Open implements storage.Backend.
func (s *Store) Open(ctx context.Context, name string) (storage.Reader, error) {
	r := &reader{store: s, ctx: ctx, name: name}
	err := s.do(ctx, Open, name, func() error {
		fi, err := s.stat(name)
		if err != nil {
			return err
		}
		if fi.IsDir() {
			return storage.ErrIsDirectory
		}
		r.content = s.files[name].content
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// ReadAt implements storage.Reader.
func (r *reader) ReadAt(p []byte, off int64) (n int, err error) {
	if r.closed.Load() {
		r.store.cfg.Misuse(fmt.Sprintf("ReadAt of %q after Close", r.name))
	}
	if off < 0 {
		return 0, fmt.Errorf("memory: read at %d: %w", off, fs.ErrInvalid)
	}
	err = r.store.do(r.ctx, Read, r.name, func() error {
		if off < int64(len(r.content)) {
			n = copy(p, r.content[off:])
		}
		return nil
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Close implements storage.Reader.
func (r *reader) Close() error {
	if !r.closed.CompareAndSwap(false, true) {
		return errors.New("memory: closed twice")
	}
	return nil
}
