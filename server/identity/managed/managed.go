// Package managed is the identity provider of service-managed users: those that the catalogue itself holds, with their
// public keys.
//
// It knows nothing of sessions, paths, storage or SQL; the catalogue is one method to it.
package managed

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
)

// Users finds a user of a server; a *server.NotFoundError if there is none.
type Users interface {
	User(ctx context.Context, id server.ID, name string) (server.User, error)
}

// Provider answers attempts from the catalogue.
type Provider struct{ users Users }

// New makes a Provider.
func New(users Users) *Provider { return &Provider{users: users} }

// decoy is what an attempt for an unknown user is compared with, so that it takes the same way as a wrong key. No key has
// a type of this name.
var decoy = []server.SshPublicKey{{SshPublicKeyBody: "none " + base64.StdEncoding.EncodeToString(make([]byte, 51))}}

// Authenticate grants a user what the catalogue says if the key is one of the user's. Service-managed users have public
// keys and SFTP alone (transfer-api 3.1), so every other attempt is denied without a look at who it is.
func (p *Provider) Authenticate(ctx context.Context, a identity.Attempt) (identity.Grant, error) {
	if len(a.PublicKey) == 0 || a.Protocol != "SFTP" {
		return identity.Grant{}, identity.ErrDenied
	}
	u, err := p.users.User(ctx, a.Server, a.UserName)
	var unknown *server.NotFoundError
	switch {
	case errors.As(err, &unknown):
		u = server.User{SshPublicKeys: decoy}
	case err != nil:
		return identity.Grant{}, fmt.Errorf("find user: %w", err)
	}
	if !holds(u.SshPublicKeys, a.PublicKey) || unknown != nil {
		return identity.Grant{}, identity.ErrDenied
	}
	return identity.Grant{
		UserName:              u.UserName,
		Role:                  u.Role,
		HomeDirectory:         u.HomeDirectory,
		HomeDirectoryType:     u.HomeDirectoryType,
		HomeDirectoryMappings: u.HomeDirectoryMappings,
		Policy:                u.Policy,
		PosixProfile:          u.PosixProfile,
	}, nil
}

// holds looks at every key, so that the time does not tell which one it was.
func holds(keys []server.SshPublicKey, wire []byte) bool {
	found := 0
	for _, k := range keys {
		found |= subtle.ConstantTimeCompare(decode(k.SshPublicKeyBody), wire)
	}
	return found == 1
}

// decode is the wire form in an authorized_keys body, "type base64 comment" (sshd(8), AUTHORIZED_KEYS FILE FORMAT); nil
// if it is none, which equals no attempt's key.
func decode(body string) []byte {
	fields := strings.Fields(body)
	if len(fields) < 2 {
		return nil
	}
	wire, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil
	}
	return wire
}
