package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

var _ storage.PieceCopier = (*Backend)(nil)

// pieces is the token of a copy in pieces: what is copied, how it is cut, and the multipart upload that takes it, "" while
// that is about to be made. So a process that dies before it knows the UploadId leaves when and where to look for it.
type pieces struct {
	begun  time.Time
	size   int64
	step   int64 // of the plan; the next process may have another one
	etag   string
	upload string
}

const piecesToken = "pieces"

func (p pieces) token() string {
	return strings.Join([]string{piecesToken, strconv.FormatInt(p.begun.UnixMilli(), 10), strconv.FormatInt(p.size, 10),
		strconv.FormatInt(p.step, 10), url.QueryEscape(p.etag), p.upload}, " ")
}

func parsePieces(token string) (p pieces, err error) {
	f := strings.Split(token, " ")
	if len(f) != 6 || f[0] != piecesToken {
		return p, fmt.Errorf("s3: %q is no token of a copy: %w", token, fs.ErrInvalid)
	}
	var begun int64
	for i, n := range []*int64{&begun, &p.size, &p.step} {
		if *n, err = strconv.ParseInt(f[i+1], 10, 64); err != nil {
			return p, fmt.Errorf("s3: token of a copy: %w", err)
		}
	}
	if p.size <= 0 || p.step <= 0 {
		return p, fmt.Errorf("s3: %q is no token of a copy: %w", token, fs.ErrInvalid)
	}
	p.begun, p.upload = time.UnixMilli(begun), f[5]
	p.etag, err = url.QueryUnescape(f[4])
	return p, err
}

func (p pieces) plan() []span { return copyPlan(span{0, p.size}, p.step) }

// pieceCopy is a copy in pieces as one process sees it.
type pieceCopy struct {
	storage.PieceCopy
	s        *Store
	from, to object
	pieces
}

// CopyPiece implements storage.PieceCopier by a multipart upload whose parts the store copies.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/CopyingObjectsMPUapi.html
func (b *Backend) CopyPiece(ctx context.Context, p storage.PieceCopy) (obj storage.Object, done bool, err error) {
	dest, ok := p.To.(*Backend)
	if !ok || dest.store != b.store {
		return obj, false, fmt.Errorf("s3: copy %q to another store: %w", p.Src, errors.ErrUnsupported)
	}
	c := &pieceCopy{PieceCopy: p, s: b.store, from: object{bucket: b.bucket, key: p.Src},
		to: object{bucket: dest.bucket, key: p.Dst, absent: !p.Overwrite}}
	if p.Token != "" {
		if c.pieces, err = parsePieces(p.Token); err != nil {
			return obj, false, err
		}
	}
	if c.upload == "" {
		if obj, done, err = c.begin(ctx, b, dest); done || err != nil {
			return obj, done, err
		}
	} else {
		c.s.adopt(c.upload)
	}
	defer func() { c.s.forget(c.upload) }()
	return c.goOn(ctx, b, dest)
}

// begin makes the multipart upload, or the whole copy if it is a small one.
func (c *pieceCopy) begin(ctx context.Context, b, dest *Backend) (obj storage.Object, done bool, err error) {
	match := c.IfMatch
	if c.etag != "" { // an attempt before this one died in begin
		match = c.etag
		if err := dest.abortUnnoted(ctx, c.to, c.begun); err != nil {
			return obj, false, err
		}
	}
	head, err := c.s.head(ctx, c.from.bucket, c.from.key)
	if err == nil && aws.ToInt64(head.ContentLength) <= c.s.copyLimit {
		obj, err = b.Copy(ctx, c.Src, match, dest, c.Dst, c.Overwrite)
		return obj, err == nil, err
	}
	if err == nil && match != "" && unquote(head.ETag) != match {
		err = fmt.Errorf("s3: copy %q: its ETag is %s now, not %s: %w", c.Src, unquote(head.ETag), match, fs.ErrNotExist)
	}
	if err == nil && c.to.absent {
		err = dest.free(ctx, c.Dst)
	}
	if err != nil {
		return obj, false, err
	}
	if dest.bucket == b.bucket && c.Src == c.Dst {
		return headObject(head), true, nil
	}
	c.pieces = pieces{begun: c.s.cfg.Now(), size: aws.ToInt64(head.ContentLength), step: c.s.copyStep(), etag: unquote(head.ETag)}
	if err := c.Note(ctx, c.token()); err != nil {
		return obj, false, fmt.Errorf("s3: note the copy of %q: %w", c.Src, err)
	}
	if c.upload, err = c.s.beginCopy(ctx, copyJob{from: c.from, to: c.to, head: head}); err != nil {
		return obj, false, err
	}
	if err := c.Note(ctx, c.token()); err != nil {
		c.s.forget(c.upload)
		return obj, false, errors.Join(fmt.Errorf("s3: note the copy of %q: %w", c.Src, err),
			c.s.sweeper.clean(ctx, remains{by: c.s, at: c.to, upload: c.upload}))
	}
	return obj, false, nil
}

