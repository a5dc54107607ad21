package sftpd

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
)

// maxUserName is the API's longest user name. Longer ones are refused unseen, so that nobody searches or logs them.
const maxUserName = 100

// errRefused is what the library learns of a refused key; why stands in the log alone.
var errRefused = errors.New("refused")

// login is who logged in, and with which key; nil if with a password alone.
type login struct {
	grant identity.Grant
	key   ssh.PublicKey
}

// loginKey finds the login in the library's permissions.
type loginKey struct{}

// sshConfig makes the configuration of one connection.
func (c *connection) sshConfig(ctx context.Context) (*ssh.ServerConfig, error) {
	policy, ok := server.LookupPolicy(c.settings.Server.SecurityPolicyName)
	if !ok {
		return nil, fmt.Errorf("security policy %q is unknown", c.settings.Server.SecurityPolicyName)
	}
	offered, err := offer(policy)
	if err != nil {
		return nil, err
	}
	a := &authenticator{connection: c, ctx: ctx}
	config := &ssh.ServerConfig{
		Config:                    ssh.Config{Ciphers: offered.ciphers, KeyExchanges: offered.kexs, MACs: offered.macs},
		PublicKeyAuthAlgorithms:   offered.userKeys,
		MaxAuthTries:              c.MaxAuthTries,
		ServerVersion:             version,
		VerifiedPublicKeyCallback: a.verified,
		AuthLogCallback:           a.attempted,
	}
	switch a.methods = methods(c.settings.Server); a.methods {
	case methodKey, methodBoth:
		config.PublicKeyCallback = a.offered
	case methodPassword:
		config.PasswordCallback = a.password(nil)
	case methodEither:
		config.PublicKeyCallback, config.PasswordCallback = a.offered, a.password(nil)
	default:
		return nil, fmt.Errorf("SftpAuthenticationMethods %q is unknown", a.methods)
	}
	if text := c.settings.Server.PreAuthenticationLoginBanner; text != "" {
		config.BannerCallback = func(ssh.ConnMetadata) string { return banner(text) }
	}
	if c.keys, err = c.rings.of(c.settings.HostKeys, offered.sha1); err != nil {
		return nil, err
	}
	for _, signer := range c.keys.active {
		config.AddHostKey(signer)
	}
	return config, nil
}

// banner ends a banner's last line (RFC 4252, 5.4), else the client's prompt stands behind it.
func banner(text string) string {
	if strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\r\n"
}

// The values of SftpAuthenticationMethods (API: IdentityProviderDetails). methodBoth is the key first, and the password
// only after a key that was good.
const (
	methodPassword = "PASSWORD"
	methodKey      = "PUBLIC_KEY"
	methodEither   = "PUBLIC_KEY_OR_PASSWORD"
	methodBoth     = "PUBLIC_KEY_AND_PASSWORD"
)

// methods is how a server's users log in. Users of the catalogue have keys alone, those of a directory passwords alone;
// with a provider of one's own both do unless the server says otherwise (AWS user guide, "Working with custom identity
// providers").
func methods(s server.Server) string {
	switch s.IdentityProviderType {
	case "", "SERVICE_MANAGED":
		return methodKey
	case "AWS_DIRECTORY_SERVICE":
		return methodPassword
	}
	if d := s.IdentityProviderDetails; d != nil && d.SftpAuthenticationMethods != "" {
		return d.SftpAuthenticationMethods
	}
	return methodEither
}

// authenticator answers the library's questions during one handshake. The library asks one at a time.
type authenticator struct {
	*connection
	ctx     context.Context
	methods string
}

// offered is asked for each key that a client offers, also when it only asks whether signing would be worth the while:
// so what is found here counts as a login nowhere.
func (a *authenticator) offered(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	grant, err := a.ask(meta, "publickey", identity.Attempt{PublicKey: key.Marshal()}, keyReason(key))
	if err != nil {
		return nil, err
	}
	return permissions(login{grant: grant, key: key}), nil
}

