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

// login is who logged in, with which key.
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
		PublicKeyCallback:         a.offered,
		VerifiedPublicKeyCallback: a.verified,
		AuthLogCallback:           a.attempted,
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

// authenticator answers the library's questions during one handshake. The library asks one at a time.
type authenticator struct {
	*connection
	ctx context.Context
}

// offered is asked for each key that a client offers, also when it only asks whether signing would be worth the while:
// so what is found here counts as a login nowhere.
func (a *authenticator) offered(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if len(meta.User()) > maxUserName {
		a.refused("publickey", cutTo(meta.User(), maxUserName), "user name too long")
		return nil, errRefused
	}
	grant, err := a.Provider.Authenticate(a.ctx, identity.Attempt{
		Server:    a.settings.Server.ServerId,
		UserName:  meta.User(),
		Protocol:  protocol,
		SourceIP:  a.sourceIP,
		PublicKey: key.Marshal(),
	})
	switch {
	case errors.Is(err, identity.ErrDenied):
		a.refused("publickey", meta.User(), reason(err, key))
		return nil, errRefused
	case err != nil:
		a.metrics.auth.WithLabelValues("error").Inc()
		a.fault(a.ctx, "authenticate", err, slog.String("user", meta.User()))
		return nil, errRefused
	}
	return &ssh.Permissions{ExtraData: map[any]any{loginKey{}: login{grant: grant, key: key}}}, nil
}

// reason is what the log says of a refusal: the provider's words if it has some, else the key, as AWS does.
func reason(err error, key ssh.PublicKey) string {
	var denied *identity.DeniedError
	if errors.As(err, &denied) {
		return denied.Reason
	}
	return key.Type() + " " + ssh.FingerprintSHA256(key)
}

// verified is told when a client proved that it has the key.
func (a *authenticator) verified(_ ssh.ConnMetadata, _ ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	a.metrics.auth.WithLabelValues("accepted").Inc()
	return p, nil
}

// attempted is told of every attempt. Refused keys are logged already, with their fingerprint; "none" is how a client
// asks for the methods (RFC 4252, 5.2).
func (a *authenticator) attempted(meta ssh.ConnMetadata, method string, err error) {
	if err == nil || method == "none" || errors.Is(err, errRefused) {
		return
	}
	message := "Invalid user name or password" // AWS's text
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

// publicKey is a key as the CONNECTED entry shows it.
func publicKey(key ssh.PublicKey) []slog.Attr {
	return []slog.Attr{
		slog.String("ssh-public-key", base64.StdEncoding.EncodeToString(key.Marshal())),
		slog.String("ssh-public-key-fingerprint", ssh.FingerprintSHA256(key)),
		slog.String("ssh-public-key-type", key.Type()),
	}
}
