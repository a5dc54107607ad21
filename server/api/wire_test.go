package api_test

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
)

func TestSignaturesAreVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const body = `{}`
	with := func(f func(*signing)) func(*http.Request) {
		return func(r *http.Request) { sign(t, r, body, f) }
	}
	after := func(f func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) { sign(t, r, body); f(r) }
	}
	edit := func(old, new string) func(*http.Request) {
		return after(func(r *http.Request) {
			h := r.Header.Get("Authorization")
			if !strings.Contains(h, old) {
				t.Errorf("%q is not in %q", old, h)
			}
			r.Header.Set("Authorization", strings.Replace(h, old, new, 1))
		})
	}
	for name, c := range map[string]struct {
		prepare   func(*http.Request)
		status    int
		exception string
		word      string
	}{
		"anonymous":          {func(*http.Request) {}, 403, "MissingAuthenticationTokenException", "Authorization"},
		"basic auth":         {func(r *http.Request) { r.SetBasicAuth(keyID, secret) }, 400, "IncompleteSignatureException", "AWS4-HMAC-SHA256"},
		"garbled":            {func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 hello") }, 400, "IncompleteSignatureException", "garbled"},
		"field twice":        {edit("Signature=", "Signature=x, Signature="), 400, "IncompleteSignatureException", "garbled"},
		"no signature":       {edit("Signature=", "Other="), 400, "IncompleteSignatureException", "'Signature'"},
		"no signed headers":  {edit("SignedHeaders=", "Other="), 400, "IncompleteSignatureException", "'SignedHeaders'"},
		"scope cut":          {edit("/aws4_request", ""), 400, "IncompleteSignatureException", "Credential"},
		"two Authorizations": {after(func(r *http.Request) { r.Header.Add("Authorization", "x") }), 400, "IncompleteSignatureException", "more than one"},
		"unknown key":        {with(func(s *signing) { s.id = "AKIDNOBODY" }), 403, "UnrecognizedClientException", "unknown access key id"},
		"another's secret":   {with(func(s *signing) { s.id = "AKIDOTHER" }), 403, "InvalidSignatureException", "does not match"},
		"wrong secret":       {with(func(s *signing) { s.secret = "guess" }), 403, "InvalidSignatureException", "does not match"},
		"wrong region":       {with(func(s *signing) { s.region = "us-east-1" }), 403, "InvalidSignatureException", "'eu-central-1' that this service runs as, not 'us-east-1'"},
		"wrong service":      {with(func(s *signing) { s.service = "s3" }), 403, "InvalidSignatureException", "'transfer', not 's3'"},
		"too old":            {with(func(s *signing) { s.at = time.Now().Add(-16 * time.Minute) }), 403, "InvalidSignatureException", "Signature expired"},
		"too new":            {with(func(s *signing) { s.at = time.Now().Add(16 * time.Minute) }), 403, "InvalidSignatureException", "Signature not yet current"},
		"date moved": {after(func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().Add(time.Second).UTC().Format("20060102T150405Z"))
		}), 403, "InvalidSignatureException", ""},
		"no date":              {after(func(r *http.Request) { r.Header.Del("X-Amz-Date") }), 400, "IncompleteSignatureException", "X-Amz-Date"},
		"bad date":             {after(func(r *http.Request) { r.Header.Set("X-Amz-Date", "yesterday") }), 400, "IncompleteSignatureException", "X-Amz-Date"},
		"day of another":       {edit("/"+time.Now().UTC().Format("20060102")+"/", "/20200101/"), 403, "InvalidSignatureException", "scope does not match"},
		"target changed":       {after(func(r *http.Request) { r.Header.Set("X-Amz-Target", "TransferService.DeleteServer") }), 403, "InvalidSignatureException", "does not match"},
		"target not signed":    {edit("x-amz-target", "content-type"), 403, "InvalidSignatureException", "'X-Amz-Target' must be"},
		"host not signed":      {edit("host;", ""), 403, "InvalidSignatureException", "'Host' must be"},
		"host changed":         {after(func(r *http.Request) { r.Host = "elsewhere.example" }), 403, "InvalidSignatureException", "does not match"},
		"unsigned amz header":  {after(func(r *http.Request) { r.Header.Set("X-Amz-Anything", "x") }), 403, "InvalidSignatureException", "'X-Amz-Anything' must be"},
		"unsigned token":       {after(func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") }), 403, "InvalidSignatureException", "'X-Amz-Security-Token' must be"},
		"header twice":         {after(func(r *http.Request) { r.Header.Add("X-Amz-Target", "TransferService.DeleteServer") }), 403, "InvalidSignatureException", "does not match"},
		"signed but not there": {edit("host;", "host;x-other;"), 403, "InvalidSignatureException", "'x-other' is not a header"},
		"signed user agent":    {edit("host;", "host;user-agent;"), 403, "InvalidSignatureException", "cannot be"},
		"signature cut":        {after(func(r *http.Request) { h := r.Header.Get("Authorization"); r.Header.Set("Authorization", h[:len(h)-1]) }), 403, "InvalidSignatureException", "does not match"},
		"query":                {after(func(r *http.Request) { r.URL.RawQuery = "a=b" }), 400, "IncompleteSignatureException", "Query strings"},
		"presigned": {func(r *http.Request) {
			sign(t, r, body)
			r.URL.RawQuery = url.Values{"X-Amz-Signature": {"00"}, "X-Amz-Algorithm": {"AWS4-HMAC-SHA256"}}.Encode()
			r.Header.Del("Authorization")
		}, 400, "IncompleteSignatureException", "presigned"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := w.request(t, "ListServers", body)
			c.prepare(r)
			send(t, r).refused(t, c.status, c.exception, c.word)
		})
	}
	t.Run("body changed", func(t *testing.T) {
		t.Parallel()
		r := w.request(t, "ListServers", `{ }`)
		sign(t, r, body)
		r.ContentLength = 3
		send(t, r).refused(t, 403, "InvalidSignatureException", "does not match")
	})
	t.Run("content-length not signed", func(t *testing.T) {
		t.Parallel()
		r := w.request(t, "ListServers", `{}`)
		r.ContentLength = -1 // chunked
		sign(t, r, body)
		if a := send(t, r); a.Status != 200 {
			t.Errorf("got %+v", a)
		}
	})
	for name, f := range map[string]func(*signing){
		"good": func(*signing) {}, "a bit old": func(s *signing) { s.at = s.at.Add(-14 * time.Minute) },
		"a bit new": func(s *signing) { s.at = s.at.Add(14 * time.Minute) }, "signed token": func(s *signing) { s.token = "session" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := w.request(t, "ListServers", body)
			sign(t, r, body, f)
			if a := send(t, r); a.Status != 200 || a.Body != `{"Servers":[]}` {
				t.Errorf("got %+v", a)
			}
		})
	}
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	signed := func(body string, change func(*http.Request)) answer {
		r := w.request(t, "ListServers", body)
		change(r)
		sign(t, r, body)
		return send(t, r)
	}
	a := signed(`{}`, func(r *http.Request) { r.Method = http.MethodGet; r.Body, r.ContentLength = nil, 0 })
	a.refused(t, 405, "UnknownOperationException", "POST")
	if a.Header.Get("Allow") != "POST" {
		t.Errorf("Allow is %q", a.Header.Get("Allow"))
	}
	signed(`{}`, func(r *http.Request) { r.URL.Path = "/listServers" }).refused(t, 404, "UnknownOperationException")
	signed(`{}`, func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }).refused(t, 400, "SerializationException", "application/x-amz-json-1.1")
	signed(`{}`, func(r *http.Request) { r.Header.Del("Content-Type") }).refused(t, 400, "SerializationException")
	signed(`{}`, func(r *http.Request) { r.Header.Del("X-Amz-Target") }).refused(t, 400, "UnknownOperationException", "X-Amz-Target")
	signed(`{}`, func(r *http.Request) { r.Header.Add("X-Amz-Target", "TransferService.StopServer") }).refused(t, 400, "UnknownOperationException", "exactly one")
	signed(`{}`, func(r *http.Request) { r.Header.Set("X-Amz-Target", "DynamoDB.ListTables") }).refused(t, 400, "UnknownOperationException", "TransferService")
	signed(`{}`, func(r *http.Request) { r.Header.Set("X-Amz-Target", "TransferService.MakeCoffee") }).refused(t, 400, "UnknownOperationException")
	if a := signed(`{}`, func(r *http.Request) { r.Header.Set("Content-Type", "application/x-amz-json-1.1; charset=utf-8") }); a.Status != 200 {
		t.Errorf("charset: %+v", a)
	}
	for _, body := range []string{``, `{`, `[]`, `null`, `{"MaxResults":"many"}`, "{\"NextToken\":\"\xff\"}", `{}{}`} {
		signed(body, func(*http.Request) {}).refused(t, 400, "SerializationException")
	}
}

