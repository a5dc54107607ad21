// Package fleet makes what the catalogue says true: each server that is STARTING or ONLINE has its doors open (door.go:
// a listener and the frontend that serves it), every other has none. The control plane writes wishes into the catalogue;
// this room reads them, acts, and writes what became of them.
//
// It compares and never remembers: whatever it missed (a signal, its own death) the next look at the catalogue makes up
// for. It knows nothing of how protocols work, of sessions or SQL.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// Catalogue is what the fleet reads and writes of all that the daemon remembers.
type Catalogue interface {
	// Servers lists servers by id.
	Servers(ctx context.Context, p server.Page) ([]server.Server, error)
	// HostKeys lists a server's host keys with their private parts.
	HostKeys(ctx context.Context, id server.ID) ([]hostkeys.Key, error)
	// UpdateServer changes a server in one transaction; an error of change aborts it and comes back.
	UpdateServer(ctx context.Context, id server.ID, change func(*server.Server) error) error
	// Changed gives a channel that gets a value after changes, and a function that ends the subscription.
	Changed() (<-chan struct{}, func())
}

// Config is what a fleet works with.
type Config struct {
	Catalogue Catalogue
	// Doors are all that a server can have. Each has its own name and tag.
	Doors []Door
	// Supports says what a server asks for that this build cannot serve; nil if it can. It is asked before a start and
	// again whenever the catalogue changes: an error makes the server START_FAILED, also one that is ONLINE, and whoever
	// looks at the server can read it. Nil serves all.
	Supports func(s server.Server) error
	// Shared says that the fleets of other nodes serve the same catalogue. Then a server's addresses are those of whoever
	// opened its doors last, and a node that cannot serve a server which is ONLINE leaves it to the others and goes on
	// trying.
	Shared bool
	// Listening is told where the fleet listens, whenever that has changed. An error is logged and it is told again at the
	// next look. Nil: nobody is.
	Listening  func(ctx context.Context, all []Listener) error
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
	// DrainTimeout is how long a frontend may take to end: after it a stopping server is STOP_FAILED, and Run returns
	// without the frontend. Default 10 minutes, since uploads are committed in that time.
	DrainTimeout time.Duration
	// Tick is how often the catalogue is looked at without a signal. Default 30 seconds.
	Tick time.Duration
	// Retry is the wait before a listener that is lost, or was ONLINE when the process started, is tried again; it doubles
	// with each of the few tries. Default 200 milliseconds.
	Retry time.Duration
}

// The limits of patience.
const (
	tries    = 6           // for a server that is ONLINE in the catalogue, before it is START_FAILED
	steady   = time.Minute // a frontend that was up for so long has no tries behind it
	pageSize = 500
)

// errMoved aborts a transition: the server has gone to another state meanwhile, and the signal of that is on its way.
var errMoved = errors.New("server is in another state")

// Fleet runs the frontends of all servers. Make it with New.
type Fleet struct {
	cfg     Config
	ready   chan struct{}
	wake    chan struct{}        // a frontend has ended, or a time has come
	servers *prometheus.GaugeVec // by state

	// What follows belongs to Run's goroutine.
	running map[place]*instance
	trouble map[place]trouble
	written map[place]string // the addresses that this fleet has written into the catalogue
	told    []Listener       // what Listening knows
}

// Listener is a door that is open.
type Listener struct {
	Server  server.ID
	Door    string
	Address string
}

// trouble is what Run remembers of a door that should be open and is not.
type trouble struct {
	tries int
	next  time.Time
	cause error
}

// New makes a Fleet. Run runs it, once.
func New(cfg Config) *Fleet {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Supports == nil {
		cfg.Supports = func(server.Server) error { return nil }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = 10 * time.Minute
	}
	if cfg.Tick <= 0 {
		cfg.Tick = 30 * time.Second
	}
	if cfg.Retry <= 0 {
		cfg.Retry = 200 * time.Millisecond
	}
	f := &Fleet{
		cfg: cfg, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		running: map[place]*instance{}, trouble: map[place]trouble{}, written: map[place]string{},
		servers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "transferd_servers", Help: "Servers in the catalogue.",
		}, []string{"state"}),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(f.servers)
	}
	return f
}

