package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
)

// sessions looks at each TLS version, and at data connections if there is somebody to log in as.
func (e *examination) sessions(ctx context.Context, w way) {
	switch w {
	case shut:
		return
	case plain:
		e.plainSession(ctx)
		return
	}
	missing := map[uint16]string{
		tls.VersionTLS12: "clients that do not know TLS 1.3 cannot connect",
		tls.VersionTLS13: "clients on OpenSSL, curl and PHP among them, resume sessions of TLS 1.3 alone",
	}
	examined := false
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		name := tls.VersionName(version)
		c, err := e.open(ctx, version)
		var p *problem
		if errors.As(err, &p) && p.Check != checkTLS || err != nil && p == nil {
			e.note(name, err)
			continue
		}
		if err != nil {
			e.add(name, Warning, "is not to be had: "+missing[version], "see the server's SecurityPolicyName")
			continue
		}
		e.versioned(ctx, c, version, &examined)
		c.close()
	}
}

// versioned examines a session in one version. The addresses of data connections are looked at in one session alone.
func (e *examination) versioned(ctx context.Context, c *control, version uint16, examined *bool) {
	name := tls.VersionName(version)
	if e.User == "" {
		e.add(name, OK, "shakes hands", "")
		if !*examined {
			e.add("data connections", Skipped, "need a login", "give -user and -password-file")
		}
		*examined = true
		return
	}
	if !e.login(c, name) {
		return
	}
	if err := protect(c); err != nil {
		e.note(name+": PROT P", err)
		return
	}
	if !*examined {
		*examined = true
		if !e.addresses(ctx, c) {
			return
		}
	}
	e.resumption(ctx, c, version)
}

// plainSession looks at a server without TLS.
func (e *examination) plainSession(ctx context.Context) {
	switch {
	case e.User == "":
		e.add("data connections", Skipped, "need a login", "give -user, -password-file and -plain")
		return
	case !e.Plain:
		e.add("login", Skipped, "the password is not sent in the clear", "give -plain to send it all the same")
		return
	}
	c, err := e.connect(ctx)
	if err == nil {
		defer c.close()
		_, err = c.greeting()
	}
	if err != nil {
		e.note("login", err)
		return
	}
	if e.login(c, "plain FTP") && e.addresses(ctx, c) {
		e.plainListing(ctx, c)
	}
}

// open makes a control connection with TLS of a version.
func (e *examination) open(ctx context.Context, version uint16) (*control, error) {
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	if e.Implicit {
		err = c.secure(ctx, version)
	}
	if err == nil {
		_, err = c.greeting()
	}
	if err == nil && !e.Implicit {
		err = c.auth(ctx, version)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// login logs in.
func (e *examination) login(c *control, how string) bool {
	check := how + ": login"
	code, text, err := c.command("USER " + e.User)
	if err == nil && code == 331 {
		code, text, err = c.command("PASS " + e.Password)
	}
	switch {
	case err != nil:
		e.note(check, err)
	case code == 230:
		e.add(check, OK, "logged in as "+clean(e.User), "")
		return true
	case code == 530 || code == 421:
		e.add(check, Wrong, fmt.Sprintf("refused (%d %s)", code, clean(text)),
			"the log says why (AUTH_FAILURE); is the password right, the address banned (transferd bans), the identity provider there?")
	default:
		e.add(check, Wrong, fmt.Sprintf("answered with %d %s", code, clean(text)), "see the log")
	}
	return false
}

// protect makes data connections private (RFC 4217, 9).
func protect(c *control) error {
	for _, line := range []string{"PBSZ 0", "PROT P"} {
		code, text, err := c.command(line)
		if err != nil {
			return err
		}
		if code != 200 {
			return wrong(line, fmt.Sprintf("refused (%d %s): data would go in the clear", code, clean(text)), "")
		}
	}
	return nil
}
