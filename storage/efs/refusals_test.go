package efs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/efs"
)

// kinds are what the errors of a disk are to those who use the store; the first that an error is counts.
func kinds() []struct {
	name string
	err  error
} {
	return []struct {
		name string
		err  error
	}{
		{"quota", storage.ErrQuota}, {"full", storage.ErrNoSpace}, {"unavailable", storage.ErrUnavailable}, {"denied", fs.ErrPermission},
	}
}

func kindOf(err error) string {
	if err == nil {
		return "done"
	}
	for _, k := range kinds() {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return err.Error()
}

// TestRefusals: whatever call the kernel refuses, the error is of the kind that clients are told, and what stood stands alone. strace
// makes the kernel refuse.
func TestRefusals(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "strace", "-qq", "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace traces nothing here: %v: %s", err, out)
	}
	uploads, atomic := []string{"new", "added", "atomic", "atomic added"}, []string{"atomic", "atomic added"}
	for _, c := range []struct {
		call, errno, kind string
		fail              []string
		when              string // which of the calls
	}{
		{"openat2", "EDQUOT", "quota", append(uploads, "mkdir", "rename", "replace", "symlink", "link", "cut"), "2+"}, // the first opens the store
		{"openat2", "EROFS", "denied", append(uploads, "mkdir", "rename", "replace", "symlink", "link", "cut"), "2+"},
		{"openat2", "ESTALE", "unavailable", append(uploads, "mkdir", "rename", "replace", "symlink", "link", "cut"), "2+"},
		{"pwrite64", "EDQUOT", "quota", uploads, "1+"},
		{"pwrite64", "ENOSPC", "full", uploads, "2+2"}, // not the first of a file
		{"pwrite64", "ESTALE", "unavailable", uploads, "1+"},
		{"fsync", "EDQUOT", "quota", uploads, "1+"},
		{"fsync", "ENOSPC", "full", uploads, "1+"},
		{"fsync", "ESTALE", "unavailable", uploads, "1+"},
		{"close", "EDQUOT", "quota", []string{"new", "added"}, "1+"},
		{"renameat2", "EDQUOT", "quota", append(atomic, "rename", "replace"), "1+"},
		{"renameat2", "EROFS", "denied", append(atomic, "rename", "replace"), "1+"},
		{"mkdirat", "EDQUOT", "quota", []string{"mkdir"}, "1+"},
		{"mkdirat", "ENOSPC", "full", []string{"mkdir"}, "1+"},
		{"symlinkat", "EDQUOT", "quota", []string{"symlink"}, "1+"},
		{"linkat", "EROFS", "denied", []string{"link"}, "1+"},
	} {
		t.Run(c.call+" "+c.errno, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, name := range []string{"added", "atomic", "atomic added", "rename", "replace", "link", "cut"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			trace := []string{"strace", "-f", "-qq", "-o", os.DevNull, "-e", "trace=" + c.call, "-e", "inject=" + c.call + ":error=" + c.errno + ":when=" + c.when}
			if c.call == "close" { // the only call here that others make too
				trace = append(trace, "-P", filepath.Join(dir, "new"), "-P", filepath.Join(dir, "added"))
			}
			cmd := program(t, "refused "+c.call, trace...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				what, kind, _ := strings.Cut(strings.TrimSpace(line), ": ")
				want := "done"
				if slices.Contains(c.fail, what) {
					want = c.kind
				}
				if kind != want {
					t.Errorf("%s: %s, want %s", what, kind, want)
				}
			}
			for _, what := range c.fail {
				stands(t, dir, what)
			}
		})
	}
}

// stands looks at what a refused operation leaves.
func stands(t *testing.T, dir, what string) {
	t.Helper()
	for name, want := range map[string]string{what: "old", what + ".to": ""} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if what == "new" || what == "mkdir" || what == "symlink" {
			want = ""
		}
		if want == "" && !errors.Is(err, fs.ErrNotExist) || want != "" && (err != nil || string(got) != want) {
			t.Errorf("after a refused %s %q holds %q, %v; want %q", what, name, got, err, want)
		}
	}
	hidden, err := filepath.Glob(filepath.Join(dir, ".transferd-upload-*"))
	if err != nil || len(hidden) > 0 {
		t.Errorf("after a refused %s: %v, %v", what, hidden, err)
	}
}

// refused tries everything that changes a file system and prints what came of it.
func refused(ctx context.Context, call string) error {
	plain, err := efs.New(efs.Config{Dir: ".", Durable: call != "close", OwnIdentityOnly: true})
	if err != nil {
		return err
	}
	whole, err := efs.New(efs.Config{Dir: ".", Durable: true, AtomicNames: true, OwnIdentityOnly: true})
	if err != nil && call != "openat2" {
		return err
	} else if err != nil {
		whole = plain // refused at its first call already
	}
	size := int64(1)
	for _, try := range []struct {
		what string
		err  error
	}{
		{"new", twice(ctx, plain, "new", 0, false)},
		{"added", twice(ctx, plain, "added", 3, true)},
		{"atomic", twice(ctx, whole, "atomic", 0, false)},
		{"atomic added", twice(ctx, whole, "atomic added", 3, true)},
		{"mkdir", plain.Mkdir(ctx, "mkdir")},
		{"rename", plain.Rename(ctx, "rename", "rename.to")},
		{"replace", plain.Replace(ctx, "replace", "replace.to")},
		{"symlink", plain.Symlink(ctx, "link", "symlink")},
		{"link", plain.Link(ctx, "link", "link.to")},
		{"cut", plain.SetAttrs(ctx, "cut", storage.Attrs{Size: &size})},
	} {
		fmt.Println(try.what + ": " + kindOf(try.err))
	}
	return nil
}

// twice is an upload of two blocks.
func twice(ctx context.Context, s *efs.Store, name string, off int64, modify bool) error {
	u, err := s.Create(ctx, name, storage.CreateOptions{ID: name, Modify: modify})
	if err != nil {
		return err
	}
	for i := range int64(2) {
		if _, err := u.WriteAt([]byte("x"), off+i); err != nil {
			return errors.Join(err, u.Abort(ctx))
		}
	}
	_, err = u.Commit(ctx)
	return err
}

// TestFullAdded: a file that was to grow and did not fit is what it was; one whose bytes were written over stays as far as it came.
func TestFullAdded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from int64
		want int
	}{"at its end": {100_000, 100_000}, "from its middle": {50_000, 0}, "behind a hole": {150_000, 150_000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tmpfs(t, "512k")
			s := open(t, efs.Config{}, dir)
			if err := put(t.Context(), s, "f", strings.Repeat("o", 100_000), 0, false); err != nil {
				t.Fatal(err)
			}
			u, err := s.Create(t.Context(), "f", storage.CreateOptions{ID: "1", Modify: true})
			if err != nil {
				t.Fatal(err)
			}
			for off := c.from; err == nil && off < 1<<20; off += 32 << 10 {
				_, err = u.WriteAt(make([]byte, 32<<10), off)
			}
			if !errors.Is(err, storage.ErrNoSpace) || errors.Is(err, storage.ErrQuota) {
				t.Fatalf("a file system of 512 KiB took 1 MiB: %v", err)
			}
			if err := u.Abort(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(dir, "f"))
			if err != nil || c.want > 0 && len(got) != c.want || len(got) < 100_000 || !strings.HasPrefix(string(got), strings.Repeat("o", 50_000)) {
				t.Errorf("%d bytes are left, %v; want %d", len(got), err, c.want)
			}
		})
	}
}
