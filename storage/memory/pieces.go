package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/transferd/transferd/storage"
)

var _ storage.PieceCopier = (*Store)(nil)

// beginning is the token of a copy that may have a multipart upload which nobody noted.
const beginning = "copy-begins"

// CopyPiece implements storage.PieceCopier, a part a piece. A file that fits into one part is copied at once.
func (s *Store) CopyPiece(ctx context.Context, c storage.PieceCopy) (obj storage.Object, done bool, err error) {
	if c.To != storage.Backend(s) {
		return obj, false, errors.ErrUnsupported
	}
	token := c.Token
	if token == "" || token == beginning || !s.copies(token) {
		if made, ours := s.madeOf(c.Dst, token); ours {
			return made, true, nil
		}
		if token, done, err = s.beginPieces(ctx, c); err != nil || done {
			if done {
				obj, err = s.Copy(ctx, c.Src, c.IfMatch, s, c.Dst, c.Overwrite)
			}
			return obj, done && err == nil, err
		}
	}
	err = s.do(ctx, Part, c.Src, func() error {
		m, ok := s.parts[token]
		if !ok || s.files[c.Src] != m.of {
			return fs.ErrNotExist
		}
		rest := m.of.content[len(m.content):]
		m.content = append(m.content, rest[:min(len(rest), s.cfg.PartSize)]...)
		done = len(m.content) == len(m.of.content)
		return nil
	})
	if err != nil || !done {
		return obj, false, err
	}
	err = s.do(ctx, Commit, c.Dst, func() error {
		m, ok := s.parts[token]
		if !ok {
			return fs.ErrNotExist
		}
		if _, stands := s.files[c.Dst]; stands && !c.Overwrite {
			return fs.ErrExist
		}
		delete(s.parts, token)
		obj = s.put(c.Dst, m.of.id, m.content, m.of.meta)
		s.files[c.Dst].copied = token
		return nil
	})
	return obj, err == nil, err
}

// copies tells whether a copy is under way.
func (s *Store) copies(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.parts[token]
	return ok
}

// madeOf is what a copy has made.
func (s *Store) madeOf(dst, token string) (obj storage.Object, ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.files[dst]
	if !ok || token == "" || f.copied != token {
		return obj, false
	}
	return f.obj, true
}

// beginPieces makes the multipart upload of a copy; small says that there is no need for one.
func (s *Store) beginPieces(ctx context.Context, c storage.PieceCopy) (token string, small bool, err error) {
	err = s.do(ctx, Copy, c.Src, func() error {
		s.dropUnnoted(c.Dst)
		f, ok := s.files[c.Src]
		if !ok || c.IfMatch != "" && f.obj.ETag != c.IfMatch {
			return fs.ErrNotExist
		}
		if _, stands := s.files[c.Dst]; stands && !c.Overwrite {
			return fmt.Errorf("%q: %w", c.Dst, fs.ErrExist)
		}
		small = len(f.content) <= s.cfg.PartSize || c.Src == c.Dst
		return nil
	})
	if err != nil || small {
		return "", small, err
	}
	if err := c.Note(ctx, beginning); err != nil {
		return "", false, err
	}
	err = s.do(ctx, Note, c.Dst, func() error {
		f, ok := s.files[c.Src]
		if !ok {
			return fs.ErrNotExist
		}
		s.last++
		token = fmt.Sprintf("token-%d", s.last)
		s.parts[token] = &multipart{name: c.Dst, of: f}
		return nil
	})
	if err == nil {
		err = c.Note(ctx, token)
	}
	return token, false, err
}

// DropCopy implements storage.PieceCopier.
func (s *Store) DropCopy(ctx context.Context, dst, token string) error {
	return s.do(ctx, Abort, dst, func() error {
		if token == beginning {
			s.dropUnnoted(dst)
		}
		delete(s.parts, token)
		return nil
	})
}