// free is fs.ErrExist if a file stands.
func (b *Backend) free(ctx context.Context, name string) error {
	_, err := b.store.head(ctx, b.bucket, name)
	if err == nil {
		return fmt.Errorf("s3: %q: %w", name, fs.ErrExist)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// goOn copies the parts that are not there yet, as long as the piece may take, and completes the file after the last one.
func (c *pieceCopy) goOn(ctx context.Context, b, dest *Backend) (obj storage.Object, done bool, err error) {
	until := time.Now().Add(c.Within)
	there, err := c.s.parts(ctx, c.to, c.upload)
	if errors.Is(err, fs.ErrNotExist) {
		return c.lost(ctx, b, dest)
	}
	if err != nil {
		return obj, false, err
	}
	plan := c.plan()
	parts, missing := matched(plan, there)
	j := copyJob{from: c.from, to: c.to, absent: c.to.absent, head: &s3.HeadObjectOutput{ETag: aws.String(`"` + c.etag + `"`)}}
	for len(missing) > 0 {
		n := 1 // those that follow each other
		for n < len(missing) && n < c.s.cfg.Parallel && missing[n] == missing[0]+n {
			n++
		}
		first := missing[0]
		more, err := c.s.copyRanges(ctx, j, c.upload, plan[first:first+n], int32(first+1))
		if errorCode(err) == codeNoSuchUpload {
			return c.lost(ctx, b, dest)
		}
		if err != nil {
			return obj, false, c.refused(ctx, j, err)
		}
		parts, missing = append(parts, more...), missing[n:]
		if len(missing) > 0 && !time.Now().Before(until) {
			return obj, false, nil
		}
	}
	obj, err = c.s.completeMultipart(ctx, c.to, c.upload, parts)
	switch {
	case err == nil:
		obj.Size = c.size
		return obj, true, nil
	case errorCode(err) == codeNoSuchUpload:
		return c.lost(ctx, b, dest)
	case errors.Is(err, fs.ErrExist): // an earlier request, whose answer got lost, may have made it
		if made, ours, headErr := c.made(ctx); ours || headErr != nil {
			return made, ours, headErr
		}
	}
	return obj, false, c.refused(ctx, j, err)
}

// refused tells why a store copies no part: of a source that is another file now it may say that first which has nothing to
// do with its ETag, a range beyond its end for one.
func (c *pieceCopy) refused(ctx context.Context, j copyJob, err error) error {
	if errors.Is(err, fs.ErrInvalid) {
		head, headErr := c.s.head(ctx, c.from.bucket, c.from.key)
		if headErr == nil && unquote(head.ETag) != c.etag {
			return fmt.Errorf("s3: copy %q: its ETag is %s now, not %s: %w", c.Src, unquote(head.ETag), c.etag, fs.ErrNotExist)
		}
		err = errors.Join(err, headErr)
	}
	return c.s.copyRefused(ctx, j, err)
}

// lost is what a copy comes to whose multipart upload is gone. An attempt before this one may have completed it. If not,
// somebody has removed it, a lifecycle rule perhaps, and the copy begins anew.
func (c *pieceCopy) lost(ctx context.Context, b, dest *Backend) (obj storage.Object, done bool, err error) {
	if obj, done, err = c.made(ctx); done || err != nil {
		return obj, done, err
	}
	c.s.forget(c.upload)
	c.upload = ""
	return c.begin(ctx, b, dest)
}

// made tells whether the copy stands.
func (c *pieceCopy) made(ctx context.Context) (obj storage.Object, ours bool, err error) {
	head, err := c.s.head(ctx, c.to.bucket, c.to.key)
	if errors.Is(err, fs.ErrNotExist) {
		return obj, false, nil
	}
	if err != nil {
		return obj, false, err
	}
	return headObject(head), aws.ToInt64(head.ContentLength) == c.size && head.Metadata[copyKey] == c.etag, nil
}

// matched are the parts of a plan that are there, and the indexes of those that are not. One of another length is no part of
// the plan: it is copied again.
func matched(plan []span, there []types.Part) (parts []types.CompletedPart, missing []int) {
	have := make(map[int]types.Part, len(there))
	for _, p := range there {
		have[int(aws.ToInt32(p.PartNumber))-1] = p
	}
	for i, r := range plan {
		if p, ok := have[i]; ok && aws.ToInt64(p.Size) == r.to-r.from {
			parts = append(parts, completed(p))
		} else {
			missing = append(missing, i)
		}
	}
	return parts, missing
}

// DropCopy implements storage.PieceCopier. A multipart upload that nobody noted has no parts; it is found by its name and
// its time.
func (b *Backend) DropCopy(ctx context.Context, dst, token string) error {
	p, err := parsePieces(token)
	if err != nil {
		return err
	}
	at := object{bucket: b.bucket, key: dst}
	if p.upload == "" {
		err = b.abortUnnoted(ctx, at, p.begun)
	} else if err = b.store.abortMultipart(ctx, at, p.upload); err == nil {
		b.store.sweeper.lookLater(look{remains: remains{by: b.store, at: at, upload: p.upload}})
	}
	if errors.Is(err, fs.ErrNotExist) { // the bucket is gone, and all of it
		return nil
	}
	return err
}