// Ready is closed when every server of the catalogue has been looked at once: those that can be reached listen.
func (f *Fleet) Ready() <-chan struct{} { return f.ready }

// Run makes the catalogue's wishes true until ctx ends, then ends every frontend and returns. The servers stay ONLINE in
// the catalogue, so that the next start brings them up again.
func (f *Fleet) Run(ctx context.Context) error {
	changed, unsubscribe := f.cfg.Catalogue.Changed()
	defer unsubscribe()
	tick := time.NewTicker(f.cfg.Tick)
	defer tick.Stop()
	for first := true; ; {
		err := f.reconcile(ctx)
		switch {
		case ctx.Err() != nil:
			return f.drain()
		case err != nil:
			f.cfg.Log.Error("the catalogue cannot be followed: trying again", "error", err.Error())
			f.wakeIn(5 * f.cfg.Retry)
		case first:
			first = false
			close(f.ready)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-f.wake:
		case <-tick.C:
		}
	}
}

// reconcile looks at every server once.
func (f *Fleet) reconcile(ctx context.Context) error {
	f.reap()
	all, err := f.list(ctx)
	if err != nil {
		return err
	}
	known := make(map[server.ID]bool, len(all))
	states := map[server.State]int{}
	var errs []error
	for _, s := range all {
		known[s.ServerId] = true
		states[s.State]++
		if err := f.settle(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("server %s: %w", s.ServerId, err))
		}
	}
	for at, i := range f.running {
		if !known[at.server] { // deleted
			f.stop(at, i)
		}
	}
	unknown := func(at place) bool { return !known[at.server] }
	maps.DeleteFunc(f.trouble, func(at place, _ trouble) bool { return unknown(at) })
	maps.DeleteFunc(f.written, func(at place, _ string) bool { return unknown(at) })
	f.servers.Reset()
	for state, n := range states {
		f.servers.WithLabelValues(string(state)).Set(float64(n))
	}
	f.announce(ctx)
	return errors.Join(errs...)
}

// announce tells where the fleet listens, if that is news.
func (f *Fleet) announce(ctx context.Context) {
	if f.cfg.Listening == nil {
		return
	}
	all := []Listener{} // and not nil, which is what nobody was told yet
	for at, i := range f.running {
		if !i.stopping() {
			all = append(all, Listener{at.server, f.name(at), i.address})
		}
	}
	slices.SortFunc(all, func(a, b Listener) int {
		return cmp.Or(strings.Compare(string(a.Server), string(b.Server)), strings.Compare(a.Door, b.Door))
	})
	if f.told != nil && slices.Equal(f.told, all) {
		return
	}
	if err := f.cfg.Listening(ctx, all); err != nil {
		if ctx.Err() == nil {
			f.cfg.Log.Warn("nobody is told where servers listen: trying again", "error", err.Error())
			f.wakeIn(5 * f.cfg.Retry)
		}
		return
	}
	f.told = all
}

// list reads the whole catalogue.
func (f *Fleet) list(ctx context.Context) ([]server.Server, error) {
	var all []server.Server
	for after := ""; ; {
		page, err := f.cfg.Catalogue.Servers(ctx, server.Page{After: after, Limit: pageSize})
		if err != nil {
			return nil, fmt.Errorf("list servers: %w", err)
		}
		all = append(all, page...)
		if len(page) < pageSize {
			return all, nil
		}
		after = string(page[len(page)-1].ServerId)
	}
}

// settle brings one server nearer to what its state asks for. Only a fault of the catalogue is an error.
func (f *Fleet) settle(ctx context.Context, s server.Server) error {
	switch s.State {
	case server.Starting, server.Online:
		if err := f.cfg.Supports(s); err != nil {
			return f.giveUp(ctx, s, err)
		}
		return f.serve(ctx, s)
	case server.Stopping, server.StopFailed:
		open := f.close(s.ServerId)
		if len(open) == 0 {
			return f.transition(ctx, s, server.Offline, func(*server.Server) {})
		}
		overdue := func(i *instance) bool { return i.overdue(f.cfg.Now(), f.cfg.DrainTimeout) }
		if s.State == server.Stopping && slices.ContainsFunc(open, overdue) {
			f.cfg.Log.Error("server does not stop", "server", string(s.ServerId), "after", f.cfg.DrainTimeout.String())
			return f.transition(ctx, s, server.StopFailed, func(*server.Server) {})
		}
	default: // OFFLINE, START_FAILED
		f.close(s.ServerId)
	}
	return nil
}

