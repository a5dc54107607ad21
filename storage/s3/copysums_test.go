package s3

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/storagetest"
)

// strict is a store that copies no parts into uploads with checksums, as MinIO does.
type strict struct {
	next    http.RoundTripper
	mu      sync.Mutex // guards what follows
	summed  map[string]bool
	refused int
}

func (s *strict) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	if isCopy(r) && s.summed[q.Get("uploadId")] {
		s.refused++
		return answer(r, http.StatusBadRequest, `<Error><Code>InvalidArgument</Code><Message>checksum missing</Message></Error>`), nil
	}
	res, err := s.next.RoundTrip(r)
	if err == nil && r.Method == http.MethodPost && q.Has("uploads") && r.Header.Get("x-amz-checksum-algorithm") != "" {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return nil, err
		}
		_, id, _ := bytes.Cut(body, []byte("<UploadId>"))
		id, _, _ = bytes.Cut(id, []byte("</UploadId>"))
		s.summed[string(id)] = true
		res.Body = io.NopCloser(bytes.NewReader(body))
	}
	return res, err
}

// TestModifyWithoutChecksums: the upload that is the first to be refused succeeds, and no other one is.
func TestModifyWithoutChecksums(t *testing.T) {
	t.Parallel()
	far := &strict{summed: map[string]bool{}}
	s := testStore(t, sharedGateway(t).URL(), func(c *Config) {
		c.Wrap = func(next http.RoundTripper) http.RoundTripper { far.next = next; return far }
	})
	b := testBucket(t, s, "without-sums")
	old, content := storagetest.Bytes(93, 14*mib), storagetest.Bytes(94, 9*mib)
	storagetest.Write(t, b, "f", old)
	for _, off := range []int64{6 * mib, 0, 14 * mib} {
		u, err := modify(t, b, &storage.DeadUpload{ID: fmt.Sprint("from ", off)}, off, content)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatalf("from %d: %v", off, err)
		}
		old = overlay(old, int(off), content)
		if !bytes.Equal(storagetest.Read(t, b, "f"), old) {
			t.Errorf("from %d: wrong content", off)
		}
	}
	dead := &storage.DeadUpload{ID: "cut", Begun: time.Now()}
	if _, err := modify(t, b, dead, 16*mib, content); err != nil { // nobody ends it
		t.Fatal(err)
	}
	if obj, err := b.Resume(t.Context(), "f", *dead); err != nil || obj.Size < int64(len(old)) {
		t.Errorf("resume: %+v, %v", obj, err)
	}
	if far.refused != 1 || dangling(t, b) != 0 {
		t.Errorf("%d requests refused, %d uploads left", far.refused, dangling(t, b))
	}
}
