package steps

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// Copy copies a file inside Amazon S3, or what speaks its protocol; the bytes do not pass through us.
type Copy struct{ Stores storage.Stores }

// Run copies the file. The copy becomes ${previous.file}.
func (s *Copy) Run(ctx context.Context, in *workflow.Input) error {
	if in.Source.EfsFileLocation != nil {
		return bad("Cannot copy Efs file")
	}
	from, err := source(ctx, s.Stores, in)
	if err != nil {
		return err
	}
	to, err := destination(in, path.Base(from.Name))
	if err != nil {
		return err
	}
	if to == from.Location {
		return bad("Cannot copy " + from.Path() + " onto itself.")
	}
	backend, err := s.Stores.Backend(ctx, to.Domain, to.Store)
	if err != nil {
		return explain(err, "find "+to.Path())
	}
	target := file{Location: to, Backend: backend}
	object, err := s.copy(ctx, in, from, target)
	if err != nil {
		return explain(err, "copy "+from.Path()+" to "+to.Path())
	}
	in.Output = workflow.FileLocation{S3FileLocation: &workflow.S3FileLocation{
		Bucket: to.Store, Key: to.Name, VersionId: object.VersionID, Etag: object.ETag,
	}}
	return nil
}

func (s *Copy) copy(ctx context.Context, in *workflow.Input, from, to file) (storage.Object, error) {
	copier, ok := from.Backend.(storage.Copier)
	if !ok {
		return storage.Object{}, errors.ErrUnsupported
	}
	overwrite := in.Spec.CopyStepDetails.OverwriteExisting == "TRUE"
	object, err := copier.Copy(ctx, from.Name, from.ETag, to.Backend, to.Name, overwrite)
	if in.Attempt > 1 && (errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist)) {
		if made, ours, err := madeBefore(ctx, from, to); ours || err != nil {
			return made, err
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// Missing, or another file under its name? AWS tells these apart, a Copier does not.
		if changed := from.unchanged(ctx); errors.Is(changed, errChanged) {
			return object, changed
		}
	}
	return object, err
}

// madeBefore tells whether the file at the target is the copy that an attempt before a crash had made, and returns it.
// Equal ETags settle it, even if the source has gone since. Different ones do not: the copy of a multipart upload has
// another ETag than its source, and so may have every object of an encrypted bucket. Then the bytes decide. A file that
// somebody else put there with the very same bytes passes too, which does no harm.
func madeBefore(ctx context.Context, from, to file) (made storage.Object, ours bool, err error) {
	info, err := to.Backend.Stat(ctx, to.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return made, false, nil
	}
	if err != nil {
		return made, false, err
	}
	made = objectOf(info)
	if from.ETag != "" && made.ETag == from.ETag {
		return made, true, nil
	}
	if err := from.unchanged(ctx); err != nil {
		return made, false, err
	}
	ours, err = sameBytes(ctx, from, to)
	return made, ours, err
}

func sameBytes(ctx context.Context, a, b file) (same bool, err error) {
	ia, err := a.Backend.Stat(ctx, a.Name)
	if err != nil {
		return false, err
	}
	ib, err := b.Backend.Stat(ctx, b.Name)
	if err != nil || ia.Size() != ib.Size() {
		return false, err
	}
	ra, err := a.Backend.Open(ctx, a.Name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, ra.Close()) }()
	rb, err := b.Backend.Open(ctx, b.Name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rb.Close()) }()

	const chunk = 1 << 20
	pa, pb := make([]byte, chunk), make([]byte, chunk)
	for off := int64(0); off < ia.Size(); off += chunk {
		n := min(chunk, ia.Size()-off)
		if err := readFull(ra, pa[:n], off); err != nil {
			return false, err
		}
		if err := readFull(rb, pb[:n], off); err != nil {
			return false, err
		}
		if !bytes.Equal(pa[:n], pb[:n]) {
			return false, nil
		}
	}
	return true, nil
}

// readFull reads all of p. io.ReaderAt may answer io.EOF along with the last bytes.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		return err
	}
	return nil
}

// destination is where a COPY step's file goes. A key that ends in a slash is a folder, where the file keeps its name;
// an empty key is the bucket's top folder. Stores have no empty names between slashes, so doubled ones count as one.
func destination(in *workflow.Input, name string) (storage.Location, error) {
	var to storage.Location
	details := in.Spec.CopyStepDetails
	if details == nil || details.DestinationFileLocation == nil || details.DestinationFileLocation.S3FileLocation == nil {
		return to, bad("The step has no destination in Amazon S3.")
	}
	given := details.DestinationFileLocation.S3FileLocation
	bucket, err := in.Expand(given.Bucket)
	if err != nil {
		return to, err
	}
	key, err := in.Expand(given.Key)
	if err != nil {
		return to, err
	}
	if bucket == "" {
		return to, bad("The step's destination has no bucket.")
	}
	if key == "" || strings.HasSuffix(key, "/") {
		key += name
	}
	var elems []string
	for elem := range strings.SplitSeq(key, "/") {
		switch elem {
		case "":
			continue
		case ".", "..":
			return to, bad("The step's destination key has a . or .. between its slashes.")
		}
		elems = append(elems, elem)
	}
	return storage.Location{Domain: s3, Store: bucket, Name: strings.Join(elems, "/")}, nil
}
