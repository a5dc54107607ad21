package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/smithy-go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/api/internal/model"
)

const (
	region  = "eu-central-1"
	account = "123456789012"
	keyID   = "AKIDTEST"
	secret  = "test/secret"
	role    = "arn:aws:iam::123456789012:role/transfer"
	goodKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"
)

// world is a control plane on a real port, with its catalogue and clients.
type world struct {
	*catalogue
	handler  http.Handler
	url      string
	sdk      *transfer.Client
	log      *bytes.Buffer
	registry *prometheus.Registry
}

func config(c *catalogue) api.Config {
	return api.Config{
		AccessKeys: []api.AccessKey{{ID: "AKIDOTHER", Secret: "other"}, {ID: keyID, Secret: secret}},
		Realm:      server.Realm{Region: region, Account: account},
		Servers:    c, Users: c, Workflows: c, Executions: c, HostKeys: c, Accesses: c,
		KnownPolicy: func(name string) error {
			if _, ok := server.LookupPolicy(name); !ok {
				return errors.New("there is no such policy")
			}
			return nil
		},
		NewHostKeys: func() ([]hostkeys.Key, error) { return []hostkeys.Key{hostKey("SHA256:new=")}, nil },
		ParseHostKey: func(pem string) (hostkeys.Key, error) {
			if pem == "good" {
				return hostKey("SHA256:brought="), nil
			}
			return hostkeys.Parse([]byte(pem), "", time.Now())
		},
		TokenKey: bytes.Repeat([]byte{7}, 32),
		Now:      time.Now,
		Log:      slog.New(slog.DiscardHandler),
	}
}

// hostKey is a host key that nobody signs with.
func hostKey(fingerprint string) hostkeys.Key {
	return hostkeys.Key{HostKeyId: hostkeys.NewID(), Type: "ssh-ed25519", Fingerprint: fingerprint, DateImported: time.Now()}
}

func newWorld(t testing.TB, adjust ...func(*api.Config)) *world {
	t.Helper()
	w := &world{catalogue: newCatalogue(), log: &bytes.Buffer{}, registry: prometheus.NewRegistry()}
	c := config(w.catalogue)
	c.Log, c.Registerer = slog.New(slog.NewJSONHandler(w.log, nil)), w.registry
	for _, f := range adjust {
		f(&c)
	}
	handler, err := api.New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.handler = handler
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	w.url = s.URL
	w.sdk = transfer.New(transfer.Options{
		Region: region, BaseEndpoint: &s.URL, Credentials: credentials.NewStaticCredentialsProvider(keyID, secret, ""),
		Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{Transport: judge{t: t, model: loadModel(t), next: s.Client().Transport}},
	})
	return w
}

func loadModel(t testing.TB) *model.Model {
	t.Helper()
	m, err := model.Load()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// judge lets every answer that a client gets be checked against the model: nothing missing, nothing out of bounds, and
// no member that the API does not have, but for the one of ours.
type judge struct {
	t     testing.TB
	model *model.Model
	next  http.RoundTripper
}

func (j judge) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := j.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if resp.Header.Get("X-Amzn-RequestId") == "" {
		j.t.Error("answer without a request id")
	}
	if resp.StatusCode == http.StatusOK {
		j.check(strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TransferService."), body)
	}
	return resp, nil
}

func (j judge) check(name string, body []byte) {
	op, _ := j.model.Operation(name)
	if op.Output == "" {
		if len(body) > 0 {
			j.t.Errorf("%s answers %q, want nothing", name, body)
		}
		return
	}
	if name == "ListTagsForResource" && strings.Contains(string(body), `"Tags":[]`) {
		return // the model forbids an empty list here, but scripts count on the member
	}
	clean, err := j.model.Check(op.Output, body)
	if err != nil {
		j.t.Errorf("%s answers what the model does not allow: %v\n%s", name, err, body)
		return
	}
	got, want := decode[map[string]any](body), decode[map[string]any](clean)
	if e, ok := got["Execution"].(map[string]any); ok {
		delete(e, "Transferd")
	}
	if !reflect.DeepEqual(got, want) {
		j.t.Errorf("%s answers more than the model has:\n%s\n%s", name, body, clean)
	}
}

// answer is what came back to a raw request.
type answer struct {
	Status  int
	Header  http.Header
	Body    string
	Type    string `json:"__type"`
	Message string
}

// request makes a request that is not signed yet.
func (w *world) request(t testing.TB, operation, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, w.url+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "TransferService."+operation)
	return r
}

// sign signs a request as its owner would.
func sign(t testing.TB, r *http.Request, body string, adjust ...func(*signing)) {
	t.Helper()
	s := signing{id: keyID, secret: secret, service: "transfer", region: region, at: time.Now()}
	for _, f := range adjust {
		f(&s)
	}
	sum := sha256.Sum256([]byte(body))
	key := aws.Credentials{AccessKeyID: s.id, SecretAccessKey: s.secret, SessionToken: s.token}
	if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), s.service, s.region, s.at); err != nil {
		t.Fatal(err)
	}
}

type signing struct {
	id, secret, service, region, token string
	at                                 time.Time
}

// send sends a request as it is.
func send(t testing.TB, r *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // nothing to lose: it was read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &a); err != nil {
			t.Fatalf("answer is no JSON: %q", body)
		}
	}
	return a
}

// call sends a signed request.
func (w *world) call(t testing.TB, operation, body string) answer {
	t.Helper()
	r := w.request(t, operation, body)
	sign(t, r, body)
	return send(t, r)
}

// refused makes sure of an exception and of words in its text, in all the places where clients look for them.
func (a answer) refused(t testing.TB, status int, exception string, words ...string) {
	t.Helper()
	if a.Status != status || a.Type != exception || a.Header.Get("X-Amzn-ErrorType") != exception || a.Header.Get("X-Amzn-RequestId") == "" {
		t.Errorf("got %d %s (header %s), want %d %s: %s", a.Status, a.Type, a.Header.Get("X-Amzn-ErrorType"), status, exception, a.Body)
	}
	for _, w := range words {
		if !strings.Contains(a.Message, w) {
			t.Errorf("message %q lacks %q", a.Message, w)
		}
	}
}

// refusal makes sure of an exception that the SDK saw.
func refusal(t testing.TB, err error, exception string, words ...string) {
	t.Helper()
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok || e.ErrorCode() != exception {
		t.Fatalf("got %v, want %s", err, exception)
	}
	for _, w := range words {
		if !strings.Contains(e.ErrorMessage(), w) {
			t.Errorf("message %q lacks %q", e.ErrorMessage(), w)
		}
	}
}

func ok[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
