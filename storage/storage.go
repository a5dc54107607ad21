// Package storage says what a file store is: a Backend that holds named files, an Upload that is nothing until it is
// committed, a Reader, and the abilities that only some stores have. The implementations are s3 and memory (and efs);
// the suite that every one of them must pass is storagetest.
//
// It knows nothing of protocols, sessions, servers, workflows or databases.
//
// Names are slash-separated paths without a leading or trailing slash and without empty, "." or ".." elements; the
// root is "". Whoever calls (server/vfs, workflow/steps) has cleaned them. Errors wrap fs.ErrNotExist, fs.ErrExist,
// fs.ErrPermission, fs.ErrInvalid, errors.ErrUnsupported or one of the errors below, so that each protocol can turn
// them into its own words; their texts are for the log and never for a client.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"time"
)

var (
	// ErrNotEmpty is returned by Remove for a directory that has entries.
	ErrNotEmpty = errors.New("directory not empty")
	// ErrIsDirectory is returned where a file is needed and a directory stands.
	ErrIsDirectory = errors.New("is a directory")
	// ErrRandomAccess is returned by Upload.WriteAt for a write that the store cannot take any more: it changes bytes
	// that are already on their way, or lies farther ahead of the contiguous prefix than the window allows.
	ErrRandomAccess = errors.New("random access write not supported by this store")
	// ErrTooLarge is returned for a file beyond what the store can hold.
	ErrTooLarge = errors.New("file too large for this store")
	// ErrNoSpace is returned when the store is full.
	ErrNoSpace = errors.New("no space left in the store")
	// ErrQuota is returned when whoever writes has used up what they may have there. It is an ErrNoSpace too, for callers
	// that do not tell the two apart.
	ErrQuota = fmt.Errorf("quota used up: %w", ErrNoSpace)
	// ErrUnavailable wraps whatever the far side answered when the retry budget is used up.
	ErrUnavailable = errors.New("storage unavailable")
)

// Backend is one file store: a bucket, a directory tree. Every method may be called from many goroutines.
type Backend interface {
	// Stat describes a file or directory. FileInfo.Name is the base name; FileInfo.Sys is the file's Object where the
	// store knows its ETag, so that a workflow step can tell this file from another at the same name (see Identify too).
	Stat(ctx context.Context, name string) (fs.FileInfo, error)
	// ReadDir yields a directory's entries in the store's order, reading ahead by pages, never the whole directory.
	// The first error ends it.
	ReadDir(ctx context.Context, name string) iter.Seq2[fs.FileInfo, error]
	// Open opens a file for reading. ctx bounds the reads too.
	Open(ctx context.Context, name string) (Reader, error)
	// Create begins an upload to name. Nothing shows at name before Commit, and an existing file there stays as it is.
	// A store that is a file system may differ, as file systems do (storagetest.Traits): the file grows at its name
	// from the first byte on, which drops the bytes of one that stood there, and several uploads to one name write
	// into one file.
	// ctx bounds this call and how long a WriteAt may block, nothing else: once it has ended (the session is over) a
	// blocked WriteAt returns its error, bytes taken before go on their way, and Commit still keeps them.
	Create(ctx context.Context, name string, opt CreateOptions) (Upload, error)
	// Mkdir makes a directory; fs.ErrExist if something stands there.
	Mkdir(ctx context.Context, name string) error
	// Rename moves a file. fs.ErrExist if newName stands.
	Rename(ctx context.Context, oldName, newName string) error
	// Remove deletes a file or an empty directory (ErrNotEmpty otherwise).
	Remove(ctx context.Context, name string) error
}

// CreateOptions says whose upload it is.
type CreateOptions struct {
	// ID names the upload, unique for ever. Stores that can, write it beside the file, so that Resume tells its own
	// finished file from an older one at the same name.
	ID string
	// Metadata is written beside the file where the store has a place for it.
	Metadata map[string]string
	// Modify starts from the file that stands at the name instead of from nothing: its bytes stay wherever none are
	// written over them, so writes that begin at its end append to it and an interrupted upload goes on. Where no file
	// stands it is an ordinary upload. The contiguous prefix of what was written then begins at 0 wherever the first
	// write was, and an upload that dies before the store holds the old bytes leaves the old file as it was. A store
	// without the ability (Modifier) answers errors.ErrUnsupported.
	Modify bool
	// Exclusive refuses to replace a file: Create or Commit answers fs.ErrExist if one stands.
	Exclusive bool
	// Whole keeps the file out of sight until Commit in a file system too: what stands at the name is replaced then, and
	// stays as it is after Abort. ID must not be empty; what an upload of the same ID has left, whose process died, goes.
	Whole bool
	// Note, if set, is called before the first byte goes to the far side in a form that must be ended there (S3: after
	// CreateMultipartUpload, before the first part). token is what Resume needs to find it again. Note returns when that is
	// durable; its error fails the upload. It is called at most once, but for an upload with Modify that had to begin anew
	// there: then the last token counts.
	Note func(ctx context.Context, token string) error
	// Yield, if set, may be called from any goroutine while others wait for memory that this upload holds and nobody has
	// called its WriteAt for as long as idle. true promises that Commit or Abort comes now; a caller whose own WriteAt to
	// another upload waits says false.
	Yield func(idle time.Duration) bool
}

