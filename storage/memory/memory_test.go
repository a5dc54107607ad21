package memory_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/memory"
	"github.com/transferd/transferd/storage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Backend {
		return memory.New(memory.Config{Misuse: func(what string) { t.Error(what) }})
	})
}

// begin uploads n bytes with parts of 1000 and tells what the journal would know.
func begin(t *testing.T, s *memory.Store, content []byte) (storage.Upload, *storage.DeadUpload, error) {
	t.Helper()
	dead := &storage.DeadUpload{ID: "id-1"}
	u, err := s.Create(t.Context(), "f", storage.CreateOptions{ID: dead.ID, Note: func(_ context.Context, token string) error {
		dead.Token = token
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.WriteAt(content, 0)
	return u, dead, err
}

func TestCrashLeavesThePartsForResume(t *testing.T) {
	t.Parallel()
	s := memory.New(memory.Config{PartSize: 1000, Misuse: func(what string) { t.Error(what) }})
	content := storagetest.Bytes(1, 2500)
	u, dead, err := begin(t, s, content)
	if err != nil {
		t.Fatal(err)
	}
	s.Crash()
	if _, err := u.Commit(t.Context()); !errors.Is(err, memory.ErrCrashed) {
		t.Fatalf("commit in a dead process: %v", err)
	}
	if n := len(s.Dangling()); n != 1 {
		t.Fatalf("%d multipart uploads after the crash, want the one", n)
	}
	obj, err := s.Resume(t.Context(), "f", *dead)
	if err != nil || obj.Size != 2000 {
		t.Fatalf("resume: %+v, %v; want the two parts that had left", obj, err)
	}
	if got, _, _, _ := s.Content("f"); !bytes.Equal(got, content[:2000]) {
		t.Error("wrong content")
	}
	if left := s.Dangling(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCrashBeforeNote(t *testing.T) {
	t.Parallel()
	cut := errors.New("killed")
	s := memory.New(memory.Config{PartSize: 1000, Fail: func(op memory.Op, _ string) (bool, error) {
		if op == memory.Note {
			return true, cut
		}
		return false, nil
	}})
	_, dead, err := begin(t, s, make([]byte, 1500))
	if !errors.Is(err, cut) || dead.Token != "" || len(s.Dangling()) != 1 {
		t.Fatalf("error %v, token %q, dangling %v", err, dead.Token, s.Dangling())
	}
	s.Crash()
	if obj, err := s.Resume(t.Context(), "f", *dead); err != nil || obj.Size != 0 || len(s.Dangling()) != 0 {
		t.Fatalf("resume: %+v, %v, dangling %v", obj, err, s.Dangling())
	}
}

func TestFailWithAndWithoutApplying(t *testing.T) {
	t.Parallel()
	for _, apply := range []bool{false, true} {
		refused := errors.New("refused")
		s := memory.New(memory.Config{Fail: func(op memory.Op, _ string) (bool, error) {
			if op == memory.Commit {
				return apply, refused
			}
			return false, nil
		}})
		u, _, err := begin(t, s, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context()); !errors.Is(err, refused) {
			t.Fatalf("commit: %v", err)
		}
		if _, _, _, there := s.Content("f"); there != apply {
			t.Errorf("apply %v: file is there: %v", apply, there)
		}
	}
}

func TestMisuseIsReported(t *testing.T) {
	t.Parallel()
	var told []string
	s := memory.New(memory.Config{Misuse: func(what string) { told = append(told, what) }})
	u, _, err := begin(t, s, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); err != nil || len(told) != 0 {
		t.Fatalf("commit: %v, told %q", err, told)
	}
	for i, misuse := range []func() error{
		func() error { return u.Abort(t.Context()) },
		func() error { _, err := u.WriteAt([]byte("y"), 1); return err },
		func() error { _, err := s.Stat(t.Context(), "not//clean"); return err },
		func() error { _, err := s.Create(t.Context(), "g", storage.CreateOptions{ID: "id-1"}); return err },
	} {
		err := misuse()
		if len(told) != i+1 {
			t.Fatalf("misuse %d (%v): told %q", i, err, told)
		}
	}
}

// TestCrashWhileAFileIsChanged: what had left is there, and the file is no shorter than before.
func TestCrashWhileAFileIsChanged(t *testing.T) {
	t.Parallel()
	old, more := storagetest.Bytes(2, 5000), storagetest.Bytes(3, 3500)
	for _, off := range []int{0, 1500, 5000} {
		s := memory.New(memory.Config{PartSize: 1000, Misuse: func(what string) { t.Error(what) }})
		storagetest.Write(t, s, "f", old)
		dead := storage.DeadUpload{ID: "id-2"}
		u, err := s.Create(t.Context(), "f", storage.CreateOptions{ID: dead.ID, Modify: true, Note: func(_ context.Context, token string) error {
			dead.Token = token
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.WriteAt(more, int64(off)); err != nil {
			t.Fatal(err)
		}
		s.Crash()
		obj, err := s.Resume(t.Context(), "f", dead)
		if err != nil || obj.Size < int64(len(old)) {
			t.Fatalf("from %d: resume: %+v, %v", off, obj, err)
		}
		got, _, _, _ := s.Content("f")
		left := 3000
		if off > 0 { // its parts begin a quarter of one before the first write
			left -= 250
		}
		if !bytes.Equal(got[:off+left], append(bytes.Clone(old[:off]), more[:left]...)) || off+left < len(old) && !bytes.Equal(got[off+left:], old[off+left:]) {
			t.Errorf("from %d: wrong content", off)
		}
	}
}
