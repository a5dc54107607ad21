package sftpd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/transferd/transferd/server/session"
)

// watch cuts the connection when the client is dead or idle. It ends with done or with the cut.
func (c *connection) watch(ctx context.Context, done <-chan struct{}) {
	beat := time.NewTicker(c.KeepaliveInterval)
	defer beat.Stop()
	idle := time.NewTimer(c.IdleTimeout)
	defer idle.Stop()
	var probes sync.WaitGroup
	defer probes.Wait()

	answered := make(chan struct{}, 1)
	probing, missed, heard := false, 0, uint64(0)
	for {
		select {
		case <-done:
			return
		case <-answered:
			probing, missed = false, 0
		case <-beat.C:
			if now := c.net.heard.Load(); now != heard {
				heard, missed = now, 0
			} else if probing {
				missed++
			}
			if missed >= c.KeepaliveMax {
				c.timeout(ctx, "client does not answer")
				return
			}
			if !probing {
				probing = true
				probes.Go(func() { c.probe(answered) })
			}
		case <-idle.C:
			left := c.IdleTimeout - time.Duration(c.Now().UnixNano()-c.active.Load())
			if left <= 0 {
				c.timeout(ctx, "client is idle")
				return
			}
			idle.Reset(left)
		}
	}
}

// probe asks the client for a sign of life. It blocks until the answer comes, any answer will do, or the connection
// ends.
func (c *connection) probe(answered chan<- struct{}) {
	if _, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil); err == nil {
		answered <- struct{}{}
	}
}

func (c *connection) timeout(ctx context.Context, message string) {
	c.metrics.timeouts.Inc()
	c.event(ctx, slog.LevelInfo, "EXIT_REASON",
		slog.String("user", c.login.grant.UserName), slog.String("source-ip", c.sourceIP), slog.String("message", message))
	c.cut(session.Timeout)
}
