package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

func TestStores(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	var heads atomic.Int32
	now := time.Now()
	s := testStore(t, gw.URL(), func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Wrap = func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.Method == http.MethodHead {
					heads.Add(1)
				}
				return next.RoundTrip(r)
			})
		}
	})
	ctx := t.Context()
	for range 2 { // idempotent
		if err := s.CreateBucket(ctx, "known"); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := s.Backend(ctx, "S3", "known"); err != nil {
			t.Fatal(err)
		}
	}
	if heads.Load() != 1 {
		t.Errorf("asked %d times for a bucket, want once", heads.Load())
	}
	now = now.Add(time.Hour)
	if _, err := s.Backend(ctx, "S3", "known"); err != nil || heads.Load() != 2 {
		t.Errorf("an hour later: %v, asked %d times", err, heads.Load())
	}
	if _, err := s.Backend(ctx, "S3", "unknown"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown bucket: %v", err)
	}
	if _, err := s.Backend(ctx, "EFS", "known"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown domain: %v", err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	wrong := testStore(t, gw.URL(), func(c *Config) { c.SecretKey = "wrong" })
	for _, err := range wrong.Bucket("bucket").ReadDir(t.Context(), "") {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("wrong key: %v", err)
		}
	}
	s := testStore(t, gw.URL(), nil)
	u, err := begin(t, s.Bucket("no-such-bucket"), "f", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no bucket: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Bucket("b").Stat(ctx, "f"); !errors.Is(err, context.Canceled) || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
	b := testBucket(t, s, "large")
	u, err = begin(t, b, "f", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte("x"), maxObject); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("beyond 5 TiB: %v", err)
	}
	if err := u.Abort(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "meta")
	for _, size := range []int{10, 11 * mib} {
		u, err := b.Create(t.Context(), "f", storage.CreateOptions{
			ID: fmt.Sprint("id-", size), Metadata: map[string]string{"user-agent": "AWSTransfer", "user-agent-id": "jürgen@s-1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.WriteAt(storagetest.Bytes(60, size), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		head, err := b.store.head(t.Context(), "meta", "f")
		if err != nil {
			t.Fatal(err)
		}
		for k, want := range map[string]string{
			idKey: fmt.Sprint("id-", size), "user-agent": "AWSTransfer", "user-agent-id": "=?utf-8?q?j=C3=BCrgen@s-1?=",
		} {
			if got := head.Metadata[k]; got != want {
				t.Errorf("%d bytes: metadata %s is %q, want %q", size, k, got, want)
			}
		}
	}
}

// deadMultipart makes what a killed process leaves: a multipart upload with these parts, and no more.
func deadMultipart(t *testing.T, b *Backend, name, id string, parts map[int32][]byte) string {
	t.Helper()
	out, err := b.store.client.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{
		Bucket: &b.bucket, Key: &name, Metadata: metadata(id, nil), ChecksumAlgorithm: "CRC32",
	})
	if err != nil {
		t.Fatal(err)
	}
	for n, body := range parts {
		sum := checksum(body, crc32.IEEETable)
		if _, err := b.store.client.UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: &b.bucket, Key: &name, UploadId: out.UploadId, PartNumber: &n, Body: bytes.NewReader(body), ChecksumCRC32: &sum,
		}); err != nil {
			t.Fatal(err)
		}
	}
	return *out.UploadId
}

