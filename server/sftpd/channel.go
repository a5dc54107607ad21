package sftpd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/server/vfs"
)

// serveChannel waits for a client to ask for the subsystem sftp, the only thing there is, and serves it.
func (c *connection) serveChannel(ctx context.Context, ch ssh.Channel, requests <-chan *ssh.Request) {
	defer ch.Close() // the client may have closed it before us
	if !awaitSFTP(requests) {
		return
	}
	var wg sync.WaitGroup
	gone := make(chan struct{}) // the channel, or all of its connection, is closed
	wg.Go(func() { defer close(gone); ssh.DiscardRequests(requests) })
	exit := struct{ Status uint32 }{}
	if err := c.serveSFTP(ctx, ch, gone); err != nil {
		exit.Status = 1
	}
	// Without a status scp and sftp think that the connection broke (RFC 4254, 6.10). If it did, nobody is told.
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(exit))
	_ = ch.Close()
	wg.Wait()
}

// awaitSFTP answers requests until one asks for the subsystem (RFC 4254, 6.5). Shells, commands, environment,
// terminals are refused.
func awaitSFTP(requests <-chan *ssh.Request) bool {
	for r := range requests {
		var subsystem struct{ Name string }
		ok := r.Type == "subsystem" && ssh.Unmarshal(r.Payload, &subsystem) == nil && subsystem.Name == "sftp"
		if r.WantReply && r.Reply(ok, nil) != nil {
			return false
		}
		if ok {
			return true
		}
	}
	return false
}

// serveSFTP runs one session from CONNECTED to DISCONNECTED. When it returns, every upload has its verdict.
func (c *connection) serveSFTP(ctx context.Context, ch ssh.Channel, gone <-chan struct{}) error {
	s, err := c.start()
	if err != nil {
		c.fault(ctx, "session", err, slog.String("user", c.login.grant.UserName))
		return err
	}
	c.metrics.sessions.Inc()
	defer c.metrics.sessions.Dec()
	c.connected(ctx, s.ID())

	f := c.front(ch, s)
	over := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { c.linger(s, gone, over) })
	err = f.run()
	if errors.Is(err, errMalformed) || errors.Is(err, errOrder) {
		c.metrics.malformed.Inc()
		c.fault(ctx, "PACKET", err, slog.String("session-id", s.ID()))
	}
	c.end(f, s)
	close(over)
	wg.Wait()
	c.event(ctx, slog.LevelInfo, "DISCONNECTED", slog.String("session-id", s.ID()))
	if err == io.EOF {
		return nil
	}
	return err
}

// end ends a session whose last packet was read. What a CLOSE has begun is finished first: the file was closed by its
// client, and End would call it partial.
func (c *connection) end(f *front, s *session.Session) {
	left := len(f.uploads.open)
	if f.others != nil {
		_ = f.others.Close() // cannot fail
	}
	f.uploads.ends.Wait()
	s.End(c.reason())
	f.abandon()
	for range left {
		c.endUpload()
	}
	if f.others != nil {
		<-f.others.done // its workers were released by End
	}
}

// linger watches over the time after a client has gone: what it had sent is still written, but a storage that takes
// nothing must not hold the session for ever. End releases a blocked write.
func (c *connection) linger(s *session.Session, gone, over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-gone:
	}
	limit := time.NewTimer(c.LingerTimeout)
	defer limit.Stop()
	select {
	case <-over:
	case <-limit.C:
		s.End(c.reason())
	}
}

// start begins the session.
func (c *connection) start() (*session.Session, error) {
	grant := c.login.grant
	view, err := vfs.New(vfs.Home{
		Domain:    c.settings.Server.Domain,
		Type:      grant.HomeDirectoryType,
		Directory: grant.HomeDirectory,
		Mappings:  grant.HomeDirectoryMappings,
		UserName:  grant.UserName,
	}, c.Stores)
	if err != nil {
		return nil, err
	}
	return c.Sessions.Start(session.Info{
		Server:    c.settings.Server.ServerId,
		ServerARN: c.settings.Server.Arn,
		User:      grant.UserName,
		Protocol:  protocol,
		SourceIP:  c.sourceIP,
		Client:    string(c.ssh.ClientVersion()),
		Role:      grant.Role,
	}, view)
}

// front puts a front over a session.
func (c *connection) front(ch ssh.Channel, s *session.Session) *front {
	q := &quota{max: c.MaxHandles}
	h := &handlers{conn: c, session: s, quota: q}
	var f *front
	f = newFront(ch, c.buffers, q, backing{
		createUpload: func(path string, opt session.CreateOptions) (file, error) {
			up, err := s.Create(path, opt)
			if err != nil {
				return nil, err // and not a nil *session.File
			}
			return up, nil
		},
		exists:       func(path string) error { _, err := s.Stat(path); return err },
		setstat:      h.setstat,
		over:         func() bool { return s.Context().Err() != nil },
		uploadBegins: c.beginUpload,
		uploadEnds:   c.endUpload,
		used:         c.touch,
		now:          c.Now,
		bridge:       func() *bridge { return newBridge(f.out, h.table(), s.RealPath(".")) },
	})
	return f
}
