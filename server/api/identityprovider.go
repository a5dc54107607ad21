package api

import (
	"cmp"
	"context"
	"errors"
	"net/netip"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
)

type testIdentityProviderRequest struct {
	ServerId       server.ID
	ServerProtocol string
	SourceIp       string
	UserName       string
	UserPassword   string
}

// testIdentityProvider asks a server's identity provider as a login would, with a password or, without one, for a
// user's keys. The protocol is SFTP if the caller names none: the reference does not say.
func (a *API) testIdentityProvider(ctx context.Context, in testIdentityProviderRequest) (*ProviderAnswer, error) {
	s, err := a.servers.Server(ctx, in.ServerId)
	if err != nil {
		return nil, err
	}
	if s.IdentityProviderType == serviceManaged {
		return nil, invalid("%s not configured for external auth", s.ServerId)
	}
	if in.ServerProtocol == "AS2" {
		return nil, unsupported("ServerProtocol AS2")
	}
	if _, err := netip.ParseAddr(in.SourceIp); in.SourceIp != "" && err != nil {
		return nil, invalid("SourceIp must be an IPv4 or IPv6 address")
	}
	refusal := unsupported("TestIdentityProvider with IdentityProviderType " + s.IdentityProviderType)
	if a.provider == nil {
		return nil, refusal
	}
	answer, err := a.provider.TestProvider(ctx, s, identity.Attempt{
		Server: in.ServerId, UserName: in.UserName, Protocol: cmp.Or(in.ServerProtocol, "SFTP"),
		SourceIP: in.SourceIp, Password: in.UserPassword,
	})
	if errors.Is(err, errors.ErrUnsupported) {
		return nil, refusal
	}
	if err != nil {
		return nil, err
	}
	return &answer, nil
}
