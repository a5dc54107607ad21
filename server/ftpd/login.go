package ftpd

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
)

// maxUserName is the API's longest user name. Longer ones are refused unseen, so that nobody searches or logs them.
const maxUserName = 100

// access has the commands before and at the login. out and pass are what filter gives back; ours is false for others.
func (c *connection) access(verb, arg, line string) (out string, pass, ours bool) {
	word := strings.ToUpper(strings.TrimSpace(arg))
	switch verb {
	case "AUTH":
		out, pass = c.auth(word)
	case "PBSZ":
		if !c.secure.Load() {
			out, pass = c.answer(503, "AUTH TLS first.")
		} else { // RFC 4217, 8: of TLS the size is always 0
			out, pass = c.answer(200, "PBSZ=0")
		}
	case "PROT":
		out, pass = c.prot(word)
	case "USER":
		out, pass = c.user(arg)
	case "PASS":
		out, pass = c.pass(arg)
	default:
		return "", false, false
	}
	return out, pass, true
}

// auth begins TLS (RFC 4217, 4). The pump stands still until it is told what to read from.
func (c *connection) auth(mechanism string) (string, bool) {
	defer func() {
		select {
		case c.control.again <- struct{}{}:
		case <-c.over:
		}
	}()
	switch {
	case !c.rules.ftps:
		return c.answer(502, "TLS is not enabled on this server.")
	case c.secure.Load():
		return c.answer(503, "TLS is in use already.")
	case c.session != nil:
		return c.answer(503, "AUTH comes before the login.")
	case mechanism == "":
		return c.answer(501, "A mechanism is missing: use AUTH TLS.")
	case mechanism != "TLS" && mechanism != "TLS-C" && mechanism != "TLS-P" && mechanism != "SSL":
		return c.answer(504, "Unknown mechanism: use AUTH TLS.")
	}
	config, err := c.keys.config(c.ctx)
	if err != nil {
		c.fault(c.ctx, "AUTH", err)
		return c.answer(431, "TLS is not available at the moment.")
	}
	c.answer(234, "Begin TLS.")
	c.handshake(config)
	// In the drafts before RFC 4217 these mean that data is protected from the start.
	c.protected.Store(mechanism == "TLS-P" || mechanism == "SSL")
	return "", false
}

// handshake puts TLS over the control connection. If it fails the connection is over.
func (c *connection) handshake(config *tls.Config) {
	secured := tls.Server(c.control.wire, config)
	ctx, cancel := context.WithTimeout(c.ctx, c.HandshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		c.metrics.handshakes.WithLabelValues("control", "failed").Inc()
		c.Log.LogAttrs(c.ctx, slog.LevelDebug, "handshake", slog.String("source-ip", c.sourceIP), slog.String("error", err.Error()))
		c.control.end(err)
		c.cut(session.Disconnect)
		return
	}
	c.metrics.handshakes.WithLabelValues("control", "ok").Inc()
	c.control.upgrade(secured)
	state := secured.ConnectionState()
	c.tlsVersion, c.cipher = tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite)
	c.secure.Store(true)
}

// prot sets the protection of data connections (RFC 4217, 9): private behind TLS, clear without.
func (c *connection) prot(level string) (string, bool) {
	switch {
	case !c.secure.Load():
		return c.answer(503, "AUTH TLS first.")
	case level == "P":
		c.protected.Store(true)
		return c.answer(200, "Data connections are private.")
	case level == "C":
		return c.answer(534, "Data connections must be protected: send PROT P.")
	case level == "S" || level == "E":
		return c.answer(536, "TLS has no such level: send PROT P.")
	}
	return c.answer(504, "Unknown level: send PROT P.")
}

// user takes the name. With FTPS alone it must not come in the clear.
func (c *connection) user(name string) (string, bool) {
	switch {
	case c.session != nil:
		return c.answer(503, "You are logged in already.")
	case !c.rules.ftp && !c.secure.Load():
		return c.answer(530, "TLS is required: send AUTH TLS first.")
	case len(name) > maxUserName:
		return c.answer(501, "This is no user name.")
	}
	c.name = name
	return "USER " + name, true
}

// pass checks the password and begins the session. The library learns of success only.
func (c *connection) pass(password string) (string, bool) {
	switch {
	case c.session != nil:
		return c.answer(503, "You are logged in already.")
	case c.name == "":
		return c.answer(503, "USER comes first.")
	}
	grant, err := c.Provider.Authenticate(c.ctx, identity.Attempt{
		Server: c.settings.Server.ServerId, UserName: c.name, Protocol: c.protocol(), SourceIP: c.sourceIP, Password: password,
	})
	switch {
	case errors.Is(err, identity.ErrDenied):
		return c.denied(err)
	case err == nil:
		err = c.start(grant)
	}
	if err != nil {
		c.metrics.auth.WithLabelValues("error").Inc()
		c.fault(c.ctx, "authenticate", err, slog.String("user", c.name))
		return c.answer(530, "Logins are not possible at the moment.")
	}
	c.metrics.auth.WithLabelValues("accepted").Inc()
	return "PASS -", true
}

// denied answers a wrong name or password: late, later each time, and the last time with the end of the connection.
func (c *connection) denied(err error) (string, bool) {
	message := "Invalid user name or password" // AWS's text
	var denied *identity.DeniedError
	if errors.As(err, &denied) {
		message = denied.Reason
	}
	c.metrics.auth.WithLabelValues("refused").Inc()
	c.event(c.ctx, slog.LevelWarn, "AUTH_FAILURE", slog.String("method", "password"), slog.String("user", c.name),
		slog.String("source-ip", c.sourceIP), slog.String("message", message))
	delay := time.NewTimer(c.LoginDelay << min(c.tries, 4))
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-c.over:
	case <-c.control.ended:
	}
	c.tries++
	if c.Banned != nil {
		if until, banned := c.Banned(c.sourceIP); banned {
			c.answer(421, bannedText(until))
			c.cut(session.Disconnect)
			return "", false
		}
	}
	if c.tries >= c.MaxAuthTries {
		c.answer(421, "Too many wrong passwords.")
		c.cut(session.Disconnect)
		return "", false
	}
	return c.answer(530, "Login incorrect.")
}

// protocol is the API's name of what is spoken.
func (c *connection) protocol() string {
	if c.secure.Load() {
		return "FTPS"
	}
	return "FTP"
}

// start begins the session.
func (c *connection) start(grant identity.Grant) error {
	view, err := vfs.New(vfs.Home{
		Domain:    c.settings.Server.Domain,
		Type:      grant.HomeDirectoryType,
		Directory: grant.HomeDirectory,
		Mappings:  grant.HomeDirectoryMappings,
		UserName:  grant.UserName,

		Role: grant.Role, Policy: grant.Policy, PosixProfile: grant.PosixProfile,
		SourceIP: c.sourceIP, Now: c.Now,
	}, c.Stores)
	if err != nil {
		return err
	}
	s, err := c.Sessions.Start(c.ctx, session.Info{
		Server:    c.settings.Server.ServerId,
		ServerARN: c.settings.Server.Arn,
		User:      grant.UserName,
		Protocol:  c.protocol(),
		SourceIP:  c.sourceIP,
		Client:    c.client.name(),
		Role:      grant.Role,
	}, view)
	if err != nil {
		return err
	}
	c.session = s
	c.change(func(state *connectionState) { state.session = s })
	c.connected(c.ctx, grant)
	return nil
}
