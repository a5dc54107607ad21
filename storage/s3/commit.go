package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

// completeTimeout lengthens the deadline of requests that the store may work on for minutes, as bytes would.
const completeTimeout = int64(5*time.Minute/time.Second) * slowest

// Commit makes the contiguous prefix the file.
func (u *upload) Commit(ctx context.Context) (storage.Object, error) {
	unlink := context.AfterFunc(ctx, func() { _ = u.fail(fmt.Errorf("s3: commit %q: %w", u.at.key, context.Cause(ctx))) })
	defer unlink()
	obj, asked, err := u.finish(ctx)
	if err == nil {
		u.release()
		return obj, nil
	}
	// The cleanup's own error is in the sweeper's log and metric; what the caller needs to know is why there is no file.
	_ = u.drop(ctx, err, asked)
	return storage.Object{}, err
}

// finish sends what is left and completes. asked says that the store was asked to make the file: if that failed, it may
// have made it all the same.
func (u *upload) finish(ctx context.Context) (obj storage.Object, asked bool, err error) {
	if err := u.failed(); err != nil {
		return obj, false, err
	}
	if u.old != nil {
		if !u.old.wrote {
			obj, err = u.unchanged(ctx)
			return obj, false, err
		}
		if err := u.complement(ctx); err != nil {
			return obj, false, err
		}
	}
	size := u.got.end
	if u.id == "" && u.base == 0 && size <= int64(len(u.cur)) && !u.lacks(maxObject) {
		obj, err = u.store.putFile(ctx, u.at, u.old.metadata(u.at.id, u.opt.Metadata), u.cur[:size], u.putOptions)
		return obj, true, err
	}
	if err := u.sendRest(ctx, size); err != nil {
		return obj, false, err
	}
	if u.lacks(maxObject) {
		if err := u.copyOld(span{size, u.old.size}, u.part); err != nil {
			return obj, false, err
		}
		size = u.old.size
	}
	u.wg.Wait()
	if err := u.failed(); err != nil {
		return obj, false, err
	}
	if u.old == nil { // what left early and lies behind a hole is no part of the file
		u.sent = slices.DeleteFunc(u.sent, func(p types.CompletedPart) bool { return *p.PartNumber >= u.part })
	}
	if size == 0 { // nothing else is
		if err := u.store.abortMultipart(ctx, u.at, u.id); err != nil {
			return obj, false, err
		}
		obj, err = u.store.putObject(ctx, u.at, u.opt.Metadata, nil)
		return obj, true, err
	}
	obj, err = u.store.completeMultipart(ctx, u.at, u.id, u.sent)
	obj.Size = size
	return obj, true, err
}

// unchanged is the end of an upload that was to change a file and wrote nothing.
func (u *upload) unchanged(ctx context.Context) (storage.Object, error) {
	head, err := u.store.head(ctx, u.at.bucket, u.at.key)
	if err != nil {
		return storage.Object{}, err
	}
	return headObject(head), nil
}

// putOptions adds to a small file what a changed one had.
func (u *upload) putOptions(in *s3.PutObjectInput) {
	if u.old != nil {
		in.ContentType, in.ContentEncoding = u.old.head.ContentType, u.old.head.ContentEncoding
	}
}

// sendRest sends the prefix's bytes that are in the buffers.
func (u *upload) sendRest(ctx context.Context, size int64) error {
	for u.cur != nil && size > u.base {
		n := min(size-u.base, int64(len(u.cur)))
		if err := u.ready(ctx, int(n)); err != nil {
			return err
		}
		u.send(u.part, u.cur[:n])
		u.free(int(n))
		if err := u.failed(); err != nil {
			return err
		}
		full := int(n) == len(u.cur)
		u.store.cfg.Budget.put(u.cur)
		if u.cur = nil; full {
			u.step(n)
			continue
		}
		u.base += n
		u.part++
	}
	return nil
}

// Abort drops the upload. If its remains at the store could not be removed, the error says so; the store goes on
// trying in the background.
func (u *upload) Abort(ctx context.Context) error {
	_ = u.fail(errDropped)
	return u.drop(ctx, errDropped, false)
}

