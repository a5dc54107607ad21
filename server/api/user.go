package api

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/vfs/policy"
)

const (
	homePath = "PATH"

	domainS3       = "S3"
	domainEFS      = "EFS"
	serviceManaged = "SERVICE_MANAGED"
)

// userSettings are the members that CreateUser and UpdateUser share. A nil is a member that was not sent.
type userSettings struct {
	HomeDirectory         *string
	HomeDirectoryType     *string
	HomeDirectoryMappings []server.HomeDirectoryMapEntry
	Policy                *string
	PosixProfile          *server.PosixProfile
	Role                  *string
}

type createUserRequest struct {
	userSettings
	userRequest
	SshPublicKeyBody *string
	Tags             []server.Tag
}

type updateUserRequest struct {
	userSettings
	userRequest
}

type userRequest struct {
	ServerId server.ID
	UserName string
}

type userAnswer struct {
	ServerId server.ID
	UserName string
}

func (a *API) createUser(ctx context.Context, in createUserRequest) (*userAnswer, error) {
	u := server.User{
		Arn: a.realm.UserARN(in.ServerId, in.UserName), UserName: in.UserName,
		HomeDirectoryType: homePath, SshPublicKeys: []server.SshPublicKey{},
	}
	if err := changeUser(&u, in.userSettings); err != nil {
		return nil, err
	}
	s, err := a.servers.Server(ctx, in.ServerId)
	if err != nil {
		return nil, err
	}
	// CreateUser's page: users are for servers "that have the IdentityProviderType set to SERVICE_MANAGED".
	if s.IdentityProviderType != serviceManaged {
		return nil, invalid("Users can be created only on a server whose IdentityProviderType is SERVICE_MANAGED; that of %s is %s", s.ServerId, s.IdentityProviderType)
	}
	if err := a.checkUser(u, s.Domain); err != nil {
		return nil, err
	}
	if u.Tags, err = addTags(nil, in.Tags); err != nil {
		return nil, err
	}
	if in.SshPublicKeyBody != nil {
		key, err := a.newSshPublicKey(*in.SshPublicKeyBody)
		if err != nil {
			return nil, err
		}
		u.SshPublicKeys = []server.SshPublicKey{key}
	}
	if err := a.users.CreateUser(ctx, in.ServerId, u); err != nil {
		return nil, err
	}
	return &userAnswer{in.ServerId, in.UserName}, nil
}

func (a *API) describeUser(ctx context.Context, in userRequest) (any, error) {
	u, err := a.users.User(ctx, in.ServerId, in.UserName)
	if err != nil {
		return nil, err
	}
	if u.SshPublicKeys == nil {
		u.SshPublicKeys = []server.SshPublicKey{} // clients count on a list
	}
	return struct {
		ServerId server.ID
		User     server.User
	}{in.ServerId, u}, nil
}

func (a *API) updateUser(ctx context.Context, in updateUserRequest) (*userAnswer, error) {
	s, err := a.servers.Server(ctx, in.ServerId)
	if err != nil {
		return nil, err
	}
	err = a.users.UpdateUser(ctx, in.ServerId, in.UserName, func(u *server.User) error {
		if err := changeUser(u, in.userSettings); err != nil {
			return err
		}
		return a.checkUser(*u, s.Domain) // a server's domain never changes
	})
	if err != nil {
		return nil, err
	}
	return &userAnswer{in.ServerId, in.UserName}, nil
}

func (a *API) deleteUser(ctx context.Context, in userRequest) error {
	return a.users.DeleteUser(ctx, in.ServerId, in.UserName)
}

type listUsersRequest struct {
	ServerId server.ID
	pageRequest
}

// listedUser is shape ListedUser.
type listedUser struct {
	Arn               string
	HomeDirectory     string `json:",omitempty"`
	HomeDirectoryType string `json:",omitempty"`
	Role              string
	SshPublicKeyCount int
	UserName          string
}

type listUsersAnswer struct {
	NextToken string `json:",omitempty"`
	ServerId  server.ID
	Users     []listedUser
}

func (a *API) listUsers(ctx context.Context, in listUsersRequest) (*listUsersAnswer, error) {
	all, next, err := page(a, list{"ListUsers", string(in.ServerId)}, in.pageRequest,
		func(p server.Page) ([]server.User, error) { return a.users.Users(ctx, in.ServerId, p) },
		func(u server.User) string { return u.UserName })
	if err != nil {
		return nil, err
	}
	out := &listUsersAnswer{NextToken: next, ServerId: in.ServerId, Users: make([]listedUser, 0, len(all))}
	for _, u := range all {
		out.Users = append(out.Users, listedUser{
			Arn: u.Arn, HomeDirectory: u.HomeDirectory, HomeDirectoryType: u.HomeDirectoryType, Role: u.Role,
			SshPublicKeyCount: len(u.SshPublicKeys), UserName: u.UserName,
		})
	}
	return out, nil
}

