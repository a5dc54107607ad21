package managed_test

import (
	"context"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/identity/managed"
)

type users map[string]server.User

func (u users) User(_ context.Context, id server.ID, name string) (server.User, error) {
	if name == "broken" {
		return server.User{}, errDatabase
	}
	if found, ok := u[string(id)+"/"+name]; ok {
		return found, nil
	}
	return server.User{}, &server.NotFoundError{ResourceType: "User", Resource: name}
}

var errDatabase = errors.New("database is away")

func body(wire, comment string) server.SshPublicKey {
	return server.SshPublicKey{SshPublicKeyBody: "ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte(wire)) + comment}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	p := managed.New(users{
		"s-1/anna": {UserName: "anna", Role: "arn:role", HomeDirectory: "/bucket/anna", HomeDirectoryType: "PATH",
			PosixProfile: &server.PosixProfile{Uid: 7}, SshPublicKeys: []server.SshPublicKey{
				body("first", ""), {SshPublicKeyBody: "ssh-rsa"}, {SshPublicKeyBody: "ssh-rsa !!!"}, {}, body("second", " \tanna@home now\n")}},
		"s-1/keyless": {UserName: "keyless"},
	})
	for _, c := range []struct {
		name    string
		attempt identity.Attempt
		want    error
	}{
		{"first key", identity.Attempt{UserName: "anna", PublicKey: []byte("first")}, nil},
		{"key with comment", identity.Attempt{UserName: "anna", PublicKey: []byte("second")}, nil},
		{"prefix of a key", identity.Attempt{UserName: "anna", PublicKey: []byte("firs")}, identity.ErrDenied},
		{"wrong key", identity.Attempt{UserName: "anna", PublicKey: []byte("third")}, identity.ErrDenied},
		{"empty key", identity.Attempt{UserName: "anna", PublicKey: []byte{}}, identity.ErrDenied},
		{"user of another server", identity.Attempt{Server: "s-2", UserName: "anna", PublicKey: []byte("first")}, identity.ErrDenied},
		{"unknown user", identity.Attempt{UserName: "nobody", PublicKey: []byte("first")}, identity.ErrDenied},
		{"unknown user with the decoy", identity.Attempt{UserName: "nobody", PublicKey: make([]byte, 51)}, identity.ErrDenied},
		{"no keys", identity.Attempt{UserName: "keyless", PublicKey: []byte("first")}, identity.ErrDenied},
		{"password", identity.Attempt{UserName: "anna", Password: "secret"}, identity.ErrDenied},
		{"FTPS", identity.Attempt{UserName: "anna", Protocol: "FTPS", PublicKey: []byte("first")}, identity.ErrDenied},
		{"database away", identity.Attempt{UserName: "broken", PublicKey: []byte("first")}, errDatabase},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.attempt.Server == "" {
				c.attempt.Server = "s-1"
			}
			if c.attempt.Protocol == "" {
				c.attempt.Protocol = "SFTP"
			}
			g, err := p.Authenticate(t.Context(), c.attempt)
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if c.want != nil && (g.UserName != "" || g.HomeDirectory != "" || g.Role != "") {
				t.Errorf("denied, and yet granted %+v", g)
			}
			if c.want == nil && (g.UserName != "anna" || g.HomeDirectory != "/bucket/anna" || g.Role != "arn:role" ||
				g.HomeDirectoryType != "PATH" || g.Policy != "" || g.PosixProfile.Uid != 7) {
				t.Errorf("granted %+v", g)
			}
		})
	}
}

// TestPolicy: a session policy takes rights away, so it goes wherever the user goes, as it was set.
func TestPolicy(t *testing.T) {
	t.Parallel()
	p := managed.New(users{"s-1/limited": {UserName: "limited", Policy: " ", SshPublicKeys: []server.SshPublicKey{body("first", "")}}})
	for key, granted := range map[string]bool{"first": true, "other": false} {
		g, err := p.Authenticate(t.Context(), identity.Attempt{Server: "s-1", UserName: "limited", Protocol: "SFTP", PublicKey: []byte(key)})
		if granted && (err != nil || g.Policy != " ") || !granted && (!errors.Is(err, identity.ErrDenied) || g.Policy != "") {
			t.Errorf("key %s: %+v, %v", key, g, err)
		}
	}
}
