package efs

import (
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// info describes a file. Its Sys is a *syscall.Stat_t, so that protocols can show owner, group and links.
type info struct {
	name string
	st   unix.Stat_t
}

// Name and the others make info an fs.FileInfo.
func (i *info) Name() string       { return i.name }
func (i *info) Size() int64        { return i.st.Size }
func (i *info) ModTime() time.Time { return time.Unix(i.st.Mtim.Unix()) }
func (i *info) IsDir() bool        { return i.Mode().IsDir() }

// Mode is the kernel's mode as Go writes it.
func (i *info) Mode() fs.FileMode {
	mode := fs.FileMode(i.st.Mode & 0o777)
	switch i.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	default:
		mode |= fs.ModeIrregular
	}
	if i.st.Mode&unix.S_ISUID != 0 {
		mode |= fs.ModeSetuid
	}
	if i.st.Mode&unix.S_ISGID != 0 {
		mode |= fs.ModeSetgid
	}
	if i.st.Mode&unix.S_ISVTX != 0 {
		mode |= fs.ModeSticky
	}
	return mode
}

// Sys is a *syscall.Stat_t.
func (i *info) Sys() any {
	return &syscall.Stat_t{
		Dev: i.st.Dev, Ino: i.st.Ino, Nlink: i.st.Nlink, Mode: i.st.Mode, Uid: i.st.Uid, Gid: i.st.Gid, Rdev: i.st.Rdev,
		Size: i.st.Size, Blksize: i.st.Blksize, Blocks: i.st.Blocks,
		Atim: syscall.Timespec(i.st.Atim), Mtim: syscall.Timespec(i.st.Mtim), Ctim: syscall.Timespec(i.st.Ctim),
	}
}

// regular says why a thing is no file that can be read or written.
func regular(st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return storage.ErrIsDirectory
	}
	return fs.ErrPermission // a pipe, a socket or a device: nothing that a store holds
}
