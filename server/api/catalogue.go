package api

import (
	"context"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/workflow"
)

// Servers is where servers are kept. Its errors are those of package server: *server.NotFoundError (also for a workflow
// that a server refers to), *server.ExistsError. Lists are sorted by id and start after p.After.
//
// The change functions of all the interfaces here may run more than once; an error of theirs aborts the update and comes
// back as it is.
type Servers interface {
	// CreateServer keeps a new server and its host keys.
	CreateServer(ctx context.Context, s server.Server, keys []hostkeys.Key) error
	Server(ctx context.Context, id server.ID) (server.Server, error)
	Servers(ctx context.Context, p server.Page) ([]server.Server, error)
	// UpdateServer reads, changes and writes a server in one transaction.
	UpdateServer(ctx context.Context, id server.ID, change func(*server.Server) error) error
	// DeleteServer deletes a server with its users and keys.
	DeleteServer(ctx context.Context, id server.ID) error
}

// Users is where the users of servers are kept. Lists are sorted by name. An unknown server is a *server.NotFoundError
// everywhere.
type Users interface {
	CreateUser(ctx context.Context, id server.ID, u server.User) error
	User(ctx context.Context, id server.ID, name string) (server.User, error)
	Users(ctx context.Context, id server.ID, p server.Page) ([]server.User, error)
	UpdateUser(ctx context.Context, id server.ID, name string, change func(*server.User) error) error
	DeleteUser(ctx context.Context, id server.ID, name string) error
}

// Workflows is where workflows are kept. Lists are sorted by id.
type Workflows interface {
	CreateWorkflow(ctx context.Context, w workflow.Workflow) error
	Workflow(ctx context.Context, id workflow.ID) (workflow.Workflow, error)
	Workflows(ctx context.Context, p server.Page) ([]workflow.Workflow, error)
	// UpdateWorkflow changes a workflow's tags: the rest of it never changes.
	UpdateWorkflow(ctx context.Context, id workflow.ID, change func(*workflow.Workflow) error) error
	// DeleteWorkflow deletes a workflow, or returns *server.InUseError while a server refers to it.
	DeleteWorkflow(ctx context.Context, id workflow.ID) error
}

// Executions is where executions are read. They stay readable after they ended.
type Executions interface {
	Execution(ctx context.Context, id workflow.ExecutionID) (workflow.Execution, error)
	// Executions lists a workflow's executions in an order of its own; p.After is the ExecutionId of the last one seen.
	Executions(ctx context.Context, w workflow.ID, p server.Page) ([]workflow.Execution, error)
}

// HostKeys is where the host keys of servers are kept. An unknown server is a *server.NotFoundError everywhere. What
// DescribeServer shows as the server's fingerprint follows the keys in the same transaction.
type HostKeys interface {
	// HostKeys lists a server's keys, oldest first.
	HostKeys(ctx context.Context, id server.ID) ([]hostkeys.Key, error)
	// AddHostKey adds a key, or returns *server.ExistsError if the server has one of the same fingerprint.
	AddHostKey(ctx context.Context, id server.ID, k hostkeys.Key) error
	// UpdateHostKey changes a key's description or tags: the rest of it never changes.
	UpdateHostKey(ctx context.Context, id server.ID, key string, change func(*hostkeys.Key) error) error
	// DeleteHostKey deletes a key, or returns *server.LastKeyError if the server has no other.
	DeleteHostKey(ctx context.Context, id server.ID, key string) error
}

// Accesses is where the accesses of servers are kept. Lists are sorted by external id. An unknown server is a
// *server.NotFoundError everywhere.
type Accesses interface {
	CreateAccess(ctx context.Context, id server.ID, a server.Access) error
	Access(ctx context.Context, id server.ID, externalID string) (server.Access, error)
	Accesses(ctx context.Context, id server.ID, p server.Page) ([]server.Access, error)
	UpdateAccess(ctx context.Context, id server.ID, externalID string, change func(*server.Access) error) error
	DeleteAccess(ctx context.Context, id server.ID, externalID string) error
}

// Callbacks takes the word of custom steps that ended elsewhere.
type Callbacks interface {
	// Callback ends the step that waits for it. Its error wraps workflow.ErrNoCallback if there is none.
	Callback(ctx context.Context, w workflow.ID, e workflow.ExecutionID, token string, success bool) error
}

// TestProvider asks the identity provider of a server.
type TestProvider interface {
	// TestProvider gives the provider's answer to an attempt, a refusal too: that is an answer, and no error. The error
	// wraps errors.ErrUnsupported if there is no such provider here; any other one is internal.
	TestProvider(ctx context.Context, s server.Server, a identity.Attempt) (ProviderAnswer, error)
}

// ProviderAnswer is what an identity provider said, as TestIdentityProvider shows it.
type ProviderAnswer struct {
	Response   string // JSON as text, {} if it knows no such user
	StatusCode int    // of HTTP, or what it would be
	Message    string
	Url        string // that was asked; empty for providers that have none
}
