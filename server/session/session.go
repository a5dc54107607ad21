// Package session holds the open files of a connected client and gives each upload its verdict. It is the journal's
// customer.
//
// The order that survives any crash: the journal's Begin, the bytes, the storage's Commit, the journal's End, and only
// then the client's answer. Whatever was begun and not ended is a partial upload, and Recover gives it that verdict. Where
// the verdict depends on what the client does with the answer, the journal's Committed stands before the answer and End
// after it (File.Commit and File.Settle); a crash between the two counts as complete.
//
// It knows nothing of the wire, of workflows or of SQL: a protocol calls it, it calls vfs and the Journal.
package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server/vfs"
	"github.com/transferd/transferd/storage"
)

// Session is one client that has logged in. It may be used from many goroutines.
type Session struct {
	m        *Manager
	id       string
	info     Info
	fs       *vfs.FS
	log      *slog.Logger
	began    time.Time
	ctx      context.Context
	cancel   context.CancelFunc
	bytesIn  prometheus.Counter
	bytesOut prometheus.Counter

	writing   atomic.Int32 // WriteAts to the storage that are under way
	unblocked atomic.Int64 // when the last one of them returned that had to wait, in nanoseconds; 0 if none had

	mu        sync.Mutex // guards what follows
	ending    bool
	evidence  Evidence // of its end
	opened    int      // files opened so far: gives each its turn
	files     map[*File]struct{}
	downloads map[*Download]struct{}

	ended chan struct{} // closed when End has done its work
}

// CreateOptions say how a client opened a file for writing.
type CreateOptions struct {
	// Exclusive refuses to replace a file: Create gives fs.ErrExist if one stands, Close if one came meanwhile.
	Exclusive bool
	// Append writes whatever comes to the end of what stands, in the order in which it comes. The offsets that the client
	// names are ignored, as POSIX has it for O_APPEND. errors.ErrUnsupported if the store cannot.
	Append bool
	// Modify keeps what stands and writes to the offsets that the client names: an interrupted upload goes on.
	// errors.ErrUnsupported if the store cannot. Where no file stands, Append and Modify begin an ordinary upload.
	Modify bool
	// Ambiguous goes with Modify: the protocol cannot tell a client that changes a file from one that writes it anew
	// (SFTP's OPEN without TRUNC, which is what scp says). Where a store changes files anywhere, it is a change. Where it
	// does not, the first write decides: at 0 the file is written anew, elsewhere it is changed, if the store can do so.
	Ambiguous bool
	// Truncate is what happens anyway unless Append or Modify is set: an upload replaces the file when it is committed.
	// With Truncate nothing is kept whatever else is set.
	Truncate bool
	// Declared is how large the client said the file would be, 0 if it did not say.
	Declared int64
	// Mode is what the client wants a file that it makes to have, 0 if it did not say. Stores without modes ignore it.
	Mode fs.FileMode
}

// umask is what Mode is never: a file that others may write takes a SETSTAT.
const umask = 0o022

// mode is how AWS's logs would say it (transfer-api 8.2); they know the first only.
func (o CreateOptions) mode() string {
	switch {
	case o.Append && !o.Truncate:
		return "CREATE|APPEND|WRITE"
	case o.Modify && !o.Truncate:
		return "CREATE|WRITE"
	}
	return "CREATE|TRUNCATE|WRITE"
}

// ID is the session's id as the logs show it.
func (s *Session) ID() string { return s.id }

// Info says whose session it is.
func (s *Session) Info() Info { return s.info }

// Context is cancelled when the session ends.
func (s *Session) Context() context.Context { return s.ctx }

// RealPath is the absolute form of a client's path.
func (s *Session) RealPath(p string) string { return s.fs.RealPath(p) }

// BackendPath is where a path really lies, /bucket/key, as AWS's logs write it even for logical users
// (transfer-api 8.2). What lies in no store is written as the client sees it.
func (s *Session) BackendPath(p string) string {
	loc, err := s.fs.Locate(p)
	if err != nil {
		return s.fs.RealPath(p)
	}
	return loc.Path()
}

// Create begins an upload. Nothing of it shows before Close, or before the session ends with the file open. Several
// uploads to one path may be open at once: each is an upload of its own with its own verdict, and the last to be
// committed stays, but what one session opens again to change it is the upload that is under way. One that changes what stands and gets no byte is no upload: it has no verdict and the file stays.
func (s *Session) Create(p string, opt CreateOptions) (*File, error) {
	f, err := s.create(p, opt)
	if err != nil {
		s.failed("OPEN", p, err)
		return nil, err
	}
	s.event("OPEN", slog.String("mode", opt.mode()), slog.String("path", f.row.Location.Path()),
		slog.String("upload-id", f.row.ID))
	return f, nil
}

