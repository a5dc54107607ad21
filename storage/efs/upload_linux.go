package efs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
)

// upload is a file on its way: an open descriptor, and what its end has to do.
//
// What is written stays where it was written, holes included: several clients may write one file through several
// uploads, as they may on AWS ("multi-connection uploads" work on EFS), so no upload cuts the file at its own prefix.
type upload struct {
	s    *Store
	name string
	opt  storage.CreateOptions
	at   entry
	temp string // the hidden name beside the file; "" in place
	file *os.File

	made     bool // Create made what file is, so Abort may remove it
	replaces bool // in place: the bytes that stand there are dropped with the first write, so only after the journal knows
	wrote    bool
	mark     string // what the file says of whose bytes it has; "" if it cannot
	dev, ino uint64 // in place: which file it is

	began     int64 // in place: how long the file was when it was opened
	low, high int64 // in place: from where to where it was written to, if it was
}

// Create implements storage.Backend. In place, an empty file shows at once, as on any file system; a file that stands
// keeps its bytes until the first write or Commit. The directory of the file must stand.
func (s *Store) Create(ctx context.Context, name string, opt storage.CreateOptions) (storage.Upload, error) {
	u := &upload{s: s, name: name, opt: opt}
	err := s.do(ctx, "create", name, func() (err error) {
		if name == "" {
			return storage.ErrIsDirectory
		}
		if u.at, err = s.at(name); err != nil {
			return err
		}
		if err := u.open(ctx, opt); err != nil {
			u.at.close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// open opens or makes what the bytes go to, as the identity.
func (u *upload) open(ctx context.Context, opt storage.CreateOptions) error {
	old, err := u.standing()
	if err != nil {
		return err
	}
	if opt.Exclusive && old != nil {
		return errors.Join(fs.ErrExist, old.Close())
	}
	if opt.Whole {
		return errors.Join(u.openBeside(ctx, opt, old), closed(old))
	}
	if u.s.fs.cfg.AtomicNames {
		link, err := u.at.stat()
		if err != nil && err != unix.ENOENT {
			return errors.Join(err, closed(old))
		}
		if err != nil || link.Mode&unix.S_IFMT != unix.S_IFLNK { // what a link points to is changed in place
			return errors.Join(u.openBeside(ctx, opt, old), closed(old))
		}
	}
	u.file, u.replaces = old, old != nil && !opt.Modify
	if old == nil {
		return u.openNew(opt)
	}
	return u.remember()
}

// openNew makes the file at the name.
func (u *upload) openNew(opt storage.CreateOptions) (err error) {
	u.made = true
	u.file, _, err = u.s.openFile(u.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
	if err == unix.EEXIST && !opt.Exclusive { // a link to nothing, or somebody was faster
		u.made, u.replaces = false, !opt.Modify
		u.file, _, err = u.s.openFile(u.name, unix.O_WRONLY|unix.O_CREAT, 0o666)
	}
	if err != nil {
		return err
	}
	return u.remember()
}

// remember keeps which file was opened.
func (u *upload) remember() error {
	st, err := stat(u.file)
	if err != nil {
		return errors.Join(err, u.file.Close())
	}
	u.dev, u.ino, u.began = st.Dev, st.Ino, st.Size
	return nil
}

// standing opens the file that stands at the name for writing, so that nobody replaces what they may not write; nil if
// there is none.
func (u *upload) standing() (*os.File, error) {
	old, _, err := u.s.openFile(u.name, unix.O_WRONLY, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	return old, err
}

func closed(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// openBeside makes the hidden file; with Modify it begins as a copy of the old one. A copy that is not whole has another
// name, so that after a crash nobody takes it for the upload.
func (u *upload) openBeside(ctx context.Context, opt storage.CreateOptions, old *os.File) error {
	u.temp, u.made = tempName(opt.ID), true
	mode := uint32(0o666)
	if old != nil {
		st, err := stat(old)
		if err != nil {
			return err
		}
		mode = st.Mode & 0o777
	}
	if opt.Whole {
		if err := gone(unix.Unlinkat(u.at.dir, u.temp, 0)); err != nil {
			return err
		}
	}
	if !opt.Modify || old == nil {
		return u.openTemp(u.temp, mode, old != nil)
	}
	source, _, err := u.s.openFile(u.name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	unfinished := u.temp + ".copy"
	if err := u.openTemp(unfinished, mode, true); err != nil {
		return errors.Join(err, source.Close())
	}
	err = errors.Join(copyBytes(ctx, u.file, source), source.Close())
	if err == nil {
		err = unix.Renameat2(u.at.dir, unfinished, u.at.dir, u.temp, 0)
	}
	if err != nil {
		return errors.Join(err, u.file.Close(), unix.Unlinkat(u.at.dir, unfinished, 0))
	}
	return nil
}

// openTemp makes a hidden file. exact gives it the mode of the file that it is to replace, whatever the umask.
func (u *upload) openTemp(base string, mode uint32, exact bool) error {
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW, Mode: uint64(mode), Resolve: unix.RESOLVE_BENEATH}
	fd, err := openat2(u.at.dir, base, &how)
	if err != nil {
		return err
	}
	u.file = os.NewFile(uintptr(fd), u.name)
	if exact {
		if err := u.file.Chmod(fs.FileMode(mode)); err != nil {
			return errors.Join(err, u.file.Close(), unix.Unlinkat(u.at.dir, base, 0))
		}
	}
	return nil
}

// tempName is the hidden name of an upload's file: Resume finds it by the upload's id.
func tempName(id string) string {
	if id == "" {
		id = rand.Text()
	}
	sum := sha256.Sum256([]byte(id))
	return hidden + hex.EncodeToString(sum[:16])
}

func stat(f *os.File) (st unix.Stat_t, err error) {
	err = unix.Fstat(int(f.Fd()), &st)
	return st, err
}

// fresh is stat of the file as it is now: of NFS the kernel would answer out of what it remembers, and not know that another
// machine has removed the file, or how much of what it was to write late the server has refused.
func fresh(f *os.File) (unix.Stat_t, error) {
	var stx unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_NLINK|unix.STATX_SIZE, &stx); err != nil {
		return unix.Stat_t{}, err
	}
	return stat(f)
}

// Live implements storage.Live: in place the bytes are the file's at once.
func (u *upload) Live() bool { return u.temp == "" && (!u.replaces || u.wrote) }

// WriteAt implements storage.Upload: pwrite, no copy, no buffer. The first one runs as the identity, because it is the
// one for which the kernel takes setuid and setgid away from a file; for the others the open descriptor is enough.
func (u *upload) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fail("write", u.name, fs.ErrInvalid)
	}
	u.high = max(u.high, off+int64(len(p)))
	if u.wrote {
		u.low = min(u.low, off)
		n, err = u.file.WriteAt(p, off)
		return n, fail("write", u.name, err)
	}
	u.wrote, u.low = true, off
	err = u.s.as.do(func() (err error) {
		if err := u.replace(); err != nil {
			return err
		}
		u.mark = mark(int(u.file.Fd()), u.opt.ID)
		n, err = u.file.WriteAt(p, off)
		return err
	})
	return n, fail("write", u.name, err)
}

// replace drops the bytes of the file that stood at the name.
func (u *upload) replace() error {
	if !u.replaces {
		return nil
	}
	return u.file.Truncate(0)
}

// empty is the end of an upload that wrote nothing.
func (u *upload) empty() error {
	if u.made || u.replaces {
		u.mark = mark(int(u.file.Fd()), u.opt.ID)
	}
	return u.replace()
}

// Commit implements storage.Upload.
func (u *upload) Commit(context.Context) (storage.Object, error) {
	defer u.at.close()
	obj, err := u.finish()
	if err != nil {
		return storage.Object{}, fail("commit", u.name, errors.Join(err, u.drop()))
	}
	return obj, nil
}

// finish makes the file what it is to be, and durable. It closes the file in any case. Without Durable that comes before
// the rename: a network file system may tell only then of what went wrong (close(2)); with it fsync has told.
func (u *upload) finish() (storage.Object, error) {
	obj, err := u.settle()
	durable := u.s.fs.cfg.Durable
	if err != nil || !durable {
		err = errors.Join(err, u.file.Close())
	}
	if err != nil {
		return storage.Object{}, err
	}
	if u.temp != "" {
		err = u.s.as.do(u.show)
	}
	if !durable {
		return obj, err
	}
	if err == nil && u.made {
		err = u.syncEntry()
	}
	return obj, errors.Join(err, u.file.Close())
}

// show gives a hidden file its name.
func (u *upload) show() error {
	if u.opt.Exclusive {
		return move(entry{dir: u.at.dir, base: u.temp}, u.at)
	}
	return unix.Renameat2(u.at.dir, u.temp, u.at.dir, u.at.base, 0)
}

// settle brings the file's bytes to where they stay, and describes it.
func (u *upload) settle() (storage.Object, error) {
	if !u.wrote {
		if err := u.s.as.do(u.empty); err != nil {
			return storage.Object{}, err
		}
	}
	if u.s.fs.cfg.Durable {
		if err := u.file.Sync(); err != nil {
			return storage.Object{}, err
		}
	}
	st, err := fresh(u.file)
	if err == nil && st.Nlink == 0 {
		err = fmt.Errorf("removed by somebody while it was written: %w", fs.ErrNotExist)
	}
	if err != nil {
		return storage.Object{}, err
	}
	obj := object(int(u.file.Fd()), &st)
	if obj.ETag == "" && u.mark != "" { // a daemon that may not read what its users write
		obj.ETag = marked(u.mark, &st)
	}
	return obj, nil
}

// syncEntry makes the file's entry in its directory durable. It is the daemon that opens the directory: a user may be
// allowed to write into it and not to read it. If the daemon may not (an NFS server makes nobody of root), the user is asked; if
// neither may, everything that the file system holds back is written.
func (u *upload) syncEntry() error {
	fd := -1
	open := func() (err error) {
		fd, err = unix.Openat(u.at.dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	}
	err := open()
	if err == unix.EACCES {
		err = u.s.as.do(open)
	}
	if err == unix.EACCES {
		return u.syncAll()
	}
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Close(fd))
}

// syncAll writes what the whole file system holds back. syncfs(2) also fails with what became of other people's files, such as
// one beyond its quota, and tells that once: what is still an error then is one of the file system.
func (u *upload) syncAll() error {
	if unix.Syncfs(int(u.file.Fd())) == nil {
		return nil
	}
	return unix.Syncfs(int(u.file.Fd()))
}

// Abort implements storage.Upload. A file that this upload made goes. In place, one that stood there before it goes too
// once a byte was written, because its old bytes are gone and the new ones are half of something; with Modify it is cut back
// to what it was, or stays as it is if bytes that stood were written over.
func (u *upload) Abort(context.Context) error {
	defer u.at.close()
	return fail("abort", u.name, errors.Join(u.file.Close(), u.drop()))
}

// drop removes what the upload leaves, if it is still there.
func (u *upload) drop() error {
	return u.s.as.do(func() error {
		if u.temp != "" {
			return gone(unix.Unlinkat(u.at.dir, u.temp, 0))
		}
		if !u.made && !u.wrote {
			return nil
		}
		if !u.made && !u.replaces {
			return u.cutBack()
		}
		st, err := u.at.stat()
		if err != nil || st.Dev != u.dev || st.Ino != u.ino { // gone, or replaced by somebody
			return gone(err)
		}
		err = unix.Unlinkat(u.at.dir, u.at.base, 0)
		if err == unix.EACCES || err == unix.EPERM { // the file is the user's to write and not to remove
			return u.s.truncate(u.name, 0)
		}
		return gone(err)
	})
}

// cutBack takes away what this upload has added to a file, unless somebody else has added more. What was acknowledged may be
// missing inside of that: NFS writes late and in any order, so a client that resumed from the length of the file would leave
// a hole in it.
func (u *upload) cutBack() error {
	if u.low < u.began {
		return nil
	}
	file, _, err := u.s.openFile(u.name, unix.O_WRONLY, 0)
	if err != nil {
		return gone(err)
	}
	st, err := fresh(file)
	if err == nil && st.Dev == u.dev && st.Ino == u.ino && st.Size > u.low && st.Size <= u.high {
		err = file.Truncate(u.low)
	}
	return errors.Join(err, file.Close())
}

// gone takes what is missing already for removed.
func gone(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return err
}
