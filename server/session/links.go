package session

import (
	"io/fs"
	"log/slog"
	"path"
)

// Lstat is Stat, but of a link itself where there are links.
func (s *Session) Lstat(p string) (fs.FileInfo, error) {
	if f := s.uploading(s.fs.RealPath(p)); f != nil {
		return uploadInfo{name: path.Base(f.path), size: f.Size(), began: f.row.Began}, nil
	}
	return s.fs.Lstat(s.ctx, p)
}

// ReadLink is what a link says.
func (s *Session) ReadLink(p string) (string, error) {
	target, err := s.fs.ReadLink(s.ctx, p)
	if err != nil {
		s.failed("READLINK", p, err)
	}
	return target, err
}

// Symlink makes a link at p.
func (s *Session) Symlink(target, p string) error {
	if err := s.fs.Symlink(s.ctx, target, p); err != nil {
		s.failed("CREATE_SYMLINK", p, err)
		return err
	}
	s.event("CREATE_SYMLINK", slog.String("link-path", s.BackendPath(p)), slog.String("target-path", target))
	return nil
}

// Link makes a second name for a file. That is no upload.
func (s *Session) Link(oldPath, newPath string) error {
	if err := s.fs.Link(s.ctx, oldPath, newPath); err != nil {
		s.failed("CREATE_LINK", oldPath, err)
		return err
	}
	s.event("CREATE_LINK", slog.String("path", s.BackendPath(oldPath)), slog.String("new-path", s.BackendPath(newPath)))
	return nil
}
