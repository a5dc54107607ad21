package ftpd

import (
	"context"
	"log/slog"

	"github.com/transferd/transferd/server/identity"
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
func (c *connection) connected(ctx context.Context, grant identity.Grant) {
	attrs := []slog.Attr{
		slog.String("session-id", c.session.ID()),
		slog.String("user", grant.UserName),
		slog.String("role", grant.Role),
		slog.String("home-dir", grant.LoggedHome()),
		slog.String("source-ip", c.sourceIP),
		slog.String("client", c.client.name()),
		slog.String("protocol", c.protocol()),
	}
	if c.proxy.IsValid() {
		attrs = append(attrs, slog.String("proxy-protocol-v2-header", "applied"))
	}
	if c.secure.Load() {
		attrs = append(attrs, slog.String("tls-version", c.tlsVersion), slog.String("ciphers", c.cipher))
	}
	c.event(ctx, slog.LevelInfo, "CONNECTED", attrs...)
}

func (c *connection) disconnected(ctx context.Context) {
	c.event(ctx, slog.LevelInfo, "DISCONNECTED", slog.String("session-id", c.session.ID()))
}

// idled says why a session is about to end.
func (c *connection) idled() {
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if session == nil {
		return // nobody has logged in
	}
	c.event(c.ctx, slog.LevelInfo, "EXIT_REASON", slog.String("session-id", session.ID()), slog.String("user", session.Info().User),
		slog.String("source-ip", c.sourceIP), slog.String("message", "client is idle"))
}
