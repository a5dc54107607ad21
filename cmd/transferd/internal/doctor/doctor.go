// Package doctor examines an FTP server as a client sees it, from where it runs: it connects, shakes hands, logs in and
// opens data connections, and says in plain words what is wrong and which setting of transferd mends it.
//
// It speaks FTP by itself (RFC 959, 2428, 4217) and trusts nothing that the server says: replies are bounded, and what is
// shown of them is cleaned. It knows nothing of the daemon, its configuration or its rooms, so it judges other servers too.
package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Status is what a check came to.
type Status string

// The statuses. Wrong alone makes a server unwell.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Wrong   Status = "wrong"
	Skipped Status = "skipped"
)

// Finding is the outcome of one check.
type Finding struct {
	Check  string // what was looked at
	Status Status
	Says   string // what was found
	Mend   string `json:",omitempty"` // what to do about it
}

// Report is all that was found, in the order in which it was looked at.
type Report struct {
	Address  string
	Findings []Finding
}

// Well says whether nothing is wrong.
func (r Report) Well() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Status == Wrong })
}

// Config says whom to examine, and how.
type Config struct {
	Address  string // host:port; the host is also the name that the certificate must have
	Implicit bool   // TLS begins with the connection
	// User and Password log in; without them data connections are not examined. They are sent over TLS alone, unless
	// Plain allows otherwise.
	User, Password string
	Plain          bool
	Roots          *x509.CertPool // whom to trust; nil is the system's authorities
	Timeout        time.Duration  // of each step: 20 s
	Now            func() time.Time
	// Dial opens connections; default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// examination is one run.
type examination struct {
	Config
	host   string
	report Report
}

// Run examines a server. It ends early when a check makes the ones behind it pointless.
func Run(ctx context.Context, c Config) Report {
	c.Timeout = cmp.Or(c.Timeout, 20*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	e := &examination{Config: c, report: Report{Address: c.Address}}
	host, _, err := net.SplitHostPort(c.Address)
	if err != nil {
		e.add("address", Wrong, "this is no HOST:PORT", "")
		return e.report
	}
	e.host = host
	state, way := e.first(ctx)
	if state != nil {
		e.certificate(*state)
		e.clear(ctx)
	}
	e.sessions(ctx, way)
	return e.report
}

func (e *examination) add(check string, status Status, says, mend string) {
	e.report.Findings = append(e.report.Findings, Finding{Check: check, Status: status, Says: says, Mend: mend})
}

// problem is an error that is a finding.
type problem struct{ Finding }

func (p *problem) Error() string { return p.Check + ": " + p.Says }

func wrong(check, says, mend string) error { return &problem{Finding{check, Wrong, says, mend}} }

// note adds what an error found.
func (e *examination) note(check string, err error) {
	var p *problem
	if errors.As(err, &p) {
		e.report.Findings = append(e.report.Findings, p.Finding)
		return
	}
	e.add(check, Wrong, explain(err), "")
}

// way is how the server can be spoken to.
type way int

// The ways: none, in the clear alone, and with TLS.
const (
	shut way = iota
	plain
	secured
)

// first goes the way of a client up to TLS, step by step. The state is nil if there is no TLS.
func (e *examination) first(ctx context.Context) (*tls.ConnectionState, way) {
	c, err := e.connect(ctx)
	if err != nil {
		e.note("connection", err)
		return nil, shut
	}
	defer c.close()
	e.add("connection", OK, "connected to "+c.conn.RemoteAddr().String(), "")
	if e.Implicit {
		if err := c.secure(ctx, 0); err != nil {
			e.note(checkTLS, err)
			return nil, shut
		}
	}
	text, err := c.greeting()
	if err != nil {
		e.note("greeting", err)
		return nil, shut
	}
	e.add("greeting", OK, text, "")
	e.features(c)
	if !e.Implicit {
		if err := c.auth(ctx, 0); err != nil {
			e.note("AUTH TLS", err)
			if c.broken {
				return nil, shut
			}
			return nil, plain
		}
	}
	state := c.tls.ConnectionState()
	e.add(checkTLS, OK, tls.VersionName(state.Version)+", "+tls.CipherSuiteName(state.CipherSuite), "")
	return &state, secured
}

// features looks for what clients need (RFC 2389).
func (e *examination) features(c *control) {
	code, text, err := c.command("FEAT")
	switch {
	case err != nil:
		e.note("FEAT", err)
		return
	case code != 211:
		e.add("FEAT", Warning, fmt.Sprintf("answered with %d: clients have to guess what the server can do", code), "")
		return
	}
	have := map[string]bool{}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(line)), " ")
		have[name] = true
	}
	var missing []string
	for _, name := range []string{"UTF8", "EPSV", "SIZE", "MDTM", "MLST", "REST"} {
		if !have[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		e.add("FEAT", Warning, "does not have "+strings.Join(missing, ", "), "")
		return
	}
	e.add("FEAT", OK, "all that clients look for", "")
}

// clear looks whether a login without TLS is possible beside one with it. It names nobody and sends no password.
func (e *examination) clear(ctx context.Context) {
	const check = "login without TLS"
	if e.Implicit {
		return
	}
	c, err := e.connect(ctx)
	if err == nil {
		defer c.close()
		_, err = c.greeting()
	}
	if err != nil {
		e.note(check, err)
		return
	}
	switch code, _, err := c.command("USER transferd-doctor"); {
	case err != nil:
		e.note(check, err)
	case code == 331 || code == 230:
		e.add(check, Warning, "is possible too: whoever forgets TLS sends the password for everybody to read",
			"take FTP out of the server's Protocols, so that FTPS alone is left")
	default:
		e.add(check, OK, fmt.Sprintf("is refused (%d)", code), "")
	}
}

// explain is an error of the network in plain words.
func explain(err error) string {
	var timeout net.Error
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return "the name " + clean(name.Name) + " cannot be resolved"
	case errors.Is(err, errTooLong):
		return errTooLong.Error()
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "nothing comes back in time"
	}
	return clean(err.Error())
}
