package steps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

const (
	// chunk is what is in memory of a file at a time, twice.
	chunk = 1 << 20
	// commitTimeout bounds the end of a file whose step was told to stop.
	commitTimeout = 5 * time.Minute
)

// contents reads a file from its beginning to the size that it had when it was opened.
type contents struct {
	ctx    context.Context // of the step, as in http.Request
	reader storage.Reader
	size   int64
	off    int64
	err    error // the first one of the store or of ctx
}

// open opens the file that it still is.
func (f file) open(ctx context.Context) (*contents, error) {
	r, err := f.Backend.Open(ctx, f.Name)
	if err == nil {
		var info fs.FileInfo
		// Looked at after it was opened: what is right now was right then.
		if info, err = f.unchanged(ctx); err == nil {
			return &contents{ctx: ctx, reader: r, size: info.Size()}, nil
		}
		err = errors.Join(err, r.Close())
	}
	return nil, err
}

func (c *contents) Read(p []byte) (int, error) {
	if c.err == nil {
		c.err = c.ctx.Err()
	}
	if c.err != nil {
		return 0, c.err
	}
	if c.off >= c.size {
		return 0, io.EOF
	}
	n, err := c.reader.ReadAt(p[:min(int64(len(p)), c.size-c.off)], c.off)
	c.off += int64(n)
	switch {
	case n > 0: // what is wrong shows next time
		return n, nil
	case err == nil || errors.Is(err, io.EOF):
		c.err = fmt.Errorf("%d of %d bytes: %w", c.off, c.size, errChanged)
	default:
		c.err = err
	}
	return 0, c.err
}

func (c *contents) Close() error { return c.reader.Close() }

func (c *contents) rewind() { c.off = 0 }

// instead is the store's error if there was one: then it is why whoever read has failed.
func (c *contents) instead(err error) error {
	if c.err != nil {
		return c.err
	}
	return err
}

// write makes a file of what r holds. Nothing shows at its name unless r ended with io.EOF.
func write(ctx context.Context, in *workflow.Input, r io.Reader, to file, overwrite bool) (storage.Object, error) {
	if err := to.makeFolder(ctx); err != nil {
		return storage.Object{}, err
	}
	if err := to.forget(ctx, in); err != nil {
		return storage.Object{}, err
	}
	up, err := to.Backend.Create(ctx, to.Name, storage.CreateOptions{ID: uploadID(in, to, in.Attempt), Exclusive: !overwrite, Whole: true})
	if err != nil {
		return storage.Object{}, err
	}
	if err := fill(up, r); err != nil {
		return storage.Object{}, errors.Join(err, up.Abort(context.WithoutCancel(ctx)))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	return up.Commit(ctx)
}

func fill(up storage.Upload, r io.Reader) error {
	buf := make([]byte, chunk)
	for off, end := int64(0), false; !end; {
		n, err := readChunk(r, buf)
		if err != nil && err != io.EOF {
			return err
		}
		end = err == io.EOF
		if n > 0 {
			if _, err := up.WriteAt(buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
	}
	return nil
}

// readChunk fills p, or says io.EOF along with the last bytes. io.ReadFull would not do: its error for a short end may also
// be what a store says whose connection broke.
func readChunk(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = r.Read(p[n:])
		n += more
	}
	return n, err
}

// uploadID names what an attempt writes.
func uploadID(in *workflow.Input, to file, attempt int) string {
	return fmt.Sprintf("%s %s %d", in.Execution, to.Path(), attempt)
}

// forget removes what earlier attempts, whose processes died, have left beside the file.
func (f file) forget(ctx context.Context, in *workflow.Input) error {
	if f.Domain != efs { // what an unfinished upload to S3 has left there is for a lifecycle rule
		return nil
	}
	for attempt := 1; attempt < in.Attempt; attempt++ {
		up, err := f.Backend.Create(ctx, f.Name, storage.CreateOptions{ID: uploadID(in, f, attempt), Whole: true})
		if err == nil {
			err = up.Abort(context.WithoutCancel(ctx))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes the folders of a file where there have to be some. On S3 a name is enough.
func (f file) makeFolder(ctx context.Context) error {
	if f.Domain != efs {
		return nil
	}
	for i := range f.Name {
		if f.Name[i] != '/' {
			continue
		}
		if _, err := f.Backend.Stat(ctx, f.Name[:i]); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return err
			}
			continue
		}
		if err := f.Backend.Mkdir(ctx, f.Name[:i]); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// sameAs describes a file that holds just what r does; if it does not, the error is fs.ErrExist.
func sameAs(ctx context.Context, r io.Reader, f file) (storage.Object, error) {
	f.ETag = ""
	there, err := f.open(ctx)
	if err != nil {
		return storage.Object{}, err
	}
	same, err := equal(r, there)
	if err = errors.Join(err, there.Close()); err != nil {
		return storage.Object{}, err
	}
	if !same {
		return storage.Object{}, fs.ErrExist
	}
	info, err := storage.Identify(ctx, f.Backend, f.Name)
	if err != nil {
		return storage.Object{}, err
	}
	return objectOf(info), nil
}

func equal(a, b io.Reader) (bool, error) {
	pa, pb := make([]byte, chunk), make([]byte, chunk)
	for {
		na, erra := readChunk(a, pa)
		nb, errb := readChunk(b, pb)
		for _, err := range []error{erra, errb} {
			if err != nil && err != io.EOF {
				return false, err
			}
		}
		if !bytes.Equal(pa[:na], pb[:nb]) {
			return false, nil
		}
		if erra != nil {
			return errb != nil, nil
		}
	}
}

// output is a file that a step has made.
func (f file) output(o storage.Object) workflow.FileLocation {
	if f.Domain == efs {
		return workflow.FileLocation{EfsFileLocation: &workflow.EfsFileLocation{FileSystemId: f.Store, Path: "/" + f.Name}, EfsEtag: o.ETag}
	}
	return workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{
		Bucket: f.Store, Key: f.Name, VersionId: o.VersionID, Etag: o.ETag,
	}}
}

// splitName cleans a key or path: stores have no empty names between slashes, so doubled ones count as one.
func splitName(key string) (string, error) {
	var elems []string
	for elem := range strings.SplitSeq(key, "/") {
		switch elem {
		case "":
			continue
		case ".", "..":
			return "", bad("The step's destination key has a . or .. between its slashes.")
		}
		elems = append(elems, elem)
	}
	return strings.Join(elems, "/"), nil
}
