package storage

import (
	"context"
	"time"
)

// PieceCopier is the ability of a Copier to copy a large file piece by piece, each in another process perhaps.
type PieceCopier interface {
	Copier
	// CopyPiece goes on with a copy and tells whether it is done; then the object is the copy. What one Copy does is done at
	// once. An error leaves the pieces that are there: another call may go on, and whoever gives up calls DropCopy. It is
	// fs.ErrNotExist if the source is not the one any more of which the first piece was copied, and fs.ErrExist if a file
	// that must not be replaced has come meanwhile.
	CopyPiece(ctx context.Context, c PieceCopy) (obj Object, done bool, err error)
	// DropCopy, of the store of dst, removes what a copy has there that will not be ended; token is what was noted last. The file
	// at dst stays, whoever made it. A second call finds nothing and is no error.
	DropCopy(ctx context.Context, dst, token string) error
}

// PieceCopy is a copy on its way.
type PieceCopy struct {
	Src     string // in the store that is asked
	IfMatch string // as for Copy; it counts for the first piece, which chooses the version for all of them
	To      Backend
	Dst     string
	// Overwrite says that a file at Dst is replaced.
	Overwrite bool
	// Token is what the call before this one has noted last, "" for a copy that begins.
	Token string
	// Within ends the piece once it has taken so long; it copies something however short that is.
	Within time.Duration
	// Note is called with what the next call needs, or DropCopy, before anything is made at the far side that must be ended
	// there, and again when that has a name. It returns when the token is durable; its error fails the piece.
	Note func(ctx context.Context, token string) error
}
