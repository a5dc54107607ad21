package api

import (
	"context"

	"github.com/transferd/transferd/server"
)

// providerDirectory is the only identity provider type whose users come in groups.
const providerDirectory = "AWS_DIRECTORY_SERVICE"

// accessSettingsRequest has what CreateAccess and UpdateAccess share: the home of a group is set like that of a user.
type accessSettingsRequest struct {
	userSettings
	accessRequest
}

type accessRequest struct {
	ServerId   server.ID
	ExternalId string
}

type accessAnswer struct {
	ServerId   server.ID
	ExternalId string
}

// createAccess lets a group of the directory in. The accesses of a server stay when its identity provider changes and
// count again when it changes back, so that only their making asks for a directory.
func (a *API) createAccess(ctx context.Context, in accessSettingsRequest) (*accessAnswer, error) {
	s, err := a.servers.Server(ctx, in.ServerId)
	if err != nil {
		return nil, err
	}
	if s.IdentityProviderType != providerDirectory {
		return nil, invalid("An access can be created only on a server with IdentityProviderType %s, and that of server %s is %s",
			providerDirectory, s.ServerId, s.IdentityProviderType)
	}
	x := server.Access{ExternalId: in.ExternalId, HomeDirectoryType: homePath}
	if err := changeAccess(&x, in.userSettings, s.Domain); err != nil {
		return nil, err
	}
	if err := a.accesses.CreateAccess(ctx, in.ServerId, x); err != nil {
		return nil, err
	}
	return &accessAnswer{in.ServerId, in.ExternalId}, nil
}

func (a *API) describeAccess(ctx context.Context, in accessRequest) (any, error) {
	x, err := a.accesses.Access(ctx, in.ServerId, in.ExternalId)
	if err != nil {
		return nil, err
	}
	return struct {
		ServerId server.ID
		Access   server.Access
	}{in.ServerId, x}, nil
}

func (a *API) updateAccess(ctx context.Context, in accessSettingsRequest) (*accessAnswer, error) {
	s, err := a.servers.Server(ctx, in.ServerId)
	if err != nil {
		return nil, err
	}
	err = a.accesses.UpdateAccess(ctx, in.ServerId, in.ExternalId, func(x *server.Access) error {
		return changeAccess(x, in.userSettings, s.Domain) // a server's domain never changes
	})
	if err != nil {
		return nil, err
	}
	return &accessAnswer{in.ServerId, in.ExternalId}, nil
}

func (a *API) deleteAccess(ctx context.Context, in accessRequest) error {
	return a.accesses.DeleteAccess(ctx, in.ServerId, in.ExternalId)
}

type listAccessesRequest struct {
	ServerId server.ID
	pageRequest
}

// listedAccess is shape ListedAccess.
type listedAccess struct {
	HomeDirectory     string `json:",omitempty"`
	HomeDirectoryType string `json:",omitempty"`
	Role              string
	ExternalId        string
}

type listAccessesAnswer struct {
	NextToken string `json:",omitempty"`
	ServerId  server.ID
	Accesses  []listedAccess
}

func (a *API) listAccesses(ctx context.Context, in listAccessesRequest) (*listAccessesAnswer, error) {
	all, next, err := page(a, list{"ListAccesses", string(in.ServerId)}, in.pageRequest,
		func(p server.Page) ([]server.Access, error) { return a.accesses.Accesses(ctx, in.ServerId, p) },
		func(x server.Access) string { return x.ExternalId })
	if err != nil {
		return nil, err
	}
	out := &listAccessesAnswer{NextToken: next, ServerId: in.ServerId, Accesses: make([]listedAccess, 0, len(all))}
	for _, x := range all {
		out.Accesses = append(out.Accesses, listedAccess{
			HomeDirectory: x.HomeDirectory, HomeDirectoryType: x.HomeDirectoryType, Role: x.Role, ExternalId: x.ExternalId,
		})
	}
	return out, nil
}

// changeAccess puts settings into an access by the rules of users, but for the limit of a user's mappings: AWS has it for
// service-managed users alone (endpoints and quotas page).
func changeAccess(x *server.Access, in userSettings, domain string) error {
	u := server.User{
		HomeDirectory: x.HomeDirectory, HomeDirectoryMappings: x.HomeDirectoryMappings, HomeDirectoryType: x.HomeDirectoryType,
		Policy: x.Policy, PosixProfile: x.PosixProfile, Role: x.Role,
	}
	if err := changeUser(&u, in); err != nil {
		return err
	}
	if err := checkDomain(domain, u.Policy, u.PosixProfile); err != nil {
		return err
	}
	x.HomeDirectory, x.HomeDirectoryMappings, x.HomeDirectoryType = u.HomeDirectory, u.HomeDirectoryMappings, u.HomeDirectoryType
	x.Policy, x.PosixProfile, x.Role = u.Policy, u.PosixProfile, u.Role
	return nil
}
