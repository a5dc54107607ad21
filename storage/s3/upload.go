package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"mime"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
)

// idKey is the object metadata that says which upload wrote the object.
const idKey = "transferd-upload"

// upload is a file on its way. It holds the bytes that did not leave yet in cur, the buffer of the part that the
// contiguous prefix ends in, and bytes that come early in next, the parts behind it. One of those that is full leaves
// early, so that several segments of a file may be written side by side, as far apart as next may be long.
//
// Only cur is waited for, and only while nothing is held: that is what Budget asks for. Buffers for next are taken if
// they are free; if not, the prefix in cur leaves as a part of its own, the rest moves to the front, and cur goes on as
// its successor. Parts may so be of any size from 5 MiB; where part n+1 begins is where part n ends.
type upload struct {
	store *Store
	at    object
	opt   storage.CreateOptions
	ctx   context.Context // Create's: bounds WriteAt's waits
	// sendCtx is for what is on its way to the store. It outlives Create's ctx: when a client is gone, what it sent
	// is still to be committed. stop ends it.
	sendCtx context.Context
	stop    context.CancelCauseFunc
	hold    hold // of its memory

	// The goroutine that calls WriteAt, then Commit or Abort, owns these.
	cur  []byte
	next []slot    // the parts behind cur
	base int64     // where cur begins in the file
	got  prefix    // of the file
	part int32     // the number that cur will have
	old  *original // what the upload changes; nil if it makes a new file

	id    string // UploadId, "" before the first part
	sums  types.ChecksumAlgorithm
	slots chan struct{} // one for each part on its way
	wg    sync.WaitGroup

	mu   sync.Mutex
	sent []types.CompletedPart // guarded by mu
	err  error                 // what ended the upload; guarded by mu
}

// object is a key of a bucket.
type object struct {
	bucket, key string
	id          string // of the upload it belongs to; "" if it does not matter
	absent      bool   // it must not stand yet
}

