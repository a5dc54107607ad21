package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/transferd/transferd/storage"
)

var _ storage.Discarder = (*Backend)(nil)

// Discard implements storage.Discarder: the parts of the dead multipart upload go, which the store would keep, and charge
// for, until somebody looks.
func (b *Backend) Discard(ctx context.Context, name string, dead storage.DeadUpload) (int64, error) {
	at := object{bucket: b.bucket, key: name, id: dead.ID}
	_, own, err := b.store.written(ctx, at)
	if err != nil {
		return 0, err
	}
	if own {
		return 0, fmt.Errorf("discard %s: the file is this upload's: %w", name, fs.ErrExist)
	}
	if dead.Token == "" {
		return 0, b.abortUnnoted(ctx, at, dead.Begun)
	}
	upload, kept := dead.Token, int64(0)
	if m, ok := parseModified(dead.Token); ok {
		upload, kept = m.upload, m.kept
	}
	_, size, err := b.store.wholeParts(ctx, at, upload)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return max(size.total-kept, 0), b.store.abortMultipart(ctx, at, upload)
}
