// Package api is the control plane: the operations of AWS Transfer Family over HTTP, JSON 1.1 with Signature Version 4.
// Requests are checked against the API's model as data; what an operation does stands in one file a noun.
//
// It writes wishes into the catalogue (a server's state STARTING, say) and the fleet makes them true. It must not know
// the fleet, sessions, protocols or file stores.
package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api/internal/awsjson"
	"github.com/transferd/transferd/server/api/internal/model"
	"github.com/transferd/transferd/server/api/internal/sigv4"
)

const (
	targetPrefix = "TransferService"
	service      = "transfer"
)

// Config is what the control plane is made of. Everything is required unless its comment says what nil means.
type Config struct {
	AccessKeys []AccessKey
	Realm      server.Realm

	Servers    Servers
	Users      Users
	Workflows  Workflows
	Executions Executions
	HostKeys   HostKeys
	Accesses   Accesses

	Callbacks    Callbacks    // nil: no execution waits for one
	TestProvider TestProvider // nil: TestIdentityProvider is refused

	// Limits are the quotas that are this room's: KeysPerUser and MappingsPerUser. The others are the catalogue's.
	Limits server.Limits

	// KnownPolicy refuses a security policy that does not exist. Its error's text is shown to the caller.
	KnownPolicy func(name string) error
	// NewHostKeys makes the host keys of a server that brings none. The first one's fingerprint is the server's.
	NewHostKeys func() ([]hostkeys.Key, error)
	// ParseHostKey reads a private key. Its error's text is shown to the caller, so it never repeats the key.
	ParseHostKey func(pem string) (hostkeys.Key, error)

	TokenKey   []byte // authenticates page tokens; at least 32 bytes, the same on every node
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: the metrics are not shown
}

// API is the control plane as an http.Handler. It is safe for many requests at once.
type API struct {
	servers    Servers
	users      Users
	workflows  Workflows
	executions Executions
	keys       HostKeys
	accesses   Accesses
	callbacks  Callbacks    // may be nil
	provider   TestProvider // may be nil

	realm        server.Realm
	limits       server.Limits
	knownPolicy  func(string) error
	newHostKeys  func() ([]hostkeys.Key, error)
	parseHostKey func(string) (hostkeys.Key, error)
	now          func() time.Time
	log          *slog.Logger

	model      *model.Model
	verifier   *sigv4.Verifier
	callers    map[string]*caller // by access key id
	tokens     tokenKey
	operations map[string]operation
	metrics    *metrics
}

// New makes a control plane.
func New(c Config) (*API, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	m, err := model.Load()
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	callers, err := newCallers(c.AccessKeys, m.Operations())
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	metrics, err := newMetrics(c.Registerer)
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	secrets := make(map[string]string, len(c.AccessKeys))
	for _, k := range c.AccessKeys {
		secrets[k.ID] = k.Secret
	}
	a := &API{
		servers: c.Servers, users: c.Users, workflows: c.Workflows, executions: c.Executions,
		keys: c.HostKeys, accesses: c.Accesses, callbacks: c.Callbacks, provider: c.TestProvider,
		realm: c.Realm, limits: c.Limits, knownPolicy: c.KnownPolicy, newHostKeys: c.NewHostKeys, parseHostKey: c.ParseHostKey,
		now: c.Now, log: c.Log,
		model:    m,
		verifier: &sigv4.Verifier{Secrets: secrets, Region: c.Realm.Region, Service: service, Now: c.Now},
		callers:  callers,
		tokens:   tokenKey(c.TokenKey),
		metrics:  metrics,
	}
	a.operations = a.table()
	return a, nil
}

func (c Config) check() error {
	switch {
	case c.Realm.Region == "" || c.Realm.Account == "":
		return errors.New("no region or account")
	case c.Servers == nil || c.Users == nil || c.Workflows == nil || c.Executions == nil || c.HostKeys == nil || c.Accesses == nil:
		return errors.New("no catalogue")
	case c.KnownPolicy == nil || c.NewHostKeys == nil || c.ParseHostKey == nil:
		return errors.New("no security policies or host keys")
	case len(c.TokenKey) < 32:
		return errors.New("the token key is shorter than 32 bytes")
	case c.Now == nil || c.Log == nil:
		return errors.New("no clock or log")
	}
	return nil
}

// operation takes a request that satisfies the model and gives the answer's body, which may be empty.
type operation func(ctx context.Context, input []byte) ([]byte, error)

