package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

var (
	// errOver says that the session ended while a packet was being worked on.
	errOver = errors.New("session is over")
	// errOrder says that a client did not begin with INIT, or said it twice.
	errOrder = errors.New("INIT at the wrong place")
)

// The extensions that we name in VERSION (OpenSSH's PROTOCOL, 4).
const (
	extLimits      = "limits@openssh.com"
	extFsync       = "fsync@openssh.com"
	extPosixRename = "posix-rename@openssh.com"
	extHardlink    = "hardlink@openssh.com"
	extStatvfs     = "statvfs@openssh.com"
)

// backing is what a front works on: a session and its connection, seen from the packets.
type backing struct {
	createUpload func(path string, opt session.CreateOptions) (file, error)
	openFile     func(path string) (reader, error)
	realPath     func(path string) (string, error)
	readLink     func(path string) (string, error)
	stat, lstat  func(path string) (fs.FileInfo, error)
	hasStatfs    func() bool
	statfs       func(path string) (storage.Statfs, error)
	change       func(method, path, target string) error // names
	// setstat changes attributes, as they stand in the packet; of an upload through its own set.
	setstat      func(path string, attrs []byte, set func(storage.Attrs) error) error
	over         func() bool // the session has ended
	uploadBegins func() bool // false: no new uploads
	uploadEnds   func()
	used         func() // a packet came or went
	now          func() time.Time
	bulk         func(bool)     // told before each read whether uploads are open
	bridge       func() *bridge // made at a packet that needs it
	work         func(func())   // in another goroutine
}

// front reads the packets of one channel. run is one goroutine; only the ends of uploads and the bridge have their own.
type front struct {
	backing
	in      *input
	out     *replies
	quota   *quota
	uploads uploads
	begun   bool
	others  *bridge // nil until the first packet that is not ours
	serving sync.WaitGroup
}

func newFront(ch io.ReadWriter, spare buffers, q *quota, b backing) *front {
	return &front{
		backing: b,
		in:      newInput(ch, spare),
		out:     &replies{dst: ch, sent: b.used},
		quota:   q,
		uploads: uploads{open: map[string]*upload{}},
	}
}

// run answers packets until the channel ends (io.EOF), or something is wrong with it. Replies go out when no whole
// packet is left to answer.
func (f *front) run() error {
	defer f.in.release()
	for {
		packet, err := f.in.next()
		if err == nil && packet != nil {
			err = f.dispatch(packet)
		} else if err == nil {
			if err = f.out.flush(); err == nil {
				err = f.fill()
			}
			f.used()
		}
		if err != nil {
			return err
		}
	}
}

// fill waits for more, without uploads with as little memory as may be.
func (f *front) fill() error {
	uploading := len(f.uploads.open) > 0
	f.bulk(uploading)
	if !uploading {
		f.out.trim()
	}
	return f.in.fill(uploading)
}

// dispatch answers one packet or hands it over.
func (f *front) dispatch(packet []byte) error {
	if (packet[0] == fxpInit) == f.begun {
		return errOrder
	}
	switch packet[0] {
	case fxpWrite:
		return f.write(packet)
	case fxpInit:
		return f.init(packet)
	}
	if packet[0] == fxpExtended {
		return f.extended(packet)
	}
	longest, ok := wellFormed(packet)
	switch {
	case !ok:
		return errMalformed
	case longest > maxPath:
		return f.out.status(binary.BigEndian.Uint32(packet[1:]), errPathLength)
	}
	if err := f.order(packet); err != nil {
		return err
	}
	switch packet[0] {
	case fxpOpen:
		return f.open(packet)
	case fxpClose:
		return f.close(packet)
	case fxpRead:
		return f.read(packet)
	case fxpFstat:
		return f.fstat(packet)
	case fxpFsetstat:
		return f.fsetstat(packet)
	}
	return f.other(packet)
}

// init answers INIT with VERSION, the version that both speak and our extensions (filexfer-02, 4).
func (f *front) init(packet []byte) error {
	d := fields{rest: packet[1:]}
	if d.uint32() < 3 || d.short {
		return errMalformed // nobody speaks less than version 3 any more
	}
	f.begun = true
	var body []byte
	names := []string{extLimits, "1", extFsync, "1", extPosixRename, "1", extHardlink, "1"}
	if f.hasStatfs() { // else clients such as sshfs make up an answer, which is better than an error
		names = append(names, extStatvfs, "2")
	}
	for _, s := range names {
		body = binary.BigEndian.AppendUint32(body, uint32(len(s)))
		body = append(body, s...)
	}
	return f.out.packet(fxpVersion, 3, body...) // the version stands where other packets have their id
}

// extended answers the extensions, known or not.
func (f *front) extended(packet []byte) error {
	d := fields{rest: packet[1:]}
	id, name := d.uint32(), string(d.bytes())
	if d.short {
		return errMalformed
	}
	switch name {
	case extLimits:
		return f.limits(id)
	case extFsync:
		handle := d.bytes()
		if d.short {
			return errMalformed
		}
		return f.fsync(id, handle)
	case extStatvfs:
		path := d.bytes()
		if d.short {
			return errMalformed
		}
		return f.statvfs(id, string(path))
	case extPosixRename, extHardlink:
		longest, ok := wellFormed(packet)
		switch {
		case !ok:
			return errMalformed
		case longest > maxPath:
			return f.out.status(id, errPathLength)
		}
		if err := f.order(packet); err != nil {
			return err
		}
		return f.other(packet)
	}
	return f.out.status(id, statusOf(errors.ErrUnsupported))
}

func (f *front) limits(id uint32) error {
	body := binary.BigEndian.AppendUint64(nil, maxPacket)
	body = binary.BigEndian.AppendUint64(body, maxData)
	body = binary.BigEndian.AppendUint64(body, maxData)
	body = binary.BigEndian.AppendUint64(body, uint64(f.quota.max))
	return f.out.packet(fxpExtendedReply, id, body...)
}

// statvfs answers statvfs@openssh.com (OpenSSH's PROTOCOL, 4.4). The id of the file system is nobody's business.
func (f *front) statvfs(id uint32, path string) error {
	if len(path) > maxPath {
		return f.out.status(id, errPathLength)
	}
	st, err := f.statfs(path)
	if err != nil {
		return f.out.status(id, statusOf(err))
	}
	var flags uint64
	if st.ReadOnly {
		flags |= 1 // SSH2_FXE_STATVFS_ST_RDONLY
	}
	var body []byte
	for _, n := range []uint64{st.TransferSize, st.BlockSize, st.Blocks, st.BlocksFree, st.BlocksAvailable,
		st.Files, st.FilesFree, st.FilesFree, 0, flags, st.NameMax} {
		body = binary.BigEndian.AppendUint64(body, n)
	}
	return f.out.packet(fxpExtendedReply, id, body...)
}

// other answers a packet that is not about an upload, by itself or through the bridge.
func (f *front) other(packet []byte) error {
	if f.others.busy() {
		return f.forward(packet)
	}
	if ours, err := f.path(packet); ours {
		return err
	}
	return f.forward(packet)
}

// forward hands a packet to the bridge. Without one nothing is open there, and only OPEN and OPENDIR can have a meaning.
func (f *front) forward(packet []byte) error {
	if f.others.over() {
		if packet[0] != fxpOpen && packet[0] != fxpOpendir {
			return f.out.status(binary.BigEndian.Uint32(packet[1:]), errHandle)
		}
		f.others = f.bridge()
	}
	return f.others.forward(packet)
}
