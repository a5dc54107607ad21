package sftpd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// handlers answer what pkg/sftp's RequestServer and the front ask: everything but uploads. RequestServer's workers have no recover of their own,
// so each method here guards itself: a panic is an answer "failure" and an entry in the log, not the daemon's end. Its
// requests' attributes are read by parseAttrs alone: they may be cut.
type handlers struct {
	conn    *connection
	session *session.Session
	quota   *quota
}

func (h *handlers) table() sftp.Handlers {
	return sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}
}

// guard turns a panic into an error, and every error into what the client may hear.
func (h *handlers) guard(operation string, err *error) {
	if p := recover(); p != nil {
		h.conn.fault(h.session.Context(), operation, fmt.Errorf("panic: %v", p),
			slog.String("session-id", h.session.ID()), slog.String("stack", string(debug.Stack())))
		*err = fmt.Errorf("panic: %v", p)
	}
	*err = wireError(*err)
}

// Fileread opens a file for reading.
func (h *handlers) Fileread(r *sftp.Request) (_ io.ReaderAt, err error) {
	defer h.guard("OPEN", &err)
	if !h.quota.take() {
		return nil, errHandles
	}
	d, err := h.session.Open(r.Filepath)
	if err != nil {
		h.quota.give()
		return nil, err
	}
	return &download{h: h, file: d}, nil
}

// Filewrite is never asked: the front keeps every OPEN for writing to itself.
func (h *handlers) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, statusOf(errors.ErrUnsupported)
}

// Filecmd changes names and attributes.
func (h *handlers) Filecmd(r *sftp.Request) error {
	if r.Method == "Setstat" {
		return h.setstat(r.Filepath, append(binary.BigEndian.AppendUint32(nil, r.Flags), r.Attrs...), nil)
	}
	return h.change(r.Method, r.Filepath, r.Target)
}

// PosixRename is Filecmd for the rename that replaces.
func (h *handlers) PosixRename(r *sftp.Request) error {
	return h.change("PosixRename", r.Filepath, r.Target)
}

// change does what a method says to a path, for pkg/sftp and for the front.
func (h *handlers) change(method, path, target string) (err error) {
	defer h.guard(method, &err)
	switch method {
	case "Rename":
		return h.session.Rename(path, target) // refuses what stands (filexfer-02, 6.5)
	case "PosixRename":
		return h.session.Replace(path, target)
	case "Symlink":
		return h.session.Symlink(path, target)
	case "Link":
		return h.session.Link(path, target)
	case "Remove":
		return h.session.Remove(path)
	case "Mkdir":
		return h.session.Mkdir(path)
	case "Rmdir":
		return h.session.Rmdir(path)
	}
	return errors.ErrUnsupported
}

// setstat changes attributes, as they stand in a packet, of a path or of what set belongs to.
func (h *handlers) setstat(path string, attrs []byte, set func(storage.Attrs) error) (err error) {
	defer h.guard("SETSTAT", &err)
	if set == nil {
		set = func(a storage.Attrs) error { return h.session.SetAttrs(path, a) }
	}
	a, whole := parseAttrs(attrs)
	err = set(a)
	if errors.Is(err, errors.ErrUnsupported) {
		return h.noAttrs(path)
	}
	if err == nil && !whole {
		return fs.ErrInvalid
	}
	return err
}

// noAttrs does what SetStatOption says about SETSTAT and FSETSTAT on S3: refuse, or say yes, do nothing and log it
// (API: ProtocolDetails).
func (h *handlers) noAttrs(path string) error {
	details := h.conn.settings.Server.ProtocolDetails
	if details == nil || details.SetStatOption != "ENABLE_NO_OP" {
		return errAttributes
	}
	h.conn.event(h.session.Context(), slog.LevelInfo, "SETSTAT",
		slog.String("session-id", h.session.ID()), slog.String("path", h.session.BackendPath(path)))
	return nil
}

// RealPath makes a path absolute.
func (h *handlers) RealPath(path string) (_ string, err error) {
	defer h.guard("REALPATH", &err)
	return h.session.RealPath(path), nil
}

// Readlink is what a link says, for pkg/sftp and for the front.
func (h *handlers) Readlink(path string) (_ string, err error) {
	defer h.guard("READLINK", &err)
	return h.session.ReadLink(path)
}

