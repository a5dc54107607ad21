package s3

import (
	"context"
	"fmt"
	"hash/crc32"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// wantSum checks that the store has the checksum of a whole file.
func wantSum(t *testing.T, b *Backend, what string, content []byte) {
	t.Helper()
	head, err := b.store.client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.bucket, Key: aws.String("f"), ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	sum, table := aws.ToString(head.ChecksumCRC32), crc32.IEEETable
	if sum == "" {
		sum, table = aws.ToString(head.ChecksumCRC32C), crc32.MakeTable(crc32.Castagnoli)
	}
	if want := checksum(content, table); sum != want || head.ChecksumType != types.ChecksumTypeFullObject {
		t.Errorf("%s: checksum %q of type %s, want %q of all %d bytes", what, sum, head.ChecksumType, want, len(content))
	}
}

// TestChecksums: every file has the checksum of all its bytes, however it came.
func TestChecksums(t *testing.T) {
	t.Parallel()
	b := testBucket(t, testStore(t, sharedGateway(t).URL(), nil), "sums")
	content, more := storagetest.Bytes(140, 12*mib), storagetest.Bytes(141, 7*mib)
	storagetest.Write(t, b, "f", content[:1000])
	wantSum(t, b, "one request", content[:1000])
	storagetest.Write(t, b, "f", nil)
	wantSum(t, b, "an empty file", nil)

	storagetest.Write(t, b, "f", content)
	wantSum(t, b, "parts", content)
	for i := range 2 { // the algorithms take turns
		u, err := modify(t, b, &storage.DeadUpload{ID: fmt.Sprint("longer ", i)}, int64(len(content)), more)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		content = append(content, more...)
		wantSum(t, b, "continued", content)
	}
	if err := b.Rename(t.Context(), "f", "g"); err != nil {
		t.Fatal(err)
	}
	if err := b.Rename(t.Context(), "g", "f"); err != nil {
		t.Fatal(err)
	}
	wantSum(t, b, "renamed", content)

	dead := storage.DeadUpload{ID: "dead", Begun: time.Now()}
	u, err := b.Create(t.Context(), "f", storage.CreateOptions{ID: dead.ID, Note: func(_ context.Context, token string) error {
		dead.Token = token
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt(more, 0); err != nil {
		t.Fatal(err)
	}
	if up, ok := u.(*upload); ok { // nobody ends it, and what has left arrives
		up.wg.Wait()
	}
	obj, err := b.Resume(t.Context(), "f", dead)
	if err != nil || obj.Size == 0 {
		t.Fatalf("resume: %+v, %v", obj, err)
	}
	wantSum(t, b, "after a crash", more[:obj.Size])
}

// TestChecksumsOfParts: a store that refuses the checksums of whole files is asked once.
func TestChecksumsOfParts(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusBadRequest, http.StatusNotImplemented} {
		var refused atomic.Int32
		s := testStore(t, sharedGateway(t).URL(), func(c *Config) {
			c.Wrap = func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(r *http.Request) (*http.Response, error) {
					if r.Header.Get("x-amz-checksum-type") != "" {
						refused.Add(1)
						return answer(r, status, `<Error><Code>InvalidRequest</Code></Error>`), nil
					}
					return next.RoundTrip(r)
				})
			}
		})
		b := testBucket(t, s, fmt.Sprint("part-sums-", status))
		for i := range 2 {
			content := storagetest.Bytes(uint64(142+i), 6*mib)
			storagetest.Write(t, b, "f", content)
			if got := storagetest.Read(t, b, "f"); string(got) != string(content) {
				t.Errorf("%d: wrong content", status)
			}
		}
		if refused.Load() != 1 || dangling(t, b) != 0 {
			t.Errorf("%d: asked %d times, %d uploads left", status, refused.Load(), dangling(t, b))
		}
	}
}
