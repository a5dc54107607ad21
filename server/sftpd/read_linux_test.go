package sftpd_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pkg/sftp"

	"github.com/transferd/transferd/server/internal/doortest"
	"github.com/transferd/transferd/storage/efs"
)

// TestReadWhatIsWritten: a handle for reading and writing reads what the file is, or says that it cannot.
func TestReadWhatIsWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		atomic bool
		live   bool // reads what was written
	}{"in place": {false, true}, "atomic names": {true, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := doortest.Random(200 << 10)
			dir := t.TempDir()
			r := newRig(t, onDisk(t, dir, func(cfg *efs.Config) { cfg.AtomicNames = c.atomic }))
			file := filepath.Join(dir, "home", "file")
			r.stand(t, file, string(data))
			f, err := r.sftp(t).OpenFile("file", os.O_RDWR)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(data))
			if n, err := f.ReadAt(got, 0); n != len(data) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, data) {
				t.Fatalf("what stands: %d bytes, %v", n, err)
			}
			if n, err := f.ReadAt(got[:10], int64(len(data))+5); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("beyond the end: %d bytes, %v", n, err)
			}
			if _, err := f.WriteAt([]byte("changed"), 70_000); err != nil {
				t.Fatal(err)
			}
			copy(data[70_000:], "changed")
			n, err := f.ReadAt(got[:100], 69_990)
			switch {
			case !c.live:
				var status *sftp.StatusError
				if !errors.As(err, &status) || status.FxCode() != sftp.ErrSSHFxOpUnsupported {
					t.Errorf("read from behind the change: %d bytes, %v", n, err)
				}
			case err != nil || !bytes.Equal(got[:100], data[69_990:70_090]):
				t.Errorf("what was written: %q, %v", got[:n], err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			wantFile(t, file, data)
		})
	}
}

// TestReadHandleForWriting: a handle for writing alone reads nothing, and a file that is made is not what stood there.
func TestReadHandleForWriting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := newRig(t, onDisk(t, dir))
	r.stand(t, filepath.Join(dir, "home", "file"), "old")
	c := r.sftp(t)
	for flags, want := range map[int]error{
		os.O_WRONLY:            sftp.ErrSSHFxPermissionDenied,
		os.O_RDWR | os.O_TRUNC: sftp.ErrSSHFxOpUnsupported,
	} {
		f, err := c.OpenFile("file", flags)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.ReadAt(make([]byte, 3), 0)
		var status *sftp.StatusError
		if !errors.Is(err, os.ErrPermission) && (!errors.As(err, &status) || status.FxCode() != want) {
			t.Errorf("flags %#x: %v, want %v", flags, err, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}
