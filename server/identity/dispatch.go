package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/transferd/transferd/server"
)

// Servers finds a server; a *server.NotFoundError if there is none.
type Servers interface {
	Server(ctx context.Context, id server.ID) (server.Server, error)
}

// Tester is a Provider that can show what it was told, for TestIdentityProvider.
type Tester interface {
	// Test asks as Authenticate would. A refusal, a provider that cannot be reached and one that talks nonsense are
	// answers, and no errors: to see them is what the test is for.
	Test(ctx context.Context, s server.Server, a Attempt) (Answer, error)
}

// Answer is what an identity provider said, with the members of TestIdentityProvider's answer.
type Answer struct {
	Response   string // JSON as text
	StatusCode int    // of HTTP, or what it would be
	Message    string // why a login would fail although the provider answered; "" otherwise
	Url        string // that was asked; "" for providers that have none
}

// Dispatch asks the provider of each server's IdentityProviderType. It looks the server up for each attempt: what an
// operator changed counts from the next login on.
type Dispatch struct {
	servers   Servers
	providers map[string]Provider
}

// NewDispatch makes a Dispatch over providers by IdentityProviderType, spelled as in the API.
func NewDispatch(servers Servers, providers map[string]Provider) *Dispatch {
	return &Dispatch{servers: servers, providers: maps.Clone(providers)}
}

// Authenticate asks the provider of the attempt's server. A type that nobody serves lets nobody in; the operator reads
// why in the log.
func (d *Dispatch) Authenticate(ctx context.Context, a Attempt) (Grant, error) {
	s, err := d.servers.Server(ctx, a.Server)
	if err != nil {
		return Grant{}, fmt.Errorf("find server: %w", err)
	}
	p, name := d.provider(s)
	if p == nil {
		return Grant{}, &DeniedError{Reason: "identity provider type " + name + " is not supported"}
	}
	return p.Authenticate(ctx, a)
}

// Test asks the provider of a server. The error wraps errors.ErrUnsupported if there is none that can be tested.
func (d *Dispatch) Test(ctx context.Context, s server.Server, a Attempt) (Answer, error) {
	p, name := d.provider(s)
	if t, ok := p.(Tester); ok {
		return t.Test(ctx, s, a)
	}
	return Answer{}, fmt.Errorf("test identity provider type %s: %w", name, errors.ErrUnsupported)
}

// provider is nil if nobody serves the type. Servers have the default type of CreateServer if they name none.
func (d *Dispatch) provider(s server.Server) (Provider, string) {
	name := cmp.Or(s.IdentityProviderType, "SERVICE_MANAGED")
	return d.providers[name], name
}