// lstat is stat, but of a link itself.
func (h *handlers) lstat(path string) (_ fs.FileInfo, err error) {
	defer h.guard("LSTAT", &err)
	return h.session.Lstat(path)
}

// Lstat is lstat for pkg/sftp.
func (h *handlers) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	info, err := h.lstat(r.Filepath)
	if err != nil {
		return nil, err
	}
	return single{info}, nil
}

// stat describes a file or directory, for pkg/sftp and for the front.
func (h *handlers) stat(path string) (_ fs.FileInfo, err error) {
	defer h.guard("STAT", &err)
	return h.session.Stat(path)
}

// Filelist lists a directory or describes a file.
func (h *handlers) Filelist(r *sftp.Request) (_ sftp.ListerAt, err error) {
	defer h.guard(r.Method, &err)
	switch r.Method {
	case "Stat":
		info, err := h.stat(r.Filepath)
		if err != nil {
			return nil, err
		}
		return single{info}, nil
	case "List":
		return h.list(r.Filepath)
	}
	return nil, errors.ErrUnsupported
}

// list begins a listing. The first entry is fetched at once, so that OPENDIR fails where there is no directory.
func (h *handlers) list(path string) (sftp.ListerAt, error) {
	if !h.quota.take() {
		return nil, errHandles
	}
	next, stop := iter.Pull2(h.session.ReadDir(path))
	l := &listing{h: h, next: next, stop: stop}
	l.fetch()
	if l.err != nil && l.err != io.EOF {
		return nil, errors.Join(l.err, l.Close())
	}
	return l, nil
}

// download is a file that is open for reading.
type download struct {
	h    *handlers
	file *session.Download
}

// ReadAt is called from many goroutines.
func (d *download) ReadAt(p []byte, off int64) (n int, err error) {
	defer d.h.guard("READ", &err)
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	return d.file.ReadAt(p, off)
}

func (d *download) Close() (err error) {
	defer d.h.guard("CLOSE", &err)
	d.h.quota.give()
	return d.file.Close()
}

// listing is a directory that is open. pkg/sftp asks one thing at a time of it.
type listing struct {
	h     *handlers
	next  func() (fs.FileInfo, error, bool)
	stop  func()
	ahead fs.FileInfo // the next entry, unless err is set
	err   error
	once  sync.Once
}

func (l *listing) fetch() {
	info, err, ok := l.next()
	switch {
	case !ok:
		l.err = io.EOF
	case err != nil:
		l.err = err
	default:
		l.ahead = entry{info}
	}
}

// ListAt fills in the next entries. The offset is always where the last call ended.
func (l *listing) ListAt(entries []fs.FileInfo, _ int64) (n int, err error) {
	defer l.h.guard("READDIR", &err)
	for n < len(entries) && l.err == nil {
		entries[n] = l.ahead
		n++
		l.fetch()
	}
	if n > 0 {
		return n, nil // the error comes with the next call
	}
	return 0, l.err
}

func (l *listing) Close() (err error) {
	defer l.h.guard("CLOSE", &err)
	l.once.Do(func() {
		l.h.quota.give()
		l.stop()
	})
	return nil
}

// single describes one file.
type single struct{ info fs.FileInfo }

func (s single) ListAt(entries []fs.FileInfo, off int64) (int, error) {
	if off > 0 || len(entries) == 0 {
		return 0, io.EOF
	}
	entries[0] = entry(s)
	return 1, io.EOF
}

// entry is a file as the wire can tell it: times are 32 bits of seconds since 1970, and directories of S3 have none.
type entry struct{ info fs.FileInfo }

func (e entry) Name() string      { return e.info.Name() }
func (e entry) Size() int64       { return e.info.Size() }
func (e entry) Mode() fs.FileMode { return e.info.Mode() }
func (e entry) IsDir() bool       { return e.info.IsDir() }
func (e entry) Sys() any          { return e.info.Sys() } // owner and group, if it is a file system's
func (e entry) ModTime() time.Time {
	if t := e.info.ModTime(); t.Unix() > 0 {
		return t
	}
	return time.Unix(0, 0)
}
