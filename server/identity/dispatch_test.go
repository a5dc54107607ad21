package identity_test

import (
	"context"
	"errors"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/identity"
)

type servers map[server.ID]string

func (s servers) Server(_ context.Context, id server.ID) (server.Server, error) {
	if typ, ok := s[id]; ok {
		return server.Server{ServerId: id, IdentityProviderType: typ}, nil
	}
	return server.Server{}, &server.NotFoundError{ResourceType: "Server", Resource: string(id)}
}

// provider grants its own name as the role.
type provider string

func (p provider) Authenticate(context.Context, identity.Attempt) (identity.Grant, error) {
	return identity.Grant{Role: string(p)}, nil
}

type testable struct{ provider }

func (p testable) Test(context.Context, server.Server, identity.Attempt) (identity.Answer, error) {
	return identity.Answer{Response: "{}", StatusCode: 200, Url: string(p.provider)}, nil
}

// control is how the control plane asks: an answer is its own type, member by member.
type control struct{ tester identity.Tester }

func (c control) TestProvider(ctx context.Context, s server.Server, a identity.Attempt) (api.ProviderAnswer, error) {
	answer, err := c.tester.Test(ctx, s, a)
	return api.ProviderAnswer(answer), err
}

var _ api.TestProvider = control{}

func TestDispatch(t *testing.T) {
	t.Parallel()
	all := servers{"s-1": "SERVICE_MANAGED", "s-2": "", "s-3": "API_GATEWAY", "s-4": "AWS_LAMBDA"}
	d := identity.NewDispatch(all, map[string]identity.Provider{"SERVICE_MANAGED": provider("managed"), "API_GATEWAY": testable{"gateway"}})
	for id, want := range map[server.ID]string{"s-1": "managed", "s-2": "managed", "s-3": "gateway"} {
		if g, err := d.Authenticate(t.Context(), identity.Attempt{Server: id}); err != nil || g.Role != want {
			t.Errorf("%s: %+v, %v", id, g, err)
		}
	}
	var told *identity.DeniedError
	if g, err := d.Authenticate(t.Context(), identity.Attempt{Server: "s-4"}); !errors.As(err, &told) || !errors.Is(err, identity.ErrDenied) || g.Role != "" {
		t.Errorf("unsupported: %+v, %v", g, err)
	}
	var unknown *server.NotFoundError
	if _, err := d.Authenticate(t.Context(), identity.Attempt{Server: "s-5"}); !errors.As(err, &unknown) || errors.Is(err, identity.ErrDenied) {
		t.Errorf("unknown server: %v", err)
	}

	c := control{d}
	for typ, supported := range map[string]bool{"SERVICE_MANAGED": false, "API_GATEWAY": true, "AWS_LAMBDA": false} {
		got, err := c.TestProvider(t.Context(), server.Server{IdentityProviderType: typ}, identity.Attempt{})
		if supported && (err != nil || got.Url != "gateway" || got.StatusCode != 200) || !supported && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %+v, %v", typ, got, err)
		}
	}
}

func TestValidUserName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"anna": true, "a.b-c@d_e": true, "_a1": true, "ab": false, "": false, ".abc": false, "@abc": false,
		"a b c": false, "abc\n": false, "a/../b": false, "änna": false} {
		if identity.ValidUserName(name) != want {
			t.Errorf("%q: want %v", name, want)
		}
	}
}
