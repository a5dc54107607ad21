package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/transferd/transferd/storage/efs"
)

// devFileSystem is the file system that DATA/efs stands for.
const devFileSystem = "fs-0123456789abcdef0"

func (f devFlags) efsDir() string { return filepath.Join(f.data, "efs") }

// fileSystems is the one file system of dev mode. A dev mode that is not root serves users whose PosixProfile is the
// one who runs it.
func (f devFlags) fileSystems() map[string]efs.Config {
	return map[string]efs.Config{devFileSystem: {Dir: f.efsDir(), Durable: true, OwnIdentityOnly: efs.CanImpersonate() != nil}}
}

// ensureFileSystem makes DATA/efs, open to every uid as /tmp is: a PosixProfile of any user can be tried at once. DATA
// itself is the daemon's alone. One that stands stays as it is: something may be mounted there.
func (f devFlags) ensureFileSystem() error {
	if err := os.Mkdir(f.efsDir(), 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(f.efsDir(), 0o777|os.ModeSticky)
}
