package vfs

import (
	"io/fs"
	"testing"
)

func TestSymbolic(t *testing.T) {
	t.Parallel()
	for mode, want := range map[fs.FileMode]string{
		0o640:                                 "-rw-r-----",
		fs.ModeDir | fs.ModeSticky | 0o777:    "drwxrwxrwt",
		fs.ModeDir | fs.ModeSetgid | 0o770:    "drwxrws---",
		fs.ModeDir | fs.ModeSticky | 0o770:    "drwxrwx--T",
		fs.ModeSetuid | fs.ModeSetgid | 0o744: "-rwsr-Sr--",
		fs.ModeSymlink | 0o777:                "lrwxrwxrwx",
	} {
		if got := symbolic(mode); got != want {
			t.Errorf("%v: %s, want %s", mode, got, want)
		}
	}
}
