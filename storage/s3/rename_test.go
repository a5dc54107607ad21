package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// cutting refuses requests that match once n of them have passed.
func cutting(match func(*http.Request) bool, n *atomic.Int32) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if match(r) && n.Add(-1) < 0 {
				return nil, errors.New("cut")
			}
			return next.RoundTrip(r)
		})
	}
}

func isDelete(r *http.Request) bool { return r.Method == http.MethodDelete }

func isCopy(r *http.Request) bool { return r.Header.Get("x-amz-copy-source") != "" }

// TestRenameOfADirectoryGoesOn: whatever cuts it, all files are readable at one of both names, and asking again ends it.
func TestRenameOfADirectoryGoesOn(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	for name, match := range map[string]func(*http.Request) bool{"delete": isDelete, "copy": isCopy} {
		var left atomic.Int32
		left.Store(1 << 30)
		s := testStore(t, gw.URL(), func(c *Config) { c.Wrap, c.RetryBudget = cutting(match, &left), 1 })
		s.copyLimit = 5 * mib
		b, ctx := testBucket(t, s, "cut-"+name), t.Context()
		want := make(map[string][]byte)
		for i := range 12 {
			file := fmt.Sprintf("sub-%d/f%02d", i%3, i)
			want[file] = storagetest.Bytes(uint64(i), i*1000)
			if i == 7 {
				want[file] = storagetest.Bytes(7, 11*mib) // copied in parts
			}
			storagetest.Write(t, b, "old/"+file, want[file])
		}
		if err := b.Mkdir(ctx, "old/empty"); err != nil {
			t.Fatal(err)
		}
		for tries := 0; ; tries++ {
			left.Store(8)
			err := b.Rename(ctx, "old", "new")
			left.Store(1 << 30)
			for file, content := range want {
				_, err := b.Stat(ctx, "old/"+file)
				at := "old/"
				if errors.Is(err, fs.ErrNotExist) {
					at = "new/"
				}
				if !bytes.Equal(storagetest.Read(t, b, at+file), content) {
					t.Fatalf("%s: %s%s differs", name, at, file)
				}
			}
			if err == nil {
				if tries == 0 {
					t.Errorf("%s: nothing was cut", name)
				}
				break
			}
			if !errors.Is(err, storage.ErrUnavailable) && tries > 20 {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, err := b.Stat(ctx, "old"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the old directory: %v", name, err)
		}
		if fi, err := b.Stat(ctx, "new/empty"); err != nil || !fi.IsDir() {
			t.Errorf("%s: the empty directory in it: %v", name, err)
		}
		head, err := s.head(ctx, b.bucket, "new/")
		if err != nil || head.Metadata[renameKey] == renameMark("old") {
			t.Errorf("%s: the log is not closed: %v, %v", name, head.Metadata, err)
		}
		if err := b.Rename(ctx, "old", "new"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: once more: %v", name, err)
		}
	}
}

// TestSameFile: another program's file that was copied in parts is known by the ETag that it was copied from.
func TestSameFile(t *testing.T) {
	t.Parallel()
	s := testStore(t, sharedGateway(t).URL(), nil)
	s.copyLimit = 5 * mib
	b, ctx := testBucket(t, s, "same"), t.Context()
	storagetest.Write(t, b, "f", storagetest.Bytes(91, 11*mib))
	storagetest.Write(t, b, "other", storagetest.Bytes(92, 11*mib))
	if _, err := b.Copy(ctx, "f", "", b, "copy", false); err != nil {
		t.Fatal(err)
	}
	heads := make(map[string]*s3.HeadObjectOutput)
	for _, name := range []string{"f", "copy", "other"} {
		head, err := s.head(ctx, b.bucket, name)
		if err != nil {
			t.Fatal(err)
		}
		heads[name] = head
	}
	if unquote(heads["f"].ETag) == unquote(heads["copy"].ETag) {
		t.Error("a copy in parts has the ETag of its source: this test tests nothing")
	}
	if !sameFile(heads["f"], heads["copy"]) || sameFile(heads["other"], heads["copy"]) || sameFile(heads["f"], heads["other"]) {
		t.Error("a copy is taken for another file, or another file for a copy")
	}
}

// TestRenameSparesWhatCameMeanwhile: a rename that goes on replaces nothing.
func TestRenameSparesWhatCameMeanwhile(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	var left atomic.Int32
	left.Store(1 << 30)
	s := testStore(t, gw.URL(), func(c *Config) { c.Wrap, c.RetryBudget = cutting(isDelete, &left), 1 })
	b, ctx := testBucket(t, s, "meanwhile"), t.Context()
	storagetest.Write(t, b, "old/f", []byte("from before"))
	left.Store(0)
	if err := b.Rename(ctx, "old", "new"); err == nil {
		t.Fatal("nothing was cut")
	}
	left.Store(1 << 30)
	storagetest.Write(t, b, "new/f", []byte("newer"))
	if err := b.Rename(ctx, "old", "new"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename over what came meanwhile: %v", err)
	}
	if got := storagetest.Read(t, b, "new/f"); string(got) != "newer" {
		t.Errorf("the newer file is %q", got)
	}
	if got := storagetest.Read(t, b, "old/f"); string(got) != "from before" {
		t.Errorf("the older file is %q", got)
	}
	if err := b.Rename(ctx, "other", "new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("rename of another pair: %v", err)
	}
}

// TestRenameSparesANewerFile: what is written at the old name between the copy and the delete was written after the
// rename, in a store with conditional deletes even if it comes after the look.
func TestRenameSparesANewerFile(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	for name, match := range map[string]func(*http.Request) bool{"before-the-copy-ends": isCopy, "before-the-delete": isDelete} {
		var meanwhile atomic.Pointer[func()]
		b := testBucket(t, testStore(t, gw.URL(), func(c *Config) {
			c.Wrap = func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					if !match(r) || meanwhile.Load() == nil {
						return next.RoundTrip(r)
					}
					write := *meanwhile.Swap(nil)
					if isDelete(r) {
						write()
						return next.RoundTrip(r)
					}
					resp, err := next.RoundTrip(r)
					write()
					return resp, err
				})
			}
		}), name)
		storagetest.Write(t, b, "old", []byte("first"))
		write := func() { storagetest.Write(t, b, "old", []byte("second, and longer")) }
		meanwhile.Store(&write)
		if err := b.Rename(t.Context(), "old", "new"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := storagetest.Read(t, b, "new"); string(got) != "first" {
			t.Errorf("%s: the renamed file is %q", name, got)
		}
		if got := storagetest.Read(t, b, "old"); string(got) != "second, and longer" {
			t.Errorf("%s: the newer file is %q", name, got)
		}
	}
}

