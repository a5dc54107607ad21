package fleet_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("catalogue is away")

// catalogue is one in memory; every change is signalled.
type catalogue struct {
	mu       sync.Mutex // guards what follows
	servers  map[server.ID]server.Server
	keys     map[server.ID][]hostkeys.Key // of those that have others than "hostkey-of-…"
	away     int                          // so many calls fail
	readonly bool                         // UpdateServer fails
	writes   int                          // UpdateServer calls that changed something
	signal   chan struct{}                // the subscriber's
	seen     chan struct{}                // closed and made anew at each change: for tests that wait
}

func newCatalogue(servers ...server.Server) *catalogue {
	c := &catalogue{servers: map[server.ID]server.Server{}, keys: map[server.ID][]hostkeys.Key{},
		signal: make(chan struct{}, 1), seen: make(chan struct{})}
	for _, s := range servers {
		c.servers[s.ServerId] = s
	}
	return c
}

func (c *catalogue) fault() error {
	if c.away > 0 {
		c.away--
		return errAway
	}
	return nil
}

func (c *catalogue) Servers(_ context.Context, p server.Page) ([]server.Server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.fault(); err != nil {
		return nil, err
	}
	var list []server.Server
	for _, s := range c.servers {
		if string(s.ServerId) > p.After {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b server.Server) int { return cmp.Compare(a.ServerId, b.ServerId) })
	return list[:min(p.Limit, len(list))], nil
}

func (c *catalogue) HostKeys(_ context.Context, id server.ID) ([]hostkeys.Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.servers[id]; !ok {
		return nil, &server.NotFoundError{ResourceType: "Server", Resource: string(id)}
	}
	if keys, ok := c.keys[id]; ok {
		return slices.Clone(keys), c.fault()
	}
	return []hostkeys.Key{{HostKeyId: "hostkey-of-" + string(id)}}, c.fault()
}

func (c *catalogue) UpdateServer(_ context.Context, id server.ID, change func(*server.Server) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.fault(); err != nil {
		return err
	}
	if c.readonly {
		return errAway
	}
	s, ok := c.servers[id]
	if !ok {
		return &server.NotFoundError{ResourceType: "Server", Resource: string(id)}
	}
	if err := change(&s); err != nil {
		return err
	}
	c.servers[id] = s
	c.changed()
	return nil
}

// changed tells of a change; mu is held.
func (c *catalogue) changed() {
	c.writes++
	select {
	case c.signal <- struct{}{}:
	default:
	}
	close(c.seen)
	c.seen = make(chan struct{})
}

func (c *catalogue) Changed() (<-chan struct{}, func()) { return c.signal, func() {} }

func (c *catalogue) put(s server.Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[s.ServerId] = s
	c.changed()
}

func (c *catalogue) rekey(id server.ID, keys ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keys[id] = nil
	for _, k := range keys {
		c.keys[id] = append(c.keys[id], hostkeys.Key{HostKeyId: k})
	}
	c.changed()
}

func (c *catalogue) wish(t *testing.T, id server.ID, state server.State) {
	t.Helper()
	if err := c.UpdateServer(t.Context(), id, func(s *server.Server) error { s.State = state; return nil }); err != nil {
		t.Fatal(err)
	}
}

func (c *catalogue) remove(id server.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, id)
	c.changed()
}

// await waits until a server is in a state.
func (c *catalogue) await(t *testing.T, id server.ID, state server.State) server.Server {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		c.mu.Lock()
		s, seen := c.servers[id], c.seen
		c.mu.Unlock()
		if s.State == state {
			return s
		}
		select {
		case <-seen:
		case <-limit:
			t.Fatalf("server is %s, want %s", s.State, state)
		}
	}
}

// frontend accepts, writes the server's banner and hangs up.
type frontend struct {
	mu     sync.Mutex
	served []server.ID
	die    int           // so many Serve calls end at once
	stuck  chan struct{} // Serve ends only when it is closed, if set
	ended  chan server.ID
}

