package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

// Backend is one bucket.
type Backend struct {
	store  *Store
	bucket string
}

// info describes a file or a directory.
type info struct {
	name string
	dir  bool
	obj  storage.Object
}

// Name and the others make info an fs.FileInfo.
func (i info) Name() string { return i.name }

// Size is 0 for directories.
func (i info) Size() int64 { return i.obj.Size }

// Mode shows what a client may do by default; S3 has no permissions of this kind.
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// ModTime is the epoch for directories: a prefix has no time.
func (i info) ModTime() time.Time {
	if i.dir {
		return time.Unix(0, 0)
	}
	return i.obj.ModTime
}

// IsDir reports whether it is a directory.
func (i info) IsDir() bool { return i.dir }

// Sys is the storage.Object of a file.
func (i info) Sys() any {
	if i.dir {
		return nil
	}
	return i.obj
}

func dirInfo(name string) info { return info{name: path.Base(name), dir: true} }

// Stat finds a file, or a directory: its marker or anything below it.
func (b *Backend) Stat(ctx context.Context, name string) (fs.FileInfo, error) {
	if name == "" {
		return dirInfo("."), nil
	}
	head, err := b.store.head(ctx, b.bucket, name)
	if err == nil {
		return info{name: path.Base(name), obj: headObject(head)}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	page, listErr := b.list(ctx, &s3.ListObjectsV2Input{Prefix: aws.String(name + "/"), MaxKeys: aws.Int32(1)})
	if listErr != nil {
		return nil, listErr
	}
	if len(page.Contents) == 0 {
		return nil, err
	}
	return dirInfo(name), nil
}

// list asks for one page. Its keys come encoded, because a key may hold what XML cannot: one file named with a control
// character would else make the whole directory unreadable.
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
func (b *Backend) list(ctx context.Context, in *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, error) {
	in.Bucket, in.EncodingType = &b.bucket, types.EncodingTypeUrl
	page, err := request(ctx, b.store, call{op: "ListObjectsV2", name: aws.ToString(in.Prefix)},
		func(ctx context.Context) (*s3.ListObjectsV2Output, error) {
			return b.store.client.ListObjectsV2(ctx, in)
		})
	if err != nil {
		return nil, err
	}
	for i := range page.Contents {
		page.Contents[i].Key = decoded(page.EncodingType, page.Contents[i].Key)
	}
	for i := range page.CommonPrefixes {
		page.CommonPrefixes[i].Prefix = decoded(page.EncodingType, page.CommonPrefixes[i].Prefix)
	}
	return page, nil
}

// decoded is a key of a listing as it is. A store that does not encode does not say so either (versitygw v1.8.0).
func decoded(as types.EncodingType, key *string) *string {
	if as != types.EncodingTypeUrl || key == nil {
		return key
	}
	plain, err := url.QueryUnescape(*key)
	if err != nil {
		return key // no store's encoding; better an odd name than no listing
	}
	return &plain
}

// ReadDir yields a page of at most 1000 entries after the other, in the order of the keys within each page's files and
// directories. Where both a file "x" and something below "x/" exist, both are yielded. Keys that are no name, such as
// those with two slashes in a row, are left out.
func (b *Backend) ReadDir(ctx context.Context, name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		in := &s3.ListObjectsV2Input{Delimiter: aws.String("/")}
		if name != "" {
			in.Prefix = aws.String(name + "/")
		}
		empty := name != "" // no key seen yet, not even the marker
		for more := true; more; {
			entries, keys, err := b.entries(ctx, in)
			if err != nil {
				yield(nil, err)
				return
			}
			empty = empty && keys == 0
			for i := range entries {
				if !yield(entries[i], nil) {
					return
				}
			}
			more = in.ContinuationToken != nil
		}
		if empty {
			yield(nil, b.noDirectory(ctx, name))
		}
	}
}

// entries asks for a page of a directory, and makes in ask for the next one. What it returns holds nothing of the answer:
// a client that stops in the middle of a directory keeps it for as long as it likes.
func (b *Backend) entries(ctx context.Context, in *s3.ListObjectsV2Input) (list []info, keys int, err error) {
	page, err := b.list(ctx, in)
	if err != nil {
		return nil, 0, err
	}
	keys = len(page.CommonPrefixes) + len(page.Contents)
	list = make([]info, 0, keys)
	prefix := aws.ToString(in.Prefix)
	for _, p := range page.CommonPrefixes {
		if base := strings.TrimSuffix(strings.TrimPrefix(aws.ToString(p.Prefix), prefix), "/"); isName(base) {
			list = append(list, info{name: strings.Clone(base), dir: true})
		}
	}
	for _, o := range page.Contents {
		if base := strings.TrimPrefix(aws.ToString(o.Key), prefix); isName(base) {
			list = append(list, info{name: strings.Clone(base), obj: listedObject(o)})
		}
	}
	if in.ContinuationToken = nil; aws.ToBool(page.IsTruncated) {
		in.ContinuationToken = page.NextContinuationToken
	}
	return list, keys, nil
}