// TestDeleteWithoutConditions: an older store says that it has none.
func TestDeleteWithoutConditions(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) {
		c.Wrap = func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if isDelete(r) && r.Header.Get("If-Match") != "" {
					return answer(r, http.StatusNotImplemented, `<Error><Code>NotImplemented</Code><Message>no</Message></Error>`), nil
				}
				return next.RoundTrip(r)
			})
		}
	}), "unconditional")
	storagetest.Write(t, b, "old", []byte("x"))
	if err := b.Rename(t.Context(), "old", "new"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), "old"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old name: %v", err)
	}
}

func TestExclusive(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	var lose atomic.Bool
	s := testStore(t, gw.URL(), func(c *Config) {
		c.Wrap = lostAnswers(func(r *http.Request) bool { return isPut(r) || isComplete(r) }, func() bool { return lose.Swap(false) })
	})
	b, ctx := testBucket(t, s, "exclusive"), t.Context()
	create := func(name, id string) (storage.Upload, error) {
		return b.Create(ctx, name, storage.CreateOptions{ID: id, Exclusive: true})
	}
	for _, size := range []int{10, 12 * mib} {
		name, content := fmt.Sprint("f", size), storagetest.Bytes(90, size)
		var ups []storage.Upload
		for i := range 2 {
			u, err := create(name, fmt.Sprint(name, i))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.WriteAt(content, 0); err != nil {
				t.Fatal(err)
			}
			ups = append(ups, u)
		}
		lose.Store(true) // and asked again it finds its own file
		if obj, err := ups[0].Commit(ctx); err != nil || obj.Size != int64(size) {
			t.Errorf("%s: the first: %+v, %v", name, obj, err)
		}
		if _, err := ups[1].Commit(ctx); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: the second: %v", name, err)
		}
		if _, err := create(name, "third"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: the third: %v", name, err)
		}
		if head, err := s.head(ctx, b.bucket, name); err != nil || head.Metadata[idKey] != name+"0" {
			t.Errorf("%s: the file is not the first one's: %v", name, err)
		}
	}
	if n := dangling(t, b); n != 0 {
		t.Errorf("%d multipart uploads left", n)
	}
}

// TestExclusiveWithoutConditionalWrites: an older store says that it has none.
func TestExclusiveWithoutConditionalWrites(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	s := testStore(t, gw.URL(), func(c *Config) {
		c.Wrap = func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("If-None-Match") == "" {
					return next.RoundTrip(r)
				}
				return answer(r, http.StatusNotImplemented, `<Error><Code>NotImplemented</Code><Message>no</Message></Error>`), nil
			})
		}
	})
	b, ctx := testBucket(t, s, "older"), context.WithoutCancel(t.Context())
	var ups []storage.Upload
	for i := range 2 {
		u, err := b.Create(ctx, "f", storage.CreateOptions{ID: fmt.Sprint(i), Exclusive: true})
		if err != nil {
			t.Fatal(err)
		}
		ups = append(ups, u)
	}
	if _, err := ups[0].Commit(ctx); err != nil {
		t.Error(err)
	}
	if _, err := ups[1].Commit(ctx); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the second: %v", err)
	}
}

// TestRenameWithTooLongNames: a directory is moved as a whole or not at all.
func TestRenameWithTooLongNames(t *testing.T) {
	t.Parallel()
	b, ctx := testBucket(t, testStore(t, sharedGateway(t).URL(), nil), "too-long"), t.Context()
	deep := strings.Repeat("deep/", 190) + strings.Repeat("n", 50) // 1,000 bytes
	storagetest.Write(t, b, "old/a", []byte("a"))
	storagetest.Write(t, b, "old/"+deep, []byte("deep"))
	if err := b.Rename(ctx, "old", strings.Repeat("l", 24)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a name of 1,025 bytes: %v", err)
	}
	if _, err := b.Stat(ctx, strings.Repeat("l", 24)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused rename left something: %v", err)
	}
	for _, name := range []string{"a", deep} {
		if _, err := b.Stat(ctx, "old/"+name); err != nil {
			t.Errorf("after the refused rename: %v", err)
		}
	}
	to := strings.Repeat("f", 23)
	if err := b.Rename(ctx, "old", to); err != nil {
		t.Fatal(err)
	}
	if got := storagetest.Read(t, b, to+"/"+deep); string(got) != "deep" {
		t.Errorf("moved to a name of 1,024 bytes: %q", got)
	}
}
