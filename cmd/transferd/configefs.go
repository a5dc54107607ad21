package main

import (
	"errors"
	"os"
	"regexp"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/storage/efs"
)

// fileSystemFile is a file system as the configuration file describes it; the comment of configFile.FileSystems is the
// manual.
type fileSystemFile struct {
	Directory       string `yaml:"directory"`
	Durable         *bool  `yaml:"durable"`
	AtomicNames     bool   `yaml:"atomic_names"`
	OwnIdentityOnly bool   `yaml:"own_identity_only"`
}

func (f *configFile) fileSystems() map[string]efs.Config {
	systems := make(map[string]efs.Config, len(f.FileSystems))
	for id, s := range f.FileSystems {
		systems[id] = efs.Config{
			Dir: s.Directory, Durable: s.Durable == nil || *s.Durable, AtomicNames: s.AtomicNames, OwnIdentityOnly: s.OwnIdentityOnly,
		}
	}
	return systems
}

// fileSystemID is what homes name (transfer-model.json, EfsFileSystemId, without access points and ARNs).
var fileSystemID = regexp.MustCompile(`^fs-[0-9a-f]{8,40}$`)

func (f *configFile) judgeFileSystems(at yamlstrict.Lines) error {
	var errs []error
	for id, s := range f.FileSystems {
		key := "file_systems." + id
		info, err := os.Stat(s.Directory)
		switch {
		case !fileSystemID.MatchString(id):
			errs = append(errs, at.At(key, "must be an id such as fs-0123456789abcdef0: fs- and 8 to 40 digits or letters from a to f"))
		case s.Directory == "":
			errs = append(errs, at.At(key, "needs a directory"))
		case err != nil:
			errs = append(errs, at.At(key+".directory", err.Error()))
		case !info.IsDir():
			errs = append(errs, at.At(key+".directory", "is no directory"))
		}
	}
	return errors.Join(errs...)
}
