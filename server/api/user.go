package api

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/transferd/transferd/server"
)

const (
	homePath    = "PATH"
	homeLogical = "LOGICAL"
	// maxMappings is the quota of a service-managed user; the model's 50,000 are for other providers.
	maxMappings = 2000
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
	var err error
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
	err := a.users.UpdateUser(ctx, in.ServerId, in.UserName, func(u *server.User) error { return changeUser(u, in.userSettings) })
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

// changeUser puts settings into a user and makes sure that the result is one that can log in and go somewhere.
func changeUser(u *server.User, in userSettings) error {
	switch {
	case in.Policy != nil && *in.Policy != "":
		return unsupported("Policy")
	case in.PosixProfile != nil:
		return unsupported("PosixProfile (it serves Amazon EFS, which)")
	}
	set(&u.Role, in.Role)
	if in.HomeDirectoryType != nil && *in.HomeDirectoryType != u.HomeDirectoryType {
		// A home of one type means nothing in the other, and the API has no way to clear mappings: they may not be empty.
		u.HomeDirectoryType, u.HomeDirectory, u.HomeDirectoryMappings = *in.HomeDirectoryType, "", nil
	}
	set(&u.HomeDirectory, in.HomeDirectory)
	if in.HomeDirectoryMappings != nil {
		u.HomeDirectoryMappings = in.HomeDirectoryMappings
	}
	return checkHome(*u)
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
	switch n := len(u.HomeDirectoryMappings); {
	case n == 0:
		return invalid("HomeDirectoryMappings must be set if HomeDirectoryType is LOGICAL")
	case n > maxMappings:
		return invalid("HomeDirectoryMappings cannot have more than %d entries", maxMappings)
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
