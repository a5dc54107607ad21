package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/workflow"
)

// faultsVariable names the address of a faultyStore: the daemon under test reaches its S3 store through that, its steps
// fail at their first attempt, and one attempt is over after stepTimeout.
const faultsVariable = "TRANSFERD_TEST_FAULTS"

// An attempt at a step that a store lets hang has to end before the second attempt at the request does, and one that a
// store refuses for as long as retries go on, after that: storeRetry < stepTimeout < 2 * storeRetry.
const (
	storeRetry  = 12 * time.Second
	stepTimeout = 23 * time.Second
)

func faultSeams(proxy string) seams {
	return seams{
		transport:   func(next http.RoundTripper) http.RoundTripper { return detour{next, proxy} },
		job:         func(j workflow.Job) workflow.Job { j.Last = true; return j },
		stepTimeout: stepTimeout,
	}
}

// detour sends requests by way of a proxy, which finds in the Host header where they go. That is signed, so it stays.
type detour struct {
	next  http.RoundTripper
	proxy string
}

func (d detour) RoundTrip(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.Host, out.URL.Host = cmp.Or(r.Host, r.URL.Host), d.proxy
	return d.next.RoundTrip(out)
}

// faults are what a store may answer, by the word that asks for it.
var faults = map[string]struct {
	status int
	code   string
}{
	"bad":    {http.StatusBadRequest, "InvalidRequest"},
	"denied": {http.StatusForbidden, "AccessDenied"},
	"down":   {http.StatusInternalServerError, "InternalError"},
	"slow":   {http.StatusServiceUnavailable, "SlowDown"},
}

// faultyStore is a proxy in front of an S3 store. What is asked about keys below fault-WORD/ it answers as faults says, and
// hang never. Keys that begin with fault-WORD. can be uploaded and looked at, and fail at all else.
func faultyStore(t *testing.T) (address string) {
	through := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: r.In.Host})
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		word := faultOf(r)
		if word == "" {
			through.ServeHTTP(w, r)
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client is gone
		}
		if word == "hang" {
			<-r.Context().Done()
			return
		}
		w.WriteHeader(faults[word].status)
		_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>secret words</Message></Error>", faults[word].code) // as above
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// faultOf is the word for what is to become of a request; "" is nothing unusual.
func faultOf(r *http.Request) string {
	name, marked := strings.CutPrefix(r.URL.Path, "/"+devBucket+"/fault-")
	if !marked {
		return ""
	}
	if word, _, below := strings.Cut(name, "/"); below {
		return word
	}
	upload := r.Method == http.MethodPut && r.Header.Get("X-Amz-Copy-Source") == "" && !r.URL.Query().Has("tagging")
	if upload || r.Method == http.MethodHead || r.Method == http.MethodPost {
		return ""
	}
	word, _, _ := strings.Cut(name, ".")
	return word
}