// changeUser puts settings into a user and makes sure that the result is one that can go somewhere.
func changeUser(u *server.User, in userSettings) error {
	set(&u.Role, in.Role)
	if in.HomeDirectoryType != nil && *in.HomeDirectoryType != u.HomeDirectoryType {
		// A home of one type means nothing in the other, and the API has no way to clear mappings: they may not be empty.
		u.HomeDirectoryType, u.HomeDirectory, u.HomeDirectoryMappings = *in.HomeDirectoryType, "", nil
	}
	set(&u.HomeDirectory, in.HomeDirectory)
	if in.HomeDirectoryMappings != nil {
		u.HomeDirectoryMappings = in.HomeDirectoryMappings
	}
	set(&u.Policy, in.Policy) // an empty one clears it
	if in.PosixProfile != nil {
		u.PosixProfile = in.PosixProfile
	}
	if in.Policy != nil && u.Policy != "" {
		if _, err := policy.Parse(u.Policy); err != nil {
			return invalid("Policy is no session policy: %v", err) // AWS would not get the role by it
		}
	}
	return checkHome(*u)
}

// checkUser: the rules of a user that depend on where its server keeps files, and the installation's limits.
func (a *API) checkUser(u server.User, domain string) error {
	if n := a.limits.MappingsPerUser; n > 0 && len(u.HomeDirectoryMappings) > n {
		return &server.QuotaError{ResourceType: "HomeDirectoryMapEntry", Limit: n}
	}
	return checkDomain(domain, u.Policy, u.PosixProfile)
}

// checkDomain: an EFS knows callers by their POSIX identity and nothing else ("Amazon EFS does not use session
// policies", Policy's page), so what would not be applied is refused. On S3 a POSIX identity means nothing: it is kept.
func checkDomain(domain, policy string, posix *server.PosixProfile) error {
	switch {
	case domain != domainEFS:
		return nil
	case posix == nil:
		return invalid("PosixProfile must be set if the server's Domain is EFS")
	case policy != "":
		return invalid("Policy can be set only if the server's Domain is S3: Amazon EFS does not use session policies")
	}
	return nil
}

// checkHome: the rules of logical directories, user guide, "Using logical directories".
func checkHome(u server.User) error {
	if !cleanPath(u.HomeDirectory, true) {
		return invalid("HomeDirectory cannot have . or .. or a zero byte in it")
	}
	if u.HomeDirectoryType == homePath {
		if len(u.HomeDirectoryMappings) > 0 {
			return invalid("HomeDirectoryMappings can be set only if HomeDirectoryType is LOGICAL")
		}
		return nil
	}
	if len(u.HomeDirectoryMappings) == 0 {
		return invalid("HomeDirectoryMappings must be set if HomeDirectoryType is LOGICAL")
	}
	for _, m := range u.HomeDirectoryMappings {
		if err := checkMapping(m); err != nil {
			return err
		}
	}
	if err := checkOverlap(u.HomeDirectoryMappings); err != nil {
		return err
	}
	entry := func(m server.HomeDirectoryMapEntry) bool { return m.Entry == u.HomeDirectory }
	if u.HomeDirectory != "" && u.HomeDirectory != "/" && !slices.ContainsFunc(u.HomeDirectoryMappings, entry) {
		return invalid("HomeDirectory must be / or an Entry of HomeDirectoryMappings if HomeDirectoryType is LOGICAL")
	}
	return nil
}

func checkMapping(m server.HomeDirectoryMapEntry) error {
	switch {
	case !cleanPath(m.Entry, false):
		return invalid("HomeDirectoryMappings: Entry %s must be an absolute path without a slash at its end", m.Entry)
	case m.Target == "/" || !cleanPath(m.Target, false):
		return invalid("HomeDirectoryMappings: Target %s must be /bucket or /bucket/key without a slash at its end", m.Target)
	case m.Type == "FILE" && (m.Entry == "/" || strings.Count(m.Target, "/") < 2):
		return invalid("HomeDirectoryMappings: %s of Type FILE must be a file", m.Entry)
	}
	return nil
}

// checkOverlap: "no overlapping paths are allowed", which is when one entry lies in another or is the same.
func checkOverlap(mappings []server.HomeDirectoryMapEntry) error {
	entries := make(map[string]bool, len(mappings))
	for _, m := range mappings {
		if entries[m.Entry] {
			return invalid("HomeDirectoryMappings: Entry %s is there twice", m.Entry)
		}
		entries[m.Entry] = true
	}
	for _, m := range mappings {
		for above := m.Entry; above != "/"; {
			above = path.Dir(above)
			if entries[above] {
				return invalid("HomeDirectoryMappings: Entry %s overlaps with %s", m.Entry, above)
			}
		}
	}
	return nil
}

// cleanPath says whether a path means what it shows. The model has seen that it begins with a slash, or is empty.
func cleanPath(p string, slashAtEnd bool) bool {
	if strings.ContainsRune(p, 0) {
		return false
	}
	if slashAtEnd {
		parts := strings.Split(p, "/")
		return !slices.Contains(parts, ".") && !slices.Contains(parts, "..")
	}
	return path.Clean(p) == p
}