func (s *Session) create(p string, opt CreateOptions) (*File, error) {
	loc, err := s.fs.Locate(p)
	if err != nil {
		return nil, err
	}
	if s.m.cfg.Unsettled(loc) {
		return nil, fmt.Errorf("an earlier upload awaits recovery: %w", storage.ErrUnavailable)
	}
	if f := s.join(p, opt); f != nil {
		return f, nil
	}
	f := &File{s: s, path: s.fs.RealPath(p), opens: 1, declared: opt.Declared, append: opt.Append && !opt.Truncate, excl: opt.Exclusive, row: Upload{
		ID: s.m.newUploadID(), Node: s.m.cfg.Node, Server: s.info.Server, User: s.info.User, Session: s.id,
		Protocol: s.info.Protocol, SourceIP: s.info.SourceIP, Location: loc, Began: s.m.cfg.Now(),
		Identity: s.fs.Identity(), Exclusive: opt.Exclusive,
	}}
	if opt.Exclusive {
		if _, err := s.Stat(p); err == nil {
			return nil, &fs.PathError{Op: "create", Path: p, Err: fs.ErrExist}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if (opt.Append || opt.Modify) && !opt.Truncate {
		if err := s.keep(f, opt); err != nil {
			return nil, err
		}
	}
	s.mode(f, opt)
	if !f.undecided {
		if err := f.open(); err != nil {
			return nil, err
		}
	}
	if !s.hold(f) {
		return nil, errors.Join(fs.ErrClosed, f.abort())
	}
	return f, nil
}

// join finds the upload of this session to a path that a client opens once more without cutting it off: then it writes
// one file through several handles, segments of it perhaps, and that is one upload, which ends with the last of them.
func (s *Session) join(p string, opt CreateOptions) *File {
	if opt.Exclusive || opt.Truncate || !opt.Append && !opt.Modify {
		return nil
	}
	f := s.uploading(s.fs.RealPath(p))
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.failure != nil || f.append != opt.Append {
		return nil
	}
	f.opens++
	return f
}

// keep looks at what stands at a file's path, whose client did not ask to replace it.
func (s *Session) keep(f *File, opt CreateOptions) error {
	info, err := s.fs.Stat(s.ctx, f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission) && opt.Ambiguous && !opt.Append:
		return nil // the user may not know what stands: scp must do without, and whoever changes a file cannot
	case err != nil:
		return err
	case info.IsDir():
		return &fs.PathError{Op: "create", Path: f.path, Err: storage.ErrIsDirectory}
	}
	can, anywhere, err := s.fs.CanModify(s.ctx, f.path)
	switch {
	case err != nil:
		return err
	case opt.Ambiguous && !opt.Append && !anywhere:
		f.undecided = true
	case !can && info.Size() == 0:
		return nil // what is written anew ends no different
	case !can:
		return &fs.PathError{Op: "modify", Path: f.path, Err: errors.ErrUnsupported}
	}
	f.row.Modify, f.row.Base = true, info.Size()
	f.size.Store(info.Size())
	f.got.end = info.Size()
	return nil
}

// mode notes what the client wants a file that it makes to have.
func (s *Session) mode(f *File, opt CreateOptions) {
	if opt.Mode == 0 || f.row.Modify || !s.fs.HasAttrs(s.ctx, f.path) {
		return
	}
	if _, err := s.fs.Stat(s.ctx, f.path); errors.Is(err, fs.ErrNotExist) {
		mode := opt.Mode.Perm() &^ umask
		f.attrs.Mode = &mode
	}
}

// metadata is what a file carries beside it, after AWS's user-agent and user-agent-id (transfer-api 3.3).
func metadata(u Upload) map[string]string {
	return map[string]string{"user-agent": "transferd", "user-agent-id": u.User + "@" + string(u.Server)}
}

// Open opens a file for reading.
func (s *Session) Open(p string) (*Download, error) {
	r, err := s.fs.Open(s.ctx, p)
	if err == nil {
		d := &Download{s: s, path: s.fs.RealPath(p), deed: s.deed(Downloaded, p), r: r}
		if s.wants(Downloaded) && d.deed.ID != "" {
			d.told = make(chan struct{})
		}
		if s.holdDownload(d) {
			d.tell()
			s.event("OPEN", slog.String("mode", "READ"), slog.String("path", d.deed.Path))
			return d, nil
		}
		err = errors.Join(fs.ErrClosed, r.Close())
	}
	s.failed("OPEN", p, err)
	return nil, err
}

// Stat describes a file or directory. A file that this session is uploading answers its size so far, the one opened last
// if there are several: clients look while they write (protocol-libraries B).
func (s *Session) Stat(p string) (fs.FileInfo, error) {
	if f := s.uploading(s.fs.RealPath(p)); f != nil {
		return uploadInfo{name: path.Base(f.path), size: f.Size(), began: f.row.Began}, nil
	}
	return s.fs.Stat(s.ctx, p)
}

// ReadDir yields a directory's entries. Uploads that are under way are not among them, as on S3.
func (s *Session) ReadDir(p string) iter.Seq2[fs.FileInfo, error] { return s.fs.ReadDir(s.ctx, p) }

// Mkdir makes a directory.
func (s *Session) Mkdir(p string) error { return s.change("MKDIR", p, s.fs.Mkdir) }

// Remove deletes a file. Like Rename it sees what is committed: a file that is being uploaded for the first time is not
// there yet (fs.ErrNotExist), an older one at its path goes and the upload takes its place later, as on S3.
func (s *Session) Remove(p string) error {
	at, lost := s.fs.Locate(p)
	if err := s.change("DELETE", p, s.fs.Remove); err != nil {
		return err
	}
	if lost == nil {
		s.m.temps.removed(at)
	}
	return nil
}

// Rmdir deletes an empty directory.
func (s *Session) Rmdir(p string) error { return s.change("RMDIR", p, s.fs.Rmdir) }

func (s *Session) change(event, p string, do func(context.Context, string) error) error {
	deed := s.deed(DeedKind(event), p)
	if err := s.perform(deed, func() error { return do(s.ctx, p) }); err != nil {
		s.failed(event, p, err)
		return err
	}
	s.event(event, slog.String("path", deed.Path))
	return nil
}

// Rename moves a file that is committed. A rename is no upload: no workflow starts (transfer-api 5.7). But an upload whose
// verdict waits for its rename (Config.TempNames) has it before this returns.
func (s *Session) Rename(oldPath, newPath string) error {
	return s.rename(oldPath, newPath, s.fs.Rename)
}

// Replace is Rename, but a file that stands at the new path is replaced, where the store can do that.
func (s *Session) Replace(oldPath, newPath string) error {
	return s.rename(oldPath, newPath, s.fs.Replace)
}

func (s *Session) rename(oldPath, newPath string, how func(ctx context.Context, oldPath, newPath string) error) error {
	to, err := s.fs.Locate(newPath)
	if err == nil && s.m.cfg.Unsettled(to) {
		return fmt.Errorf("an earlier upload awaits recovery: %w", storage.ErrUnavailable)
	}
	do := func() error { return how(s.ctx, oldPath, newPath) }
	var t *temp
	if from, lost := s.fs.Locate(oldPath); lost == nil && err == nil {
		if t, err = s.waiting(from, oldPath); err != nil {
			s.failed("RENAME", oldPath, err)
			return err
		}
	}
	deed := s.deed(Renamed, oldPath)
	deed.NewPath, deed.To = s.BackendPath(newPath), to
	if err := s.perform(deed, func() error {
		if t != nil {
			return s.renameTemp(t, to, newPath, do)
		}
		return do()
	}); err != nil {
		s.failed("RENAME", oldPath, err)
		return err
	}
	s.event("RENAME", slog.String("path", deed.Path), slog.String("new-path", deed.NewPath))
	return nil
}

// End ends the session: every upload that is open becomes partial with this evidence. A Close that has begun is waited
// for and stays complete, because the client's CLOSE had come; a protocol that calls Close in goroutines of its own
// waits until they have begun, or better ended, before it calls End. A protocol that calls Commit settles before End: what
// is committed and not settled becomes partial too, since nobody knows that the client took the answer.
//
// It returns when all verdicts are durable, or when their time is up: that was logged, the journal's row stays open, and
// recovery ends it. A second End waits for the first.
func (s *Session) End(evidence Evidence) {
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		<-s.ended
		return
	}
	s.ending, s.evidence = true, evidence
	files := make([]*File, 0, len(s.files))
	for f := range s.files {
		files = append(files, f)
	}
	downloads := make([]*Download, 0, len(s.downloads))
	for d := range s.downloads {
		downloads = append(downloads, d)
	}
	s.mu.Unlock()

	s.cancel() // releases a WriteAt or ReadAt that is blocked
	var all sync.WaitGroup
	for _, f := range files {
		all.Add(1)
		s.m.spawn(func() { defer all.Done(); f.cut(evidence) })
	}
	for _, d := range downloads {
		all.Add(1)
		s.m.spawn(func() { defer all.Done(); d.cut(evidence) })
	}
	s.await(&all, len(files))
	close(s.ended)
	s.m.leave(s)
}

