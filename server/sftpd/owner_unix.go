//go:build unix

package sftpd

import (
	"io/fs"
	"syscall"
)

// owner is who a file belongs to, if its store knows.
func owner(info fs.FileInfo) (uid, gid uint32, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return st.Uid, st.Gid, true
}
