package sftpd

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// The packet types and flags of version 3 that the front looks at (draft-ietf-secsh-filexfer-02, 3 and 6.3). There are
// no constants for them in pkg/sftp's public part.
const (
	fxpInit          = 1
	fxpVersion       = 2
	fxpOpen          = 3
	fxpClose         = 4
	fxpRead          = 5
	fxpWrite         = 6
	fxpLstat         = 7
	fxpFstat         = 8
	fxpSetstat       = 9
	fxpFsetstat      = 10
	fxpOpendir       = 11
	fxpReaddir       = 12
	fxpRemove        = 13
	fxpMkdir         = 14
	fxpRmdir         = 15
	fxpRealpath      = 16
	fxpStat          = 17
	fxpRename        = 18
	fxpReadlink      = 19
	fxpSymlink       = 20
	fxpStatus        = 101
	fxpHandle        = 102
	fxpData          = 103
	fxpName          = 104
	fxpAttrs         = 105
	fxpExtended      = 200
	fxpExtendedReply = 201

	openRead   = 0x01
	openWrite  = 0x02
	openAppend = 0x04
	openCreate = 0x08
	openTrunc  = 0x10
	openExcl   = 0x20

	attrSize        = 0x01
	attrOwner       = 0x02
	attrPermissions = 0x04
	attrTimes       = 0x08
)

const (
	// maxPacket is the longest packet, what OpenSSH takes and what limits@openssh.com tells.
	maxPacket = 256 << 10
	// maxData is the longest READ or WRITE within it, as OpenSSH says too.
	maxData = 255 << 10
	// maxSmall is the longest packet that is not a WRITE: two paths and their like. It bounds what waits in the bridge.
	maxSmall = 32 << 10
	// maxPath is the longest path that is looked at, PATH_MAX of Linux.
	maxPath = 4096
)

// errMalformed ends a session: after a packet that cannot be read nobody knows where the next one begins.
var errMalformed = errors.New("malformed packet")

// fields reads a packet's fields. After one that is not there, short is set and everything reads as zero.
type fields struct {
	rest    []byte
	short   bool
	longest int // the longest string so far
}

func (f *fields) take(n uint32) []byte {
	if uint64(n) > uint64(len(f.rest)) {
		f.short, f.rest = true, nil
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) uint32() uint32 {
	if b := f.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (f *fields) uint64() uint64 {
	if b := f.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes is a string of the protocol; it is a part of the packet.
func (f *fields) bytes() []byte {
	b := f.take(f.uint32())
	f.longest = max(f.longest, len(b))
	return b
}

// wellFormed says whether a packet has the fields of its type, so that pkg/sftp never sees one that has not: it would
// give up without a word to anybody. It also tells the length of the longest path or handle.
func wellFormed(packet []byte) (longest int, ok bool) {
	f := fields{rest: packet[1:]}
	f.uint32() // the id
	switch packet[0] {
	case fxpClose, fxpLstat, fxpFstat, fxpOpendir, fxpReaddir, fxpRemove, fxpRmdir, fxpRealpath, fxpStat, fxpReadlink:
		f.bytes()
	case fxpOpen:
		f.bytes()
		f.uint64() // the flags of the open and of the attributes
	case fxpSetstat, fxpFsetstat, fxpMkdir:
		f.bytes()
		f.uint32()
	case fxpRead:
		f.bytes()
		f.uint64()
		f.uint32()
	case fxpRename, fxpSymlink:
		f.bytes()
		f.bytes()
	case fxpExtended:
		f.bytes()
		f.bytes()
		f.bytes()
	default:
		return 0, false
	}
	return f.longest, !f.short
}

// The sizes of an input's buffer: a session that does not upload waits with little, one that does reads many packets at
// once, and more where the packets are long.
const (
	idleBuffer = 1 << 10
	bulkBuffer = 128 << 10
	longBuffer = 512 << 10
	longPacket = 64 << 10
)

// buffers are spare buffers of the two large sizes.
type buffers struct{ bulk, long *sync.Pool }

func newBuffers() buffers {
	pool := func(size int) *sync.Pool {
		return &sync.Pool{New: func() any { b := make([]byte, size); return &b }}
	}
	return buffers{bulk: pool(bulkBuffer), long: pool(longBuffer)}
}

func (b buffers) pool(size int) *sync.Pool {
	switch size {
	case bulkBuffer:
		return b.bulk
	case longBuffer:
		return b.long
	}
	return nil
}

func (b buffers) get(size int) *[]byte {
	if pool := b.pool(size); pool != nil {
		return pool.Get().(*[]byte)
	}
	small := make([]byte, size)
	return &small
}

func (b buffers) put(buf *[]byte) {
	if pool := b.pool(len(*buf)); pool != nil {
		pool.Put(buf)
	}
}

// input cuts what comes over a channel into packets.
type input struct {
	src   io.Reader
	spare buffers
	buf   *[]byte
	r, w  int // what is read and not yet taken: (*buf)[r:w]
}

func newInput(src io.Reader, spare buffers) *input {
	return &input{src: src, spare: spare, buf: spare.get(idleBuffer)}
}

// next takes the next packet, without its length, if it is here whole. It stays good until the next fill.
func (in *input) next() ([]byte, error) {
	have := (*in.buf)[in.r:in.w]
	if len(have) < 5 {
		return nil, in.check(have)
	}
	if err := in.check(have); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(have)) + 4
	if len(have) < size {
		return nil, nil
	}
	in.r += size
	return have[4:size], nil
}

// check looks at the length of a packet as soon as it is here, and at its type.
func (in *input) check(have []byte) error {
	if len(have) < 4 {
		return nil
	}
	size := binary.BigEndian.Uint32(have)
	if size == 0 || size > maxPacket {
		return errMalformed
	}
	if len(have) > 4 && have[4] != fxpWrite && size > maxSmall {
		return errMalformed
	}
	return nil
}

// fill reads more. bulk says that uploads are open, so that much is to come.
func (in *input) fill(bulk bool) error {
	in.makeRoom(bulk)
	n, err := in.src.Read((*in.buf)[in.w:])
	in.w += n
	if n > 0 {
		return nil // the error comes again
	}
	if err == nil {
		return io.ErrNoProgress
	}
	if err == io.EOF && in.w > in.r {
		return io.ErrUnexpectedEOF
	}
	return err
}

// makeRoom chooses the buffer for what is to come, and moves what is here to its front if that is needed.
func (in *input) makeRoom(bulk bool) {
	have := (*in.buf)[in.r:in.w]
	need := 4
	if len(have) >= 4 {
		need += int(binary.BigEndian.Uint32(have))
	}
	size := idleBuffer
	switch {
	case need > longPacket || len(*in.buf) == longBuffer && bulk:
		size = longBuffer
	case need > idleBuffer || bulk:
		size = bulkBuffer
	}
	if size != len(*in.buf) && (size > len(*in.buf) || len(have) == 0) {
		larger := in.spare.get(size)
		in.w = copy(*larger, have)
		in.r = 0
		in.spare.put(in.buf)
		in.buf = larger
		return
	}
	if in.r > 0 && (len(have) == 0 || len(*in.buf)-in.r < need || in.w == len(*in.buf)) {
		in.w = copy(*in.buf, have)
		in.r = 0
	}
}

// release gives the buffer back. Nothing may be read afterwards.
func (in *input) release() {
	in.spare.put(in.buf)
	in.buf = nil
}