func TestResumeAfterAKill(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "resume")
	one, two, four := storagetest.Bytes(61, 5*mib), storagetest.Bytes(62, 6*mib), storagetest.Bytes(63, 5*mib)
	tests := []struct {
		name  string
		parts map[int32][]byte
		noted bool
		want  []byte
	}{
		{"gap", map[int32][]byte{1: one, 2: two, 4: four}, true, append(bytes.Clone(one), two...)},
		{"first-missing", map[int32][]byte{2: two}, true, nil},
		{"no-parts", nil, true, nil},
		{"unnoted", nil, false, nil},
	}
	for _, tt := range tests {
		begun := time.Now()
		dead := storage.DeadUpload{ID: "id of " + tt.name, Begun: begun, Metadata: map[string]string{"user-agent": "x"}}
		token := deadMultipart(t, b, tt.name, dead.ID, tt.parts)
		if tt.noted {
			dead.Token = token
		}
		for range 2 {
			obj, err := b.Resume(t.Context(), tt.name, dead)
			if err != nil || obj.Size != int64(len(tt.want)) {
				t.Fatalf("%s: %+v, %v; want %d bytes", tt.name, obj, err, len(tt.want))
			}
			if !bytes.Equal(storagetest.Read(t, b, tt.name), tt.want) {
				t.Errorf("%s: content differs", tt.name)
			}
		}
		if n := dangling(t, b); n != 0 {
			t.Errorf("%s: %d multipart uploads left", tt.name, n)
		}
	}
}

// TestResumeOfAChangeThatWasNotNoted: the process died between making the multipart upload and noting it.
func TestResumeOfAChangeThatWasNotNoted(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "change")
	old := storagetest.Write(t, b, "f", []byte("the old file"))
	dead := storage.DeadUpload{ID: "dead", Begun: time.Now(), Modify: true}
	deadMultipart(t, b, "f", dead.ID, nil)
	for range 2 {
		if obj, err := b.Resume(t.Context(), "f", dead); err != nil || obj.ETag != old.ETag {
			t.Errorf("resume: %+v, %v; want what stands, %+v", obj, err, old)
		}
	}
	if got := storagetest.Read(t, b, "f"); string(got) != "the old file" {
		t.Errorf("the old file is %q", got)
	}
	if n := dangling(t, b); n != 0 {
		t.Errorf("%d multipart uploads left", n)
	}
}

// TestResumeSparesOthers: uploads of the same name that live, of another name, or older, are not leftovers.
func TestResumeSparesOthers(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "others")
	u, err := begin(t, b, "f", storagetest.Bytes(64, 10*mib))
	if err != nil {
		t.Fatal(err)
	}
	deadMultipart(t, b, "f2", "other name", nil)
	if _, err := b.Resume(t.Context(), "f", storage.DeadUpload{ID: "dead", Begun: time.Now()}); err != nil {
		t.Fatal(err)
	}
	deadMultipart(t, b, "f", "older", nil)
	if _, err := b.Resume(t.Context(), "f", storage.DeadUpload{ID: "dead", Begun: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if n := dangling(t, b); n != 3 {
		t.Errorf("%d multipart uploads, want all 3", n)
	}
	if obj, err := u.Commit(t.Context()); err != nil || obj.Size != 10*mib {
		t.Errorf("commit of the living one: %+v, %v", obj, err)
	}
}

func TestTagsAreMergedAndCopied(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	s := testStore(t, gw.URL(), nil)
	s.copyLimit = 5 * mib // what is larger is copied in parts
	b, ctx := testBucket(t, s, "tags"), t.Context()
	for _, size := range []int{mib, 10*mib + 1} {
		content := storagetest.Bytes(65, size)
		u, err := begin(t, b, "f", content)
		if err != nil {
			t.Fatal(err)
		}
		src, err := u.Commit(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, tags := range []map[string]string{{"a": "1", "b": "2"}, {"b": "3 + 4", "c": "5"}} {
			if err := b.Tag(ctx, "f", tags); err != nil {
				t.Fatal(err)
			}
		}
		obj, err := b.Copy(ctx, "f", src.ETag, testBucket(t, s, "elsewhere"), "g", true)
		if err != nil || obj.Size != int64(size) {
			t.Fatalf("copy: %+v, %v", obj, err)
		}
		if !bytes.Equal(storagetest.Read(t, s.Bucket("elsewhere"), "g"), content) {
			t.Error("the copy differs")
		}
		head, err := s.head(ctx, "elsewhere", "g")
		if err != nil || head.Metadata[idKey] != "id of f" {
			t.Errorf("the copy's metadata: %v, %v", head.Metadata, err)
		}
		tags, err := s.tags(ctx, "elsewhere", "g")
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]string)
		for _, tag := range tags {
			got[aws.ToString(tag.Key)] = aws.ToString(tag.Value)
		}
		if len(got) != 3 || got["a"] != "1" || got["b"] != "3 + 4" || got["c"] != "5" {
			t.Errorf("%d bytes: the copy's tags are %v", size, got)
		}
	}
	if _, err := b.Copy(ctx, "f", "", testStore(t, gw.URL(), nil).Bucket("tags"), "h", true); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("copy to another store: %v", err)
	}
}

