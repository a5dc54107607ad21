package efs_test

import (
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	configs := map[string]efs.Config{
		"InPlace":     {},
		"AtomicNames": {AtomicNames: true, Durable: true},
	}
	for name, cfg := range configs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.RunWith(t, storagetest.Traits{InPlace: !cfg.AtomicNames, Sparse: true, Unmarked: true},
				func(t *testing.T) storage.Backend { return open(t, cfg, t.TempDir()) })
		})
	}
}

// open opens a file system that lives as long as the test. Without root it acts as whoever runs the test.
func open(t testing.TB, cfg efs.Config, dir string) *efs.Store {
	t.Helper()
	cfg.Dir, cfg.OwnIdentityOnly = dir, efs.CanImpersonate() != nil
	s, err := efs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
