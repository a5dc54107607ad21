package ftpd

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	maxLine      = 4096             // of a command; the library's own limit
	maxAhead     = 32               // commands that a client may send ahead of their answers
	replyTimeout = 60 * time.Second // for a client to take a reply
)

var (
	errLine     = errors.New("command line too long")
	errInjected = errors.New("commands behind AUTH in the clear")
)

// control is the control connection as the library sees it: Read gives command lines, Write takes replies. What lies below,
// the TCP connection or TLS over it, is read by a pump of its own all the time, so that the end of the connection, and
// whatever the client sends after a reply, is known when it happens.
type control struct {
	*wire
	c     *connection
	lines chan string   // what came, closed at the end
	again chan struct{} // the pump waits for it behind AUTH: the next byte may be TLS
	rest  []byte        // of the line that Read gives out; the library's alone

	mu   sync.Mutex // guards top and orders replies
	top  net.Conn   // the wire, or TLS over it
	shut bool       // the library has closed it
}

func newControl(c *connection, w *wire) *control {
	return &control{wire: w, c: c, top: w, lines: make(chan string, maxAhead), again: make(chan struct{})}
}

func (t *control) upper() net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.top
}

// upgrade puts TLS over the wire.
func (t *control) upgrade(top net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.top = top
}

// pump reads until the connection ends.
func (t *control) pump() {
	defer close(t.lines)
	for t.pumpTop() {
	}
}

// pumpTop reads lines from what is on top now; true if something else may be there.
func (t *control) pumpTop() bool {
	top := t.upper()
	r := bufio.NewReaderSize(top, maxLine)
	for {
		line, err := readLine(r)
		if err != nil {
			if errors.Is(err, io.EOF) && top != net.Conn(t.wire) && t.ending() == nil {
				t.drain(t.c.Grace)
			}
			t.end(err) // if it is not known yet: no TCP connection, but what it carries, is broken
			return false
		}
		verb, _ := parse(line)
		if verb == "AUTH" && r.Buffered() > 0 {
			// Commands that come in the clear before TLS is up must never be taken for protected ones.
			t.end(errInjected)
			return false
		}
		t.c.arrived()
		if !t.push(line) {
			return false
		}
		if verb != "AUTH" {
			continue
		}
		select {
		case <-t.again:
			return true
		case <-t.c.over:
			return false
		}
	}
}

func (t *control) push(line string) bool {
	select {
	case t.lines <- line:
		return true
	case <-t.c.over:
		return false
	}
}

// readLine reads up to a newline. Telnet's signals before ABOR (RFC 959, 4.1.3) are dropped.
func readLine(r *bufio.Reader) (string, error) {
	b, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", errLine
	case err != nil:
		return "", err // a line without its end is none
	}
	b = bytes.TrimRight(b, "\r\n")
	for len(b) > 0 && b[0] >= 0xf0 { // IAC, IP and DM; no command begins like this
		b = b[1:]
	}
	return string(b), nil
}

// parse splits a line into its command, in capitals, and the rest.
func parse(line string) (verb, arg string) {
	verb, arg, _ = strings.Cut(line, " ")
	return strings.ToUpper(verb), arg
}

// Read gives the library its next command.
func (t *control) Read(p []byte) (int, error) {
	if len(t.rest) == 0 {
		line, err := t.c.next()
		if err != nil {
			return 0, err
		}
		t.rest = append(t.rest[:0], line+"\r\n"...)
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write takes a line of the library's replies.
func (t *control) Write(p []byte) (int, error) {
	line, done := t.c.replying(string(p))
	err := t.send(line)
	done(err)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// send writes a reply.
func (t *control) send(text string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		return net.ErrClosed
	}
	if err := t.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	_, err := io.WriteString(t.top, text)
	return err
}

// Close is the library's farewell. The connection stays open until the uploads have their verdicts: it is their evidence.
func (t *control) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shut = true
	return nil
}

// farewell ends TLS, so that the client does not take the end of the connection for an attack.
func (t *control) farewell() {
	if top, ok := t.upper().(*tls.Conn); ok && t.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_ = top.CloseWrite() // the client may be gone
	}
}

// SetDeadline does nothing: the time between commands is ours to watch.
func (t *control) SetDeadline(time.Time) error { return nil }
