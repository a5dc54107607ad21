package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
)

// domainEFS is a server's Domain, as the API spells it; everything else is S3.
const domainEFS = "EFS"

// stores finds every store there is: the buckets of the object store and the file systems of the configuration.
type stores struct {
	buckets storage.Stores
	files   map[string]*efs.Store // by file system id
	posix   *storage.Posix        // whom the file systems are used as; nil is the daemon itself
}

// Backend implements storage.Stores.
func (s *stores) Backend(ctx context.Context, domain, store string) (storage.Backend, error) {
	if domain != domainEFS {
		return s.buckets.Backend(ctx, domain, store)
	}
	b, ok := s.files[store]
	if !ok {
		return nil, fmt.Errorf("file system %q is not in the configuration: %w", store, fs.ErrNotExist)
	}
	if s.posix == nil {
		return b, nil
	}
	return b.As(ctx, *s.posix)
}

// As implements storage.Impersonator. A role is borrowed at once, so that a login is refused and not the first file.
// Whether a file system takes the identity on, Backend says: each may have another answer (own_identity_only).
func (s *stores) As(ctx context.Context, id storage.Identity) (storage.Stores, error) {
	as := *s
	if lender, ok := s.buckets.(storage.Impersonator); ok && id.Role != "" {
		buckets, err := lender.As(ctx, id)
		if err != nil {
			return nil, err
		}
		as.buckets = lentBuckets{buckets, lender}
	}
	if id.Posix == nil {
		return &as, nil
	}
	posix := *id.Posix
	as.posix = &posix
	return &as, nil
}

// lentBuckets are the buckets as a role sees them, from where another role can be taken on.
type lentBuckets struct {
	storage.Stores
	storage.Impersonator
}

// openFiles opens the file systems of the configuration.
func (d *daemon) openFiles() (map[string]*efs.Store, error) {
	files := make(map[string]*efs.Store, len(d.cfg.FileSystems))
	for _, id := range slices.Sorted(maps.Keys(d.cfg.FileSystems)) {
		s, err := efs.New(d.cfg.FileSystems[id])
		if err != nil {
			return nil, errors.Join(fmt.Errorf("file system %s: %w", id, err), closeFiles(files))
		}
		files[id] = s
	}
	if len(files) == 0 {
		return files, nil
	}
	switch err := efs.HonourQuotas(); {
	case errors.Is(err, errors.ErrUnsupported):
		d.log.Warn("quotas of file systems do not bind what is written through this daemon", "error", err.Error())
	case err != nil:
		return nil, errors.Join(err, closeFiles(files))
	}
	for id, cfg := range d.cfg.FileSystems {
		d.log.Info("file system", "id", id, "durable", cfg.Durable, "atomic-names", cfg.AtomicNames, slog.Bool("own-identity-only", cfg.OwnIdentityOnly))
	}
	return files, nil
}

func closeFiles(files map[string]*efs.Store) error {
	var errs []error
	for _, s := range files {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
