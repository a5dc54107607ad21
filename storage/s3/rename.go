package s3

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// renameKey is the metadata of a directory's marker that says from where the directory is just being renamed.
const renameKey = "transferd-rename-from"

// copyKey is the metadata of a copy in parts that says which ETag the source had.
const copyKey = "transferd-copy-of"

// Rename copies and deletes, as S3 has no rename. A crash between the two leaves both.
// https://docs.aws.amazon.com/transfer/latest/userguide/transfer-file.html (AWS refuses directories.)
func (b *Backend) Rename(ctx context.Context, oldName, newName string) error {
	head, err := b.store.head(ctx, b.bucket, oldName)
	if errors.Is(err, fs.ErrNotExist) {
		return b.renameDir(ctx, oldName, newName)
	}
	if err != nil {
		return err
	}
	if err := b.vacant(ctx, oldName, newName); err != nil {
		return err
	}
	return b.move(ctx, copyJob{from: object{bucket: b.bucket, key: oldName}, head: head,
		to: object{bucket: b.bucket, key: newName}, absent: true})
}

// Replace is Rename onto a file that may stand: the copy replaces it in one step, then the old name goes. A directory
// replaces nothing: clients whose only rename is this one (OpenSSH, sshfs) rename directories with it.
func (b *Backend) Replace(ctx context.Context, oldName, newName string) error {
	head, err := b.store.head(ctx, b.bucket, oldName)
	if errors.Is(err, fs.ErrNotExist) {
		if oldName == newName {
			_, err = b.Stat(ctx, oldName)
			return err
		}
		return b.renameDir(ctx, oldName, newName)
	}
	if err != nil || oldName == newName {
		return err
	}
	fi, err := b.Stat(ctx, newName)
	if err == nil && fi.IsDir() {
		return fmt.Errorf("s3: replace %q by %q: a directory: %w", newName, oldName, fs.ErrExist)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return b.move(ctx, copyJob{from: object{bucket: b.bucket, key: oldName}, head: head,
		to: object{bucket: b.bucket, key: newName}})
}

// vacant refuses a name at which something stands.
func (b *Backend) vacant(ctx context.Context, oldName, newName string) error {
	_, err := b.Stat(ctx, newName)
	if err == nil {
		return fmt.Errorf("s3: rename %q: %q: %w", oldName, newName, fs.ErrExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// move copies a file and deletes it at its old name. A newer file that came there meanwhile stays: it was written after
// the rename.
func (b *Backend) move(ctx context.Context, j copyJob) error {
	if _, err := b.store.copyFile(ctx, j); err != nil {
		return err
	}
	return b.store.deleteVersion(ctx, b.bucket, j.from.key, unquote(j.head.ETag))
}

// renameDir moves all that is below a directory, object by object, each copied and then deleted. The new directory's
// marker is the log of it: until the last one has moved it names the old directory. Whatever ends it half-way leaves
// each file readable at the one name or the other, and the same Rename, asked for again, finds the marker and goes on.
func (b *Backend) renameDir(ctx context.Context, oldName, newName string) error {
	if oldName == "" || newName == "" || strings.HasPrefix(newName+"/", oldName+"/") {
		return fmt.Errorf("s3: rename %q to %q: below itself: %w", oldName, newName, fs.ErrInvalid)
	}
	again, err := b.beingRenamed(ctx, oldName, newName)
	if err != nil {
		return err
	}
	if !again {
		if _, err := b.Stat(ctx, oldName); err != nil {
			return err
		}
		if err := b.vacant(ctx, oldName, newName); err != nil {
			return err
		}
		if err := b.namesFit(ctx, oldName, newName); err != nil {
			return err
		}
		if err := b.putMarker(ctx, newName, map[string]string{renameKey: renameMark(oldName)}); err != nil {
			return err
		}
	}
	for moved := true; moved; { // until nothing has come meanwhile
		if moved, err = b.moveAll(ctx, oldName, newName, again); err != nil {
			return err
		}
	}
	if err := b.store.deleteObject(ctx, b.bucket, oldName+"/"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return b.renamed(ctx, oldName, newName)
}

// maxKey is the longest name of an object, in bytes.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
const maxKey = 1024

// namesFit refuses a directory's new name that makes the name of something below it too long, before half of it has moved.
func (b *Backend) namesFit(ctx context.Context, oldName, newName string) error {
	more := len(newName) - len(oldName)
	if more <= 0 {
		return nil
	}
	in := &s3.ListObjectsV2Input{Prefix: aws.String(oldName + "/")}
	for {
		page, err := b.list(ctx, in)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			if key := aws.ToString(o.Key); len(key)+more > maxKey {
				return fmt.Errorf("s3: rename %q: %q would get a name of %d bytes: %w", oldName, key, len(key)+more, fs.ErrInvalid)
			}
		}
		if !aws.ToBool(page.IsTruncated) || page.NextContinuationToken == nil {
			return nil
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// renamed closes the log. versitygw v1.8.0 keeps metadata that a later PutObject of a marker leaves out.
func (b *Backend) renamed(ctx context.Context, oldName, newName string) error {
	if err := b.putMarker(ctx, newName, nil); err != nil {
		return err
	}
	still, err := b.beingRenamed(ctx, oldName, newName)
	if err == nil && still {
		err = b.putMarker(ctx, newName, map[string]string{renameKey: "done"})
	}
	return err
}

// renameMark stands for a name in a marker's metadata, which is US-ASCII and shorter than a name may be.
func renameMark(oldName string) string {
	sum := sha256.Sum256([]byte(oldName))
	return hex.EncodeToString(sum[:])
}

// beingRenamed reports whether a rename of this pair was begun and not ended.
func (b *Backend) beingRenamed(ctx context.Context, oldName, newName string) (bool, error) {
	head, err := b.store.head(ctx, b.bucket, newName+"/")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return head.Metadata[renameKey] == renameMark(oldName), nil
}

func (b *Backend) putMarker(ctx context.Context, name string, meta map[string]string) error {
	_, err := b.store.putFile(ctx, object{bucket: b.bucket, key: name + "/"}, meta, nil, func(*s3.PutObjectInput) {})
	return err
}

// moveAll moves what is below oldName now, page by page. It reports whether there was anything.
func (b *Backend) moveAll(ctx context.Context, oldName, newName string, again bool) (moved bool, err error) {
	in := &s3.ListObjectsV2Input{Prefix: aws.String(oldName + "/")}
	for {
		page, err := b.list(ctx, in)
		if err != nil {
			return moved, err
		}
		var keys []string
		for _, o := range page.Contents {
			if key := aws.ToString(o.Key); key != oldName+"/" {
				keys = append(keys, key)
			}
		}
		moved = moved || len(keys) > 0
		err = b.moveKeys(ctx, keys, func(ctx context.Context, key string) error {
			return b.moveBelow(ctx, key, newName+strings.TrimPrefix(key, oldName), again)
		})
		if err != nil {
			return moved, err
		}
		if !aws.ToBool(page.IsTruncated) || page.NextContinuationToken == nil {
			return moved, nil
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// moveKeys calls move for the keys, several at a time, until one fails.
func (b *Backend) moveKeys(ctx context.Context, keys []string, move func(context.Context, string) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, 2*b.store.cfg.Parallel)
	var wg sync.WaitGroup
	for _, key := range keys {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := move(ctx, key); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// moveBelow moves one object of a directory. What a rename that was cut short has copied already is not copied again; a
// file that somebody put there since is not replaced.
func (b *Backend) moveBelow(ctx context.Context, from, to string, again bool) error {
	head, err := b.store.head(ctx, b.bucket, from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody was faster
	}
	if err != nil {
		return err
	}
	if strings.HasSuffix(from, "/") && aws.ToInt64(head.ContentLength) == 0 {
		if _, err := b.store.putFile(ctx, object{bucket: b.bucket, key: to}, head.Metadata, nil, func(*s3.PutObjectInput) {}); err != nil {
			return err
		}
		return b.store.deleteObject(ctx, b.bucket, from)
	}
	if again {
		there, err := b.store.head(ctx, b.bucket, to)
		if err == nil && sameFile(head, there) {
			return b.store.deleteVersion(ctx, b.bucket, from, unquote(head.ETag))
		}
		if err == nil {
			return fmt.Errorf("s3: rename %q: %q was written meanwhile: %w", from, to, fs.ErrExist)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return b.move(ctx, copyJob{from: object{bucket: b.bucket, key: from}, head: head,
		to: object{bucket: b.bucket, key: to}, absent: true})
}

// sameFile reports whether b is a copy of a, or the other way round. A copy in parts has an ETag of its own, but the same
// id, and it says which ETag it is a copy of: other programs' files have no id.
func sameFile(a, b *s3.HeadObjectOutput) bool {
	if aws.ToInt64(a.ContentLength) != aws.ToInt64(b.ContentLength) {
		return false
	}
	id := a.Metadata[idKey]
	from := unquote(a.ETag)
	return from == unquote(b.ETag) || from != "" && from == b.Metadata[copyKey] || id != "" && id == b.Metadata[idKey]
}
