// Package steps holds what the steps of a workflow do: COPY, TAG, DELETE, DECRYPT and CUSTOM, one file each. A step finds its
// stores by bucket or file system id and says in the API's words what went wrong.
//
// It knows nothing of executions beyond its input, of queues, servers, protocols or databases, nor which kind of store
// it works on: what a store can do it asks the store.
package steps

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

// New returns the steps that need nothing but stores by their type.
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

// overwriting is the value of OverwriteExisting that lets a step replace a file.
const overwriting = "TRUE"

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
		f.ETag = from.EfsEtag
	}
	if f.Name == "" {
		return f, bad("The step has no file to work on.")
	}
	return f, f.find(ctx, stores, in.Identity)
}

// places finds the file that a step reads and the one that it writes.
func places(ctx context.Context, stores storage.Stores, in *workflow.Input, to *workflow.InputFileLocation) (from, target file, err error) {
	if from, err = source(ctx, stores, in); err != nil {
		return from, target, err
	}
	if target.Location, err = destination(in, to, path.Base(from.Name)); err != nil {
		return from, target, err
	}
	return from, target, target.find(ctx, stores, in.Identity)
}

// find finds the store of the file, as somebody.
func (f *file) find(ctx context.Context, stores storage.Stores, as storage.Identity) error {
	var err error
	if i, ok := stores.(storage.Impersonator); ok {
		stores, err = i.As(ctx, as)
	}
	if err == nil {
		f.Backend, err = stores.Backend(ctx, f.Domain, f.Store)
	}
	if l, ok := f.Backend.(storage.Linkless); ok && as.Posix == nil {
		// The daemon may do anything there, so nobody's links lead it anywhere.
		f.Backend = l.WithoutLinks()
	}
	return explain(err, "find "+f.Path())
}

// destination is where a step's file goes. A key or path that ends in a slash is a folder, where the file keeps its name;
// an empty key is the bucket's top folder.
func destination(in *workflow.Input, given *workflow.InputFileLocation, name string) (storage.Location, error) {
	var at storage.Location
	switch {
	case given != nil && given.S3FileLocation != nil:
		at = storage.Location{Domain: s3, Store: given.S3FileLocation.Bucket, Name: given.S3FileLocation.Key}
	case given != nil && given.EfsFileLocation != nil:
		at = storage.Location{Domain: efs, Store: given.EfsFileLocation.FileSystemId, Name: given.EfsFileLocation.Path}
	default:
		return at, bad("The step has no destination.")
	}
	var err error
	for _, text := range []*string{&at.Store, &at.Name} {
		if *text, err = in.Expand(*text); err != nil {
			return at, err
		}
	}
	if at.Store == "" {
		return at, bad("The step's destination has no bucket or file system.")
	}
	if at.Name == "" || strings.HasSuffix(at.Name, "/") {
		at.Name += name
	}
	at.Name, err = splitName(at.Name)
	return at, err
}

// unchanged makes sure that the file is there and still the one that was uploaded or made by an earlier step. AWS binds
// steps to the ETag in the same way (https://docs.aws.amazon.com/transfer/latest/userguide/custom-step-details.html):
// what a later upload put at the same name has its own execution. A file without an ETag cannot be told from another.
func (f file) unchanged(ctx context.Context) (fs.FileInfo, error) {
	info, err := storage.Identify(ctx, f.Backend, f.Name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, storage.ErrIsDirectory
	}
	if etag := objectOf(info).ETag; etag != "" && f.ETag != "" && etag != f.ETag {
		return nil, errChanged
	}
	return info, nil
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
	var refused refusal
	switch {
	case errors.Is(err, storage.ErrUnavailable):
		why = "the storage did not answer"
	case errors.As(err, &refused):
		kind, why = workflow.BadRequest, refused.Error()
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
	case errors.Is(err, storage.ErrQuota):
		why = "the quota is used up"
	case errors.Is(err, storage.ErrNoSpace):
		why = "the storage is full"
	case errors.Is(err, fs.ErrInvalid):
		kind, why = workflow.BadRequest, "the storage refused the request"
	}
	return &workflow.StepError{Type: kind, Message: "Cannot " + doing + ": " + why + ".", Err: err}
}
