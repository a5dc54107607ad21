package efs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// markName is the extended attribute that says which upload or copy a file's bytes come from. Nothing else of a file
// says so: the times are the client's to set (WinSCP and FileZilla do, after CLOSE), chmod and link change ctime, and a
// file that is written over in place keeps its inode.
const markName = "user.transferd.upload"

var _ storage.Identifier = (*Store)(nil)

// mark writes into a file that its bytes are an upload's from now on. Where the file system has no place for that (NFS
// before 4.2, Amazon EFS among them), etag does with less, so this is no error; the mark is "" then.
func mark(fd int, id string) string {
	if id == "" {
		id = rand.Text()
	}
	sum := sha256.Sum256([]byte(id))
	value := hex.EncodeToString(sum[:8])
	if unix.Fsetxattr(fd, markName, []byte(value), 0) != nil {
		return ""
	}
	return value
}

// etag tells an open file from others that stood or will stand at its name: the mark and the size, without a mark the
// inode and the size. "" is a file that cannot be told from others: its reader may not read it, or the file system makes
// its inode numbers up (FUSE).
func etag(fd int, st *unix.Stat_t) string {
	return identityOf(st, fd, func(value []byte) (int, error) { return unix.Fgetxattr(fd, markName, value) })
}

func identityOf(st *unix.Stat_t, fd int, read func([]byte) (int, error)) string {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return ""
	}
	var value [32]byte
	n, err := read(value[:])
	switch {
	case err == nil:
		return marked(string(value[:n]), st)
	case err != unix.ENODATA && err != unix.ENOTSUP:
		return ""
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil || sfs.Type == unix.FUSE_SUPER_MAGIC {
		return ""
	}
	return marked("i"+strconv.FormatUint(st.Ino, 16), st)
}

func marked(by string, st *unix.Stat_t) string { return by + "-" + strconv.FormatInt(st.Size, 16) }

// object is a file as storage knows it.
func object(fd int, st *unix.Stat_t) storage.Object {
	return storage.Object{Size: st.Size, ETag: etag(fd, st), ModTime: time.Unix(st.Mtim.Unix())}
}

// Identify implements storage.Identifier.
func (s *Store) Identify(ctx context.Context, name string) (fs.FileInfo, error) {
	i := &identified{info: info{name: path.Base("/" + name)}}
	err := s.do(ctx, "identify", name, func() error {
		fd, err := s.open(name, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		err = unix.Fstat(fd, &i.st)
		if err == nil {
			i.obj = storage.Object{Size: i.st.Size, ModTime: i.ModTime()}
			// The descriptor of a path has no attributes to read but through the kernel's own link to it.
			link := "/proc/self/fd/" + strconv.Itoa(fd)
			i.obj.ETag = identityOf(&i.st, fd, func(value []byte) (int, error) { return unix.Getxattr(link, markName, value) })
		}
		return errors.Join(err, unix.Close(fd))
	})
	if err != nil {
		return nil, err
	}
	return i, nil
}

// identified is a file of which it is known which one it is.
type identified struct {
	info
	obj storage.Object
}

// Sys is a storage.Object.
func (i *identified) Sys() any { return i.obj }