// drop ends all that is on its way, gives the buffers back and removes what the store has of the upload.
func (u *upload) drop(ctx context.Context, cause error, asked bool) error {
	u.stop(cause)
	u.wg.Wait()
	u.release()
	if asked && !unknown(cause) {
		asked = false
	}
	if u.id == "" && !asked {
		return nil
	}
	// A changed file that was made after all stays: without it the old one's bytes would be gone too.
	made := asked && u.at.id != "" && u.old == nil
	return u.store.sweeper.clean(ctx, remains{by: u.store, at: u.at, upload: u.id, object: made})
}

// unknown reports whether a request that ended like this may have been carried out.
func unknown(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// release gives the buffers back and forgets the upload.
func (u *upload) release() {
	u.stop(nil)
	u.store.cfg.Budget.leave(&u.hold)
	for _, s := range append(u.next, slot{buf: u.cur}) {
		if s.buf != nil {
			u.store.cfg.Budget.put(s.buf)
		}
	}
	u.cur, u.next = nil, nil
	u.store.forget(u.id)
}

// putObject makes a file of body in one request.
func (s *Store) putObject(ctx context.Context, at object, more map[string]string, body []byte) (storage.Object, error) {
	return s.putFile(ctx, at, metadata(at.id, more), body, func(*s3.PutObjectInput) {})
}

// putFile is putObject with all of the metadata, and whatever more adds to each attempt's request.
func (s *Store) putFile(ctx context.Context, at object, meta map[string]string, body []byte, more func(*s3.PutObjectInput)) (storage.Object, error) {
	sum := checksum(body, crc32.IEEETable)
	out, err := conditional(ctx, s, call{op: "PutObject", name: at.key, bytes: int64(len(body))}, at,
		func(ctx context.Context, ifNoneMatch *string) (*s3.PutObjectOutput, error) {
			in := &s3.PutObjectInput{
				Bucket: &at.bucket, Key: &at.key, Metadata: meta,
				Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))), ChecksumCRC32: &sum,
				IfNoneMatch: ifNoneMatch,
			}
			more(in)
			return s.client.PutObject(ctx, in, s.bodyOptions)
		})
	if err != nil {
		return s.standsFor(ctx, at, err)
	}
	return storage.Object{
		Size: int64(len(body)), ETag: unquote(out.ETag), VersionID: aws.ToString(out.VersionId), ModTime: s.cfg.Now(),
	}, nil
}

// beginMultipart makes a multipart upload and remembers that this process works on it.
func (s *Store) beginMultipart(ctx context.Context, in *s3.CreateMultipartUploadInput) (string, error) {
	out, err := request(ctx, s, call{op: "CreateMultipartUpload", name: *in.Key},
		func(ctx context.Context) (*s3.CreateMultipartUploadOutput, error) {
			return s.client.CreateMultipartUpload(ctx, in)
		})
	if err != nil {
		return "", err
	}
	id := aws.ToString(out.UploadId)
	s.adopt(id)
	return id, nil
}

// beginSummed is beginMultipart, for a file that is to have the checksum of all its bytes, as one of a single request has,
// rather than one of its parts' checksums: nobody has to know the parts to check it. A store that knows parts' alone is
// asked once.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
func (s *Store) beginSummed(ctx context.Context, in *s3.CreateMultipartUploadInput) (string, error) {
	if in.ChecksumAlgorithm == "" || s.partSums.Load() {
		return s.beginMultipart(ctx, in)
	}
	in.ChecksumType = types.ChecksumTypeFullObject
	id, err := s.beginMultipart(ctx, in)
	if status := statusOf(err); status != http.StatusBadRequest && status != http.StatusNotImplemented {
		return id, err
	}
	in.ChecksumType = ""
	id, plainErr := s.beginMultipart(ctx, in)
	if plainErr != nil {
		return "", plainErr
	}
	s.partSums.Store(true)
	s.cfg.Logger.InfoContext(ctx, "the store takes no checksums of whole files: large ones have those of their parts", "error", err.Error())
	return id, nil
}

// adopt says that this process works on the multipart upload.
func (s *Store) adopt(upload string) {
	s.alive.Lock()
	defer s.alive.Unlock()
	s.live[upload] = struct{}{}
}

