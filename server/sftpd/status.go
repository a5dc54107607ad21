package sftpd

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/pkg/sftp"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// The status codes of version 3 (draft-ietf-secsh-filexfer-02, 7) that we answer with.
const (
	codeOK          = 0
	codeEOF         = 1
	codeNoSuchFile  = 2
	codeDenied      = 3
	codeFailure     = 4
	codeUnsupported = 8
)

// status is what a client is told. As an error it makes pkg/sftp tell the same.
type status struct {
	code uint32
	text string
}

func (s status) Error() string { return s.text }

// Unwrap gives pkg/sftp the code.
func (s status) Unwrap() error {
	switch s.code {
	case codeNoSuchFile:
		return sftp.ErrSSHFxNoSuchFile
	case codeDenied:
		return sftp.ErrSSHFxPermissionDenied
	case codeUnsupported:
		return sftp.ErrSSHFxOpUnsupported
	}
	return sftp.ErrSSHFxFailure
}

// statusOf turns an error from below into what the client is told: the one place where that is decided. Our own
// refusals are statuses already; nothing of any other text is passed on.
func statusOf(err error) status {
	if err == nil {
		return status{}
	}
	var own status
	if errors.As(err, &own) {
		return own
	}
	for _, rule := range []struct {
		is error
		as status
	}{
		{storage.ErrRandomAccess, status{codeUnsupported, "AWS Transfer does not support random access writes to S3 objects."}},
		{storage.ErrNotEmpty, status{codeFailure, "Directory not empty"}},
		{storage.ErrIsDirectory, status{codeFailure, "Is a directory"}},
		{storage.ErrTooLarge, status{codeFailure, "File too large"}},
		{storage.ErrQuota, status{codeFailure, "Quota exceeded"}}, // a code of its own only since version 5
		{storage.ErrNoSpace, status{codeFailure, "No space left"}},
		{storage.ErrUnavailable, status{codeFailure, "Service unavailable, try again later"}},
		{fs.ErrNotExist, status{codeNoSuchFile, "No such file"}},
		{fs.ErrPermission, status{codeDenied, "Permission denied"}},
		{fs.ErrExist, status{codeFailure, "File already exists"}},
		{errors.ErrUnsupported, status{codeUnsupported, "Operation not supported"}},
		{fs.ErrInvalid, status{codeFailure, "Invalid argument"}},
		{fs.ErrClosed, status{codeFailure, "Invalid handle"}},
		{session.ErrDraining, status{codeFailure, "Server is stopping"}},
		{context.Canceled, status{codeFailure, "Session ended"}},
	} {
		if errors.Is(err, rule.is) {
			return rule.as
		}
	}
	return status{codeFailure, "Service unavailable"}
}

// wireError is statusOf for pkg/sftp, which tells an end of file by its own name.
func wireError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return statusOf(err)
}
