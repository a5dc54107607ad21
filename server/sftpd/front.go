package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/transferd/transferd/server/session"
)

var (
	// errOver says that the session ended while a packet was being worked on.
	errOver = errors.New("session is over")
	// errOrder says that a client did not begin with INIT, or said it twice.
	errOrder = errors.New("INIT at the wrong place")
)

// The extensions that we name in VERSION (OpenSSH's PROTOCOL, 4). posix-rename is not among them: it promises to
// replace what stands at the new name, and a rename here never does (transfer-api 6.1).
const (
	extLimits      = "limits@openssh.com"
	extFsync       = "fsync@openssh.com"
	extPosixRename = "posix-rename@openssh.com"
)

// backing is what a front works on: a session and its connection, seen from the packets.
type backing struct {
	createUpload func(path string, opt session.CreateOptions) (file, error)
	exists       func(path string) error
	setstat      func(path string) error
	over         func() bool // the session has ended
	uploadBegins func() bool // false: no new uploads
	uploadEnds   func()
	used         func() // a packet came or went
	now          func() time.Time
	bridge       func() *bridge // made at the first packet that needs it
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
				err = f.in.fill(len(f.uploads.open) > 0)
			}
			f.used()
		}
		if err != nil {
			return err
		}
	}
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
	switch packet[0] {
	case fxpOpen:
		return f.open(packet)
	case fxpClose:
		return f.close(packet)
	case fxpFstat:
		return f.fstat(packet)
	case fxpFsetstat:
		return f.fsetstat(packet)
	}
	return f.forward(packet)
}

// init answers INIT with VERSION, the version that both speak and our extensions (filexfer-02, 4).
func (f *front) init(packet []byte) error {
	d := fields{rest: packet[1:]}
	if d.uint32() < 3 || d.short {
		return errMalformed // nobody speaks less than version 3 any more
	}
	f.begun = true
	var body []byte
	for _, s := range []string{extLimits, "1", extFsync, "1"} {
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
	case extPosixRename: // some ask without having been told of it: a plain rename serves them better than a refusal
		longest, ok := wellFormed(packet)
		switch {
		case !ok:
			return errMalformed
		case longest > maxPath:
			return f.out.status(id, errPathLength)
		}
		return f.forward(packet)
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

// forward hands a packet to the bridge.
func (f *front) forward(packet []byte) error {
	if f.others == nil {
		f.others = f.bridge()
	}
	return f.others.forward(packet)
}
