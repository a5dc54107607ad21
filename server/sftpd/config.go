// Package sftpd is the SSH and SFTP front door of a server: it listens, authenticates, and turns SFTP packets into
// calls of a session.
//
// The way in: Serve (listener.go) accepts, a connection (connection.go) shakes hands (auth.go, policy.go, hostkey.go) and
// opens channels, a channel (channel.go) starts a session and runs a front (front.go) over it. The front reads the packets. It
// takes what belongs to uploads itself (uploads.go), in order and in one goroutine, answers what a path alone describes
// (path.go), and hands downloads and listings through a bridge (bridge.go) to pkg/sftp's RequestServer, whose handlers
// (handlers.go) call the same session. What both answer goes out through one place (replies.go).
//
// It knows nothing of buckets, journals or workflows, and of storage only its errors and attributes. No text of an error
// that comes from below reaches a client (status.go).
package sftpd

import (
	"cmp"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// version is what we call ourselves before the key exchange (RFC 4253, 4.2). It names no release.
const version = "SSH-2.0-transferd"

// Config is what the front doors of all servers share. Zero durations and counts mean the default.
type Config struct {
	Provider identity.Provider
	Sessions *session.Manager
	Stores   storage.Stores
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Now      func() time.Time

	// HandshakeTimeout bounds everything before a login: 60 s.
	HandshakeTimeout time.Duration
	// KeepaliveInterval is how often a client is asked whether it lives, KeepaliveMax how many intervals it may stay
	// silent: 60 s and 5, together the 300 s after which AWS drops an unresponsive SFTP client.
	KeepaliveInterval time.Duration
	KeepaliveMax      int
	// IdleTimeout ends a connection without any SFTP packet: 1800 s, as AWS.
	IdleTimeout time.Duration
	// DrainTimeout is how long uploads that are open when Serve is told to stop may go on. The default ends them at
	// once.
	DrainTimeout time.Duration
	// LingerTimeout is how long what a client sent before it went away may take into the storage: 30 s.
	LingerTimeout time.Duration

	// WindowBudget is how many bytes the SSH windows of all uploads together may have beyond the 64 KiB of each session:
	// 256 MiB. It is memory only while a store is slower than its clients. Negative: they stay at that.
	WindowBudget int

	MaxSessions   int // connections of one server: 10,000, AWS's quota
	MaxHandshakes int // connections of one server that have not logged in: 256
	MaxChannels   int // SFTP sessions in one connection: 10, AWS's quota
	MaxHandles    int // open files and directories in one SFTP session: 1024
	MaxAuthTries  int // per connection: 6
}

// Settings are what may change while a server runs: banner, security policy, host keys, SetStatOption. Each new connection
// reads them once; those that are open go on with what they read, and their users with what they were granted.
type Settings struct {
	Server   server.Server
	HostKeys []hostkeys.Key
}

// Server serves SFTP. One is enough for any number of listeners.
type Server struct {
	Config
	metrics *metrics
	buffers buffers
	windows *windowBudget
	workers workers
}

// New makes a Server.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 60*time.Second)
	c.KeepaliveInterval = cmp.Or(c.KeepaliveInterval, 60*time.Second)
	c.KeepaliveMax = cmp.Or(c.KeepaliveMax, 5)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 1800*time.Second)
	c.LingerTimeout = cmp.Or(c.LingerTimeout, 30*time.Second)
	c.MaxSessions = cmp.Or(c.MaxSessions, 10_000)
	c.MaxHandshakes = cmp.Or(c.MaxHandshakes, 256)
	c.MaxChannels = cmp.Or(c.MaxChannels, 10)
	c.MaxHandles = cmp.Or(c.MaxHandles, 1024)
	c.MaxAuthTries = cmp.Or(c.MaxAuthTries, 6)
	c.WindowBudget = cmp.Or(c.WindowBudget, 256<<20)
	m := newMetrics(c.Metrics)
	return &Server{Config: c, metrics: m, buffers: newBuffers(), windows: &windowBudget{gauge: m.windows, limit: c.WindowBudget}, workers: newWorkers()}
}