func (f *frontend) Serve(ctx context.Context, ln net.Listener, current func() fleet.Settings) error {
	f.mu.Lock()
	id := current().Server.ServerId
	f.served = append(f.served, id)
	die := f.die > 0
	f.die--
	f.mu.Unlock()
	if die {
		return errors.New("accept: out of files")
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if f.stuck != nil {
				<-f.stuck
			}
			if f.ended != nil {
				f.ended <- id
			}
			return err
		}
		s := current()
		_, err = fmt.Fprintf(conn, "%s %s", s.Server.PreAuthenticationLoginBanner, s.HostKeys[0].HostKeyId)
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
	}
}

func (f *frontend) times() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.served)
}

// buffer is a log that many write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sftp is the one door of servers that have one.
func sftp(front fleet.Frontend) []fleet.Door {
	pool := fleet.Addresses{Host: "127.0.0.1", TagAddress: fleet.TagSFTPAddress, TagAsk: fleet.TagSFTPAsk}
	return []fleet.Door{{Name: "SFTP", Listen: pool.Listen, Frontend: front, TagAddress: pool.TagAddress}}
}

// run runs a fleet for the test; the function stops it and gives Run's error.
func run(t *testing.T, cfg fleet.Config) (*fleet.Fleet, func() error) {
	t.Helper()
	cfg.Retry = cmp.Or(cfg.Retry, time.Millisecond)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 10*time.Second)
	f := fleet.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- f.Run(ctx) }()
	stop := sync.OnceValue(func() error { cancel(); return <-result })
	t.Cleanup(func() { _ = stop() }) // a test that minds has called it
	<-f.Ready()
	return f, stop
}

// eventually looks until something is so.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !so(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never came")
		}
	}
}

func tag(s server.Server, key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return t.Value
		}
	}
	return ""
}

func ask(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "refused"
	}
	defer conn.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(conn); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func starting(id server.ID, tags ...server.Tag) server.Server {
	return server.Server{ServerId: id, State: server.Starting, PreAuthenticationLoginBanner: "old", Tags: tags}
}