// why is the evidence of the session's end.
func (s *Session) why() Evidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evidence
}

// await waits for the files, but not for ever: a store that sits in a WriteAt, deaf to its context, must not hold the
// protocol's goroutines too.
func (s *Session) await(all *sync.WaitGroup, files int) {
	done := make(chan struct{})
	s.m.spawn(func() { all.Wait(); close(done) })
	limit := time.NewTimer(s.m.cfg.CommitTimeout + 3*s.m.cfg.JournalTimeout)
	defer limit.Stop()
	select {
	case <-done:
	case <-limit.C:
		s.log.Error("session ended before its uploads did: their verdicts come late or by recovery",
			"operation", "END", "files", strconv.Itoa(files))
	}
}

// hold takes in an upload; false when the session is over.
func (s *Session) hold(f *File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.opened++
	f.turn = s.opened
	s.files[f] = struct{}{}
	s.m.cfg.Metrics.openFiles.Inc()
	return true
}

func (s *Session) release(f *File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, held := s.files[f]; held {
		delete(s.files, f)
		s.m.cfg.Metrics.openFiles.Dec()
	}
}

func (s *Session) holdDownload(d *Download) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.downloads[d] = struct{}{}
	s.m.cfg.Metrics.openFiles.Inc()
	return true
}

func (s *Session) releaseDownload(d *Download) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, held := s.downloads[d]; held {
		delete(s.downloads, d)
		s.m.cfg.Metrics.openFiles.Dec()
	}
}

