package steps

import (
	"context"
	"errors"
	"io/fs"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// Delete removes a file.
type Delete struct{ Stores storage.Stores }

// Run deletes the file. A file that is gone is an error at the first attempt; at a later one it may be an earlier
// attempt that deleted it.
func (s *Delete) Run(ctx context.Context, in *workflow.Input) error {
	f, err := source(ctx, s.Stores, in)
	if err != nil {
		return err
	}
	if _, err = f.unchanged(ctx); err == nil {
		err = f.Backend.Remove(ctx, f.Name)
	}
	if in.Attempt > 1 && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, errChanged)) {
		return nil
	}
	return explain(err, "delete "+f.Path())
}
