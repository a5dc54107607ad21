// Package identity says what an identity provider is, and asks the right one for each server. The implementations are in
// the folders below: managed (users of the catalogue) and gateway (an HTTP endpoint, which usersfile can be); lambda and
// directory come later. guard stands before them all and slows down who guesses.
//
// It knows nothing of sessions, paths, storage or workflows.
package identity

import (
	"context"
	"errors"

	"github.com/transferd/transferd/server"
)

// ErrDenied is the answer to a wrong user, key or password. It never says which.
var ErrDenied = errors.New("access denied")

// DeniedError is an ErrDenied with its reason, for whoever runs the server: it stands in the log and nowhere else.
type DeniedError struct{ Reason string }

func (e *DeniedError) Error() string { return ErrDenied.Error() + ": " + e.Reason }

// Unwrap makes it an ErrDenied to whoever does not ask for the reason.
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Provider says who somebody is and where they may go.
type Provider interface {
	// Authenticate answers an attempt with what the user gets, or ErrDenied; any other error means that the provider
	// could not decide. It is also called for SSH public-key queries, which prove nothing.
	Authenticate(ctx context.Context, a Attempt) (Grant, error)
}

// Attempt is one try to log in.
type Attempt struct {
	Server    server.ID
	UserName  string
	Protocol  string // SFTP, FTPS or FTP
	SourceIP  string
	PublicKey []byte // SSH wire form (RFC 4253, 6.6); nil for a password attempt
	Password  string
}

// Grant is what a user gets.
type Grant struct {
	UserName              string
	Role                  string
	HomeDirectory         string
	HomeDirectoryType     string // PATH or LOGICAL
	HomeDirectoryMappings []server.HomeDirectoryMapEntry
	Policy                string
	PosixProfile          *server.PosixProfile
}

// LoggedHome is the home directory as AWS's logs show it, / for logical users (transfer-api 3.2).
func (g Grant) LoggedHome() string {
	if g.HomeDirectoryType == "LOGICAL" {
		return "/"
	}
	return g.HomeDirectory
}
