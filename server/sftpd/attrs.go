package sftpd

import (
	"io/fs"
	"math"
	"time"

	"github.com/transferd/transferd/storage"
)

// The bits of a mode on the wire: POSIX's (filexfer-02, 5).
const (
	wireSocket    = 0o140000
	wireLink      = 0o120000
	wireRegular   = 0o100000
	wireBlock     = 0o060000
	wireDirectory = 0o040000
	wireCharacter = 0o020000
	wirePipe      = 0o010000
	wireSetuid    = 0o4000
	wireSetgid    = 0o2000
	wireSticky    = 0o1000
)

// wireMode is a mode as the wire has it.
func wireMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	switch {
	case m.IsDir():
		mode |= wireDirectory
	case m&fs.ModeSymlink != 0:
		mode |= wireLink
	case m&fs.ModeNamedPipe != 0:
		mode |= wirePipe
	case m&fs.ModeSocket != 0:
		mode |= wireSocket
	case m&fs.ModeCharDevice != 0:
		mode |= wireCharacter
	case m&fs.ModeDevice != 0:
		mode |= wireBlock
	default:
		mode |= wireRegular
	}
	for _, bit := range specialBits() {
		if m&bit.mode != 0 {
			mode |= bit.wire
		}
	}
	return mode
}

// fileMode is the part of a mode of the wire that can be changed.
func fileMode(wire uint32) fs.FileMode {
	mode := fs.FileMode(wire).Perm()
	for _, bit := range specialBits() {
		if wire&bit.wire != 0 {
			mode |= bit.mode
		}
	}
	return mode
}

type specialBit struct {
	mode fs.FileMode
	wire uint32
}

func specialBits() [3]specialBit {
	return [...]specialBit{{fs.ModeSetuid, wireSetuid}, {fs.ModeSetgid, wireSetgid}, {fs.ModeSticky, wireSticky}}
}

// parseAttrs reads attributes from a packet (filexfer-02, 5). false: they are cut; then there are none.
func parseAttrs(b []byte) (storage.Attrs, bool) {
	var a storage.Attrs
	d := fields{rest: b}
	flags := d.uint32()
	if flags&attrSize != 0 {
		size := int64(min(d.uint64(), math.MaxInt64))
		a.Size = &size
	}
	if flags&attrOwner != 0 {
		uid, gid := d.uint32(), d.uint32()
		a.UID, a.GID = &uid, &gid
	}
	if flags&attrPermissions != 0 {
		mode := fileMode(d.uint32())
		a.Mode = &mode
	}
	if flags&attrTimes != 0 {
		atime, mtime := time.Unix(int64(d.uint32()), 0), time.Unix(int64(d.uint32()), 0)
		a.Atime, a.Mtime = &atime, &mtime
	}
	if d.short {
		return storage.Attrs{}, false
	}
	return a, true
}
