package steps

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// Copy copies a file: inside Amazon S3, or what speaks its protocol, and inside a file system without the bytes passing
// through us. From one to the other, which AWS does not do, they do, in bounded memory. What a store copies in pieces is
// copied in as many jobs.
type Copy struct {
	Stores storage.Stores
	// Piece is how long one job copies before it leaves the rest to the next; 0 is a minute.
	Piece time.Duration
}

// copyPiece is the default of Copy.Piece.
const copyPiece = time.Minute

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
	if _, more := errors.AsType[*workflow.Continue](err); more || errors.Is(err, workflow.ErrStale) {
		return err
	}
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
			return made, errors.Join(err, s.tidy(ctx, in))
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
		object, err := s.within(ctx, in, copier, from, to, overwrite)
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

// within has one store copy, in pieces if it can.
func (s *Copy) within(ctx context.Context, in *workflow.Input, copier storage.Copier, from, to file, overwrite bool) (storage.Object, error) {
	pieces, ok := copier.(storage.PieceCopier)
	if !ok {
		return copier.Copy(ctx, from.Name, from.ETag, to.Backend, to.Name, overwrite)
	}
	state := copyState{To: to.Location, As: in.Identity}
	if in.State != nil {
		if err := json.Unmarshal(in.State, &state); err != nil {
			return storage.Object{}, fmt.Errorf("state of a copy: %w", err)
		}
	}
	object, done, err := pieces.CopyPiece(ctx, storage.PieceCopy{
		Src: from.Name, IfMatch: from.ETag, To: to.Backend, Dst: to.Name, Overwrite: overwrite,
		Token: state.Token, Within: cmp.Or(s.Piece, copyPiece),
		Note: func(ctx context.Context, token string) error {
			state.Token = token
			doc, err := json.Marshal(state)
			if err == nil {
				err = in.Save(ctx, doc)
			}
			return err
		},
	})
	if err != nil || done {
		return object, err
	}
	doc, err := json.Marshal(state)
	if err != nil {
		return object, err
	}
	return object, &workflow.Continue{State: doc}
}

// copyState is what the next piece of a copy needs, and whoever removes what is there of it.
type copyState struct {
	To    storage.Location
	As    storage.Identity
	Token string // the store's
}

// Drop implements workflow.Dropper: the part of the copy that is there goes.
func (s *Copy) Drop(ctx context.Context, state json.RawMessage) error {
	var left copyState
	if err := json.Unmarshal(state, &left); err != nil {
		return fmt.Errorf("state of a copy: %w", err)
	}
	to := file{Location: left.To}
	if err := to.find(ctx, s.Stores, left.As); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // the store is gone, and all that was there
			return nil
		}
		return err
	}
	pieces, ok := to.Backend.(storage.PieceCopier)
	if !ok {
		return fmt.Errorf("%s: %w", to.Path(), errors.ErrUnsupported)
	}
	return explain(pieces.DropCopy(ctx, to.Name, left.Token), "remove what was copied to "+to.Path())
}

// tidy removes the pieces of a copy that is there without them.
func (s *Copy) tidy(ctx context.Context, in *workflow.Input) error {
	if in.State == nil {
		return nil
	}
	return s.Drop(ctx, in.State)
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
