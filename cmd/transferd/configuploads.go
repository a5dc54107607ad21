package main

import (
	"errors"
	"time"

	"github.com/transferd/transferd/cmd/transferd/internal/yamlstrict"
	"github.com/transferd/transferd/server/session"
)

// UploadsConfig is what decides when an upload is whole; see session.Config. Zero is its default.
type UploadsConfig struct {
	TempNames                  []string
	RenameTimeout, RenameGrace time.Duration
	Integrity                  bool
}

func defaultUploads() uploadsFile {
	return uploadsFile{TempNames: session.DefaultTempNames(), RenameTimeout: 10 * time.Minute, RenameGrace: time.Minute}
}

func (f *configFile) judgeUploads(at yamlstrict.Lines) error {
	var errs []error
	if err := session.CheckTempNames(f.Uploads.TempNames); err != nil {
		errs = append(errs, at.At("uploads.temp_names", err.Error()))
	}
	if f.Uploads.RenameTimeout <= 0 {
		errs = append(errs, at.At("uploads.rename_timeout", "must be more than 0"))
	}
	if f.Uploads.RenameGrace <= 0 {
		errs = append(errs, at.At("uploads.rename_grace", "must be more than 0"))
	}
	return errors.Join(errs...)
}

func (u uploadsFile) config() UploadsConfig {
	c := UploadsConfig(u)
	if c.TempNames == nil {
		c.TempNames = []string{} // none, and not the default
	}
	return c
}
