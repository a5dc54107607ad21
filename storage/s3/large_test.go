package s3

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
	"github.com/transferd/transferd/storage/storagetest"
)

var (
	listObjects = flag.Int("list", 0, "how many objects TestListLargeDirectory lists, beside aws s3 ls")
	manyUploads = flag.Int("uploads", 0, "how many uploads of 32 MiB TestParallelUploads runs at once under 1 GiB")
)

// TestReadDirReadsByPages: a page is asked for when the one before it has been taken, never earlier.
func TestReadDirReadsByPages(t *testing.T) {
	t.Parallel()
	const pages, size = 12, 1000
	asked := 0 // one goroutine lists
	s := testStore(t, "http://pages.invalid", func(c *Config) {
		c.Wrap = func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				q := r.URL.Query()
				want := ""
				if asked > 0 {
					want = fmt.Sprint("page-", asked)
				}
				if q.Get("delimiter") != "/" || q.Get("prefix") != "dir/" || q.Get("continuation-token") != want {
					t.Errorf("request %d asks for %s", asked, r.URL.RawQuery)
				}
				asked++
				return answer(r, http.StatusOK, listPage(asked, pages, size)), nil
			})
		}
	})
	for _, stop := range []int{1, 2*size + 1, pages * size} {
		asked = 0
		n := 0
		for _, err := range s.Bucket("b").ReadDir(t.Context(), "dir") {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == stop {
				break
			}
		}
		if want := (stop + size - 1) / size; asked != want || n != stop {
			t.Errorf("%d entries took %d pages, want %d", n, asked, want)
		}
	}
}

// listPage is the store's answer with page n of so many.
func listPage(n, pages, size int) string {
	type content struct{ Key string }
	page := struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
		Contents              []content
	}{IsTruncated: n < pages}
	if n < pages {
		page.NextContinuationToken = fmt.Sprint("page-", n)
	}
	for i := range size {
		page.Contents = append(page.Contents, content{fmt.Sprintf("dir/file-%d-%d", n, i)})
	}
	text, err := xml.Marshal(page)
	if err != nil {
		panic(err) // of plain strings
	}
	return string(text)
}

// TestListLargeDirectory lists a real store's directory and prints memory and time beside those of the AWS CLI.
func TestListLargeDirectory(t *testing.T) {
	if *listObjects == 0 {
		t.Skip("needs -list")
	}
	root := t.TempDir()
	gw := gatewaytest.StartAt(t, "127.0.0.1:0", root)
	s := testStore(t, gw.URL(), func(c *Config) { c.AttemptTimeout = time.Minute })
	b := testBucket(t, s, "large")
	dir := filepath.Join(root, "large", "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range *listObjects {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%07d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 {
		var before, m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var most uint64
		begun, n := time.Now(), 0
		var looking time.Duration
		for _, err := range b.ReadDir(t.Context(), "dir") {
			if err != nil {
				t.Fatal(err)
			}
			if n++; n%10_000 == 0 {
				look := time.Now()
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
				looking += time.Since(look)
			}
		}
		ours := time.Since(begun) - looking
		begun = time.Now()
		cmd := exec.Command("aws", "--endpoint-url", gw.URL(), "s3", "ls", "s3://large/dir/")
		cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+gatewaytest.AccessKey, "AWS_SECRET_ACCESS_KEY="+gatewaytest.SecretKey, "AWS_REGION="+gatewaytest.Region)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		theirs := time.Since(begun)
		t.Logf("round %d: %d entries in %v, heap at most %d KiB above %d KiB; aws s3 ls %v with %d lines: ratio %.2f", round, n, ours,
			(int64(most)-int64(before.HeapAlloc))/kib, before.HeapAlloc/kib, theirs, bytes.Count(out, []byte("\n")), float64(ours)/float64(theirs))
		if n != *listObjects {
			t.Errorf("%d entries, want %d", n, *listObjects)
		}
	}
}

// TestParallelUploads is the promise about memory: as many uploads at once as the flag says, 1 GiB for all of them.
func TestParallelUploads(t *testing.T) {
	if *manyUploads == 0 {
		t.Skip("needs -uploads")
	}
	const size = 32 * mib
	root := t.TempDir()
	gw := gatewaytest.StartAt(t, "127.0.0.1:0", root)
	budget, err := NewBudget(gib, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Budget, c.RetryBudget = budget, 10*time.Minute }), "many")
	common := storagetest.Bytes(120, size)
	diskBefore := diskWrites(t)
	var wg sync.WaitGroup
	for i := range *manyUploads {
		name := fmt.Sprintf("f%05d", i)
		wg.Go(func() {
			u, err := b.Create(t.Context(), name, storage.CreateOptions{ID: name})
			if err != nil {
				t.Error(err)
				return
			}
			p := make([]byte, 32*kib)
			for off := 0; off < size; off += len(p) {
				copy(p, common[off:])
				binary.BigEndian.PutUint64(p, uint64(i)) // each block of each file is another one
				if _, err := u.WriteAt(p, int64(off)); err != nil {
					t.Errorf("%s at %d: %v", name, off, err)
					return
				}
			}
			if _, err := u.Commit(t.Context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	t.Logf("peak resident memory %s, budget's peak %d MiB, bytes that this process wrote to a disk: %d",
		procValue(t, "/proc/self/status", "VmHWM:"), (budget.parts.peak+budget.chunks.peak)/mib, diskWrites(t)-diskBefore)
	for i := range *manyUploads {
		name := filepath.Join(root, "many", fmt.Sprintf("f%05d", i))
		got, err := os.ReadFile(name)
		if err != nil || len(got) != size {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
		for off := 0; off < size; off += 32 * kib {
			if binary.BigEndian.Uint64(got[off:]) != uint64(i) || !bytes.Equal(got[off+8:off+32*kib], common[off+8:off+32*kib]) {
				t.Fatalf("%s differs at %d", name, off)
			}
		}
	}
}

// diskWrites is how many bytes this process has had written to disks.
func diskWrites(t *testing.T) int64 {
	t.Helper()
	var n int64
	if _, err := fmt.Sscan(procValue(t, "/proc/self/io", "write_bytes:"), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func procValue(t *testing.T, file, key string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("%s has no %s", file, key)
	return ""
}