// counting counts GETs of objects, and cuts the body of each cut-th one.
func counting(gets *atomic.Int32, cut int32) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err != nil || r.Method != http.MethodGet || r.Header.Get("Range") == "" {
				return resp, err
			}
			if n := gets.Add(1); cut > 0 && n%cut == 0 {
				resp.Body = &cutBody{resp.Body, mib + 7}
			}
			return resp, nil
		})
	}
}

// cutBody is a body whose connection breaks after some bytes.
type cutBody struct {
	io.ReadCloser
	left int
}

// Read reads until the cut.
func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func TestDownloadTakesFewRequests(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	content := storagetest.Bytes(66, 20*mib)
	for _, tt := range []struct {
		name      string
		cut, most int32
		memory    int64
	}{{"whole", 0, 22, 512 * mib}, {"cut", 1, 64, 512 * mib}, {"poor", 0, 6, minBudget}, {"poor-and-cut", 1, 48, minBudget}} {
		var gets atomic.Int32
		budget, err := NewBudget(tt.memory, nil)
		if err != nil {
			t.Fatal(err)
		}
		b := testBucket(t, testStore(t, gw.URL(), func(c *Config) { c.Wrap, c.Budget = counting(&gets, tt.cut), budget }), tt.name)
		storagetest.Write(t, b, "f", content)
		r, err := b.Open(t.Context(), "f")
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(content))
		var next atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					off := next.Add(32*kib) - 32*kib
					if off >= int64(len(content)) {
						return
					}
					if _, err := r.ReadAt(got[off:min(off+32*kib, int64(len(got)))], off); err != nil {
						t.Errorf("read at %d: %v", off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(got, content) {
			t.Errorf("%s: content differs", tt.name)
		}
		t.Logf("%s: %d GETs, peak memory %d KiB", tt.name, gets.Load(), budget.reads.peak/kib)
		if budget.reads.used != 0 || budget.reads.peak > budget.reads.limit {
			t.Errorf("%s: %d bytes of buffers got lost, peak %d of %d", tt.name, budget.reads.used, budget.reads.peak, budget.reads.limit)
		}
		if gets.Load() > tt.most {
			t.Errorf("%s: %d GETs, want at most %d", tt.name, gets.Load(), tt.most)
		}
	}
}

func TestOpenPinsTheVersion(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "pinned")
	storagetest.Write(t, b, "f", storagetest.Bytes(67, 10*mib))
	r, err := b.Open(t.Context(), "f")
	if err != nil {
		t.Fatal(err)
	}
	storagetest.Write(t, b, "f", storagetest.Bytes(68, 10*mib))
	if n, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read %d bytes of what was replaced, error %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestDirectoryWithoutMarker: other tools make no markers.
func TestDirectoryWithoutMarker(t *testing.T) {
	t.Parallel()
	gw := sharedGateway(t)
	b := testBucket(t, testStore(t, gw.URL(), nil), "marker")
	storagetest.Write(t, b, "dir/f", []byte("x"))
	if err := b.Remove(t.Context(), "dir"); !errors.Is(err, storage.ErrNotEmpty) {
		t.Errorf("remove: %v", err)
	}
	if err := b.Remove(t.Context(), "dir/f"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Stat(t.Context(), "dir"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat after the last file went: %v", err)
	}
}
