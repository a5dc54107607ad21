package memory

import (
	"context"
	"io/fs"

	"github.com/transferd/transferd/storage"
)

var _ storage.Discarder = (*Store)(nil)

// Discard implements storage.Discarder.
func (s *Store) Discard(ctx context.Context, name string, dead storage.DeadUpload) (received int64, err error) {
	err = s.do(ctx, Abort, name, func() error {
		if f, ok := s.files[name]; ok && f.id == dead.ID {
			return fs.ErrExist
		}
		if m, ok := s.parts[dead.Token]; ok {
			received = int64(len(m.content) - m.kept)
			delete(s.parts, dead.Token)
		}
		if dead.Token == "" {
			s.dropUnnoted(name)
		}
		return nil
	})
	return received, err
}

// dropUnnoted removes what was made for an upload or a copy to name of which nothing has arrived; mu is held.
func (s *Store) dropUnnoted(name string) {
	for token, m := range s.parts {
		if m.name == name && len(m.content) == 0 {
			delete(s.parts, token)
		}
	}
}
