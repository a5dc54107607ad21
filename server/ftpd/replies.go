package ftpd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// failure is what a client is told of an error.
type failure struct {
	code int
	text string
}

func (f failure) Error() string { return f.text }

func (f failure) line() string { return strconv.Itoa(f.code) + " " + f.text + "\r\n" }

// failureOf turns an error from below into what the client is told: the one place where that is decided. Our own refusals
// are failures already; nothing of any other text is passed on.
func failureOf(err error) failure {
	var own failure
	if errors.As(err, &own) {
		return own
	}
	for _, rule := range []struct {
		is error
		as failure
	}{
		{storage.ErrRandomAccess, failure{550, "Random access writes are not supported by this store."}},
		{storage.ErrNotEmpty, failure{550, "Directory not empty."}},
		{storage.ErrIsDirectory, failure{550, "Is a directory."}},
		{storage.ErrTooLarge, failure{552, "File too large."}},
		{storage.ErrQuota, failure{552, "Exceeded storage allocation: the quota is used up."}}, // RFC 959, 4.2.2
		{storage.ErrNoSpace, failure{452, "Insufficient storage space."}},                      // RFC 959, 4.2.2
		{storage.ErrUnavailable, failure{451, "Service unavailable, try again later."}},
		{fs.ErrNotExist, failure{550, "No such file or directory."}},
		{fs.ErrPermission, failure{550, "Permission denied."}},
		{fs.ErrExist, failure{550, "File already exists."}},
		{errors.ErrUnsupported, failure{504, "Not supported."}},
		{fs.ErrInvalid, failure{553, "Invalid name."}},
		{session.ErrDraining, failure{421, "The server is stopping."}},
		{fs.ErrClosed, failure{426, "The session has ended."}},
		{context.Canceled, failure{426, "The session has ended."}},
	} {
		if errors.Is(err, rule.is) {
			return rule.as
		}
	}
	return failure{451, "Service unavailable."}
}

// refuse keeps what the client will be told instead of the library's words for this error, and gives it back.
func (c *connection) refuse(err error) error {
	f := failureOf(err)
	c.change(func(s *connectionState) { s.override = &f })
	return f
}

// replying looks at a line that the library writes: what goes out instead, and what must be called with the outcome of
// the writing. What a verdict waits for is noted before the writing, because the client's answer may come before it
// returns.
func (c *connection) replying(line string) (string, func(error)) {
	code := codeOf(line)
	done := func(error) {}
	c.change(func(s *connectionState) {
		line = c.reword(s, code, line)
		if s.active && ends(codeOf(line)) {
			done = c.finish(s, codeOf(line))
		}
	})
	return line, done
}

// finish notes the final reply of a transfer. It is called with the state locked.
func (c *connection) finish(s *connectionState, code int) func(error) {
	u := s.waiting
	s.waiting = nil
	if u != nil {
		u.replied, u.good, u.lines = true, code < 300, s.lines
	}
	return func(err error) {
		c.change(func(s *connectionState) {
			if u != nil {
				u.written, u.lost = true, err != nil
			}
			s.active = false
			s.override = nil
			if c.session != nil {
				s.used = time.Now()
			}
		})
		c.drained()
	}
}

// codeOf is a reply's code, 0 for a line in the middle of one.
func codeOf(line string) int {
	if len(line) < 4 || line[3] != ' ' {
		return 0
	}
	code, err := strconv.Atoi(line[:3])
	if err != nil {
		return 0
	}
	return code
}

// ends says whether a reply is the last of a transfer.
func ends(code int) bool { return code == 226 || code == 250 || code >= 400 }

// reword is the library's reply in our words.
func (c *connection) reword(s *connectionState, code int, line string) string {
	s.renaming = s.renaming || code == 350 && s.verb == "RNFR"
	switch {
	case s.override != nil && (code >= 400 || code == 226):
		f := *s.override
		s.override = nil
		return f.line()
	case code == 421 && (s.verb == "PASV" || s.verb == "EPSV"):
		c.metrics.passive.WithLabelValues("exhausted").Inc()
		return "425 No port for a data connection is free: try again later.\r\n"
	case code == 425:
		return "425 No data connection came.\r\n"
	case code == 550 && strings.Contains(line, "no transfer connection"):
		return "425 Use PASV or EPSV first.\r\n"
	case code == 150 && s.verb == "STOU":
		return "150 FILE: " + c.unique + "\r\n"
	case code == 331:
		return "331 Password required.\r\n"
	case code == 500 && s.active: // a panic in the library
		return "451 Service unavailable.\r\n"
	case code == 500:
		return "500 Command not understood.\r\n"
	case s.verb == "MLST" && strings.HasPrefix(line, " Type="):
		return " " + c.unwanted.trim(line[1:])
	case s.verb == "STAT" && strings.HasPrefix(line, " %s"): // a slip of the library's
		return " " + strings.TrimPrefix(line, " %s")
	}
	return line
}

// guard turns a panic into an error: it must end neither the daemon nor, unseen, an upload.
func (c *connection) guard(operation string, err *error) {
	if p := recover(); p != nil {
		c.fault(c.ctx, operation, fmt.Errorf("panic: %v", p))
		*err = c.refuse(errors.New("panic"))
	}
}