// A body over the limit is refused before anybody keeps it, whether it says its length or not; one of exactly the limit
// is read.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pad := func(n int) string { return `{"Pad":"` + strings.Repeat("x", n-len(`{"Pad":""}`)) + `"}` }
	for _, length := range []int64{1, -1} {
		body := pad(1<<20 + 1)
		r := w.request(t, "ListServers", body)
		if length < 0 {
			r.ContentLength = -1
		}
		sign(t, r, body)
		send(t, r).refused(t, 413, "RequestEntityTooLargeException", "1048576")
	}
	if a := w.call(t, "ListServers", pad(1<<20)); a.Status != 200 {
		t.Errorf("a body of 1 MiB: %d %s", a.Status, a.Message)
	}
}

// Every operation of the model is either done, or refused by its name.
func TestEveryOperationIsDoneOrRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := loadModel(t)
	done := 0
	for _, name := range m.Operations() {
		a := w.call(t, name, `{}`)
		if strings.Contains(a.Message, "Operation "+name+" is not supported yet") {
			a.refused(t, 400, "InvalidRequestException")
			continue
		}
		done++
		// A required member that is missing is named, one at a time and all at once.
		op, _ := m.Operation(name)
		required := m.Required(op.Input)
		if len(required) == 0 {
			if a.Status != 200 {
				t.Errorf("%s with nothing: %+v", name, a)
			}
			continue
		}
		for _, member := range required {
			path := strings.ToLower(member[:1]) + member[1:]
			a.refused(t, 400, "ValidationException", "Value null at '"+path+"' failed to satisfy constraint: Member must not be null")
		}
		for _, absent := range required {
			body, err := json.Marshal(requiredBut(required, absent))
			if err != nil {
				t.Fatal(err)
			}
			path := strings.ToLower(absent[:1]) + absent[1:]
			a := w.call(t, name, string(body))
			a.refused(t, 400, "ValidationException")
			if want := "1 validation error detected: Value null at '" + path + "' failed to satisfy constraint: Member must not be null"; a.Message != want {
				t.Errorf("%s without %s: %s", name, absent, a.Message)
			}
		}
	}
	if done != 37 {
		t.Errorf("%d operations are done, want 37", done)
	}
}

