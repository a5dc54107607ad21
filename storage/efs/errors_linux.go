package efs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/transferd/transferd/storage"
)

// fail says what was done to which name and makes the kernel's error one of package storage.
func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if kind := kindOf(err); kind != nil && !errors.Is(err, kind) {
		return fmt.Errorf("efs: %s %q: %w: %w", op, name, kind, err)
	}
	return fmt.Errorf("efs: %s %q: %w", op, name, err)
}

// kindOf is the error of package storage for one of the kernel, nil if there is none. What OpenSSH's server calls "no
// such file" is so here too (ENOTDIR, ELOOP).
func kindOf(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return nil
	}
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.ELOOP:
		return fs.ErrNotExist
	case syscall.EEXIST:
		return fs.ErrExist
	case syscall.ENOTEMPTY:
		return storage.ErrNotEmpty
	case syscall.EISDIR:
		return storage.ErrIsDirectory
	case syscall.EACCES, syscall.EPERM, syscall.EROFS, syscall.ETXTBSY, syscall.ENXIO:
		return fs.ErrPermission
	case syscall.ENAMETOOLONG, syscall.EINVAL, syscall.EILSEQ:
		return fs.ErrInvalid
	case syscall.ENOSPC:
		return storage.ErrNoSpace
	case syscall.EDQUOT:
		return storage.ErrQuota
	case syscall.EFBIG:
		return storage.ErrTooLarge
	case syscall.ENOSYS, syscall.ENOTSUP, syscall.EXDEV, syscall.EMLINK:
		return errors.ErrUnsupported
	}
	return storage.ErrUnavailable // EIO, ESTALE, ETIMEDOUT, EMFILE and what else is no answer of the file system
}

// check refuses names that their caller has not cleaned. The kernel would hold them inside all the same.
func check(name string) error {
	if name == "" {
		return nil
	}
	if path.Clean(name) != name || name[0] == '/' || name == "." || name == ".." || strings.HasPrefix(name, "../") ||
		strings.IndexByte(name, 0) >= 0 {
		return fs.ErrInvalid
	}
	return nil
}
