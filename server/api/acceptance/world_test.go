package acceptance_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/db"
	"github.com/transferd/transferd/server/fleet"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/workflow"
)

const (
	region  = "eu-central-1"
	account = "123456789012"
	role    = "arn:aws:iam::123456789012:role/transfer"
	role2   = "arn:aws:iam::123456789012:role/other"
)

// unstartable is the banner of a server that cannot start.
const unstartable = "cannot start"

// The callers of the control plane.
const (
	admin   = "AKIDADMIN"
	nobody  = "AKIDNOBODY"  // may call nothing but ListServers
	reader  = "AKIDREADER"  // may read
	hurried = "AKIDHURRIED" // may make one call in an hour
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a whole control plane on a real port: catalogue, API and fleet. Nothing of it speaks SFTP.
type world struct {
	db  *db.DB
	url string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	d, err := db.Open(context.Background(), db.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	handler, err := api.New(config(d))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	runFleet(t, d)
	return &world{db: d, url: s.URL}
}

func config(d *db.DB) api.Config {
	return api.Config{
		AccessKeys: []api.AccessKey{
			{ID: admin, Secret: secret(admin)},
			{ID: nobody, Secret: secret(nobody), Operations: []string{"ListServers"}},
			{ID: reader, Secret: secret(reader), ReadOnly: true},
			{ID: hurried, Secret: secret(hurried), RequestsPerSecond: 1. / 3600, Burst: 1},
		},
		Realm:   server.Realm{Region: region, Account: account},
		Servers: d, Users: d, Workflows: d, Executions: d, HostKeys: d, Accesses: d,
		Callbacks: steps{}, TestProvider: provider{},
		KnownPolicy: func(name string) error {
			if _, ok := server.LookupPolicy(name); !ok {
				return errors.New("there is no such policy")
			}
			return nil
		},
		NewHostKeys: func() ([]hostkeys.Key, error) { return hostkeys.Generate(time.Now()) },
		ParseHostKey: func(pem string) (hostkeys.Key, error) {
			return hostkeys.Parse([]byte(pem), "", time.Now())
		},
		TokenKey: bytes.Repeat([]byte{7}, 32),
		Now:      time.Now,
		Log:      slog.New(slog.DiscardHandler),
	}
}

// steps are the custom steps of executions: one waits, for the token "callback".
type steps struct{}

func (steps) Callback(_ context.Context, _ workflow.ID, _ workflow.ExecutionID, token string, _ bool) error {
	if token != "callback" {
		return workflow.ErrNoCallback
	}
	return nil
}

// provider is an identity provider that knows everybody.
type provider struct{}

func (provider) TestProvider(_ context.Context, s server.Server, _ identity.Attempt) (api.ProviderAnswer, error) {
	return api.ProviderAnswer{StatusCode: 200, Url: s.IdentityProviderDetails.Url, Response: `{"Role":"` + role + `"}`}, nil
}

func secret(key string) string { return "secret/of+" + key }

// runFleet makes the catalogue's wishes true until the test ends.
func runFleet(t testing.TB, d *db.DB) {
	t.Helper()
	f := fleet.New(fleet.Config{
		Catalogue: d, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Doors: []fleet.Door{{Name: "SFTP", Frontend: quiet{}, Listen: listen, TagAddress: fleet.TagSFTPAddress}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// quiet is a frontend that accepts nobody.
type quiet struct{}

func (quiet) Serve(ctx context.Context, _ net.Listener, _ func() fleet.Settings) error {
	<-ctx.Done()
	return ctx.Err()
}

func listen(ctx context.Context, s server.Server) (net.Listener, error) {
	if s.PreAuthenticationLoginBanner == unstartable {
		return nil, errors.New("no address is left")
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
}

// client is the Go SDK's client with an access key of the world's.
func (w *world) client(key string) *transfer.Client { return w.signed(key, secret(key)) }

// signed is the Go SDK's client with any access key. It tries once.
func (w *world) signed(key, secret string) *transfer.Client {
	return transfer.New(transfer.Options{
		Region: region, BaseEndpoint: &w.url, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, ""),
	})
}

// clear empties the catalogue.
func (w *world) clear(t testing.TB) {
	t.Helper()
	servers, err := w.db.Servers(context.Background(), server.Page{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		if err := w.db.DeleteServer(context.Background(), s.ServerId); err != nil {
			t.Error(err)
		}
	}
	workflows, err := w.db.Workflows(context.Background(), server.Page{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range workflows {
		if err := w.db.DeleteWorkflow(context.Background(), f.WorkflowId); err != nil {
			t.Error(err)
		}
	}
}

// execution has an upload happen: the file is whole, so that the server's OnUpload workflow begins.
func (w *world) execution(t testing.TB, id string) string {
	t.Helper()
	u := session.Upload{
		ID: uuid(), Node: w.db.Node(), Server: server.ID(id), User: "anna", Session: "0123456789abcdef", Protocol: "SFTP",
		Location: storage.Location{Domain: "S3", Store: "bucket", Name: "anna/file"}, Began: time.Now(),
	}
	if err := w.db.Begin(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	v := session.Verdict{Outcome: session.Complete, Evidence: session.Closed, Received: 3, Ended: time.Now(), Object: storage.Object{Size: 3, ETag: "abc"}}
	if err := w.db.End(t.Context(), u, v); err != nil {
		t.Fatal(err)
	}
	return u.ID
}

func uuid() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