func TestLifeOfAServer(t *testing.T) {
	t.Parallel()
	c := newCatalogue(starting("s-1"))
	front := &frontend{}
	reg := prometheus.NewRegistry()
	_, stop := run(t, fleet.Config{Catalogue: c, Doors: sftp(front), Registerer: reg})
	s := c.await(t, "s-1", server.Online)
	address := tag(s, fleet.TagSFTPAddress)
	if got := ask(t, address); got != "old hostkey-of-s-1" {
		t.Errorf("served %q at %s", got, address)
	}
	// A change shows in the next connection.
	s.PreAuthenticationLoginBanner = "new"
	c.put(s)
	eventually(t, func() bool { return ask(t, address) == "new hostkey-of-s-1" })
	c.wish(t, "s-1", server.Stopping)
	if s := c.await(t, "s-1", server.Offline); tag(s, fleet.TagSFTPAddress) != address {
		t.Error("the address is forgotten")
	}
	if got := ask(t, address); got != "refused" {
		t.Errorf("stopped, and yet %q", got)
	}
	c.wish(t, "s-1", server.Starting)
	if s := c.await(t, "s-1", server.Online); tag(s, fleet.TagSFTPAddress) != address {
		t.Errorf("came back at %s, was at %s", tag(s, fleet.TagSFTPAddress), address)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 1 || families[0].GetName() != "transferd_servers" {
		t.Errorf("metrics %v, %v", families, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if s := c.await(t, "s-1", server.Online); s.State != server.Online {
		t.Error("shutdown changed the wish")
	}
	if got := ask(t, address); got != "refused" {
		t.Errorf("after shutdown: %q", got)
	}
}

func TestRestartKeepsAddresses(t *testing.T) {
	t.Parallel()
	c := newCatalogue(starting("s-1"), starting("s-2"), server.Server{ServerId: "s-3", State: server.Stopping},
		server.Server{ServerId: "s-4", State: server.Offline})
	_, stop := run(t, fleet.Config{Catalogue: c, Doors: sftp(&frontend{})})
	one, two := tag(c.await(t, "s-1", server.Online), fleet.TagSFTPAddress), tag(c.await(t, "s-2", server.Online), fleet.TagSFTPAddress)
	c.await(t, "s-3", server.Offline) // its process died while it stopped
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	before := c.writes
	front := &frontend{}
	run(t, fleet.Config{Catalogue: c, Doors: sftp(front)}) // ready: they listen
	if !strings.HasPrefix(ask(t, one), "old") || !strings.HasPrefix(ask(t, two), "old") {
		t.Error("not at the same addresses")
	}
	if c.writes != before {
		t.Errorf("%d writes of what was written already", c.writes-before)
	}
	eventually(t, func() bool { return front.times() == 2 })
}

func TestDeleted(t *testing.T) {
	t.Parallel()
	c := newCatalogue(starting("s-1"))
	front := &frontend{ended: make(chan server.ID, 1)}
	run(t, fleet.Config{Catalogue: c, Doors: sftp(front)})
	c.await(t, "s-1", server.Online)
	c.remove("s-1")
	if id := <-front.ended; id != "s-1" {
		t.Error(id)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	want := server.Tag{Key: fleet.TagSFTPAsk, Value: taken.Addr().String()}
	online := starting("s-2", want)
	online.State = server.Online
	log := &buffer{}
	c := newCatalogue(starting("s-1", want), online)
	run(t, fleet.Config{Catalogue: c, Doors: sftp(&frontend{}), Log: slog.New(slog.NewTextHandler(log, nil))})
	for _, id := range []server.ID{"s-1", "s-2"} {
		s := c.await(t, id, server.StartFailed)
		if reason := tag(s, fleet.TagStartError); !strings.Contains(reason, "in use") {
			t.Errorf("%s: reason %q", id, reason)
		}
	}
	if n := strings.Count(log.String(), "trying again"); n != 5 {
		t.Errorf("the server that was ONLINE had %d more tries, want 5", n)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	c.wish(t, "s-1", server.Starting)
	s := c.await(t, "s-1", server.Online)
	if tag(s, fleet.TagStartError) != "" || tag(s, fleet.TagSFTPAddress) != want.Value {
		t.Errorf("tags %v", s.Tags)
	}
}

// A frontend that dies is started again; one that dies again and again is given up.
func TestFrontendDies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		deaths int
		want   server.State
		served int
	}{{2, server.Online, 3}, {100, server.StartFailed, 6}} {
		cat := newCatalogue(starting("s-1"))
		front := &frontend{die: c.deaths}
		run(t, fleet.Config{Catalogue: cat, Doors: sftp(front)})
		eventually(t, func() bool { return front.times() >= c.served })
		s := cat.await(t, "s-1", c.want)
		if c.want == server.StartFailed && tag(s, fleet.TagStartError) != "SFTP: accept: out of files" {
			t.Errorf("tags %v", s.Tags)
		}
		if n := front.times(); n != c.served {
			t.Errorf("served %d times, want %d", n, c.served)
		}
	}
}

func TestStopTakesTooLong(t *testing.T) {
	t.Parallel()
	c := newCatalogue(starting("s-1"))
	front := &frontend{stuck: make(chan struct{})}
	_, stop := run(t, fleet.Config{Catalogue: c, Doors: sftp(front), DrainTimeout: 20 * time.Millisecond})
	c.await(t, "s-1", server.Online)
	c.wish(t, "s-1", server.Stopping)
	c.await(t, "s-1", server.StopFailed)
	if err := stop(); err == nil || !strings.Contains(err.Error(), "s-1 has not ended") {
		t.Errorf("Run: %v", err)
	}
	close(front.stuck)
}

// Stopped and started again before the old frontend has ended: the new one waits for its address.
func TestStopAndStartAtOnce(t *testing.T) {
	t.Parallel()
	c := newCatalogue(starting("s-1"))
	front := &frontend{stuck: make(chan struct{})}
	run(t, fleet.Config{Catalogue: c, Doors: sftp(front)})
	address := tag(c.await(t, "s-1", server.Online), fleet.TagSFTPAddress)
	c.wish(t, "s-1", server.Stopping)
	eventually(t, func() bool { return ask(t, address) == "refused" })
	c.wish(t, "s-1", server.Starting)
	close(front.stuck)
	s := c.await(t, "s-1", server.Online)
	if tag(s, fleet.TagSFTPAddress) != address {
		t.Errorf("at %s, was at %s", tag(s, fleet.TagSFTPAddress), address)
	}
	eventually(t, func() bool { return front.times() == 2 })
}

func TestCatalogueAway(t *testing.T) {
	t.Parallel()
	for away := 1; away <= 4; away++ { // the listing, the keys, the state
		c := newCatalogue(starting("s-1"), server.Server{ServerId: "s-2", State: server.Stopping})
		c.away = away
		run(t, fleet.Config{Catalogue: c, Doors: sftp(&frontend{})})
		c.await(t, "s-1", server.Online)
		c.await(t, "s-2", server.Offline)
	}
}

func TestManyServers(t *testing.T) {
	t.Parallel()
	c := newCatalogue()
	for i := range 1100 { // more than two pages, listed alone
		c.put(server.Server{ServerId: server.ID(fmt.Sprintf("s-%04d", i)), State: server.Stopping})
	}
	run(t, fleet.Config{Catalogue: c, Doors: sftp(&frontend{})})
	c.await(t, "s-0000", server.Offline)
	c.await(t, "s-1099", server.Offline)
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().(*net.TCPAddr).Port
	before := func(port int) server.Tag {
		return server.Tag{Key: fleet.TagSFTPAddress, Value: fmt.Sprint("127.0.0.1:", port)}
	}
	asks := func(address string) server.Tag { return server.Tag{Key: fleet.TagSFTPAsk, Value: address} }
	for _, c := range []struct {
		name string
		pool fleet.Addresses
		tags []server.Tag
		want func(port int) bool
	}{
		{"any", fleet.Addresses{Host: "127.0.0.1"}, nil, func(p int) bool { return p > 0 }},
		{"before, taken", fleet.Addresses{Host: "127.0.0.1"}, []server.Tag{before(busy)}, func(p int) bool { return p > 0 && p != busy }},
		{"range, first taken", fleet.Addresses{Host: "127.0.0.1", First: busy, Last: min(busy+50, 65535)}, nil,
			func(p int) bool { return p > busy && p <= busy+50 }},
		{"single, taken", fleet.Addresses{Host: "127.0.0.1", First: busy}, nil, nil},
		{"before lies outside of the range", fleet.Addresses{Host: "127.0.0.1", First: busy}, []server.Tag{before(1)}, nil},
		{"asked, taken", fleet.Addresses{Host: "127.0.0.1"}, []server.Tag{asks(fmt.Sprint("127.0.0.1:", busy))}, nil},
		{"asked for any", fleet.Addresses{Host: "192.0.2.1"}, []server.Tag{asks("127.0.0.1:0")}, func(p int) bool { return p > 0 }},
		{"asked for any, before taken", fleet.Addresses{Host: "192.0.2.1"}, []server.Tag{asks("127.0.0.1:0"), before(busy)},
			func(p int) bool { return p > 0 && p != busy }},
		{"asked for nonsense", fleet.Addresses{}, []server.Tag{asks("here")}, nil},
		{"bad range", fleet.Addresses{First: 1, Last: 70000}, nil, nil},
	} {
		c.pool.TagAddress, c.pool.TagAsk = fleet.TagSFTPAddress, fleet.TagSFTPAsk
		ln, err := c.pool.Listen(t.Context(), server.Server{Tags: c.tags})
		if c.want == nil {
			if err == nil {
				t.Errorf("%s: listens at %s", c.name, ln.Addr())
				ln.Close()
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if port := ln.Addr().(*net.TCPAddr).Port; !c.want(port) {
			t.Errorf("%s: port %d", c.name, port)
		}
		ln.Close()
	}
}
