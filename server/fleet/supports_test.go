package fleet_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/fleet"
)

// sftpOnly is what a build without FTPS says.
func sftpOnly(s server.Server) error {
	if slices.Contains(s.Protocols, "FTPS") {
		return errors.New("FTPS is not supported yet")
	}
	return nil
}

func speaks(s server.Server, protocols ...string) server.Server {
	s.Protocols = protocols
	return s
}

func TestUnsupportedServerDoesNotStart(t *testing.T) {
	t.Parallel()
	online := speaks(starting("s-2"), "SFTP", "FTPS") // it was ONLINE under another build
	online.State = server.Online
	c := newCatalogue(speaks(starting("s-1"), "FTPS"), online, speaks(starting("s-3"), "SFTP"))
	front := &frontend{}
	doors := sftp(front)
	var listens atomic.Int32
	listen := doors[0].Listen
	doors[0].Listen = func(ctx context.Context, s server.Server) (net.Listener, error) {
		listens.Add(1)
		return listen(ctx, s)
	}
	run(t, fleet.Config{Catalogue: c, Doors: doors, Supports: sftpOnly})
	c.await(t, "s-3", server.Online)
	for _, id := range []server.ID{"s-1", "s-2"} {
		s := c.await(t, id, server.StartFailed)
		if got := tag(s, fleet.TagStartError); got != "FTPS is not supported yet" || tag(s, fleet.TagSFTPAddress) != "" {
			t.Errorf("%s: tags %v", id, s.Tags)
		}
	}
	eventually(t, func() bool { return front.times() == 1 })
	if n := listens.Load(); n != 1 {
		t.Errorf("%d servers listened, want s-3 alone", n)
	}

	// It stays so whatever else changes, until somebody asks for a start of what can be served.
	c.put(speaks(c.await(t, "s-1", server.StartFailed), "SFTP"))
	c.wish(t, "s-1", server.Starting)
	if s := c.await(t, "s-1", server.Online); tag(s, fleet.TagStartError) != "" {
		t.Errorf("the error of before is still told: %v", s.Tags)
	}
}

func TestOnlineServerThatAsksForMore(t *testing.T) {
	t.Parallel()
	c := newCatalogue(speaks(starting("s-1"), "SFTP"))
	front := &frontend{stuck: make(chan struct{})} // sessions that take their time to end
	run(t, fleet.Config{Catalogue: c, Doors: sftp(front), Supports: sftpOnly})
	s := c.await(t, "s-1", server.Online)
	address := tag(s, fleet.TagSFTPAddress)
	if got := ask(t, address); !strings.HasPrefix(got, "old") {
		t.Fatalf("served %q", got)
	}
	c.put(speaks(s, "SFTP", "FTPS"))
	s = c.await(t, "s-1", server.StartFailed)
	if got := tag(s, fleet.TagStartError); got != "FTPS is not supported yet" {
		t.Errorf("start error %q", got)
	}
	eventually(t, func() bool { return ask(t, address) == "refused" })

	// Started again while the old frontend still ends its sessions, it comes up at the same address.
	c.put(speaks(s, "SFTP"))
	c.wish(t, "s-1", server.Starting)
	close(front.stuck)
	s = c.await(t, "s-1", server.Online)
	if tag(s, fleet.TagSFTPAddress) != address || tag(s, fleet.TagStartError) != "" {
		t.Errorf("tags %v, was at %s", s.Tags, address)
	}
	eventually(t, func() bool { return front.times() == 2 })
}

// A catalogue that cannot be written keeps no unsupported server up.
func TestUnsupportedWhileTheCatalogueIsAway(t *testing.T) {
	t.Parallel()
	c := newCatalogue(speaks(starting("s-1"), "SFTP"))
	run(t, fleet.Config{Catalogue: c, Doors: sftp(&frontend{}), Supports: sftpOnly, Retry: 20 * time.Millisecond})
	s := c.await(t, "s-1", server.Online)
	address := tag(s, fleet.TagSFTPAddress)
	c.allowWrites(false)
	c.put(speaks(s, "FTPS"))
	eventually(t, func() bool { return ask(t, address) == "refused" })
	c.allowWrites(true)
	c.await(t, "s-1", server.StartFailed)
}

func (c *catalogue) allowWrites(allow bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readonly = !allow
}

// Host keys that change reach the next connections of a running server, without a restart.
func TestHostKeysReachRunningServers(t *testing.T) {
	t.Parallel()
	c := newCatalogue(starting("s-1"), starting("s-2"))
	front := &frontend{}
	run(t, fleet.Config{Catalogue: c, Doors: sftp(front), Tick: time.Hour}) // signals alone
	address := tag(c.await(t, "s-1", server.Online), fleet.TagSFTPAddress)
	other := tag(c.await(t, "s-2", server.Online), fleet.TagSFTPAddress)
	for _, keys := range [][]string{{"first"}, {"second", "first"}, {"second"}} {
		c.rekey("s-1", keys...)
		changed := time.Now()
		eventually(t, func() bool { return ask(t, address) == "old "+keys[0] })
		if took := time.Since(changed); took > time.Second {
			t.Errorf("keys %v took %s", keys, took)
		}
	}
	if got := ask(t, other); got != "old hostkey-of-s-2" {
		t.Errorf("another server shows %q", got)
	}
	if n := front.times(); n != 2 {
		t.Errorf("%d starts of two servers", n)
	}
}