func listedObject(o types.Object) storage.Object {
	return storage.Object{Size: aws.ToInt64(o.Size), ETag: unquote(o.ETag), ModTime: aws.ToTime(o.LastModified)}
}

func isName(base string) bool {
	return base != "" && base != "." && base != ".." && !strings.Contains(base, "/")
}

// noDirectory says why nothing is listed: a file stands there, or nothing does.
func (b *Backend) noDirectory(ctx context.Context, name string) error {
	if _, err := b.store.head(ctx, b.bucket, name); err != nil {
		return err
	}
	return fmt.Errorf("s3: list %q: not a directory: %w", name, fs.ErrInvalid)
}

// Mkdir puts the marker. A parent needs none, but must not be a file.
func (b *Backend) Mkdir(ctx context.Context, name string) error {
	if _, err := b.Stat(ctx, name); err == nil {
		return fmt.Errorf("s3: mkdir %q: %w", name, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := path.Dir(name); parent != "." {
		if _, err := b.store.head(ctx, b.bucket, parent); err == nil {
			return fmt.Errorf("s3: mkdir %q: the parent is a file: %w", name, fs.ErrInvalid)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, err := b.store.putObject(ctx, object{bucket: b.bucket, key: name + "/"}, nil, nil)
	return err
}

// Remove deletes a file, or the marker of a directory that holds nothing else.
func (b *Backend) Remove(ctx context.Context, name string) error {
	if name == "" {
		return fmt.Errorf("s3: remove the root: %w", fs.ErrPermission)
	}
	_, err := b.store.head(ctx, b.bucket, name)
	if err == nil {
		return b.store.deleteObject(ctx, b.bucket, name)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := name + "/"
	page, listErr := b.list(ctx, &s3.ListObjectsV2Input{Prefix: &dir, MaxKeys: aws.Int32(2)})
	if listErr != nil {
		return listErr
	}
	if len(page.Contents) == 0 {
		return err
	}
	for _, o := range page.Contents {
		if aws.ToString(o.Key) != dir {
			return fmt.Errorf("s3: remove %q: %w", name, storage.ErrNotEmpty)
		}
	}
	return b.store.deleteObject(ctx, b.bucket, dir)
}

func (s *Store) deleteObject(ctx context.Context, bucket, key string) error {
	_, err := request(ctx, s, call{op: "DeleteObject", name: key}, func(ctx context.Context) (*s3.DeleteObjectOutput, error) {
		return s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: &key})
	})
	return err
}

// deleteVersion deletes an object if it is still the one with this ETag: what somebody wrote there since stays. A store
// with conditional deletes is held to that; in one without them, a write between the look and the delete is lost.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-deletes.html
func (s *Store) deleteVersion(ctx context.Context, bucket, key, etag string) error {
	if etag == "" {
		return s.deleteObject(ctx, bucket, key)
	}
	head, err := s.head(ctx, bucket, key)
	if errors.Is(err, fs.ErrNotExist) || err == nil && unquote(head.ETag) != etag {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = request(ctx, s, call{op: "DeleteObject", name: key}, func(ctx context.Context) (*s3.DeleteObjectOutput, error) {
		return s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: &key, IfMatch: head.ETag})
	})
	if errorCode(err) == codeNotImplemented {
		return s.deleteObject(ctx, bucket, key)
	}
	if errors.Is(err, fs.ErrNotExist) { // so does a condition that is not met
		return nil
	}
	return err
}

// Tag merges, which S3 itself does not: it replaces the whole set.
func (b *Backend) Tag(ctx context.Context, name string, tags map[string]string) error {
	have, err := b.store.tags(ctx, b.bucket, name)
	if err != nil {
		return err
	}
	var set []types.Tag
	for _, t := range have {
		if _, replaced := tags[aws.ToString(t.Key)]; !replaced {
			set = append(set, t)
		}
	}
	for k, v := range tags {
		set = append(set, types.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	_, err = request(ctx, b.store, call{op: "PutObjectTagging", name: name},
		func(ctx context.Context) (*s3.PutObjectTaggingOutput, error) {
			return b.store.client.PutObjectTagging(ctx, &s3.PutObjectTaggingInput{
				Bucket: &b.bucket, Key: &name, Tagging: &types.Tagging{TagSet: set},
			})
		})
	return err
}

// Tags are the tags of a file.
func (b *Backend) Tags(ctx context.Context, name string) (map[string]string, error) {
	set, err := b.store.tags(ctx, b.bucket, name)
	if err != nil {
		return nil, err
	}
	tags := make(map[string]string, len(set))
	for _, t := range set {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return tags, nil
}

func (s *Store) tags(ctx context.Context, bucket, key string) ([]types.Tag, error) {
	out, err := request(ctx, s, call{op: "GetObjectTagging", name: key},
		func(ctx context.Context) (*s3.GetObjectTaggingOutput, error) {
			return s.client.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &bucket, Key: &key})
		})
	if err != nil {
		return nil, err
	}
	return out.TagSet, nil
}