// giveUp makes a server START_FAILED, with all its doors closed: it must not serve in part what it was asked for. Whoever
// asks for another start gets a fresh one.
func (f *Fleet) giveUp(ctx context.Context, s server.Server, cause error) error {
	f.close(s.ServerId)
	f.cfg.Log.Error("server cannot start", "server", string(s.ServerId), "error", cause.Error())
	if f.cfg.Shared && s.State == server.Online {
		return nil // the next tick tries again
	}
	return f.transition(ctx, s, server.StartFailed, func(s *server.Server) {
		setTag(s, TagStartError, tagValue(cause.Error()))
	})
}

// online writes that a server is up, and where. Nothing is written if the catalogue says so already, or says where it is up
// on another node: each writes an address once, or they would go on writing in turns.
func (f *Fleet) online(ctx context.Context, s server.Server, addresses map[place]server.Tag) error {
	news := false
	for at, t := range addresses {
		mine := f.written[at] != t.Value || t.Value == "" || tag(s, t.Key) == ""
		if tag(s, t.Key) != t.Value && (!f.cfg.Shared || mine) {
			news = true
		}
	}
	if s.State == server.Online && !news && tag(s, TagStartError) == "" {
		return nil
	}
	for at, t := range addresses {
		f.written[at] = t.Value
	}
	return f.transition(ctx, s, server.Online, func(s *server.Server) {
		for _, t := range addresses {
			setTag(s, t.Key, t.Value)
		}
		setTag(s, TagStartError, "")
	})
}

// transition moves a server on, but only from the state that it was seen in.
func (f *Fleet) transition(ctx context.Context, seen server.Server, to server.State, edit func(*server.Server)) error {
	err := f.cfg.Catalogue.UpdateServer(ctx, seen.ServerId, func(s *server.Server) error {
		if s.State != seen.State {
			return errMoved
		}
		s.State = to
		edit(s)
		return nil
	})
	if errors.Is(err, errMoved) || gone(err) {
		f.poke()
		return nil
	}
	if err != nil {
		return fmt.Errorf("write state %s: %w", to, err)
	}
	if seen.State != to {
		f.cfg.Log.Info("server changed its state", "server", string(seen.ServerId), "from", string(seen.State), "to", string(to))
	}
	return nil
}

// poke has Run look again.
func (f *Fleet) poke() {
	select {
	case f.wake <- struct{}{}:
	default: // one is waiting already
	}
}

// wakeIn has Run look again after a while. The timer holds nothing that would outlive Run.
func (f *Fleet) wakeIn(d time.Duration) { time.AfterFunc(d, f.poke) }

// gone says that a server was deleted while it was looked at.
func gone(err error) bool {
	var missing *server.NotFoundError
	return errors.As(err, &missing)
}

// The tags that tell about addresses, for doors to be made with. Tools of AWS ignore those named aws:, as they ignore all
// such tags. FTP and FTPS share one door, as they share one port on AWS.
const (
	TagStartError  = "aws:transferd:start-error"  // why it is START_FAILED
	TagSFTPAddress = "aws:transferd:sftp-address" // host:port where the server listens, or last listened
	TagSFTPAsk     = "transferd:sftp-address"     // host:port that whoever made the server asks for
	TagFTPAddress  = "aws:transferd:ftp-address"
	TagFTPAsk      = "transferd:ftp-address"
)

func tag(s server.Server, key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return t.Value
		}
	}
	return ""
}

// setTag sets a tag, or takes it away if the value is empty. It never writes into a slice that others may read.
func setTag(s *server.Server, key, value string) {
	tags := slices.DeleteFunc(slices.Clone(s.Tags), func(t server.Tag) bool { return t.Key == key })
	if value != "" {
		tags = append(tags, server.Tag{Key: key, Value: value})
	}
	s.Tags = tags
}

// tagValue cuts a text to what a tag can hold (shape TagValue: 256).
func tagValue(s string) string { return strings.ToValidUTF8(s[:min(len(s), 256)], "") }
