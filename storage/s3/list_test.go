package s3

import (
	"bytes"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// largeDirectory is a far side with one directory of so many pages.
func largeDirectory(t *testing.T, pages, size int, name func(page, i int) string) *Backend {
	t.Helper()
	s := testStore(t, "http://pages.invalid", func(c *Config) {
		c.Wrap = func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				n := 0
				if token := r.URL.Query().Get("continuation-token"); token != "" {
					if _, err := fmt.Sscanf(token, "page-%d", &n); err != nil {
						return nil, err
					}
				}
				var text bytes.Buffer
				fmt.Fprintf(&text, "<ListBucketResult><IsTruncated>%v</IsTruncated>", n+1 < pages)
				if n+1 < pages {
					fmt.Fprintf(&text, "<NextContinuationToken>page-%d</NextContinuationToken>", n+1)
				}
				for i := range size {
					fmt.Fprintf(&text, `<Contents><Key>dir/%s</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&#34;d41d8cd98f00b204e9800998ecf8427e&#34;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>`, name(n, i))
				}
				text.WriteString("</ListBucketResult>")
				return answer(r, http.StatusOK, text.String()), nil
			})
		}
	})
	return s.Bucket("b")
}

// heap is how much memory lives.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestReadDirHoldsOnePage: however many pages a directory has, one is held. It is not parallel, because it looks at the
// memory of the process.
func TestReadDirHoldsOnePage(t *testing.T) {
	const pages, size = 300, 40
	long := strings.Repeat("n", 900) // so that all of them are 10 MiB
	b := largeDirectory(t, pages, size, func(page, i int) string { return fmt.Sprintf("%s-%d-%d", long, page, i) })
	before, most, n := heap(), int64(0), 0
	for info, err := range b.ReadDir(t.Context(), "dir") {
		if err != nil || !strings.HasPrefix(info.Name(), long) {
			t.Fatal(info, err)
		}
		if n++; n%(20*size) == 1 {
			most = max(most, heap()-before)
		}
	}
	if n != pages*size {
		t.Errorf("%d entries, want %d", n, pages*size)
	}
	t.Logf("%d pages took %d KiB at most", pages, most/kib)
	if most > 2*mib {
		t.Errorf("%d pages took %d KiB at a time", pages, most/kib)
	}
}

// TestStoppedListings: clients that stop in the middle of a directory keep a page each and no more.
func TestStoppedListings(t *testing.T) {
	const listings, pages, size = 20, 3, 1000
	b := largeDirectory(t, pages, size, func(page, i int) string { return fmt.Sprintf("file-%d-%d", page, i) })
	before := heap()
	var stops []func()
	for range listings {
		next, stop := iter.Pull2(b.ReadDir(t.Context(), "dir"))
		stops = append(stops, stop)
		for range size + 1 { // so the second page has come
			if _, err, ok := next(); err != nil || !ok {
				t.Fatal(err, ok)
			}
		}
	}
	each := (heap() - before) / listings
	for _, stop := range stops {
		stop()
	}
	t.Logf("%d KiB each", each/kib)
	if each > 256*kib {
		t.Errorf("a listing that stands still keeps %d KiB", each/kib)
	}
}

// TestNamesThatXMLCannotCarry: one file with such a name must not make its directory unreadable.
func TestNamesThatXMLCannotCarry(t *testing.T) {
	t.Parallel()
	names := []string{"bell\x01\x07\x1f", "new\nline", "return\r", "not\uFFFEa\uFFFFcharacter", "50%25 + 1 %zz", "plain ünï 🙂", "deep\x02/"}
	var prefixes []string
	s := testStore(t, "http://aws.invalid", func(c *Config) {
		c.Wrap = func(http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				prefixes = append(prefixes, r.URL.Query().Get("prefix"))
				return answer(r, http.StatusOK, awsPage(r, names)), nil
			})
		}
	})
	var got []string
	for info, err := range s.Bucket("b").ReadDir(t.Context(), "dir\x01") {
		if err != nil {
			t.Fatal(err)
		}
		name := info.Name()
		if info.IsDir() {
			name += "/"
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if want := slices.Sorted(slices.Values(names)); !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	if !slices.Equal(prefixes, []string{"dir\x01/"}) {
		t.Errorf("asked for %q", prefixes)
	}
}

// awsPage answers as AWS does: keys are encoded if that was asked for; if not, characters that no XML may have come as
// references, which no parser takes.
func awsPage(r *http.Request, names []string) string {
	q := r.URL.Query()
	encode, encoding := xmlReferences, ""
	if q.Get("encoding-type") == "url" {
		encoding = "<EncodingType>url</EncodingType>"
		encode = func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "%2F", "/") }
	}
	var text strings.Builder
	fmt.Fprintf(&text, "<ListBucketResult>%s<IsTruncated>false</IsTruncated>", encoding)
	for _, name := range names {
		key := encode(q.Get("prefix") + name)
		if strings.HasSuffix(name, "/") {
			fmt.Fprintf(&text, "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>", key)
		} else {
			fmt.Fprintf(&text, "<Contents><Key>%s</Key></Contents>", key)
		}
	}
	text.WriteString("</ListBucketResult>")
	return text.String()
}

func xmlReferences(s string) string {
	var text strings.Builder
	for _, r := range s {
		if r < ' ' {
			fmt.Fprintf(&text, "&#x%x;", r)
		} else {
			text.WriteRune(r)
		}
	}
	return text.String()
}