// forget says that this process works on the multipart upload no more.
func (s *Store) forget(upload string) {
	s.alive.Lock()
	defer s.alive.Unlock()
	delete(s.live, upload)
}

// completeMultipart makes the parts the file. A request that was carried out but whose answer got lost is repeated, and
// some stores then know the upload no more: our id on the object tells that it is done. The object's size is the
// caller's to fill in.
func (s *Store) completeMultipart(ctx context.Context, at object, upload string, parts []types.CompletedPart) (storage.Object, error) {
	slices.SortFunc(parts, func(a, b types.CompletedPart) int { return int(*a.PartNumber - *b.PartNumber) })
	out, err := conditional(ctx, s, call{op: "CompleteMultipartUpload", name: at.key, bytes: completeTimeout}, at,
		func(ctx context.Context, ifNoneMatch *string) (*s3.CompleteMultipartUploadOutput, error) {
			return s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
				Bucket: &at.bucket, Key: &at.key, UploadId: &upload, IfNoneMatch: ifNoneMatch,
				MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			})
		})
	if err == nil {
		return storage.Object{ETag: unquote(out.ETag), VersionID: aws.ToString(out.VersionId), ModTime: s.cfg.Now()}, nil
	}
	return s.standsFor(ctx, at, err)
}

// conditional does a request that makes the object at, and refuses it to replace another one if at.absent. To a store
// without conditional writes, that nothing stands there a moment before has to do.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
func conditional[O any](ctx context.Context, s *Store, c call, at object, do func(context.Context, *string) (O, error)) (O, error) {
	var ifNoneMatch *string
	if at.absent {
		ifNoneMatch = aws.String("*")
	}
	send := func(ctx context.Context) (O, error) { return do(ctx, ifNoneMatch) }
	out, err := request(ctx, s, c, send)
	if ifNoneMatch == nil || errorCode(err) != codeNotImplemented {
		return out, err
	}
	if _, headErr := s.head(ctx, at.bucket, at.key); headErr == nil {
		return out, fmt.Errorf("s3: %s %q: %w", c.op, at.key, fs.ErrExist)
	} else if !errors.Is(headErr, fs.ErrNotExist) {
		return out, headErr
	}
	ifNoneMatch = nil
	return request(ctx, s, c, send)
}

// standsFor tells what an error of a request that makes an object means: the request may have been carried out before,
// with its answer lost, and then the object that stands has our id.
func (s *Store) standsFor(ctx context.Context, at object, err error) (storage.Object, error) {
	status := statusOf(err)
	taken := at.absent && (status == http.StatusPreconditionFailed || status == http.StatusConflict)
	if !taken && (errorCode(err) != codeNoSuchUpload || at.id == "") {
		return storage.Object{}, err
	}
	obj, ours, headErr := s.written(ctx, at)
	switch {
	case headErr != nil:
		return storage.Object{}, headErr
	case ours && at.id != "":
		return obj, nil
	case taken:
		return storage.Object{}, fmt.Errorf("s3: make %q: another one stands: %w", at.key, fs.ErrExist)
	}
	return storage.Object{}, err
}

// written looks whether the object is there and was written by the upload at.id.
func (s *Store) written(ctx context.Context, at object) (storage.Object, bool, error) {
	head, err := s.head(ctx, at.bucket, at.key)
	if errors.Is(err, fs.ErrNotExist) {
		return storage.Object{}, false, nil
	}
	if err != nil {
		return storage.Object{}, false, err
	}
	return headObject(head), head.Metadata[idKey] == at.id, nil
}

func (s *Store) head(ctx context.Context, bucket, key string) (*s3.HeadObjectOutput, error) {
	return request(ctx, s, call{op: "HeadObject", name: key}, func(ctx context.Context) (*s3.HeadObjectOutput, error) {
		return s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, Key: &key})
	})
}

func headObject(head *s3.HeadObjectOutput) storage.Object {
	return storage.Object{
		Size: aws.ToInt64(head.ContentLength), ETag: unquote(head.ETag),
		VersionID: aws.ToString(head.VersionId), ModTime: aws.ToTime(head.LastModified),
	}
}

func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }
