// Package ftpd is the FTP and FTPS front door of a server: it listens, speaks TLS, authenticates, and turns commands into
// calls of a session.
//
// The way in: Serve (listener.go) accepts, a connection (connection.go) runs one instance of ftpserverlib over a control
// (control.go). The control is all that the library sees of the network. Below it lie our own TLS and a wire (wire.go)
// that remembers how the connection ended; above it the library gets plain command lines, those that it answers well:
// the others are answered or rewritten here (commands.go, login.go), and so are replies (replies.go). The driver
// (driver.go) is what the library calls for names, transfer.go for files. Data connections (data.go, passive.go) do their
// own TLS too, so that the library never knows of any. When the library has sent the final reply of an upload,
// verdict.go waits for evidence that the client took it.
//
// It knows nothing of buckets, journals or workflows, and of storage only the names of its errors. No text of an error
// that comes from below reaches a client (replies.go).
package ftpd

import (
	"cmp"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

// Config is what the front doors of all servers share. Zero durations and counts mean the default.
type Config struct {
	Provider identity.Provider
	Sessions *session.Manager
	Stores   storage.Stores
	// Certificates finds the certificate and key of a server's Certificate ARN. It is asked at each TLS handshake of a
	// control connection, so a renewed one counts at once.
	Certificates func(arn string) (*tls.Certificate, error)
	Log          *slog.Logger
	Metrics      prometheus.Registerer
	Now          func() time.Time

	HandshakeTimeout time.Duration // of TLS, on either kind of connection: 30 s
	LoginTimeout     time.Duration // from the connection to the login: 60 s
	IdleTimeout      time.Duration // between two commands: 1800 s, as AWS
	DataTimeout      time.Duration // a data connection on which nothing moves: 60 s
	ConnectTimeout   time.Duration // from PASV or EPSV and the transfer's command to the data connection: 30 s
	// AckTimeout is how long the client's machine may take to acknowledge the final reply of an upload: 30 s.
	AckTimeout time.Duration
	// Grace is the shortest time that a control connection must live after that acknowledgement for the upload to be
	// complete, unless something else proves it earlier: 300 ms, and never less than four round trips.
	Grace time.Duration
	// LoginDelay is how long the answer to a wrong password takes; each further one takes twice as long: 1 s.
	LoginDelay time.Duration
	// LingerTimeout is how long what a client sent before it went away may take into the storage: 30 s.
	LingerTimeout time.Duration
	// DrainTimeout is how long transfers that are open when Serve is told to stop may go on. The default ends them at
	// once.
	DrainTimeout time.Duration

	// PassivePorts are where data connections go: 8192 to 8200, as on AWS. First and Last zero and AnyPort set: any.
	PassivePorts PortRange
	// PassiveAddresses are told to clients of these networks instead of the address that they reached, when PassiveIp is
	// AUTO. The first network that has the client counts.
	PassiveAddresses []PassiveAddress

	MaxSessions int // connections of one server: 10,000, AWS's quota
	// MaxPerAddress is how many of them may come from one address: no limit. AWS has one of 300 for FTPS, which hurts
	// whoever sits behind a NAT.
	MaxPerAddress int
	MaxAuthTries  int // wrong passwords in one connection: 5

	// Banned says until when nobody gets in from an address: such connections end before the greeting. Nil: none is
	// banned.
	Banned func(sourceIP string) (until time.Time, banned bool)

	// ProxyData says that proxies whose header tells the client of a control connection send one on its data connections
	// too. See connection.theirs.
	ProxyData bool
	// ProxyKeepsTCP says that such proxies pass the client's TCP on, as AWS's network load balancers do, instead of ending
	// it, as haproxy does. See verdict.go.
	ProxyKeepsTCP bool

	// ImplicitTLS begins each connection with TLS, as port 990 does. AWS has no such thing.
	ImplicitTLS bool
	// TLS12Only keeps TLS 1.3 away, as AWS's policies do.
	TLS12Only bool
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	First, Last int
	AnyPort     bool // whatever port is free
}

// PassiveAddress is what clients of a network are told.
type PassiveAddress struct {
	Clients netip.Prefix
	Address string // an IPv4 address or a DNS name that has one
}

// Settings are what may change while a server runs: banners, certificate, security policy, protocols, PassiveIp,
// TlsSessionResumptionMode, SetStatOption. Each new connection reads them once; those that are open go on with what they
// read.
type Settings struct {
	Server server.Server
}

// Server serves FTP and FTPS. One is enough for any number of listeners.
type Server struct {
	Config
	metrics *metrics
	buffers buffers
}

// New makes a Server.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, 30*time.Second)
	c.LoginTimeout = cmp.Or(c.LoginTimeout, 60*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 1800*time.Second)
	c.DataTimeout = cmp.Or(c.DataTimeout, 60*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 30*time.Second)
	c.AckTimeout = cmp.Or(c.AckTimeout, 30*time.Second)
	c.Grace = cmp.Or(c.Grace, 300*time.Millisecond)
	c.LoginDelay = cmp.Or(c.LoginDelay, time.Second)
	c.LingerTimeout = cmp.Or(c.LingerTimeout, 30*time.Second)
	c.MaxSessions = cmp.Or(c.MaxSessions, 10_000)
	c.MaxAuthTries = cmp.Or(c.MaxAuthTries, 5)
	if c.PassivePorts == (PortRange{}) {
		c.PassivePorts = PortRange{First: 8192, Last: 8200}
	}
	return &Server{Config: c, metrics: newMetrics(c.Metrics), buffers: newBuffers()}
}