// password answers passwords, after a key has been proven if there is one. The provider is asked anew then, and its
// answer to the password is what counts: each of the two must be whole (AWS user guide, "Working with custom identity
// providers").
func (a *authenticator) password(key ssh.PublicKey) func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) {
	return func(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
		grant, err := a.ask(meta, "password", identity.Attempt{Password: string(password)}, wrongLogin)
		if err != nil {
			return nil, err
		}
		a.metrics.auth.WithLabelValues("accepted").Inc()
		return permissions(login{grant: grant, key: key}), nil
	}
}

func permissions(l login) *ssh.Permissions {
	return &ssh.Permissions{ExtraData: map[any]any{loginKey{}: l}}
}

// ask puts an attempt before the provider. A refusal is logged here, with the provider's words or else with ours.
func (a *authenticator) ask(meta ssh.ConnMetadata, method string, attempt identity.Attempt, ours string) (identity.Grant, error) {
	if len(meta.User()) > maxUserName {
		a.refused(method, cutTo(meta.User(), maxUserName), "user name too long")
		return identity.Grant{}, errRefused
	}
	attempt.Server, attempt.UserName = a.settings.Server.ServerId, meta.User()
	attempt.Protocol, attempt.SourceIP = protocol, a.sourceIP
	grant, err := a.Provider.Authenticate(a.ctx, attempt)
	switch {
	case err == nil:
		return grant, nil
	case errors.Is(err, identity.ErrDenied):
		a.refused(method, meta.User(), reason(err, ours))
	default:
		a.metrics.auth.WithLabelValues("error").Inc()
		a.fault(a.ctx, "authenticate", err, slog.String("user", meta.User()))
	}
	return identity.Grant{}, errRefused
}

// wrongLogin is AWS's text.
const wrongLogin = "Invalid user name or password"

// keyReason is what AWS says of a key that it refuses.
func keyReason(key ssh.PublicKey) string { return key.Type() + " " + ssh.FingerprintSHA256(key) }

// reason is what the log says of a refusal: the provider's words if it has some, else ours.
func reason(err error, ours string) string {
	var denied *identity.DeniedError
	if errors.As(err, &denied) {
		return denied.Reason
	}
	return ours
}

// verified is told when a client proved that it has the key, which may be half of the way (RFC 4252, 5.1).
func (a *authenticator) verified(_ ssh.ConnMetadata, key ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	if a.methods == methodBoth {
		return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{PasswordCallback: a.password(key)}}
	}
	a.metrics.auth.WithLabelValues("accepted").Inc()
	return p, nil
}

// attempted is told of every attempt. What the provider refused is logged already; "none" is how a client asks for the
// methods (RFC 4252, 5.2).
func (a *authenticator) attempted(meta ssh.ConnMetadata, method string, err error) {
	var half *ssh.PartialSuccessError
	if err == nil || method == "none" || errors.Is(err, errRefused) || errors.As(err, &half) {
		return
	}
	message := wrongLogin
	if method == "publickey" {
		message = "signature not accepted"
	}
	a.refused(method, cutTo(meta.User(), maxUserName), message)
}

// refused logs a refused attempt, as AWS does.
func (c *connection) refused(method, user, message string) {
	c.metrics.auth.WithLabelValues("refused").Inc()
	c.event(context.Background(), slog.LevelWarn, "AUTH_FAILURE",
		slog.String("method", method), slog.String("user", user),
		slog.String("source-ip", c.sourceIP), slog.String("message", message))
}

// publicKey is a key as the CONNECTED entry shows it, if the login had one.
func publicKey(key ssh.PublicKey) []slog.Attr {
	if key == nil {
		return nil
	}
	return []slog.Attr{
		slog.String("ssh-public-key", base64.StdEncoding.EncodeToString(key.Marshal())),
		slog.String("ssh-public-key-fingerprint", ssh.FingerprintSHA256(key)),
		slog.String("ssh-public-key-type", key.Type()),
	}
}
