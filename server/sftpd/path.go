package sftpd

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
)

// path answers the requests that a path alone describes, in the front itself: pkg/sftp's RequestServer has a dozen
// goroutines, which a session that only looks around should not cost. false: the request is of another kind.
//
// Requests about one file are answered in their order (filexfer-02, 6.1), so nothing may be answered here while the
// bridge still owes a reply.
func (f *front) path(packet []byte) (bool, error) {
	d := fields{rest: packet[1:]}
	id := d.uint32()
	switch typ := packet[0]; typ {
	case fxpRealpath:
		return true, f.realpath(id, string(d.bytes()))
	case fxpStat, fxpLstat: // there are no links
		return true, f.describe(id, string(d.bytes()))
	case fxpSetstat:
		return true, f.command(id, "Setstat", string(d.bytes()), "")
	case fxpRemove:
		return true, f.command(id, "Remove", string(d.bytes()), "")
	case fxpMkdir:
		return true, f.command(id, "Mkdir", string(d.bytes()), "")
	case fxpRmdir:
		return true, f.command(id, "Rmdir", string(d.bytes()), "")
	case fxpRename:
		return true, f.command(id, "Rename", string(d.bytes()), string(d.bytes()))
	case fxpExtended: // posix-rename@openssh.com
		d.bytes()
		return true, f.command(id, "Rename", string(d.bytes()), string(d.bytes()))
	case fxpReadlink, fxpSymlink:
		return true, f.out.status(id, statusOf(errors.ErrUnsupported))
	}
	return false, nil
}

// command changes names and attributes.
func (f *front) command(id uint32, method, path, target string) error {
	return f.out.status(id, statusOf(f.change(method, path, target)))
}

// realpath answers with one name: the absolute path, its long form the same, and no attributes (filexfer-02, 6.11).
func (f *front) realpath(id uint32, path string) error {
	real, err := f.realPath(path)
	if err != nil {
		return f.out.status(id, statusOf(err))
	}
	body := binary.BigEndian.AppendUint32(nil, 1)
	body = appendString(body, []byte(real))
	body = appendString(body, []byte(real))
	body = binary.BigEndian.AppendUint32(body, 0)
	return f.out.packet(fxpName, id, body...)
}

// describe answers with a file's attributes.
func (f *front) describe(id uint32, path string) error {
	info, err := f.stat(path)
	if err != nil {
		return f.out.status(id, statusOf(err))
	}
	return f.attrs(id, info)
}

// attrs answers with size, permissions and times (filexfer-02, 5).
func (f *front) attrs(id uint32, info fs.FileInfo) error {
	const directory, regular = 0o040000, 0o100000
	mode := uint32(info.Mode().Perm()) | regular
	if info.IsDir() {
		mode = uint32(info.Mode().Perm()) | directory
	}
	when := uint32(max(0, min(info.ModTime().Unix(), math.MaxUint32))) // directories of S3 have no time
	body := binary.BigEndian.AppendUint32(nil, attrSize|attrPermissions|attrTimes)
	body = binary.BigEndian.AppendUint64(body, uint64(info.Size()))
	body = binary.BigEndian.AppendUint32(body, mode)
	body = binary.BigEndian.AppendUint32(body, when)
	body = binary.BigEndian.AppendUint32(body, when)
	return f.out.packet(fxpAttrs, id, body...)
}