// Upload is a file on its way. One goroutine at a time calls WriteAt; WriteAt does not keep p. Commit or Abort is called
// exactly once, after the last WriteAt has returned.
type Upload interface {
	// WriteAt takes len(p) bytes for offset off. It blocks while the store's buffer budget is used up; that is the
	// back-pressure that reaches the client. An error is final, what follows is Abort; only after the error of the ended
	// context of Create may Commit follow.
	WriteAt(p []byte, off int64) (int, error)
	// Commit makes the longest contiguous prefix of what was written durable and visible at the name, replacing what
	// stood there. Object.Size tells its length. After an error nothing new shows at the name and nothing half-made is
	// left once the far side answers again. A store that is a file system keeps what lies beyond a hole too: the hole
	// reads as zeros.
	Commit(ctx context.Context) (Object, error)
	// Abort drops the upload and everything of it at the far side. Where the file grows at its name, one that was there
	// before goes too if a byte was written; one that the upload was to modify is cut back to what it was if only its end
	// was written to, else it stays as it was left.
	Abort(ctx context.Context) error
}

// Object is a committed file.
type Object struct {
	Size      int64
	ETag      string // without quotes; empty where the store has none
	VersionID string // empty where the store has none
	ModTime   time.Time
}

// Reader reads one version of a file, in any order.
type Reader interface {
	io.ReaderAt
	io.Closer
}

// Resumer is the ability to end an upload whose process died.
type Resumer interface {
	// Resume completes what arrived of the upload (name, id and the noted token, "" if none was noted) as the longest
	// contiguous prefix, possibly empty, removes everything else of it at the far side, and returns the file. It may be
	// called again after any crash: an upload that was completed already is found by its id and returned. begun is when
	// the upload began, so that a store can look for unnoted leftovers. A store whose files do not say which upload they
	// are takes what stands at the name, and answers fs.ErrNotExist if nothing does. So does any store for an upload
	// that was to change a file and noted nothing: what stood stays as it is.
	Resume(ctx context.Context, name string, dead DeadUpload) (Object, error)
}

// DeadUpload is what the journal knows of an upload whose process died.
type DeadUpload struct {
	ID       string
	Token    string // "" if none was noted
	Begun    time.Time
	Metadata map[string]string
	// Exclusive: it must not replace a file. Resume answers fs.ErrExist if another one stands, and leaves nothing of it.
	Exclusive bool
	Modify    bool // it was to change a file that stood (CreateOptions.Modify)
}

// Copier is the ability to copy without the bytes passing through us.
type Copier interface {
	// Copy copies src of this backend to dst of the backend to (the same kind of store; errors.ErrUnsupported if it
	// cannot). If ifMatch is not empty the source's ETag must equal it, else the error wraps fs.ErrNotExist.
	// Unless overwrite, fs.ErrExist if dst stands.
	Copy(ctx context.Context, src, ifMatch string, to Backend, dst string, overwrite bool) (Object, error)
}

// Modifier is the ability to change a file that stands (CreateOptions.Modify).
type Modifier interface {
	// CanModify tells how: anywhere says that writes may lie anywhere in the file and in any order; without it they
	// begin at or before the file's end and go on from there, as far out of order as in any upload.
	CanModify() (anywhere bool)
}

// Identifier is the ability to tell which file stands at a name where looking closer has a price.
type Identifier interface {
	// Identify is Stat, and FileInfo.Sys is the file's Object. It has an ETag if the file can be told from others that
	// stood or will stand at the name; changes of what is not its bytes leave that as it is.
	Identify(ctx context.Context, name string) (fs.FileInfo, error)
}

// Identify is b's Stat with what b can tell of which file it is.
func Identify(ctx context.Context, b Backend, name string) (fs.FileInfo, error) {
	if i, ok := b.(Identifier); ok {
		return i.Identify(ctx, name)
	}
	return b.Stat(ctx, name)
}

