package api_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/transfer"

	"github.com/transferd/transferd/server/api"
)

// as sends a request that another key signs.
func (w *world) as(t testing.TB, id, operation, body string) answer {
	t.Helper()
	r := w.request(t, operation, body)
	sign(t, r, body, func(s *signing) { s.id, s.secret = id, "secret of "+id })
	return send(t, r)
}

// keys adds access keys whose secrets are known to as.
func keys(more ...api.AccessKey) func(*api.Config) {
	return func(c *api.Config) {
		for _, k := range more {
			k.Secret = "secret of " + k.ID
			c.AccessKeys = append(c.AccessKeys, k)
		}
	}
}

func TestWhatKeysMayCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, keys(
		api.AccessKey{ID: "READER", ReadOnly: true},
		api.AccessKey{ID: "USERS", Operations: []string{"*User", "ImportSshPublicKey"}},
		api.AccessKey{ID: "BOTH", Operations: []string{"*Server"}, ReadOnly: true},
	))
	id := w.newServer(t)
	body := map[string]string{
		"CreateServer": `{}`, "DescribeServer": `{"ServerId":"` + id + `"}`, "StopServer": `{"ServerId":"` + id + `"}`, "ListServers": `{}`,
		"CreateUser": `{"ServerId":"` + id + `","UserName":"anna","Role":"` + role + `"}`, "DescribeUser": `{"ServerId":"` + id + `","UserName":"anna"}`,
		"ListUsers": `{"ServerId":"` + id + `"}`, "TestIdentityProvider": `{"ServerId":"` + id + `","UserName":"anna"}`, "CreateConnector": `{}`,
	}
	for _, c := range []struct {
		key, operation string
		refused        string // why; empty: allowed
	}{
		{"USERS", "CreateUser", ""},
		{"READER", "DescribeServer", ""},
		{"READER", "ListServers", ""},
		{"READER", "DescribeUser", ""},
		{"READER", "CreateServer", "read-only"},
		{"READER", "StopServer", "read-only"},
		{"READER", "TestIdentityProvider", "read-only"},
		{"READER", "CreateConnector", "read-only"}, // also what is not supported
		{"USERS", "DescribeUser", ""},
		{"USERS", "ListUsers", "its operations are *User, ImportSshPublicKey"},
		{"USERS", "CreateServer", "its operations are"},
		{"BOTH", "DescribeServer", ""},
		{"BOTH", "StopServer", "read-only"},
		{"BOTH", "ListServers", "its operations are *Server"},
	} {
		a := w.as(t, c.key, c.operation, body[c.operation])
		if c.refused == "" {
			if a.Status != 200 {
				t.Errorf("%s of %s: %s", c.operation, c.key, a.Body)
			}
			continue
		}
		a.refused(t, 400, "AccessDeniedException", "Access key "+c.key+" is not authorized to perform: transfer:"+c.operation, c.refused)
	}
	if n, _ := w.count(); n != 1 {
		t.Errorf("%d servers", n)
	}
}

// clock is a time that only a test moves.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time            { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration)   { c.at.Add(int64(d)) }
func (c *clock) signing() func(s *signing) { return func(s *signing) { s.at = c.now() } }

