package s3

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

// skew is how far the store's clock and ours may be apart when leftovers are looked for by their time.
const skew = 2 * time.Minute

// Resume ends an upload whose process died, in one of four ways:
//
// The object carries its id: the upload was completed, and that is the file.
//
// Its multipart upload has parts: those from 1 on without a gap are completed. Parts are numbered in the order of the
// file and each begins where the one before it ends, so that is the longest prefix that reached the store.
//
// Its multipart upload has no part 1, or is gone: what it has is removed, and the file becomes empty.
//
// No multipart upload was noted: the process died before the first part was full, or between making the multipart
// upload and noting it. In the latter case it is found by name, time and having no parts (Note returns before the first
// part is sent) and removed; the file becomes empty.
//
// An upload that changes a file (storage.CreateOptions.Modify) leaves the old file as it was where these would make it
// shorter or empty.
//
// Empty, and not what stood there before: a partial upload's file shows the longest contiguous prefix that survived,
// which here is nothing, and the workflow for it must not run on bytes of an older file.
func (b *Backend) Resume(ctx context.Context, name string, dead storage.DeadUpload) (storage.Object, error) {
	at := object{bucket: b.bucket, key: name, id: dead.ID, absent: dead.Exclusive}
	obj, done, err := b.store.written(ctx, at)
	if err != nil {
		return storage.Object{}, err
	}
	if dead.Token == "" {
		if err := b.abortUnnoted(ctx, at, dead.Begun); err != nil {
			return storage.Object{}, err
		}
	}
	if done {
		return obj, nil
	}
	if dead.Token == "" && dead.Modify {
		head, err := b.store.head(ctx, b.bucket, name)
		if err != nil {
			return storage.Object{}, err
		}
		return headObject(head), nil
	}
	if m, ok := parseModified(dead.Token); ok {
		obj, done, err = b.resumeModified(ctx, at, m)
		if err == nil && !done { // one that was made in its place may not be noted
			err = b.abortUnnoted(ctx, at, dead.Begun)
		}
		if err == nil && !done {
			obj, done, err = b.stands(ctx, name)
		}
	} else if dead.Token != "" {
		obj, done, err = b.resumeMultipart(ctx, at, dead.Token)
	}
	if err != nil || done {
		return obj, err
	}
	return b.store.putObject(ctx, at, dead.Metadata, nil)
}

// resumeMultipart completes what arrived. It reports false if nothing did.
func (b *Backend) resumeMultipart(ctx context.Context, at object, upload string) (storage.Object, bool, error) {
	whole, size, err := b.store.wholeParts(ctx, at, upload)
	if errors.Is(err, fs.ErrNotExist) {
		return storage.Object{}, false, nil
	}
	if err != nil {
		return storage.Object{}, false, err
	}
	if len(whole) == 0 {
		return storage.Object{}, false, b.store.abortMultipart(ctx, at, upload)
	}
	obj, err := b.store.completeMultipart(ctx, at, upload, whole)
	if errors.Is(err, fs.ErrExist) { // it will never be a file
		return storage.Object{}, false, errors.Join(err, b.store.abortMultipart(ctx, at, upload))
	}
	obj.Size = size.total
	return obj, err == nil, err
}

// parts lists the parts of a multipart upload.
func (s *Store) parts(ctx context.Context, at object, upload string) ([]types.Part, error) {
	in := &s3.ListPartsInput{Bucket: &at.bucket, Key: &at.key, UploadId: &upload}
	var parts []types.Part
	for {
		out, err := request(ctx, s, call{op: "ListParts", name: at.key}, func(ctx context.Context) (*s3.ListPartsOutput, error) {
			return s.client.ListParts(ctx, in)
		})
		if err != nil {
			return nil, err
		}
		parts = append(parts, out.Parts...)
		if !aws.ToBool(out.IsTruncated) || out.NextPartNumberMarker == nil {
			return parts, nil
		}
		in.PartNumberMarker = out.NextPartNumberMarker
	}
}

// abortUnnoted removes multipart uploads of exactly this key, begun since begun, that have no parts and that nobody in
// this process works on. (Another process that is just now between beginning one of the same name and its first part
// would lose that upload with an error to its client.)
func (b *Backend) abortUnnoted(ctx context.Context, at object, begun time.Time) error {
	in := &s3.ListMultipartUploadsInput{Bucket: &at.bucket, Prefix: &at.key, EncodingType: types.EncodingTypeUrl}
	for {
		out, err := request(ctx, b.store, call{op: "ListMultipartUploads", name: at.key},
			func(ctx context.Context) (*s3.ListMultipartUploadsOutput, error) {
				return b.store.client.ListMultipartUploads(ctx, in)
			})
		if err != nil {
			return err
		}
		for _, u := range out.Uploads {
			if aws.ToString(decoded(out.EncodingType, u.Key)) != at.key || aws.ToTime(u.Initiated).Before(begun.Add(-skew)) {
				continue
			}
			if err := b.abortIfEmpty(ctx, at, aws.ToString(u.UploadId)); err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) || out.NextKeyMarker == nil {
			return nil
		}
		in.KeyMarker, in.UploadIdMarker = decoded(out.EncodingType, out.NextKeyMarker), out.NextUploadIdMarker
	}
}

func (b *Backend) abortIfEmpty(ctx context.Context, at object, upload string) error {
	b.store.alive.Lock()
	_, live := b.store.live[upload]
	b.store.alive.Unlock()
	if live {
		return nil
	}
	parts, err := b.store.parts(ctx, at, upload)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(parts) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return b.store.abortMultipart(ctx, at, upload)
}
