package ftpd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/transferd/transferd/server"
)

// The values of TlsSessionResumptionMode. ENFORCED is the default (API: ProtocolDetails).
const (
	resumptionDisabled = "DISABLED"
	resumptionEnabled  = "ENABLED"
	resumptionEnforced = "ENFORCED"
)

// keys make the TLS configurations of one control connection and its data connections. They share a random key for
// session tickets, which nobody else has: so a data connection that resumes anything resumes a session of its own control
// connection, and the key is gone with it.
type keys struct {
	c      *connection
	mode   string
	ticket [32]byte
	base   *tls.Config // made by the control connection's handshake
}

func newKeys(c *connection) *keys {
	k := &keys{c: c, mode: resumptionEnforced}
	if d := c.settings.Server.ProtocolDetails; d != nil && d.TlsSessionResumptionMode != "" {
		k.mode = d.TlsSessionResumptionMode
	}
	rand.Read(k.ticket[:]) // never fails
	return k
}

// config is the control connection's.
func (k *keys) config(context.Context) (*tls.Config, error) {
	if k.c.Certificates == nil {
		return nil, errors.New("no certificates are configured")
	}
	certificate, err := k.c.Certificates(k.c.settings.Server.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	policy, ok := server.LookupPolicy(k.c.settings.Server.SecurityPolicyName)
	if !ok {
		return nil, fmt.Errorf("security policy %q is unknown", k.c.settings.Server.SecurityPolicyName)
	}
	suites, err := offer(policy)
	if err != nil {
		return nil, err
	}
	k.base = &tls.Config{
		Certificates:           []tls.Certificate{*certificate},
		MinVersion:             tls.VersionTLS12,
		MaxVersion:             tls.VersionTLS13,
		CipherSuites:           suites,
		SessionTicketsDisabled: k.mode == resumptionDisabled,
		Time:                   k.c.Now,
	}
	if k.c.TLS12Only {
		k.base.MaxVersion = tls.VersionTLS12
	}
	// Set, not left to the library: an automatic key belongs to one Config and its clones could not use it.
	k.base.SetSessionTicketKeys([][32]byte{k.ticket})
	return k.base, nil
}

// offer intersects a policy's TLS suites with what crypto/tls implements. Those of TLS 1.3 are all fine and not
// configurable.
func offer(p server.SecurityPolicy) ([]uint16, error) {
	var ids []uint16
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if slices.Contains(p.TlsCiphers, suite.Name) && slices.Contains(suite.SupportedVersions, tls.VersionTLS12) {
			ids = append(ids, suite.ID)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("security policy %s: none of its TLS ciphers is supported", p.SecurityPolicyName)
	}
	return ids, nil
}

// CheckPolicy says whether a policy leaves at least one TLS cipher that this build implements.
func CheckPolicy(p server.SecurityPolicy) error {
	_, err := offer(p)
	return err
}

// ticketing is what one data connection's handshake found out.
type ticketing struct {
	config  *tls.Config
	offered bool // the client showed a ticket, whosever it was
}

// data is the configuration of one data connection.
//
// A client of TLS 1.3 that uploads and closes without reading leaves a new ticket unread, so its kernel answers with a
// reset and drops what it had not sent yet. So only connections that resumed get a new ticket: those clients read it, but
// for those that resume with the first ticket every time. GetCertificate is asked when the decision against resuming has
// fallen, UnwrapSession when resuming is not disabled, and both before the ticket is made; crypto/tls promises none of it,
// a test does.
func (k *keys) data() *ticketing {
	t := &ticketing{config: k.base.Clone()}
	certificate := &k.base.Certificates[0]
	t.config.Certificates = nil
	t.config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if !k.c.TLS12Only && slices.Contains(hello.SupportedVersions, tls.VersionTLS13) {
			t.config.SessionTicketsDisabled = true
		}
		return certificate, nil
	}
	t.config.UnwrapSession = func(identity []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		t.offered = len(identity) > 0
		resumable, err := t.config.DecryptTicket(identity, state)
		if resumable != nil && state.Version == tls.VersionTLS13 && k.c.client.keepsTicket() {
			t.config.SessionTicketsDisabled = true
		}
		return resumable, err
	}
	return t
}

// resumed judges a data connection that has shaken hands: under ENFORCED it must have resumed.
func (k *keys) resumed(state tls.ConnectionState, t *ticketing) error {
	c := k.c
	version, resumed := tls.VersionName(state.Version), map[bool]string{true: "yes", false: "no"}[state.DidResume]
	c.metrics.resumed.WithLabelValues(c.client.kind(), version, resumed).Inc()
	if state.DidResume || k.mode != resumptionEnforced {
		return nil
	}
	offered, help := "no", "The client must reuse the TLS session of the control connection, or TlsSessionResumptionMode must be ENABLED."
	switch {
	case t.offered:
		offered, help = "yes", "The ticket was of another control connection, or used up: see the client's setting for session reuse."
	case state.Version == tls.VersionTLS12 && c.client.kind() == "curl":
		help = "This client resumes in TLS 1.3 only: allow 1.3 on both sides, or set TlsSessionResumptionMode to ENABLED."
	}
	c.event(c.ctx, slog.LevelWarn, "TLS_RESUME_FAILURE",
		slog.String("session-id", c.session.ID()), slog.String("source-ip", c.sourceIP), slog.String("user", c.name),
		slog.String("client", c.client.name()), slog.String("tls-version", version), slog.String("ticket-offered", offered),
		slog.String("message", help))
	return failure{522, "The data connection must resume the TLS session of the control connection (TlsSessionResumptionMode ENFORCED)."}
}