// A key that calls too often is told when to come again, and what it did then costs nobody else.
func TestRates(t *testing.T) {
	t.Parallel()
	at := &clock{}
	at.advance(time.Duration(time.Now().UnixNano()))
	w := newWorld(t, keys(
		api.AccessKey{ID: "SLOW", RequestsPerSecond: 0.25, Burst: 3},
		api.AccessKey{ID: "FAST", RequestsPerSecond: 5},
	), func(c *api.Config) { c.Now = at.now })
	call := func(id string) answer {
		r := w.request(t, "ListServers", `{}`)
		sign(t, r, `{}`, at.signing(), func(s *signing) { s.id, s.secret = id, "secret of "+id })
		return send(t, r)
	}
	allowed := func(id string, want int) answer {
		t.Helper()
		for n := range want {
			if a := call(id); a.Status != 200 {
				t.Fatalf("request %d of %s: %s", n, id, a.Body)
			}
		}
		a := call(id)
		a.refused(t, 400, "ThrottlingException", "Rate exceeded", id)
		return a
	}
	a := allowed("SLOW", 3)
	if a.Header.Get("Retry-After") != "4" || !strings.Contains(a.Body, `"RetryAfterSeconds":"4"`) {
		t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), a.Body)
	}
	allowed("FAST", 5)
	at.advance(3 * time.Second)
	if a := call("SLOW"); a.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
	at.advance(time.Second) // as long as it was told to wait
	allowed("SLOW", 1)
	at.advance(-time.Minute) // a clock that was set back gives nothing and takes nothing
	call("SLOW").refused(t, 400, "ThrottlingException")
	at.advance(time.Hour)
	allowed("SLOW", 3)
	allowed("FAST", 5)
	at.advance(time.Hour)
	for range 5 { // what does not exist is counted too
		r := w.request(t, "MakeCoffee", `{}`)
		sign(t, r, `{}`, at.signing(), func(s *signing) { s.id, s.secret = "FAST", "secret of FAST" })
		send(t, r).refused(t, 400, "UnknownOperationException")
	}
	call("FAST").refused(t, 400, "ThrottlingException")

	// Whoever cannot sign uses up nobody's rate.
	at.advance(time.Hour)
	for range 10 {
		r := w.request(t, "ListServers", `{}`)
		sign(t, r, `{}`, at.signing(), func(s *signing) { s.id, s.secret = "SLOW", "guess" })
		send(t, r).refused(t, 403, "InvalidSignatureException")
	}
	allowed("SLOW", 3)
}

// Requests that come at once get no more than the burst.
func TestRateOfManyAtOnce(t *testing.T) {
	t.Parallel()
	still := time.Now()
	w := newWorld(t, keys(api.AccessKey{ID: "BUSY", RequestsPerSecond: 1, Burst: 7}), func(c *api.Config) { c.Now = func() time.Time { return still } })
	var group sync.WaitGroup
	var served atomic.Int32
	for range 40 {
		group.Go(func() {
			if a := w.as(t, "BUSY", "ListServers", `{}`); a.Status == http.StatusOK {
				served.Add(1)
			}
		})
	}
	group.Wait()
	if n := served.Load(); n != 7 {
		t.Errorf("%d requests were served, want 7", n)
	}
}

// The SDK takes the exception for what it is: it waits and gets through.
func TestSDKRetriesWhenThrottled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, keys(api.AccessKey{ID: "RETRY", RequestsPerSecond: 20, Burst: 1}))
	client := transfer.New(transfer.Options{
		Region: region, BaseEndpoint: &w.url, Credentials: credentials.NewStaticCredentialsProvider("RETRY", "secret of RETRY", ""),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = 20
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) { return 20 * time.Millisecond, nil })
			o.RateLimiter = ratelimit.None
		}),
	})
	for range 5 {
		ok[*transfer.ListServersOutput](t)(client.ListServers(t.Context(), &transfer.ListServersInput{MaxResults: aws.Int32(1)}))
	}
}

func TestKeysThatMeanNothingAreRefused(t *testing.T) {
	t.Parallel()
	for i, k := range []api.AccessKey{
		{ID: "K", Secret: "s", Operations: []string{"Describe["}},
		{ID: "K", Secret: "s", Operations: []string{"DescribeServers"}},
		{ID: "K", Secret: "s", Operations: []string{"describe*"}},
		{ID: "K", Secret: "s", RequestsPerSecond: -1},
		{ID: "K", Secret: "s", Burst: 5},
		{ID: "K", Secret: "s", RequestsPerSecond: 1, Burst: -1},
		{ID: "K"},
		{Secret: "s"},
	} {
		c := config(newCatalogue())
		c.AccessKeys = append(c.AccessKeys, k)
		if _, err := api.New(c); err == nil {
			t.Errorf("%s: %+v is accepted", strconv.Itoa(i), k)
		}
	}
}
