package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// Our own refusals.
var (
	errHandles    = status{codeFailure, "Too many open files in this session"}
	errStopping   = status{codeFailure, "Server is stopping"}
	errHandle     = status{codeFailure, "Invalid handle"}
	errOpenFlags  = status{codeUnsupported, "Unsupported open flags"}
	errPathLength = status{codeFailure, "File name too long"}
	errAttributes = status{codeUnsupported, "File attributes cannot be set (SetStatOption is DEFAULT)"}
)

// file is what the front asks of a session.File.
type file interface {
	WriteAt(p []byte, off int64) (int, error)
	// Close returns when the file is committed and its verdict durable.
	Close() error
	Size() int64
	SetAttrs(a storage.Attrs) error
	// Readable says whether what stands at the path is what the upload is so far.
	Readable() bool
}

// upload is one open upload handle.
type upload struct {
	file   file
	path   string // as the client wrote it
	opened time.Time
	failed error  // the first error of a WRITE: everything after it fails too
	reads  bool   // opened for reading too
	reader reader // what it reads with, from the first READ on
}

// reader is what the front asks of a session.Download.
type reader interface {
	io.ReaderAt
	io.Closer
}

// uploads are the upload handles of a session. Only the front's goroutine touches the table; what ends an upload runs in
// other goroutines. Handles are a "w" and a number: pkg/sftp's are bare numbers.
type uploads struct {
	open    map[string]*upload
	last    uint64
	closing []closing
	ends    sync.WaitGroup
}

// quota counts the open handles of a session, those of pkg/sftp too.
type quota struct {
	mu        sync.Mutex
	max, used int
}

func (q *quota) take() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used >= q.max {
		return false
	}
	q.used++
	return true
}

func (q *quota) give() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used--
}

// open answers OPEN for writing; for reading it is the bridge's.
func (f *front) open(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, path, flags := d.uint32(), d.bytes(), d.uint32()
	if d.short {
		return errMalformed
	}
	if flags&(openWrite|openAppend|openCreate|openTrunc) == 0 {
		return f.forward(packet)
	}
	attrs, _ := parseAttrs(d.rest) // of a file that is made: what is cut says nothing
	handle, err := f.create(string(path), flags, attrs)
	if err != nil {
		return f.out.status(id, statusOf(err))
	}
	body := binary.BigEndian.AppendUint32(nil, uint32(len(handle)))
	return f.out.packet(fxpHandle, id, append(body, handle...)...)
}

// create opens an upload. With TRUNC, what stands at the path is replaced when the upload is committed. Without, it is
// changed, if the store can do that; scp leaves TRUNC out and means a file written anew, so where the store cannot
// change files anywhere, the first write tells. APPEND goes to the end whatever the offsets are: OpenSSH's reput says it
// and sends offsets all the same. Many libraries (pkg/sftp's Create for one) ask for READ too when they make a file; the
// handle is an upload's all the same, and a READ on it sees what stands at the path while that is what the upload is.
func (f *front) create(path string, flags uint32, attrs storage.Attrs) (string, error) {
	switch {
	case flags&openWrite == 0:
		return "", errOpenFlags
	case !f.quota.take():
		return "", errHandles
	}
	if !f.uploadBegins() {
		f.quota.give()
		return "", errStopping
	}
	file, err := f.createFile(path, flags, attrs)
	if err != nil {
		f.quota.give()
		f.uploadEnds()
		return "", err
	}
	f.uploads.last++
	handle := "w" + strconv.FormatUint(f.uploads.last, 10)
	f.uploads.open[handle] = &upload{file: file, path: path, opened: f.now(), reads: flags&openRead != 0}
	return handle, nil
}

func (f *front) createFile(path string, flags uint32, attrs storage.Attrs) (file, error) {
	if flags&openCreate == 0 { // "CREAT must also be specified" for a file to be made (filexfer-02, 6.3)
		if _, err := f.stat(path); err != nil {
			return nil, err
		}
	}
	opt := session.CreateOptions{
		Exclusive: flags&openExcl != 0,
		Append:    flags&openAppend != 0,
		Modify:    flags&openTrunc == 0,
		Ambiguous: flags&openRead == 0,
		Truncate:  flags&openTrunc != 0,
	}
	if attrs.Size != nil {
		opt.Declared = *attrs.Size
	}
	if attrs.Mode != nil {
		opt.Mode = *attrs.Mode
	}
	return f.createUpload(path, opt)
}

// write answers WRITE. This is the hot path: it runs in the order of the packets and allocates nothing.
func (f *front) write(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, handle, off, data := d.uint32(), d.bytes(), d.uint64(), d.bytes()
	if d.short { // what follows the data is passed over, as OpenSSH does: rclone sends short blocks in full-size packets
		return errMalformed
	}
	u := f.uploads.open[string(handle)]
	if u == nil {
		return f.out.status(id, errHandle)
	}
	if u.failed == nil {
		if err := f.writeFile(u, data, off); err != nil {
			return err
		}
	}
	return f.out.status(id, statusOf(u.failed))
}

