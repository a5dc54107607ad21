package steps

import (
	"context"
	"errors"
	"io/fs"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// Copy copies a file: inside Amazon S3, or what speaks its protocol, and inside a file system without the bytes passing
// through us. From one to the other, which AWS does not do, they do, in bounded memory.
type Copy struct{ Stores storage.Stores }

// Run copies the file. The copy becomes ${previous.file}.
func (s *Copy) Run(ctx context.Context, in *workflow.Input) error {
	details := in.Spec.CopyStepDetails
	if details == nil {
		return bad("The step has no CopyStepDetails.")
	}
	from, to, err := places(ctx, s.Stores, in, details.DestinationFileLocation)
	if err != nil {
		return err
	}
	if to.Location == from.Location {
		return bad("Cannot copy " + from.Path() + " onto itself.")
	}
	object, err := s.copy(ctx, in, from, to)
	if err != nil {
		return explain(err, "copy "+from.Path()+" to "+to.Path())
	}
	in.Output = to.output(object)
	return nil
}

func (s *Copy) copy(ctx context.Context, in *workflow.Input, from, to file) (storage.Object, error) {
	overwrite := in.Spec.CopyStepDetails.OverwriteExisting == overwriting
	object, err := s.send(ctx, in, from, to, overwrite)
	if in.Attempt > 1 && (errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist)) {
		if made, ours, err := madeBefore(ctx, from, to); ours || err != nil {
			return made, err
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// Missing, or another file under its name? AWS tells these apart, a Copier does not.
		if _, changed := from.unchanged(ctx); errors.Is(changed, errChanged) {
			return object, changed
		}
	}
	return object, err
}

// send has the stores copy by themselves if they can.
func (s *Copy) send(ctx context.Context, in *workflow.Input, from, to file, overwrite bool) (storage.Object, error) {
	if copier, ok := from.Backend.(storage.Copier); ok && from.Domain == to.Domain {
		if err := to.makeFolder(ctx); err != nil {
			return storage.Object{}, err
		}
		object, err := copier.Copy(ctx, from.Name, from.ETag, to.Backend, to.Name, overwrite)
		if !errors.Is(err, errors.ErrUnsupported) {
			return object, err
		}
	}
	source, err := from.open(ctx)
	if err != nil {
		return storage.Object{}, err
	}
	object, err := write(ctx, in, source, to, overwrite)
	return object, errors.Join(err, source.Close())
}

// madeBefore tells whether the file at the target is the copy that an attempt before a crash had made, and returns it.
// Equal ETags settle it, even if the source has gone since. Different ones do not: the copy of a multipart upload has
// another ETag than its source, and so may have every object of an encrypted bucket. Then the bytes decide. A file that
// somebody else put there with the very same bytes passes too, which does no harm.
func madeBefore(ctx context.Context, from, to file) (made storage.Object, ours bool, err error) {
	info, err := storage.Identify(ctx, to.Backend, to.Name)
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
	source, err := from.open(ctx)
	if err != nil {
		return made, false, err
	}
	if source.size == made.Size {
		made, err = sameAs(ctx, source, to)
	} else {
		err = fs.ErrExist
	}
	err = errors.Join(err, source.Close())
	if errors.Is(err, fs.ErrExist) {
		return made, false, nil
	}
	return made, err == nil, err
}
