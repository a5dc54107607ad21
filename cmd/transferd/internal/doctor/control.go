package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// maxReply bounds what is read of one reply.
const maxReply = 64 << 10

// errTooLong is a server that talks and talks.
var errTooLong = errors.New("the server sends a reply without an end")

// checkTLS is the check of handshakes on control connections.
const checkTLS = "TLS"

// control is a control connection.
type control struct {
	e      *examination
	conn   net.Conn // TCP
	tls    *tls.Conn
	in     *textproto.Reader
	buffer *bufio.Reader
	limit  *io.LimitedReader
	cache  tls.ClientSessionCache // the control connection's own
	broken bool
}

func (e *examination) connect(ctx context.Context) (*control, error) {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	conn, err := e.Dial(ctx, "tcp", e.Address)
	if err != nil {
		return nil, wrong("connection", "no connection to "+e.Address+": "+explain(err),
			"is the server ONLINE and its address right (transferd servers), and does a firewall let port "+portOf(e.Address)+" through?")
	}
	c := &control{e: e, conn: conn, cache: tls.NewLRUClientSessionCache(4)}
	c.read(conn)
	return c, nil
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address) // Run has split it before
	return port
}

// read takes replies from a connection from here on.
func (c *control) read(from io.Reader) {
	c.limit = &io.LimitedReader{R: from}
	c.buffer = bufio.NewReader(c.limit)
	c.in = textproto.NewReader(c.buffer)
}

func (c *control) close() {
	if c.tls != nil {
		_ = c.tls.Close() // it was looked at, and nothing hangs on how it ends
	}
	_ = c.conn.Close()
}

// out is what commands go to.
func (c *control) out() net.Conn {
	if c.tls != nil {
		return c.tls
	}
	return c.conn
}

// reply reads one reply (RFC 959, 4.2).
func (c *control) reply() (code int, text string, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(c.e.Timeout)); err != nil {
		return 0, "", err
	}
	c.limit.N = maxReply
	code, text, err = c.in.ReadResponse(0)
	if err != nil {
		c.broken = true
		if c.limit.N <= 0 {
			err = errTooLong
		}
		return 0, "", err
	}
	return code, text, nil
}

// command sends a command and reads its reply.
func (c *control) command(line string) (int, string, error) {
	if err := c.send(line); err != nil {
		return 0, "", err
	}
	return c.reply()
}

func (c *control) send(line string) error {
	if strings.ContainsAny(line, "\r\n") {
		return errors.New("a user name or password with a line's end in it cannot be sent")
	}
	if err := c.conn.SetDeadline(time.Now().Add(c.e.Timeout)); err != nil {
		return err
	}
	_, err := io.WriteString(c.out(), line+"\r\n")
	return err
}

// greeting reads the server's first words, and knows some others who may stand at the door.
func (c *control) greeting() (string, error) {
	const check = "greeting"
	if err := c.conn.SetDeadline(time.Now().Add(c.e.Timeout)); err != nil {
		return "", err
	}
	c.limit.N = maxReply
	begin, err := c.buffer.Peek(4)
	switch {
	case string(begin) == "SSH-":
		return "", wrong(check, "an SSH server answers: this is the port of SFTP", "use the address behind aws:transferd:ftp-address (transferd servers)")
	case string(begin) == "HTTP":
		return "", wrong(check, "a web server answers", "use the address behind aws:transferd:ftp-address (transferd servers)")
	case len(begin) == 0 && err != nil:
		return "", c.silence(err)
	}
	code, text, err := c.reply()
	switch {
	case errors.Is(err, errTooLong):
		return "", wrong(check, errTooLong.Error(), "this is no server of transferd")
	case err != nil:
		return "", wrong(check, "what answers does not speak FTP", "is this the right port?")
	case code == 220:
		return clean(text), nil
	case code == 421:
		return "", wrong(check, "the server takes nobody now: "+clean(text), "is this address banned (transferd bans, transferd unban), or are there too many sessions (ftp.max_sessions)?")
	}
	return "", wrong(check, fmt.Sprintf("begins with %d instead of 220: %s", code, clean(text)), "is this the right port?")
}

// silence is a server that says nothing.
func (c *control) silence(err error) error {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout() && c.tls == nil:
		return wrong("greeting", "the server says nothing: it may wait for TLS, or for a PROXY header",
			"with ftp.implicit_tls run transferd doctor with -implicit; with ftp.proxy_protocol go through the proxy")
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return wrong("greeting", "the connection is closed without a word",
			"this address may be banned (transferd bans, transferd unban), or the server wants a PROXY header")
	}
	return wrong("greeting", explain(err), "")
}

// auth begins TLS (RFC 4217, 4). Version 0 is whatever both have.
func (c *control) auth(ctx context.Context, version uint16) error {
	code, text, err := c.command("AUTH TLS")
	switch {
	case err != nil:
		return err
	case code == 421:
		c.broken = true
		return wrong("AUTH TLS", "the server ends the connection: "+clean(text), "")
	case code == 431 || code/100 == 4:
		return wrong("AUTH TLS", fmt.Sprintf("TLS is not possible at the moment (%d %s)", code, clean(text)),
			"see the log: the files of the server's Certificate (certificates) or its SecurityPolicyName")
	case code != 234:
		return wrong("AUTH TLS", fmt.Sprintf("is refused (%d): the server speaks plain FTP alone, and everybody on the way can read passwords and files", code),
			"add FTPS to the server's Protocols and give it a Certificate whose files stand under certificates in the configuration")
	case c.buffer.Buffered() > 0:
		c.broken = true
		return wrong("AUTH TLS", "something was said in the clear behind the 234, which a client would take for protected", "this is no server of transferd, or somebody sits between")
	}
	return c.secure(ctx, version)
}

// secure shakes hands. The certificate is judged by itself, so that all that is wrong with it can be said.
func (c *control) secure(ctx context.Context, version uint16) error {
	ctx, cancel := context.WithTimeout(ctx, c.e.Timeout)
	defer cancel()
	c.tls = tls.Client(c.conn, c.config(version, c.cache))
	if err := c.conn.SetDeadline(time.Now().Add(c.e.Timeout)); err != nil {
		return err
	}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		c.broken = true
		mend := "see the server's SecurityPolicyName and the files of its Certificate"
		if version == 0 && c.e.Implicit {
			mend = "is ftp.implicit_tls set? Without it run transferd doctor without -implicit"
		}
		return wrong(checkTLS, "the handshake fails: "+explain(err), mend)
	}
	c.read(c.tls)
	return nil
}

func (c *control) config(version uint16, cache tls.ClientSessionCache) *tls.Config {
	config := &tls.Config{
		ServerName: c.e.host, InsecureSkipVerify: true, // see certificate
		MinVersion: tls.VersionTLS12, ClientSessionCache: cache, Time: c.e.Now,
	}
	if version != 0 {
		config.MinVersion, config.MaxVersion = version, version
	}
	return config
}

// clean is what may be shown of a server's text.
func clean(s string) string {
	const longest = 200
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, strings.ToValidUTF8(s, "."))
	if runes := []rune(s); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return s
}
