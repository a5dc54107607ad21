package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

// copyRange is what one request of a multipart copy takes while that does for the file.
const copyRange = 512 * mib

// copyStep is copyRange, or less where a test wants many.
func (s *Store) copyStep() int64 { return min(copyRange, s.copyLimit) }

// copyPlan cuts a range of a file into those that one request each copies. Each may be followed by another part: it has
// at least minPart if the whole range has. 5 TiB make 1280 of them, none above 5 GiB.
func copyPlan(r span, step int64) []span {
	for (r.to-r.from+step-1)/step > maxParts/10 && step < maxPart {
		step *= 2
	}
	step = min(step, maxPart)
	var plan []span
	for from := r.from; from < r.to; {
		to := from + step
		if r.to-to < minPart { // too small for one of its own
			to = r.to
		}
		plan = append(plan, span{from, to})
		from = to
	}
	return plan
}

// copyJob is one copy inside a store.
type copyJob struct {
	from, to object
	head     *s3.HeadObjectOutput // of from: its version is the one that is copied
	absent   bool                 // to must not exist
}

// Copy copies within the store, tags included. The destination's metadata is the source's.
func (b *Backend) Copy(ctx context.Context, src, ifMatch string, to storage.Backend, dst string, overwrite bool) (storage.Object, error) {
	dest, ok := to.(*Backend)
	if !ok || dest.store != b.store {
		return storage.Object{}, fmt.Errorf("s3: copy %q to another store: %w", src, errors.ErrUnsupported)
	}
	head, err := b.store.head(ctx, b.bucket, src)
	if err != nil {
		return storage.Object{}, err
	}
	if have := unquote(head.ETag); ifMatch != "" && have != ifMatch {
		return storage.Object{}, fmt.Errorf("s3: copy %q: its ETag is %s now, not %s: %w", src, have, ifMatch, fs.ErrNotExist)
	}
	if !overwrite {
		if err := dest.free(ctx, dst); err != nil {
			return storage.Object{}, fmt.Errorf("s3: copy %q: %w", src, err)
		}
	}
	if dest.bucket == b.bucket && dst == src {
		return headObject(head), nil // S3 refuses a copy that changes nothing
	}
	return b.store.copyFile(ctx, copyJob{
		from: object{bucket: b.bucket, key: src}, to: object{bucket: dest.bucket, key: dst}, head: head, absent: !overwrite,
	})
}

func (s *Store) copyFile(ctx context.Context, j copyJob) (storage.Object, error) {
	if aws.ToInt64(j.head.ContentLength) > s.copyLimit {
		return s.copyParts(ctx, j)
	}
	in := &s3.CopyObjectInput{
		Bucket: &j.to.bucket, Key: &j.to.key, CopySource: source(j.from), CopySourceIfMatch: j.head.ETag,
	}
	if j.absent {
		in.IfNoneMatch = aws.String("*")
	}
	send := func(ctx context.Context) (*s3.CopyObjectOutput, error) { return s.client.CopyObject(ctx, in) }
	c := call{op: "CopyObject", name: j.from.key, bytes: completeTimeout}
	out, err := request(ctx, s, c, send)
	if in.IfNoneMatch != nil && errorCode(err) == codeNotImplemented {
		in.IfNoneMatch = nil // an older store; that it was absent a moment ago has to do
		out, err = request(ctx, s, c, send)
	}
	if err != nil && j.absent && statusOf(err) == http.StatusPreconditionFailed {
		// An earlier attempt, whose answer got lost, may have made it: the caller found nothing there.
		if there, headErr := s.head(ctx, j.to.bucket, j.to.key); headErr == nil && sameFile(j.head, there) {
			return headObject(there), nil
		}
	}
	if err != nil {
		return storage.Object{}, s.copyRefused(ctx, j, err)
	}
	obj := headObject(j.head)
	obj.VersionID = aws.ToString(out.VersionId)
	if out.CopyObjectResult != nil {
		obj.ETag, obj.ModTime = unquote(out.CopyObjectResult.ETag), aws.ToTime(out.CopyObjectResult.LastModified)
	}
	return obj, nil
}

