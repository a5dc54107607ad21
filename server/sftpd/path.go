package sftpd

import (
	"encoding/binary"
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
		return true, f.name(id, f.realPath, string(d.bytes()))
	case fxpStat:
		return true, f.describe(id, f.stat, string(d.bytes()))
	case fxpLstat:
		return true, f.describe(id, f.lstat, string(d.bytes()))
	case fxpSetstat:
		path := string(d.bytes())
		return true, f.out.status(id, statusOf(f.setstat(path, d.rest, nil)))
	case fxpRemove:
		return true, f.command(id, "Remove", string(d.bytes()), "")
	case fxpMkdir:
		return true, f.command(id, "Mkdir", string(d.bytes()), "")
	case fxpRmdir:
		return true, f.command(id, "Rmdir", string(d.bytes()), "")
	case fxpRename:
		return true, f.command(id, "Rename", string(d.bytes()), string(d.bytes()))
	case fxpExtended:
		method := pathExtensions()[string(d.bytes())]
		return true, f.command(id, method, string(d.bytes()), string(d.bytes()))
	case fxpReadlink:
		return true, f.name(id, f.readLink, string(d.bytes()))
	case fxpSymlink: // the target comes first, whatever filexfer-02, 6.10 says (OpenSSH's PROTOCOL, 4.1)
		return true, f.command(id, "Symlink", string(d.bytes()), string(d.bytes()))
	}
	return false, nil
}

// pathExtensions are the extensions that two paths describe, and pkg/sftp's names for them.
func pathExtensions() map[string]string {
	return map[string]string{extPosixRename: "PosixRename", extHardlink: "Link"}
}

// command changes names and attributes.
func (f *front) command(id uint32, method, path, target string) error {
	return f.out.status(id, statusOf(f.change(method, path, target)))
}

// name answers with one name, its long form the same, and no attributes (filexfer-02, 6.11).
func (f *front) name(id uint32, ask func(string) (string, error), path string) error {
	name, err := ask(path)
	if err != nil {
		return f.out.status(id, statusOf(err))
	}
	body := binary.BigEndian.AppendUint32(nil, 1)
	body = appendString(body, []byte(name))
	body = appendString(body, []byte(name))
	body = binary.BigEndian.AppendUint32(body, 0)
	return f.out.packet(fxpName, id, body...)
}

// describe answers with a file's attributes.
func (f *front) describe(id uint32, ask func(string) (fs.FileInfo, error), path string) error {
	info, err := ask(path)
	if err != nil {
		return f.out.status(id, statusOf(err))
	}
	return f.attrs(id, info)
}

// attrs answers with size, owner, permissions and times (filexfer-02, 5).
func (f *front) attrs(id uint32, info fs.FileInfo) error {
	when := uint32(max(0, min(info.ModTime().Unix(), math.MaxUint32))) // directories of S3 have no time
	flags := uint32(attrSize | attrPermissions | attrTimes)
	uid, gid, owned := owner(info)
	if owned {
		flags |= attrOwner
	}
	body := binary.BigEndian.AppendUint32(nil, flags)
	body = binary.BigEndian.AppendUint64(body, uint64(info.Size()))
	if owned {
		body = binary.BigEndian.AppendUint32(body, uid)
		body = binary.BigEndian.AppendUint32(body, gid)
	}
	body = binary.BigEndian.AppendUint32(body, wireMode(info.Mode()))
	body = binary.BigEndian.AppendUint32(body, when)
	body = binary.BigEndian.AppendUint32(body, when)
	return f.out.packet(fxpAttrs, id, body...)
}
