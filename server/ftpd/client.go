package ftpd

import (
	"slices"
	"strings"
	"sync"
)

// client guesses which software is at the other end: what it says in CLNT, else the commands that it begins with.
type client struct {
	mu    sync.Mutex // guards what follows
	said  string     // CLNT's argument
	verbs []string
}

// maxVerbs is how many commands the guess rests on.
const maxVerbs = 8

// saw notes a command.
func (c *client) saw(verb, arg string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if verb == "CLNT" {
		c.said = cutTo(printable(arg), 64)
	}
	if len(c.verbs) < maxVerbs {
		if verb == "AUTH" || verb == "OPTS" {
			verb += " " + strings.ToUpper(arg)
		}
		c.verbs = append(c.verbs, cutTo(printable(verb), 16))
	}
}

// name is what the log shows.
func (c *client) name() string {
	c.mu.Lock()
	said := c.said
	c.mu.Unlock()
	if said != "" {
		return said
	}
	return c.kind()
}

// kind is one of a few words, fit for a metric's label.
func (c *client) kind() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	said := strings.ToLower(c.said)
	for _, known := range []string{"filezilla", "winscp", "lftp", "curl", "rclone", "cyberduck", "totalcmd", "ncftp", "flashfxp"} {
		if strings.Contains(said, known) {
			return known
		}
	}
	for _, known := range []struct {
		kind  string
		verbs []string
	}{
		{"curl", []string{"AUTH SSL", "AUTH TLS"}},
		{"curl", []string{"AUTH SSL", "USER", "PASS", "PBSZ"}},
		{"curl", []string{"USER", "PASS", "PWD"}},
		{"filezilla", []string{"AUTH TLS", "USER", "PASS", "SYST"}},
		{"filezilla", []string{"AUTH TLS", "USER", "PASS", "OPTS UTF8 ON"}},
		{"ftplib", []string{"AUTH TLS", "USER", "PASS", "PBSZ"}},
		{"ftplib", []string{"USER", "PASS", "TYPE"}},
		{"lftp", []string{"FEAT", "AUTH TLS"}},
		{"lftp", []string{"FEAT", "USER", "PASS"}},
	} {
		if len(c.verbs) >= len(known.verbs) && slices.Equal(c.verbs[:len(known.verbs)], known.verbs) {
			return known.kind
		}
	}
	return "other"
}

// keepsTicket is true of software that resumes the control connection's own ticket on every data connection. A new one is
// of no use to it, and lftp does not always read it before it closes (keys.data).
func (c *client) keepsTicket() bool { return c.kind() == "lftp" }

// printable keeps what a stranger sends from making lines or colours in a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func cutTo(s string, n int) string { return s[:min(len(s), n)] }
