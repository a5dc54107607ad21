package efs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/storagetest"
)

// TestWhichFile: a file is the same until somebody else's bytes are in it, whatever is done to the rest of it.
func TestWhichFile(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]efs.Config{"InPlace": {}, "AtomicNames": {AtomicNames: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := unix.Setxattr(dir, "user.transferd.test", nil, 0); err != nil {
				t.Skip("no extended attributes here: ", err)
			}
			s := open(t, cfg, dir)
			path := filepath.Join(dir, "f")
			was := storagetest.Write(t, s, "f", []byte("one"))
			mode, at := fs.FileMode(0o640), time.Unix(1_600_000_000, 0)
			err := errors.Join(s.SetAttrs(t.Context(), "f", storage.Attrs{Mode: &mode, Atime: &at, Mtime: &at}), s.Link(t.Context(), "f", "hard"),
				s.Rename(t.Context(), "f", "elsewhere"), s.Rename(t.Context(), "elsewhere", "f"))
			if now := which(t, s, "f"); err != nil || now == "" || now != was.ETag {
				t.Errorf("time, mode, links and name make %q of %q, %v", now, was.ETag, err)
			}
			seen := map[string]string{was.ETag: "at first"}
			for _, c := range []struct {
				what   string
				change func() error
			}{
				{"an upload of the same size", func() error { storagetest.Write(t, s, "f", []byte("two")); return nil }},
				{"bytes in its midst", func() error { return modify(t, s, "f", "w", 1) }},
				{"an empty upload", func() error { storagetest.Write(t, s, "f", nil); return nil }},
				{"another empty upload", func() error { storagetest.Write(t, s, "f", nil); return nil }},
				{"another program's bytes", func() error { return os.WriteFile(path, []byte("longer"), 0o600) }},
				{"another program's file", func() error {
					return errors.Join(os.WriteFile(path+".new", []byte("longer"), 0o600), os.Rename(path+".new", path))
				}},
			} {
				err := c.change()
				is := which(t, s, "f")
				if before, known := seen[is]; err != nil || is == "" || known {
					t.Errorf("after %s it is %q as %s, %v", c.what, is, before, err)
				}
				seen[is] = "after " + c.what
			}
			copied, err := s.Copy(t.Context(), "f", which(t, s, "f"), s, "copy", false)
			if now := which(t, s, "copy"); err != nil || copied.ETag != now || seen[now] != "" {
				t.Errorf("a copy is %q, and %q to whoever looks, %v", copied.ETag, now, err)
			}
			if info, err := s.Identify(t.Context(), ""); err != nil || info.Sys().(storage.Object).ETag != "" {
				t.Errorf("the root: %v", err)
			}
		})
	}
}

// which is the ETag of a file.
func which(t *testing.T, s *efs.Store, name string) string {
	t.Helper()
	info, err := s.Identify(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	obj, ok := info.Sys().(storage.Object)
	if !ok || obj.Size != info.Size() || !obj.ModTime.Equal(info.ModTime()) {
		t.Errorf("%+v of %d bytes", info.Sys(), info.Size())
	}
	return obj.ETag
}

func modify(t *testing.T, s *efs.Store, name, data string, off int64) error {
	t.Helper()
	u, err := s.Create(t.Context(), name, storage.CreateOptions{ID: "modify", Modify: true})
	if err != nil {
		return err
	}
	_, err = u.WriteAt([]byte(data), off)
	obj, failed := u.Commit(t.Context())
	if is := which(t, s, name); is != obj.ETag {
		t.Errorf("Commit says %q, it is %q", obj.ETag, is)
	}
	return errors.Join(err, failed)
}