// Live is the ability of an Upload to be seen while it is on its way.
type Live interface {
	// Live tells whether what was written so far, and nothing else, is what Open reads at the name.
	Live() bool
}

// Replacer is the ability to rename over a file that stands.
type Replacer interface {
	// Replace is Rename, but a file at newName is replaced by a file. At every moment one of both stands there.
	Replace(ctx context.Context, oldName, newName string) error
}

// Attrs are what is to be changed of a file; nil leaves it.
type Attrs struct {
	Mode         *fs.FileMode // permission, setuid, setgid and sticky bits
	UID, GID     *uint32
	Atime, Mtime *time.Time
	Size         *int64
}

// Attrer is the ability to change what a file is beside its bytes.
type Attrer interface {
	SetAttrs(ctx context.Context, name string, a Attrs) error
}

// Linker is the ability to hold links. Stat follows them, Lstat does not; none leads out of the store.
type Linker interface {
	Lstat(ctx context.Context, name string) (fs.FileInfo, error)
	ReadLink(ctx context.Context, name string) (target string, err error)
	Symlink(ctx context.Context, target, name string) error
	Link(ctx context.Context, oldName, name string) error
}

// Permissions are what a user may do with what stands at a name, as the file system decides: by modes, lists, read-only
// mounts.
type Permissions struct {
	UID, GID uint32 // whose it is
	// Read, Write and Search are rwx: of a directory, to list it, to change what is in it, and to pass through it.
	Read, Write, Search bool
	// Unlink: the bit that keeps others' files in a directory (sticky) lets this one be taken away or replaced.
	Unlink bool
}

// Examiner is the ability to say what a user may do, without doing any of it.
type Examiner interface {
	// Examine is Stat, or Lstat unless follow, and tells what the user whom the store acts for may do.
	Examine(ctx context.Context, name string, follow bool) (fs.FileInfo, Permissions, error)
	// Beside says whether a file is written beside its name and then renamed, which takes permission for its directory.
	Beside() bool
}

// Linkless is the ability of a Linker to be seen without its links.
type Linkless interface {
	// WithoutLinks gives the same store for somebody to whom links do not exist: no name leads through one, whoever puts
	// one there meanwhile. What the listings and Remove see stays as it is.
	WithoutLinks() Backend
}

// Statfs is how full a file system is, as a local user sees it (statvfs(3)).
type Statfs struct {
	BlockSize, TransferSize             uint64 // in bytes; the blocks are counted in the first
	Blocks, BlocksFree, BlocksAvailable uint64 // BlocksAvailable are those that root does not keep for itself
	Files, FilesFree                    uint64
	NameMax                             uint64 // the longest name of a file
	ReadOnly                            bool
}

// Statfser is the ability to tell how full the store is.
type Statfser interface {
	// Statfs describes the file system on which a file or directory lies.
	Statfs(ctx context.Context, name string) (Statfs, error)
}

// Tagger is the ability to carry key-value tags on a file.
type Tagger interface {
	// Tag adds tags to those the file has (same key: replaced).
	Tag(ctx context.Context, name string, tags map[string]string) error
}

// TagReader is the ability to tell the tags of a file.
type TagReader interface {
	// Tags are the file's tags; none is no error.
	Tags(ctx context.Context, name string) (map[string]string, error)
}

// Location is where a file lies: which kind of store, which one, and the name in it.
type Location struct {
	Domain string // S3 or EFS, as the API spells it
	Store  string // bucket or file system id
	Name   string // key or path, without a leading slash
}

// Path is the location as AWS's logs write it, /bucket/key.
func (l Location) Path() string { return "/" + l.Store + "/" + l.Name }

// Identity is on whose behalf files are touched. The zero Identity is the daemon itself.
type Identity struct {
	Role    string `json:",omitempty"` // ARN of a role
	Session string `json:",omitempty"` // names the session to whoever lends the role
	Policy  string `json:",omitempty"` // a session policy, for a role that is lent by AWS
	Posix   *Posix `json:",omitempty"` // on a file system
}

// Posix is a local user, as the kernel checks one.
type Posix struct {
	UID, GID uint32
	Groups   []uint32 `json:",omitempty"`
}

// Impersonator is the ability of Stores to act for somebody.
type Impersonator interface {
	// As gives the same stores for an identity. The error wraps fs.ErrPermission if it cannot be had.
	As(ctx context.Context, id Identity) (Stores, error)
}

// Stores finds the backend of a bucket or file system. The error wraps fs.ErrNotExist if there is none.
type Stores interface {
	Backend(ctx context.Context, domain, store string) (Backend, error)
}