// table are the operations that this service does. The model has more; they are refused by name.
func (a *API) table() map[string]operation {
	return map[string]operation{
		"CreateServer":   answers(a.createServer),
		"DescribeServer": answers(a.describeServer),
		"UpdateServer":   answers(a.updateServer),
		"DeleteServer":   silent(a.deleteServer),
		"ListServers":    answers(a.listServers),
		"StartServer":    silent(a.startServer),
		"StopServer":     silent(a.stopServer),

		"CreateUser":   answers(a.createUser),
		"DescribeUser": answers(a.describeUser),
		"UpdateUser":   answers(a.updateUser),
		"DeleteUser":   silent(a.deleteUser),
		"ListUsers":    answers(a.listUsers),

		"ImportSshPublicKey": answers(a.importSshPublicKey),
		"DeleteSshPublicKey": silent(a.deleteSshPublicKey),

		"ImportHostKey":   answers(a.importHostKey),
		"DescribeHostKey": answers(a.describeHostKey),
		"UpdateHostKey":   answers(a.updateHostKey),
		"DeleteHostKey":   silent(a.deleteHostKey),
		"ListHostKeys":    answers(a.listHostKeys),

		"CreateAccess":   answers(a.createAccess),
		"DescribeAccess": answers(a.describeAccess),
		"UpdateAccess":   answers(a.updateAccess),
		"DeleteAccess":   silent(a.deleteAccess),
		"ListAccesses":   answers(a.listAccesses),

		"CreateWorkflow":   answers(a.createWorkflow),
		"DescribeWorkflow": answers(a.describeWorkflow),
		"DeleteWorkflow":   silent(a.deleteWorkflow),
		"ListWorkflows":    answers(a.listWorkflows),

		"ListExecutions":        answers(a.listExecutions),
		"DescribeExecution":     answers(a.describeExecution),
		"SendWorkflowStepState": answers(a.sendWorkflowStepState),

		"TestIdentityProvider": answers(a.testIdentityProvider),

		"DescribeSecurityPolicy": answers(a.describeSecurityPolicy),
		"ListSecurityPolicies":   answers(a.listSecurityPolicies),

		"TagResource":         silent(a.tagResource),
		"UntagResource":       silent(a.untagResource),
		"ListTagsForResource": answers(a.listTagsForResource),
	}
}

// answers makes an operation of a function with an output.
func answers[In, Out any](f func(context.Context, In) (Out, error)) operation {
	return func(ctx context.Context, input []byte) ([]byte, error) {
		var in In
		if err := json.Unmarshal(input, &in); err != nil {
			return nil, fmt.Errorf("decode a checked request: %w", err)
		}
		out, err := f(ctx, in)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("encode the answer: %w", err)
		}
		return body, nil
	}
}

// silent makes an operation of a function without an output.
func silent[In any](f func(context.Context, In) error) operation {
	return func(ctx context.Context, input []byte) ([]byte, error) {
		var in In
		if err := json.Unmarshal(input, &in); err != nil {
			return nil, fmt.Errorf("decode a checked request: %w", err)
		}
		return nil, f(ctx, in)
	}
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := a.now()
	c := &call{id: rand.Text(), operation: "none"}
	w.Header().Set("X-Amzn-RequestId", c.id)

	output, err := a.do(w, r, c)
	refusal, internal := toWire(err)
	if internal {
		a.log.ErrorContext(r.Context(), "api request failed", "request-id", c.id, "operation", c.operation, "error", err)
	}
	// Before the answer, so that whoever has the answer finds it accounted for.
	a.account(r.Context(), c, refusal, a.now().Sub(began))
	if refusal != nil {
		err = awsjson.WriteError(w, refusal)
	} else {
		err = awsjson.WriteOutput(w, output)
	}
	if err != nil {
		// The caller is gone: there is nobody to tell.
		a.log.InfoContext(r.Context(), "api answer not delivered", "request-id", c.id, "operation", c.operation, "error", err)
	}
}

// call is one request as the log and the metrics see it.
type call struct {
	id        string
	operation string // one of the model's, or "none"
	accessKey string // proven, or empty
}

// do brings a request to its operation. Nothing of it is looked at before the signature is right, except what is needed
// to find that out.
func (a *API) do(w http.ResponseWriter, r *http.Request, c *call) ([]byte, error) {
	if err := awsjson.CheckEnvelope(r); err != nil {
		return nil, err
	}
	claim, err := a.verifier.Claim(r)
	if err != nil {
		return nil, err
	}
	body, err := awsjson.ReadBody(w, r)
	if err != nil {
		return nil, err
	}
	if err := a.verifier.Verify(r.Context(), claim, r, body); err != nil {
		return nil, err
	}
	c.accessKey = claim.AccessKeyID
	caller := a.callers[c.accessKey]
	if err := caller.throttle(a.now()); err != nil {
		return nil, err
	}
	name, err := awsjson.Target(r, targetPrefix)
	if err != nil {
		return nil, err
	}
	operation, known := a.model.Operation(name)
	if !known {
		return nil, awsjson.Errorf("UnknownOperationException", "There is no operation of that name")
	}
	c.operation = name
	if err := caller.authorize(name); err != nil {
		return nil, err
	}
	run := a.operations[name]
	if run == nil {
		return nil, unsupported("Operation " + name)
	}
	input, err := a.model.Check(operation.Input, body)
	if err != nil {
		return nil, err
	}
	return run(r.Context(), input)
}

// account writes a request into the log and the metrics.
func (a *API) account(ctx context.Context, c *call, refusal *awsjson.Error, took time.Duration) {
	exception := ""
	if refusal != nil {
		exception = refusal.Type
	}
	a.metrics.requests.WithLabelValues(c.operation, exception).Inc()
	a.metrics.seconds.WithLabelValues(c.operation).Observe(took.Seconds())
	attrs := []slog.Attr{
		slog.String("request-id", c.id), slog.String("operation", c.operation),
		slog.String("access-key", c.accessKey), slog.Duration("took", took),
	}
	if refusal != nil {
		attrs = append(attrs, slog.String("exception", exception), slog.String("message", refusal.Message))
	}
	a.log.LogAttrs(ctx, slog.LevelInfo, "api request", attrs...)
}

// metrics are what Prometheus sees.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "transferd_api_requests_total",
			Help: "Requests to the control plane, by operation and exception (empty: success).",
		}, []string{"operation", "exception"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "transferd_api_request_seconds",
			Help:    "How long requests to the control plane took.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8),
		}, []string{"operation"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}
