package session

import "github.com/transferd/transferd/storage"

// HasStatfs says whether the store of the session's home can tell how full it is.
func (s *Session) HasStatfs() bool { return s.fs.HasStatfs(s.ctx) }

// Statfs tells how full the file system of a path is; errors.ErrUnsupported where the store cannot.
func (s *Session) Statfs(p string) (storage.Statfs, error) { return s.fs.Statfs(s.ctx, p) }
