package sftpd

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"golang.org/x/crypto/ssh"
)

// event writes one entry under AWS's names ("Structured JSON logging" of the user guide). All values are strings.
func (c *connection) event(ctx context.Context, level slog.Level, activity string, attrs ...slog.Attr) {
	c.Log.LogAttrs(ctx, level, activity, append([]slog.Attr{
		slog.String("activity-type", activity),
		slog.String("resource-arn", c.settings.Server.Arn),
	}, attrs...)...)
}

// fault writes an entry about something that went wrong on our side. Here alone the text of an error from below shows,
// beside the words that the client gets.
func (c *connection) fault(ctx context.Context, operation string, err error, attrs ...slog.Attr) {
	c.event(ctx, slog.LevelError, "ERROR", append([]slog.Attr{
		slog.String("operation", operation),
		slog.String("message", "Service unavailable"),
		slog.String("error", err.Error()),
		slog.String("source-ip", c.sourceIP),
	}, attrs...)...)
}

// connected writes the entry that begins a session.
func (c *connection) connected(ctx context.Context, sessionID string) {
	attrs := []slog.Attr{
		slog.String("session-id", sessionID),
		slog.String("user", c.login.grant.UserName),
		slog.String("role", c.login.grant.Role),
		slog.String("home-dir", c.login.grant.LoggedHome()),
		slog.String("source-ip", c.sourceIP),
		slog.String("client", string(c.ssh.ClientVersion())),
	}
	if c.proxied {
		attrs = append(attrs, slog.String("proxy-protocol-v2-header", "applied"))
	}
	if negotiated, ok := c.ssh.Conn.(ssh.AlgorithmsConnMetadata); ok {
		a := negotiated.Algorithms()
		attrs = append(attrs, slog.String("kex", a.KeyExchange), slog.String("ciphers", a.Read.Cipher+","+a.Write.Cipher))
	}
	c.event(ctx, slog.LevelInfo, "CONNECTED", append(attrs, publicKey(c.login.key)...)...)
}

// maxList bounds what a stranger can write into the log.
const maxList = 1024

func cutTo(s string, n int) string { return s[:min(len(s), n)] }

// wanted is AWS's word for what could not be agreed upon.
func wanted(what string) string {
	switch what {
	case "key exchange":
		return "key exchange method"
	case "host key":
		return "host key type"
	}
	return what
}

// handshakeFailed writes why a connection came to no login. Refused logins have their entries already.
func (c *connection) handshakeFailed(ctx context.Context, err error) {
	var auth *ssh.ServerAuthError
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &negotiation):
		c.metrics.handshakes.WithLabelValues("kex").Inc()
		c.event(ctx, slog.LevelWarn, "KEX_FAILURE",
			slog.String("source-ip", c.sourceIP),
			slog.String("message", "no matching "+wanted(negotiation.What)+" found"),
			slog.String("kex", cutTo(strings.Join(negotiation.RequestedAlgorithms, ","), maxList)))
	case errors.As(err, &auth):
		c.metrics.handshakes.WithLabelValues("auth").Inc()
	default:
		c.metrics.handshakes.WithLabelValues("broken").Inc()
		c.Log.LogAttrs(ctx, slog.LevelDebug, "handshake",
			slog.String("source-ip", c.sourceIP), slog.String("message", err.Error()))
	}
}