// requiredBut has good values for all required members but one.
func requiredBut(required []string, absent string) map[string]any {
	good := map[string]any{
		"ServerId": "s-0123456789abcdef0", "UserName": "anna", "Role": role, "SshPublicKeyBody": goodKey,
		"SshPublicKeyId": "key-0123456789abcdef0", "WorkflowId": "w-0123456789abcdefg", "Steps": []any{},
		"ExecutionId": "01234567-89ab-cdef-0123-456789abcdef", "Arn": "arn:aws:transfer:eu-central-1:123456789012:server/s-0123456789abcdef0",
		"Tags": []any{map[string]string{"Key": "a", "Value": "b"}}, "TagKeys": []string{"a"},
		"HostKeyId": "hostkey-0123456789abcdef0", "HostKeyBody": "good", "Description": "a key", "ExternalId": "S-1-5-32-544",
		"Token": "token", "Status": "SUCCESS", "SecurityPolicyName": server.DefaultSecurityPolicy,
	}
	out := map[string]any{}
	for _, r := range required {
		if r != absent {
			out[r] = good[r]
		}
	}
	return out
}

// What goes wrong inside is logged under the request's id, and the caller learns the id alone.
func TestInternalErrorsAreNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fail(errors.New("disk /var/lib/secret is full"))
	a := w.call(t, "DescribeServer", `{"ServerId":"s-0123456789abcdef0"}`)
	a.refused(t, 500, "InternalServiceError")
	if strings.Contains(a.Body, "disk") {
		t.Errorf("the answer shows the cause: %s", a.Body)
	}
	log := w.log.String()
	if !strings.Contains(log, "disk /var/lib/secret is full") || !strings.Contains(log, a.Header.Get("X-Amzn-RequestId")) {
		t.Errorf("the log does not: %s", log)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.call(t, "ListServers", `{}`)
	w.call(t, "ListServers", `{}`)
	w.call(t, "ListServers", `{"MaxResults":0}`)
	w.call(t, "MakeCoffee", `{}`)
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "transferd_api_requests_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			// Labels come sorted by name: exception, operation.
			got[m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
	}
	want := map[string]float64{"ListServers ": 2, "ListServers ValidationException": 1, "none UnknownOperationException": 1}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNewRefusesAConfigThatCannotWork(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*api.Config){
		"no keys":      func(c *api.Config) { c.AccessKeys = nil },
		"key twice":    func(c *api.Config) { c.AccessKeys = append(c.AccessKeys, c.AccessKeys[0]) },
		"no secret":    func(c *api.Config) { c.AccessKeys[0].Secret = "" },
		"no region":    func(c *api.Config) { c.Realm.Region = "" },
		"no catalogue": func(c *api.Config) { c.Users = nil },
		"no host keys": func(c *api.Config) { c.HostKeys = nil },
		"no accesses":  func(c *api.Config) { c.Accesses = nil },
		"no policies":  func(c *api.Config) { c.KnownPolicy = nil },
		"short key":    func(c *api.Config) { c.TokenKey = c.TokenKey[:31] },
		"no clock":     func(c *api.Config) { c.Now = nil },
	} {
		c := config(newCatalogue())
		spoil(&c)
		if _, err := api.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzOperations: whatever a caller who has a key sends, the answer is never an internal error.
func FuzzOperations(f *testing.F) {
	w := newWorld(f)
	m := loadModel(f)
	names := m.Operations()
	for i, name := range names {
		op, _ := m.Operation(name)
		body, err := json.Marshal(requiredBut(m.Required(op.Input), ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), string(body))
	}
	f.Add(uint8(0), `{"Tags":[{"Key":"aws:","Value":""}],"ProtocolDetails":{"PassiveIp":"::1"}}`)
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		a := w.call(t, names[int(which)%len(names)], body)
		if a.Status >= 500 {
			t.Fatalf("%s", a.Body)
		}
	})
}

// BenchmarkDescribeServer is a whole signed request, without the network.
func BenchmarkDescribeServer(b *testing.B) {
	w := newWorld(b, func(c *api.Config) { c.Log = slog.New(slog.DiscardHandler) })
	body := `{"ServerId":"` + w.newServer(b) + `"}`
	r := w.request(b, "DescribeServer", body)
	sign(b, r, body)
	r.Host = r.URL.Host
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(strings.NewReader(body))
		answer := httptest.NewRecorder()
		if w.handler.ServeHTTP(answer, r); answer.Code != http.StatusOK {
			b.Fatal(answer.Body)
		}
	}
}