// writeFile hands bytes to the session. Its own error means that the session is over.
func (f *front) writeFile(u *upload, data []byte, off uint64) error {
	// An offset that no file can have is the storage's to refuse, as one that is merely too far: then the upload is
	// refused as a whole, and not committed without these bytes.
	off = min(off, math.MaxInt64-uint64(len(data)))
	_, u.failed = u.file.WriteAt(data, int64(off))
	if u.failed != nil && f.over() {
		// The session's end released the write. A CLOSE that waits behind it must not make a whole file of this one.
		return errOver
	}
	return nil
}

// read answers READ of an upload that was opened for reading too, as sshfs does whenever a program may do both.
func (f *front) read(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, handle, off, length := d.uint32(), d.bytes(), d.uint64(), d.uint32()
	u := f.uploads.open[string(handle)]
	if u == nil {
		return f.other(packet)
	}
	data := make([]byte, min(length, maxData))
	n, err := f.readFile(u, data, off)
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return f.out.status(id, status{codeEOF, "End of file"})
	case n == 0 && err != nil:
		return f.out.status(id, statusOf(err))
	}
	body := binary.BigEndian.AppendUint32(nil, uint32(n))
	return f.out.packet(fxpData, id, append(body, data[:n]...)...)
}

func (f *front) readFile(u *upload, data []byte, off uint64) (int, error) {
	switch {
	case !u.reads:
		return 0, fs.ErrPermission
	case off > math.MaxInt64:
		return 0, fs.ErrInvalid
	case !u.file.Readable():
		return 0, errors.ErrUnsupported
	}
	if u.reader == nil {
		r, err := f.openFile(u.path)
		if err != nil {
			return 0, err
		}
		u.reader = r
	}
	return u.reader.ReadAt(data, int64(off))
}

// endReads closes what a READ has opened.
func (u *upload) endReads() error {
	if u.reader == nil {
		return nil
	}
	return u.reader.Close()
}

// close answers CLOSE of an upload, in another goroutine: only when the storage has committed and the verdict is durable, and
// meanwhile the session goes on.
func (f *front) close(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, handle := d.uint32(), d.bytes()
	u := f.uploads.open[string(handle)]
	if u == nil {
		return f.forward(packet)
	}
	delete(f.uploads.open, string(handle))
	ended := f.uploads.begin(u.path)
	f.uploads.ends.Add(1)
	f.work(func() {
		defer f.uploads.ends.Done()
		defer close(ended)
		defer f.uploadEnds()
		defer f.quota.give()
		err := errors.Join(u.endReads(), u.file.Close())
		if u.failed != nil {
			err = u.failed
		}
		// An error means that the client is gone; the verdict stands without it.
		if f.out.status(id, statusOf(err)) == nil {
			_ = f.out.flush()
		}
	})
	return nil
}

// fstat answers FSTAT of an upload with its size so far.
func (f *front) fstat(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, handle := d.uint32(), d.bytes()
	u := f.uploads.open[string(handle)]
	if u == nil {
		return f.forward(packet)
	}
	return f.attrs(id, uploadInfo{size: u.file.Size(), began: u.opened})
}

// uploadInfo describes an upload so far.
type uploadInfo struct {
	size  int64
	began time.Time
}

func (i uploadInfo) Name() string       { return "" }
func (i uploadInfo) Size() int64        { return i.size }
func (i uploadInfo) Mode() fs.FileMode  { return 0o644 }
func (i uploadInfo) ModTime() time.Time { return i.began }
func (i uploadInfo) IsDir() bool        { return false }
func (i uploadInfo) Sys() any           { return nil }

// fsetstat answers FSETSTAT of an upload. It does so here, and not over the bridge, so that no WRITE can overtake it.
func (f *front) fsetstat(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, handle := d.uint32(), d.bytes()
	u := f.uploads.open[string(handle)]
	if u == nil {
		return f.forward(packet)
	}
	return f.out.status(id, statusOf(f.setstat(u.path, d.rest, u.file.SetAttrs)))
}

// fsync answers fsync@openssh.com: yes once every WRITE before it was taken. What makes a file durable is CLOSE; before
// it there is nothing at the name that could be kept.
func (f *front) fsync(id uint32, handle []byte) error {
	u := f.uploads.open[string(handle)]
	if u == nil {
		return f.out.status(id, errHandle)
	}
	return f.out.status(id, statusOf(u.failed))
}

// abandon forgets the uploads that are open at the end: the session gives them their verdict.
func (f *front) abandon() {
	for handle := range f.uploads.open {
		delete(f.uploads.open, handle)
		f.quota.give()
	}
}