// Create begins an upload. Nothing reaches the store before the first part is full. When ctx ends, a WriteAt that waits
// returns with ctx's error, and what was written before can still be committed.
func (b *Backend) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	if name == "" {
		return nil, fmt.Errorf("s3: create %q: %w", name, storage.ErrIsDirectory)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("s3: create %q: %w", name, err)
	}
	u := &upload{
		store: b.store, at: object{bucket: b.bucket, key: name, id: opt.ID, absent: opt.Exclusive}, opt: opt, ctx: ctx, part: 1,
		slots: make(chan struct{}, b.store.cfg.Parallel),
	}
	if opt.Exclusive {
		if _, err := b.store.head(ctx, b.bucket, name); err == nil {
			return nil, fmt.Errorf("s3: create %q: %w", name, fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if opt.Modify {
		old, err := b.original(ctx, name)
		if err != nil {
			return nil, err
		}
		u.old = old
	}
	u.sendCtx, u.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	u.hold.yield = opt.Yield
	b.store.cfg.Budget.enter(&u.hold)
	return u, nil
}

// metadata is what is written beside the file. S3 takes US-ASCII alone and shows other text as RFC 2047 does:
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html
func metadata(id string, more map[string]string) map[string]string {
	m := make(map[string]string, len(more)+1)
	for k, v := range more {
		m[k] = mime.QEncoding.Encode("utf-8", v)
	}
	if id != "" {
		m[idKey] = id
	}
	return m
}

// WriteAt copies p into the buffers. Bytes that nobody waits for any more (behind the prefix, but not sent yet) may be
// written again.
func (u *upload) WriteAt(p []byte, off int64) (int, error) {
	u.hold.rested.Store(0)
	n, err := u.write(p, off)
	u.hold.pool.Store(u.holds())
	u.hold.rested.Store(time.Now().UnixNano())
	return n, err
}

// write is WriteAt, which tells the budget about it.
func (u *upload) write(p []byte, off int64) (int, error) {
	if err := u.failed(); err != nil {
		return 0, err
	}
	if u.old != nil && !u.old.wrote && off >= 0 && len(p) > 0 {
		u.startAt(off)
	}
	switch {
	case off < 0:
		return 0, u.fail(fmt.Errorf("s3: write at offset %d: %w", off, fs.ErrInvalid))
	case off > maxObject-int64(len(p)):
		return 0, u.fail(fmt.Errorf("s3: write at offset %d: %w", off, storage.ErrTooLarge))
	case off < u.base:
		return 0, u.fail(fmt.Errorf("s3: write at offset %d, sent up to %d: %w", off, u.base, storage.ErrRandomAccess))
	}
	n := 0
	for n < len(p) {
		room, err := u.room(off+int64(n), len(p)-n)
		if err != nil {
			return n, err
		}
		c := copy(room, p[n:])
		if from := off + int64(n); !u.got.add(from, from+int64(c)) {
			return n, u.fail(fmt.Errorf("s3: write in too many pieces: %w", storage.ErrRandomAccess))
		}
		n += c
	}
	return n, u.leaveEarly()
}

// room is where the bytes from off on go, of which n are to be written. It gets there by sending what is full.
func (u *upload) room(off int64, n int) ([]byte, error) {
	for {
		if u.cur == nil {
			if err := u.firstBuffer(off, n); err != nil {
				return nil, err
			}
		}
		at, end := off-u.base, int64(len(u.cur))
		var err error
		switch {
		case at < end && (len(u.cur) != chunk || at+int64(n) <= end):
			return u.cur[at:], nil
		case len(u.cur) == chunk:
			err = u.outgrow(u.ctx)
		case u.got.end >= u.base+end:
			err = u.advance()
		case u.lacksHead(end):
			err = u.fill(u.ctx, u.base+end)
		default:
			if early := u.early(at - end); early != nil {
				return early, nil
			}
			err = u.makeRoom(off, end)
		}
		if err != nil {
			return nil, err
		}
	}
}

// makeRoom gets on when there is no buffer for what comes early.
func (u *upload) makeRoom(off, end int64) error {
	switch {
	case u.lacks(u.base + end):
		return u.fill(u.ctx, u.base+end)
	case len(u.next) == 0 && u.got.end-u.base >= minPart:
		return u.slide()
	}
	return u.fail(fmt.Errorf("s3: write at offset %d, contiguous up to %d: %w", off, u.got.end, storage.ErrRandomAccess))
}

// firstBuffer gets cur while the upload holds nothing: a chunk, or a part if a chunk would be outgrown at once.
func (u *upload) firstBuffer(off int64, n int) (err error) {
	if u.part == 1 && off+int64(n) <= chunk {
		u.cur, err = u.store.cfg.Budget.chunk(u.ctx)
		return err
	}
	if u.part > maxParts {
		return u.fail(fmt.Errorf("s3: more than %d parts: %w", maxParts, storage.ErrTooLarge))
	}
	size := u.store.sizes.of(u.part)
	if len(u.next) == 0 {
		u.cur, err = u.store.cfg.Budget.part(u.ctx, size)
		return err
	}
	if u.cur = u.store.cfg.Budget.tryPart(size); u.cur == nil { // whoever holds a part must not wait for another
		return u.fail(fmt.Errorf("s3: no memory for a file in segments: %w", storage.ErrRandomAccess))
	}
	return nil
}

// outgrow exchanges the chunk for the first part's buffer. Holding a chunk while waiting for a part is safe: those who
// have a part need no chunk.
func (u *upload) outgrow(ctx context.Context) error {
	part, err := u.store.cfg.Budget.part(ctx, u.store.sizes.of(1))
	if err != nil {
		return err
	}
	copy(part, u.cur)
	u.store.cfg.Budget.put(u.cur)
	u.cur = part
	return nil
}

// advance sends cur, which is full and not the last, and goes on with next.
func (u *upload) advance() error {
	if u.part >= maxParts {
		return u.fail(fmt.Errorf("s3: more than %d parts: %w", maxParts, storage.ErrTooLarge))
	}
	if err := u.ready(u.ctx, len(u.cur)); err != nil {
		return err
	}
	buf, part := u.cur, u.part
	u.step(int64(len(buf)))
	u.leave(part, buf)
	return nil
}

// leave sends a buffer in the background, in the slot that ready took.
func (u *upload) leave(part int32, buf []byte) {
	u.wg.Go(func() {
		u.send(part, buf)
		u.store.cfg.Budget.put(buf)
		u.free(len(buf))
	})
}

// slide sends the contiguous prefix in cur and waits, because the buffer is still needed for what came early.
func (u *upload) slide() error {
	if u.part >= maxParts {
		return u.fail(fmt.Errorf("s3: more than %d parts: %w", maxParts, storage.ErrTooLarge))
	}
	n := u.got.end - u.base
	if err := u.ready(u.ctx, int(n)); err != nil {
		return err
	}
	u.send(u.part, u.cur[:n])
	u.free(int(n))
	if err := u.failed(); err != nil {
		return err
	}
	copy(u.cur, u.cur[n:])
	u.base += n
	u.part++
	return nil
}

// ready makes sure that there is a multipart upload and takes the slots for a part of it.
func (u *upload) ready(ctx context.Context, size int) error {
	if u.id == "" {
		if err := u.begin(); err != nil {
			return u.fail(err)
		}
	}
	for taken := range u.weight(size) {
		var err error
		select {
		case u.slots <- struct{}{}:
			err = u.failed()
			taken++
		case <-u.sendCtx.Done():
			err = u.failed()
		case <-ctx.Done():
			err = fmt.Errorf("s3: wait for parts on their way: %w", context.Cause(ctx))
		}
		if err != nil {
			for range taken {
				<-u.slots
			}
			return err
		}
	}
	return nil
}

// weight is how many slots a part takes. Above 64 MiB it is several: the larger an upload's parts are, the fewer of them
// are on their way at a time.
func (u *upload) weight(size int) int {
	return min(cap(u.slots), max(1, (size+64*mib-1)/(64*mib)))
}

// free gives a part's slots back.
func (u *upload) free(size int) {
	for range u.weight(size) {
		<-u.slots
	}
}

// begin makes the multipart upload and has it noted, so that a crash leaves nothing that nobody knows of.
func (u *upload) begin() error {
	u.sums = u.old.algorithm()
	if u.old != nil && u.store.copySums.Load() == copySumsRefused {
		u.sums = ""
	}
	if err := u.make(); err != nil {
		return err
	}
	takes, err := u.takesCopies()
	if err != nil {
		return err
	}
	if !takes {
		if err := u.store.abortMultipart(u.sendCtx, u.at, u.id); err != nil {
			return err
		}
		u.store.forget(u.id)
		u.id, u.sums = "", ""
		if err := u.make(); err != nil {
			return err
		}
	}
	u.keep()
	return nil
}

func (u *upload) make() error {
	in := &s3.CreateMultipartUploadInput{
		Bucket: &u.at.bucket, Key: &u.at.key, Metadata: u.old.metadata(u.at.id, u.opt.Metadata),
		ChecksumAlgorithm: u.sums, // of what send sends with each part
	}
	if u.old != nil {
		in.ContentType, in.ContentEncoding = u.old.head.ContentType, u.old.head.ContentEncoding
	}
	id, err := u.store.beginSummed(u.sendCtx, in)
	if err != nil {
		return err
	}
	u.id = id
	if u.opt.Note != nil {
		if err := u.opt.Note(u.sendCtx, u.token()); err != nil {
			return fmt.Errorf("s3: note the upload of %q: %w", u.at.key, err)
		}
	}
	return nil
}

// send uploads one part. body stays untouched until it returns.
func (u *upload) send(part int32, body []byte) {
	done := types.CompletedPart{PartNumber: &part}
	var md5sum *string
	switch u.sums {
	case types.ChecksumAlgorithmCrc32c:
		done.ChecksumCRC32C = aws.String(checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	case types.ChecksumAlgorithmCrc32:
		done.ChecksumCRC32 = aws.String(checksum(body, crc32.IEEETable))
	default: // S3 takes no other checksum of an upload that was made without one
		sum := md5.Sum(body)
		md5sum = aws.String(base64.StdEncoding.EncodeToString(sum[:]))
	}
	c := call{op: "UploadPart", name: u.at.key, bytes: int64(len(body))}
	out, err := request(u.sendCtx, u.store, c, func(ctx context.Context) (*s3.UploadPartOutput, error) {
		return u.store.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &u.at.bucket, Key: &u.at.key, UploadId: &u.id, PartNumber: &part,
			Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
			ChecksumCRC32: done.ChecksumCRC32, ChecksumCRC32C: done.ChecksumCRC32C, ContentMD5: md5sum,
		}, u.store.bodyOptions)
	})
	if err != nil {
		_ = u.fail(err) // kept; WriteAt and Commit return it
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	done.ETag = out.ETag
	u.sent = append(u.sent, done)
}

// checksum is the CRC of a body as S3 wants it.
func checksum(body []byte, table *crc32.Table) string {
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.Checksum(body, table))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// fail ends the upload with the first error there was, and returns that one.
func (u *upload) fail(err error) error {
	u.mu.Lock()
	if u.err == nil {
		u.err = err
	}
	err = u.err
	u.mu.Unlock()
	u.stop(err)
	return err
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// errDropped ends what is on its way for an upload that is aborted.
var errDropped = errors.New("upload aborted")
