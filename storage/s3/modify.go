package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

// original is the file that an upload changes (storage.CreateOptions.Modify), in the version that stood when the upload
// began. What lies before the first write becomes the first parts, copied by the store; what is too small for a part of
// its own is read and sent again; what lies behind the last write is copied when the upload ends. S3 keeps the old object
// until then, so whatever goes wrong before leaves it as it was.
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPartCopy.html
type original struct {
	head  *s3.HeadObjectOutput
	size  int64
	kept  int64 // of it, from its beginning, copied as the first parts
	wrote bool  // the first write has come
}

// CanModify makes a Backend a storage.Modifier: an object grows and is overwritten from some place on, and no more.
func (b *Backend) CanModify() (anywhere bool) { return false }

// original finds the file to change; nil if none stands.
func (b *Backend) original(ctx context.Context, name string) (*original, error) {
	head, err := request(ctx, b.store, call{op: "HeadObject", name: name}, func(ctx context.Context) (*s3.HeadObjectOutput, error) {
		return b.store.client.HeadObject(ctx, &s3.HeadObjectInput{
			Bucket: &b.bucket, Key: &name, ChecksumMode: types.ChecksumModeEnabled,
		})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &original{head: head, size: aws.ToInt64(head.ContentLength)}, nil
}

// algorithm is that of the parts' checksums. It is another one than the old file's: a store then has to compute that of
// a copied range, where versitygw v1.8.0 otherwise gives a range the checksum of the whole file.
func (o *original) algorithm() types.ChecksumAlgorithm {
	if o != nil && aws.ToString(o.head.ChecksumCRC32) != "" {
		return types.ChecksumAlgorithmCrc32c
	}
	return types.ChecksumAlgorithmCrc32
}

// What copySums holds. S3 computes the checksum of a copied part itself; MinIO RELEASE.2026-02-12 answers 400, "checksum
// missing", to UploadPartCopy into an upload that was made with an algorithm.
const (
	copySumsUnknown int32 = iota
	copySumsTaken
	copySumsRefused
)

// takesCopies tells whether the store copies parts into the upload just made. It is asked once, with a part of one byte,
// which the first real one replaces.
func (u *upload) takesCopies() (bool, error) {
	if u.old == nil || u.old.size <= minPart || u.store.copySums.Load() != copySumsUnknown {
		return true, nil
	}
	j := copyJob{from: u.at, to: u.at, head: u.old.head}
	_, err := u.store.copyPart(u.sendCtx, j, u.id, 1, span{0, 1})
	switch {
	case err == nil:
		u.store.copySums.CompareAndSwap(copySumsUnknown, copySumsTaken)
		return true, nil
	case statusOf(err) == http.StatusBadRequest:
		u.store.copySums.Store(copySumsRefused)
		u.store.cfg.Logger.InfoContext(u.sendCtx, "the store copies no parts into uploads with checksums: files are changed without", "error", err.Error())
		return false, nil
	}
	return false, u.store.copyRefused(u.sendCtx, j, err)
}

// metadata is the old file's with ours on top; the id is the new upload's.
func (o *original) metadata(id string, more map[string]string) map[string]string {
	m := metadata(id, more)
	if o == nil {
		return m
	}
	all := maps.Clone(o.head.Metadata)
	if all == nil {
		return m
	}
	delete(all, idKey)
	maps.Copy(all, m)
	return all
}

// overtake is how far before the first write others may lie that it has overtaken: a client's blocks under way.
const overtake = mib

// startAt takes the offset of the first write. It may lie beyond the file's end, if others fill the gap.
func (u *upload) startAt(off int64) {
	u.old.wrote = true
	from := min(off, u.old.size) - overtake
	if from < minPart || u.old.size <= minPart { // S3 copies no range of what is not larger
		return
	}
	u.old.kept, u.base, u.got.end = from, from, from
	u.part += int32(len(copyPlan(span{0, from}, u.store.copyStep())))
}

// token is what Resume needs: the UploadId, and for a changed file what must be there of the old one. An UploadId has no
// spaces.
func (u *upload) token() string {
	if u.old == nil {
		return u.id
	}
	return modified{kept: u.old.kept, size: u.old.size, etag: unquote(u.old.head.ETag), upload: u.id}.token()
}

// keep has the store copy what stays of the old file's beginning.
func (u *upload) keep() {
	if u.old == nil || u.old.kept == 0 {
		return
	}
	u.wg.Go(func() {
		if err := u.copyOld(span{0, u.old.kept}, 1); err != nil {
			_ = u.fail(err) // kept; WriteAt and Commit return it
		}
	})
}

// copyOld makes a range of the old file the parts from first on.
func (u *upload) copyOld(r span, first int32) error {
	plan := copyPlan(r, u.store.copyStep())
	if int(first)+len(plan)-1 > maxParts {
		return fmt.Errorf("s3: more than %d parts: %w", maxParts, storage.ErrTooLarge)
	}
	j := copyJob{from: u.at, to: u.at, head: u.old.head}
	parts, err := u.store.copyRanges(u.sendCtx, j, u.id, plan, first)
	if err != nil {
		return u.store.copyRefused(u.sendCtx, j, err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent = append(u.sent, parts...)
	return nil
}

// lacks reports whether bytes before to are only in the old file.
func (u *upload) lacks(to int64) bool { return u.old != nil && u.got.end < min(to, u.old.size) }

// lacksHead reports whether all that lacks of cur is what the first write might have overtaken, and has not.
func (u *upload) lacksHead(end int64) bool {
	return u.lacks(u.base+end) && u.got.end == u.base && len(u.got.ahead) > 0 &&
		u.got.ahead[0].from <= u.base+overtake && u.got.ahead[0].to >= u.base+end
}

// fill reads what nobody wrote before to from the old file into the buffers, which must reach that far.
func (u *upload) fill(ctx context.Context, to int64) error {
	for u.lacks(to) {
		gap := span{u.got.end, min(to, u.old.size)}
		if len(u.got.ahead) > 0 {
			gap.to = min(gap.to, u.got.ahead[0].from)
		}
		buf, at := u.cur, gap.from-u.base
		if at >= int64(len(u.cur)) {
			buf, at = u.next[0].buf, at-int64(len(u.cur))
		}
		buf = buf[at:min(int64(len(buf)), at+gap.to-gap.from)]
		if err := u.store.readRange(ctx, u.at, u.old.head.ETag, buf, gap.from); err != nil {
			if u.ctx.Err() != nil && ctx == u.ctx {
				return err // the session is over; Commit reads it then
			}
			return u.fail(err)
		}
		u.got.add(gap.from, gap.from+int64(len(buf)))
	}
	return nil
}

// complement fills what the client left out, and so much of what lies behind its last write that the store can copy the
// remainder: a part that is not the last has at least minPart.
func (u *upload) complement(ctx context.Context) error {
	last := u.got.end
	if n := len(u.got.ahead); n > 0 {
		last = u.got.ahead[n-1].to
	}
	if err := u.fill(u.sendCtx, last); err != nil {
		return err
	}
	if u.got.end == u.old.size && u.got.end < last { // all that the client added lies behind a gap that nobody filled
		return fmt.Errorf("s3: nothing was written at the end of %d bytes, but behind it: %w", u.old.size, storage.ErrRandomAccess)
	}
	if !u.lacks(u.old.size) || u.cur == nil {
		return nil
	}
	if len(u.cur) == chunk && u.old.size > chunk {
		if err := u.outgrow(ctx); err != nil {
			return err
		}
	}
	if u.id == "" && u.base == 0 && u.old.size <= int64(len(u.cur)) {
		return u.fill(u.sendCtx, u.old.size)
	}
	from := u.base
	if full := u.base + int64(len(u.cur)); u.got.end > full {
		from = full
	}
	return u.fill(u.sendCtx, from+minPart)
}

// modified is the token of an upload that changes a file.
type modified struct {
	kept, size int64
	etag       string
	upload     string
}

const modifiedToken = "modify"

func (m modified) token() string {
	return strings.Join([]string{modifiedToken, strconv.FormatInt(m.kept, 10), strconv.FormatInt(m.size, 10), m.etag, m.upload}, " ")
}

func parseModified(token string) (modified, bool) {
	f := strings.Split(token, " ")
	if len(f) != 5 || f[0] != modifiedToken {
		return modified{}, false
	}
	kept, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return modified{}, false
	}
	size, err := strconv.ParseInt(f[2], 10, 64)
	return modified{kept: kept, size: size, etag: f[3], upload: f[4]}, err == nil
}

// resumeModified ends an upload that changed a file. It completes only what holds all that was to be kept of the old
// file and is not shorter than it; else the old file stays as it is. It reports false if nothing was completed.
func (b *Backend) resumeModified(ctx context.Context, at object, m modified) (storage.Object, bool, error) {
	whole, size, err := b.store.wholeParts(ctx, at, m.upload)
	if errors.Is(err, fs.ErrNotExist) {
		return storage.Object{}, false, nil
	}
	if err != nil {
		return storage.Object{}, false, err
	}
	if n := len(whole); n > 0 && size.total < m.size && size.last < minPart { // nothing may follow it
		whole, size.total = whole[:n-1], size.total-size.last
	}
	if len(whole) == 0 || size.total < m.kept {
		return storage.Object{}, false, b.store.abortMultipart(ctx, at, m.upload)
	}
	if size.total < m.size {
		plan := copyPlan(span{size.total, m.size}, b.store.copyStep())
		j := copyJob{from: at, to: at, head: &s3.HeadObjectOutput{ETag: aws.String(`"` + m.etag + `"`)}}
		rest, err := b.store.copyRanges(ctx, j, m.upload, plan, int32(len(whole))+1)
		if errors.Is(err, fs.ErrNotExist) { // the old file is not there any more
			return storage.Object{}, false, b.store.abortMultipart(ctx, at, m.upload)
		}
		if err != nil {
			return storage.Object{}, false, err
		}
		whole, size.total = append(whole, rest...), m.size
	}
	obj, err := b.store.completeMultipart(ctx, at, m.upload, whole)
	obj.Size = size.total
	return obj, err == nil, err
}

// stands is the file that a dead upload leaves as it was. If there is none any more, false.
func (b *Backend) stands(ctx context.Context, name string) (storage.Object, bool, error) {
	head, err := b.store.head(ctx, b.bucket, name)
	if errors.Is(err, fs.ErrNotExist) {
		return storage.Object{}, false, nil
	}
	if err != nil {
		return storage.Object{}, false, err
	}
	return headObject(head), true, nil
}

// partSizes are of the parts from 1 on without a gap.
type partSizes struct{ total, last int64 }

// wholeParts are the parts from 1 on without a gap. Parts are numbered in the order of the file and each begins where
// the one before it ends, so that is the longest prefix that reached the store.
func (s *Store) wholeParts(ctx context.Context, at object, upload string) ([]types.CompletedPart, partSizes, error) {
	parts, err := s.parts(ctx, at, upload)
	if err != nil {
		return nil, partSizes{}, err
	}
	slices.SortFunc(parts, func(a, b types.Part) int { return int(*a.PartNumber - *b.PartNumber) })
	var whole []types.CompletedPart
	var size partSizes
	for i, p := range parts {
		if aws.ToInt32(p.PartNumber) != int32(i+1) {
			break
		}
		// A part below S3's minimum can only be a last one, whose upload was about to be completed; anything behind it
		// does not exist.
		whole = append(whole, completed(p))
		size.last = aws.ToInt64(p.Size)
		size.total += size.last
	}
	return whole, size, nil
}

// completed is a part as the request that completes the upload names it.
func completed(p types.Part) types.CompletedPart {
	part := types.CompletedPart{PartNumber: p.PartNumber, ETag: p.ETag}
	if aws.ToString(p.ChecksumCRC32) != "" { // a store without checksums refuses an empty one
		part.ChecksumCRC32 = p.ChecksumCRC32
	}
	if aws.ToString(p.ChecksumCRC32C) != "" {
		part.ChecksumCRC32C = p.ChecksumCRC32C
	}
	return part
}
