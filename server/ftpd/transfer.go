package ftpd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"

	ftp "github.com/fclairamb/ftpserverlib"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

const (
	chunk     = 256 << 10 // one buffer of a transfer
	enoughTLS = 64 << 10  // worth a write: a TLS record has 16 KiB at most
	enoughTCP = 1         // TCP gives what it has
)

// buffers are shared by all transfers.
type buffers struct{ pool *sync.Pool }

func newBuffers() buffers {
	return buffers{&sync.Pool{New: func() any { return new([chunk]byte) }}}
}

func (b buffers) take() *[chunk]byte  { return b.pool.Get().(*[chunk]byte) }
func (b buffers) give(p *[chunk]byte) { b.pool.Put(p) }

// GetHandle opens a file for a transfer. REST is ours to keep, so the library's offset is always 0.
func (f *files) GetHandle(name string, flags int, _ int64) (file ftp.FileTransfer, err error) {
	defer f.c.guard("OPEN", &err)
	if flags&os.O_WRONLY == 0 {
		file, err = f.c.fetch(name)
	} else {
		file, err = f.c.store(name, flags&os.O_APPEND != 0)
	}
	if err != nil {
		return nil, f.c.refuse(err)
	}
	return file, nil
}

// fetch begins a download.
func (c *connection) fetch(name string) (ftp.FileTransfer, error) {
	if err := c.restartable(name); err != nil {
		return nil, err
	}
	file, err := c.session.Open(name)
	if err != nil {
		return nil, err
	}
	if !c.open() {
		return nil, errors.Join(fs.ErrClosed, file.Close())
	}
	return &download{c: c, file: file, off: c.offset}, nil
}

// restartable says whether a transfer may begin where REST said (RFC 3659, 5.3): what lies beyond the end is a mistake,
// the end itself is not.
func (c *connection) restartable(name string) error {
	if c.offset == 0 {
		return nil
	}
	info, err := c.session.Stat(name)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return storage.ErrIsDirectory
	case c.offset > info.Size():
		return errBeyond
	}
	return nil
}

// errBeyond is RFC 959's answer to a bad restart point.
var errBeyond = failure{554, "The restart point lies beyond the end of the file."}

// store begins an upload. One that writes a file anew opens nothing yet: without a data connection there is none. One that
// goes on with a file asks the storage now, so that nobody sends gigabytes in vain.
func (c *connection) store(name string, appending bool) (ftp.FileTransfer, error) {
	u := &upload{c: c, path: name, off: c.offset, options: session.CreateOptions{
		Append: appending, Modify: c.offset > 0, Truncate: !appending && c.offset == 0, Declared: c.declared.Swap(0),
	}}
	if err := c.restartable(name); err != nil {
		return nil, err
	}
	if !u.options.Truncate {
		if err := u.open(); err != nil {
			return nil, err
		}
	}
	if !c.open() {
		return nil, errors.Join(fs.ErrClosed, u.drop())
	}
	c.change(func(s *connectionState) {
		u.options.Exclusive = s.verb == "STOU"
		s.current = u
	})
	return u, nil
}

// upload is a file that a client sends. One goroutine of the library's uses it; what the verdict needs is guarded by the
// connection's mu.
type upload struct {
	c       *connection
	path    string
	options session.CreateOptions
	off     int64            // where it begins
	file    *session.File    // nil before the data connection is there, unless it goes on with a file
	refused error            // of the storage: it was told, nothing is left
	cut     session.Evidence // how the stream broke, "" if it ended
	unsaid  bool             // TLS's own end was missing

	// For the verdict (verdict.go).
	aborted bool // ABOR came before the final reply
	replied bool // the final reply is being written
	good    bool // and says that the file arrived
	written bool // the writing has returned
	lost    bool // with an error
	lines   int  // commands that had come by then
}

// ReadFrom takes all of an upload. The library's copy loop calls it with the data connection.
func (u *upload) ReadFrom(r io.Reader) (n int64, err error) {
	defer u.c.guard("WRITE", &err)
	d, ok := r.(*data)
	if !ok {
		return 0, u.c.refuse(fmt.Errorf("data connection is a %T", r))
	}
	defer d.taken()
	if err := d.ready(); err != nil {
		d.discard()
		return 0, u.c.refuse(err)
	}
	if err := u.ready(); err != nil {
		d.discard()
		return 0, u.c.refuse(err)
	}
	n, err = u.take(d)
	if d.taken() {
		err = net.ErrClosed // also if the client's end came first: nobody took it for one
	}
	switch {
	case u.refused != nil:
		return n, u.c.refuse(u.refused)
	case err != nil:
		u.cut = u.why(err)
		return n, u.c.refuse(u.c.broken(err))
	}
	u.unsaid = !d.closed()
	return n, nil
}

// ready opens the file if that has not been done.
func (u *upload) ready() error {
	if u.file != nil {
		return nil
	}
	return u.open()
}

func (u *upload) open() error {
	file, err := u.c.session.Create(u.path, u.options)
	switch {
	case errors.Is(err, errors.ErrUnsupported) && !u.options.Truncate:
		return failure{504, "This storage cannot go on with a file: send the whole file."}
	case err != nil:
		return err
	}
	u.file = file
	if u.off > file.Size() { // it was longer a moment ago
		return errors.Join(errBeyond, u.drop())
	}
	return nil
}

// drop gives up a file before its first byte: what stands stays as it is.
func (u *upload) drop() error {
	if u.file == nil {
		return nil
	}
	file := u.file
	u.file = nil
	return file.Settle(session.Partial, session.Reset)
}

// take moves the bytes. The error is the connection's; the storage's is in refused.
func (u *upload) take(d *data) (n int64, err error) {
	b := u.c.buffers.take()
	defer u.c.buffers.give(b)
	enough := enoughTCP
	if u.c.protected.Load() {
		enough = enoughTLS
	}
	for {
		got, err := d.receive(b[:], enough)
		if got > 0 {
			m, failed := u.file.WriteAt(b[:got], u.off+n)
			n += int64(m)
			if failed != nil {
				return n, u.stopped(failed)
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// stopped tells a write that the session's end cut off from one that the storage refused.
func (u *upload) stopped(err error) error {
	if u.c.session.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return err
	}
	u.refused = err
	return nil
}

// why is the evidence of a broken stream. Closing the data connection is how an ABOR and the end of the control connection
// arrive, so those come first.
func (u *upload) why(err error) session.Evidence {
	c := u.c
	s, _ := c.look()
	c.mu.Lock()
	aborted := u.aborted
	c.mu.Unlock()
	switch {
	case s.cut != "":
		return s.cut
	case isTimeout(err):
		return session.Timeout
	case aborted:
		return session.Abort
	case errors.Is(err, net.ErrClosed) && c.control.ending() != nil:
		return session.ControlLost
	}
	return session.Reset
}

// Write is called without bytes after an upload that had none.
func (u *upload) Write(p []byte) (int, error) {
	if len(p) > 0 {
		return 0, u.c.refuse(errors.ErrUnsupported)
	}
	return 0, nil
}

// TransferError is the library's word for a transfer that failed. After ReadFrom it says nothing new.
func (u *upload) TransferError(err error) {
	if u.file != nil && u.cut == "" && u.refused == nil {
		u.cut = u.why(err)
	}
}

// Close ends an upload before the final reply: the bytes are committed. What kind of end it was is decided after that
// reply (verdict.go), unless the stream has told it.
func (u *upload) Close() (err error) {
	defer u.c.closed()
	defer u.c.guard("CLOSE", &err)
	if s, _ := u.c.look(); s.data != nil {
		s.data.taken() // if ReadFrom has not come to it
	}
	switch {
	case u.file == nil:
		return nil
	case u.refused != nil:
		return u.file.Close() // the session has made it final; this waits for it
	case u.cut != "":
		return u.file.Settle(session.Partial, u.cut)
	}
	if err := u.file.Commit(); err != nil {
		return u.c.refuse(err)
	}
	u.c.change(func(s *connectionState) {
		s.waiting = u
		s.judging++
	})
	u.c.judges.Go(u.judge)
	return nil
}

// Read and Seek belong to downloads.
func (u *upload) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// Seek is never called: the library does not know of REST.
func (u *upload) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }

// download is a file that a client fetches.
type download struct {
	c    *connection
	file *session.Download
	off  int64
	// broken says that the transfer failed.
	broken bool
}

// WriteTo sends all of a download. The library's copy loop calls it with the data connection.
func (o *download) WriteTo(w io.Writer) (n int64, err error) {
	defer func() { o.broken = err != nil }()
	defer o.c.guard("READ", &err)
	d, ok := w.(*data)
	if !ok {
		return 0, o.c.refuse(fmt.Errorf("data connection is a %T", w))
	}
	if err := d.ready(); err != nil {
		return 0, o.c.refuse(err)
	}
	b := o.c.buffers.take()
	defer o.c.buffers.give(b)
	for {
		m, err := o.file.ReadAt(b[:], o.off)
		if m > 0 {
			if err := d.send(b[:m]); err != nil {
				return n, o.c.refuse(o.c.broken(err))
			}
			o.off, n = o.off+int64(m), n+int64(m)
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, o.c.refuse(err)
		}
	}
}

// Seek is never called: the library does not know of REST.
func (o *download) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }

// Close ends a download.
func (o *download) Close() error {
	defer o.c.closed()
	if o.broken {
		o.file.Abandon(session.Reset)
		return nil
	}
	if err := o.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		o.c.Log.LogAttrs(o.c.ctx, slog.LevelWarn, "close download", slog.String("error", err.Error()))
	}
	return nil
}

// Read and Write are not used: WriteTo has it all.
func (o *download) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

func (o *download) Write(p []byte) (int, error) {
	if len(p) > 0 {
		return 0, errors.ErrUnsupported
	}
	return 0, nil
}