// uploading finds the upload to a path that was opened last.
func (s *Session) uploading(realPath string) *File {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last *File
	for f := range s.files {
		if f.path == realPath && !f.stored.Load() && (last == nil || f.turn > last.turn) {
			last = f
		}
	}
	return last
}

func (s *Session) openFiles() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files) + len(s.downloads)
}

// event logs what a client did, under AWS's names; all values are strings (transfer-api 8.2).
func (s *Session) event(activity string, attrs ...slog.Attr) {
	entry(s.log, slog.LevelInfo, activity, attrs...)
}

// failed logs what a client could not do. The cause is for whoever runs the daemon.
func (s *Session) failed(operation, p string, err error, attrs ...slog.Attr) {
	attrs = append(attrs, slog.String("operation", operation), slog.String("path", s.BackendPath(p)),
		slog.String("message", message(err)), slog.String("error", err.Error()))
	entry(s.log, slog.LevelWarn, "ERROR", attrs...)
}

func entry(log *slog.Logger, level slog.Level, activity string, attrs ...slog.Attr) {
	log.LogAttrs(context.Background(), level, activity, append(attrs, slog.String("activity-type", activity))...)
}

// message is our word for an error.
func message(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "No such file"
	case errors.Is(err, fs.ErrExist):
		return "File already exists"
	case errors.Is(err, fs.ErrPermission):
		return "Access denied"
	case errors.Is(err, storage.ErrNotEmpty):
		return "Directory not empty"
	case errors.Is(err, storage.ErrIsDirectory):
		return "Is a directory"
	case errors.Is(err, storage.ErrRandomAccess):
		return "AWS Transfer does not support random access writes to S3 objects."
	case errors.Is(err, storage.ErrTooLarge):
		return "File too large"
	case errors.Is(err, storage.ErrQuota):
		return "Quota exceeded"
	case errors.Is(err, storage.ErrNoSpace):
		return "No space left"
	case errors.Is(err, errors.ErrUnsupported):
		return "Operation not supported"
	case errors.Is(err, fs.ErrInvalid):
		return "Invalid argument"
	case errors.Is(err, fs.ErrClosed), errors.Is(err, context.Canceled):
		return "Session ended"
	}
	return "Service unavailable"
}