// copyRefused tells the two conditions of a copy apart.
func (s *Store) copyRefused(ctx context.Context, j copyJob, err error) error {
	if statusOf(err) != http.StatusPreconditionFailed {
		return err
	}
	if j.absent {
		if _, headErr := s.head(ctx, j.to.bucket, j.to.key); headErr == nil {
			return fmt.Errorf("s3: copy %q: %q: %w", j.from.key, j.to.key, fs.ErrExist)
		}
	}
	return fmt.Errorf("s3: copy %q: it was changed meanwhile: %w", j.from.key, err)
}

// source is the header's form of a name: escaped, but for the slashes. A plus is escaped too, because stores read it as a
// space, as in a query.
func source(from object) *string {
	parts := strings.Split(from.bucket+"/"+from.key, "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.QueryEscape(p), "+", "%20")
	}
	return aws.String(strings.Join(parts, "/"))
}

// beginCopy makes the multipart upload of a copy, with the metadata and tags that CopyObject would have kept.
func (s *Store) beginCopy(ctx context.Context, j copyJob) (upload string, err error) {
	tags, err := s.tags(ctx, j.from.bucket, j.from.key)
	if err != nil {
		return "", err
	}
	set := url.Values{}
	for _, t := range tags {
		set.Set(aws.ToString(t.Key), aws.ToString(t.Value))
	}
	meta := maps.Clone(j.head.Metadata)
	if meta == nil {
		meta = map[string]string{}
	}
	meta[copyKey] = unquote(j.head.ETag)
	in := &s3.CreateMultipartUploadInput{
		Bucket: &j.to.bucket, Key: &j.to.key, Metadata: meta, ContentType: j.head.ContentType,
		ContentEncoding: j.head.ContentEncoding, CacheControl: j.head.CacheControl,
		ContentDisposition: j.head.ContentDisposition, ContentLanguage: j.head.ContentLanguage,
	}
	if len(set) > 0 {
		in.Tagging = aws.String(set.Encode())
	}
	return s.beginMultipart(ctx, in)
}

// copyParts copies what is too large for one request.
func (s *Store) copyParts(ctx context.Context, j copyJob) (storage.Object, error) {
	upload, err := s.beginCopy(ctx, j)
	if err != nil {
		return storage.Object{}, err
	}
	defer s.forget(upload)
	plan := copyPlan(span{0, aws.ToInt64(j.head.ContentLength)}, s.copyStep())
	parts, err := s.copyRanges(ctx, j, upload, plan, 1)
	if err == nil {
		var obj storage.Object
		to := j.to
		to.absent = j.absent
		if obj, err = s.completeMultipart(ctx, to, upload, parts); err == nil {
			obj.Size = aws.ToInt64(j.head.ContentLength)
			return obj, nil
		}
	}
	return storage.Object{}, errors.Join(s.copyRefused(ctx, j, err),
		s.sweeper.clean(ctx, remains{by: s, at: j.to, upload: upload}))
}

// copyRanges copies ranges, several at a time, as the parts from first on.
func (s *Store) copyRanges(ctx context.Context, j copyJob, upload string, plan []span, first int32) ([]types.CompletedPart, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := make([]types.CompletedPart, len(plan))
	slots := make(chan struct{}, s.cfg.Parallel)
	var wg sync.WaitGroup
	for i, r := range plan {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			part, err := s.copyPart(ctx, j, upload, first+int32(i), r)
			if err != nil {
				cancel(err)
				return
			}
			parts[i] = part
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return parts, nil
}

func (s *Store) copyPart(ctx context.Context, j copyJob, upload string, n int32, r span) (types.CompletedPart, error) {
	out, err := request(ctx, s, call{op: "UploadPartCopy", name: j.from.key, bytes: completeTimeout},
		func(ctx context.Context) (*s3.UploadPartCopyOutput, error) {
			return s.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
				Bucket: &j.to.bucket, Key: &j.to.key, UploadId: &upload, PartNumber: &n,
				CopySource: source(j.from), CopySourceIfMatch: j.head.ETag,
				CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", r.from, r.to-1)),
			})
		})
	if err != nil {
		return types.CompletedPart{}, err
	}
	part := types.CompletedPart{PartNumber: &n, ETag: out.CopyPartResult.ETag}
	if aws.ToString(out.CopyPartResult.ChecksumCRC32) != "" { // of an upload whose parts have one
		part.ChecksumCRC32 = out.CopyPartResult.ChecksumCRC32
	}
	if aws.ToString(out.CopyPartResult.ChecksumCRC32C) != "" {
		part.ChecksumCRC32C = out.CopyPartResult.ChecksumCRC32C
	}
	return part, nil
}
