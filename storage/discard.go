package storage

import "context"

// Discarder is the ability to throw away what an upload left whose process died, where Resume must not put it at its
// name: a newer file stands there.
type Discarder interface {
	// Discard removes what the store has of a dead upload and tells how many bytes of its beginning that were. What stands
	// at the name stays. It is fs.ErrExist if that is the upload's own file: then there is nothing newer, and Resume is
	// right. A second call finds nothing and is no error.
	Discard(ctx context.Context, name string, dead DeadUpload) (received int64, err error)
}
