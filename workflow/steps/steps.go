// Package steps holds what the steps of a workflow do to files: COPY, TAG and DELETE, one file each. A step finds its
// stores by bucket or file system id and says in the API's words what went wrong.
//
// It knows nothing of executions beyond its input, of queues, servers, protocols or databases, nor which kind of store
// it works on: what a store can do it asks the store.
package steps

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// New returns the steps by their type.
func New(stores storage.Stores) map[string]workflow.Step {
	return map[string]workflow.Step{
		workflow.TypeCopy:   &Copy{Stores: stores},
		workflow.TypeTag:    &Tag{Stores: stores},
		workflow.TypeDelete: &Delete{Stores: stores},
	}
}

// The domains as the API spells them.
const (
	s3  = "S3"
	efs = "EFS"
)

// file is where a file lies, in its store, and the ETag that says which file it is ("" if the store has none).
type file struct {
	storage.Location
	ETag    string
	Backend storage.Backend
}

// source finds the file that a step reads. The root of a store is no file.
func source(ctx context.Context, stores storage.Stores, in *workflow.Input) (file, error) {
	var f file
	switch from := in.Source; {
	case from.S3FileLocation != nil:
		f.Location = storage.Location{Domain: s3, Store: from.S3FileLocation.Bucket, Name: from.S3FileLocation.Key}
		f.ETag = from.S3FileLocation.Etag
	case from.EfsFileLocation != nil:
		f.Location = storage.Location{Domain: efs, Store: from.EfsFileLocation.FileSystemId,
			Name: strings.TrimPrefix(from.EfsFileLocation.Path, "/")}
	}
	if f.Name == "" {
		return f, bad("The step has no file to work on.")
	}
	var err error
	f.Backend, err = stores.Backend(ctx, f.Domain, f.Store)
	return f, explain(err, "find "+f.Path())
}

// unchanged makes sure that the file is there and still the one that was uploaded or made by an earlier step. AWS binds
// steps to the ETag in the same way (https://docs.aws.amazon.com/transfer/latest/userguide/custom-step-details.html):
// what a later upload put at the same name has its own execution. Stores without ETags cannot tell.
func (f file) unchanged(ctx context.Context) error {
	info, err := f.Backend.Stat(ctx, f.Name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return storage.ErrIsDirectory
	}
	if etag := objectOf(info).ETag; etag != "" && f.ETag != "" && etag != f.ETag {
		return errChanged
	}
	return nil
}

// errChanged stands beside fs.ErrNotExist: another file has taken the name.
var errChanged = errors.New("ETag constraint not met")

// objectOf is what a Stat tells of a file.
func objectOf(info fs.FileInfo) storage.Object {
	switch o := info.Sys().(type) {
	case storage.Object:
		return o
	case *storage.Object:
		if o != nil {
			return *o
		}
	}
	return storage.Object{Size: info.Size(), ModTime: info.ModTime()}
}

func bad(message string) error {
	return &workflow.StepError{Type: workflow.BadRequest, Message: message}
}

// explain is the one place where a store's error becomes a step's. doing says what the step was at, with names and
// without a subject: "tag /bucket/key".
func explain(err error, doing string) error {
	if err == nil {
		return nil
	}
	kind, why := workflow.InternalServerError, "an internal error occurred"
	switch {
	case errors.Is(err, storage.ErrUnavailable):
		why = "the storage did not answer"
	case errors.Is(err, errChanged):
		kind, why = workflow.NotFound, "ETag constraint not met, the file has changed"
	case errors.Is(err, fs.ErrNotExist):
		kind, why = workflow.NotFound, "no such file"
	case errors.Is(err, fs.ErrPermission):
		kind, why = workflow.PermissionDenied, "access denied"
	case errors.Is(err, fs.ErrExist):
		kind, why = workflow.AlreadyExists, "the target exists"
	case errors.Is(err, errors.ErrUnsupported):
		kind, why = workflow.BadRequest, "the storage does not support it"
	case errors.Is(err, storage.ErrIsDirectory):
		kind, why = workflow.BadRequest, "it is a directory"
	case errors.Is(err, storage.ErrTooLarge):
		kind, why = workflow.BadRequest, "the file is too large"
	case errors.Is(err, fs.ErrInvalid):
		kind, why = workflow.BadRequest, "the storage refused the request"
	}
	return &workflow.StepError{Type: kind, Message: "Cannot " + doing + ": " + why + ".", Err: err}
}
