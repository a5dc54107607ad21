package efs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
	"github.com/transferd/transferd/storage/storagetest"
)

// BenchmarkIdentity is what it costs to act for a user: a Stat, and a small file, as the daemon and as somebody else.
func BenchmarkIdentity(b *testing.B) {
	needRoot(b)
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		b.Fatal(err)
	}
	daemon := open(b, efs.Config{}, dir)
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	for _, who := range []struct {
		name string
		s    *efs.Store
	}{{"daemon", daemon}, {"user", as(b, daemon, anna)}} {
		b.Run("stat/"+who.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := who.s.Stat(b.Context(), "f"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("open/"+who.name, func(b *testing.B) {
			for b.Loop() {
				r, err := who.s.Open(b.Context(), "f")
				if err != nil {
					b.Fatal(err)
				}
				if err := r.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUpload is a file from Create to Commit, with what Durable and AtomicNames add. The folder is that of the
// environment's TMPDIR.
func BenchmarkUpload(b *testing.B) {
	for _, size := range []int{10 << 10, 16 << 20} {
		content := storagetest.Bytes(1, size)
		for name, cfg := range map[string]efs.Config{"plain": {}, "durable": {Durable: true}, "atomic": {AtomicNames: true}, "durable-atomic": {Durable: true, AtomicNames: true}} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, name), func(b *testing.B) {
				s := open(b, cfg, b.TempDir())
				b.SetBytes(int64(size))
				n := 0
				for b.Loop() {
					n++
					upload(b, s, fmt.Sprint("f", n%100), content)
				}
			})
		}
	}
}

func upload(b *testing.B, s *efs.Store, name string, content []byte) {
	u, err := s.Create(b.Context(), name, storage.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for off := 0; off < len(content); off += 32 << 10 {
		if _, err := u.WriteAt(content[off:min(off+32<<10, len(content))], int64(off)); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := u.Commit(b.Context()); err != nil {
		b.Fatal(err)
	}
}
