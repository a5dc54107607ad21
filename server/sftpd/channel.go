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
	exit := struct{ Status uint32 }{}
	if err := c.serveSFTP(ctx, ch, requests, &wg); err != nil {
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

// serveSFTP runs one session from CONNECTED to DISCONNECTED. When it returns, every upload has its verdict. What it starts
// beside that ends with the channel's requests; wg waits for it.
func (c *connection) serveSFTP(ctx context.Context, ch ssh.Channel, requests <-chan *ssh.Request, wg *sync.WaitGroup) error {
	s, err := c.start(ctx)
	if err != nil {
		wg.Go(func() { ssh.DiscardRequests(requests) })
		c.fault(ctx, "session", err, slog.String("user", c.login.grant.UserName))
		return err
	}
	c.metrics.sessions.Inc()
	defer c.metrics.sessions.Dec()
	c.connected(ctx, s.ID())

	f, done := c.front(ch, s)
	defer done()
	over := make(chan struct{})
	wg.Go(func() {
		ssh.DiscardRequests(requests) // until the channel, or all of its connection, is closed
		c.linger(s, over)
	})
	err = f.run()
	if errors.Is(err, errMalformed) || errors.Is(err, errOrder) {
		c.metrics.malformed.Inc()
		c.fault(ctx, "PACKET", err, slog.String("session-id", s.ID()))
	}
	c.end(f, s)
	close(over)
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
	f.serving.Wait() // its workers were released by End
}

// linger watches over the time after a client has gone: what it had sent is still written, but a storage that takes
// nothing must not hold the session for ever. End releases a blocked write.
func (c *connection) linger(s *session.Session, over <-chan struct{}) {
	limit := time.NewTimer(c.LingerTimeout)
	defer limit.Stop()
	select {
	case <-over:
	case <-limit.C:
		s.End(c.reason())
	}
}

// start begins the session.
func (c *connection) start(ctx context.Context) (*session.Session, error) {
	grant := c.login.grant
	view, err := vfs.New(vfs.Home{
		Domain:    c.settings.Server.Domain,
		Type:      grant.HomeDirectoryType,
		Directory: grant.HomeDirectory,
		Mappings:  grant.HomeDirectoryMappings,
		UserName:  grant.UserName,

		Role: grant.Role, Policy: grant.Policy, PosixProfile: grant.PosixProfile,
		SourceIP: c.sourceIP, Now: c.Now,
	}, c.Stores)
	if err != nil {
		return nil, err
	}
	return c.Sessions.Start(ctx, session.Info{
		Server:    c.settings.Server.ServerId,
		ServerARN: c.settings.Server.Arn,
		User:      grant.UserName,
		Protocol:  protocol,
		SourceIP:  c.sourceIP,
		Client:    string(c.ssh.ClientVersion()),
		Role:      grant.Role,
	}, view)
}

// front puts a front over a session. Whoever runs it calls done afterwards.
func (c *connection) front(ch ssh.Channel, s *session.Session) (_ *front, done func()) {
	var wire io.ReadWriter = ch
	bulk, done := func(bool) {}, func() {}
	if w := newWindow(ch, c.windows, c.Now); w != nil {
		wire = struct {
			io.Reader
			io.Writer
		}{w, ch}
		bulk, done = w.bulk, w.close
	}
	q := &quota{max: c.MaxHandles}
	h := &handlers{conn: c, session: s, quota: q}
	var f *front
	f = newFront(wire, c.buffers, q, backing{
		createUpload: func(path string, opt session.CreateOptions) (file, error) {
			up, err := s.Create(path, opt)
			if err != nil {
				return nil, err // and not a nil *session.File
			}
			return up, nil
		},
		openFile:     func(path string) (reader, error) { return s.Open(path) },
		realPath:     h.RealPath,
		readLink:     h.Readlink,
		stat:         h.stat,
		lstat:        h.lstat,
		hasStatfs:    s.HasStatfs,
		statfs:       s.Statfs,
		setstat:      h.setstat,
		change:       h.change,
		over:         func() bool { return s.Context().Err() != nil },
		uploadBegins: c.beginUpload,
		uploadEnds:   c.endUpload,
		used:         c.touch,
		now:          c.Now,
		bulk:         bulk,
		work:         c.workers.run,
		bridge:       func() *bridge { return newBridge(f.out, h.table(), s.RealPath("."), &f.serving) },
	})
	return f, done
}
