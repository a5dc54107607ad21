package fleet_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/fleet"
)

// node is one of several fleets on a catalogue. It counts how often that was looked at.
type node struct {
	*catalogue
	looks atomic.Int32
}

func (n *node) Servers(ctx context.Context, p server.Page) ([]server.Server, error) {
	n.looks.Add(1)
	return n.catalogue.Servers(ctx, p)
}

// Changed is part of fleet.Catalogue: this node lives by its ticks alone.
func (n *node) Changed() (<-chan struct{}, func()) { return nil, func() {} }

func (n *node) looked(t *testing.T, more int32) {
	t.Helper()
	limit := time.After(time.Minute)
	for until := n.looks.Load() + more; n.looks.Load() < until; {
		select {
		case <-limit:
			t.Fatal("does not look at the catalogue")
		case <-time.After(time.Millisecond):
		}
	}
}

// share runs a fleet on a catalogue that others use too, until the test ends.
func share(t *testing.T, c *catalogue, listen func(context.Context, server.Server) (net.Listener, error)) (*node, *frontend) {
	t.Helper()
	n, front := &node{catalogue: c}, &frontend{}
	f := fleet.New(fleet.Config{Catalogue: n, Shared: true, Tick: 5 * time.Millisecond, Retry: time.Millisecond,
		Doors: []fleet.Door{{Name: "SFTP", Listen: listen, Frontend: front, TagAddress: fleet.TagSFTPAddress}}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return n, front
}

// Three fleets start one server. Each listens at an address of its own and nobody writes his over another's again and
// again; when the server stops and starts again all follow.
func TestFleetsShareACatalogue(t *testing.T) {
	t.Parallel()
	c := newCatalogue(server.Server{ServerId: "s-1", State: server.Starting})
	var nodes []*node
	var fronts []*frontend
	for range 3 {
		n, front := share(t, c, fleet.Addresses{Host: "127.0.0.1", TagAddress: fleet.TagSFTPAddress}.Listen)
		nodes, fronts = append(nodes, n), append(fronts, front)
	}
	for start := 1; start <= 2; start++ {
		c.await(t, "s-1", server.Online)
		for i, n := range nodes {
			n.looked(t, 5)
			if got := fronts[i].times(); got != start {
				t.Errorf("node %d served %d times, want %d", i, got, start)
			}
		}
		before := writes(c)
		for _, n := range nodes {
			n.looked(t, 20)
		}
		if after := writes(c); after != before {
			t.Errorf("%d writes more while nothing happens", after-before)
		}
		if start == 1 {
			c.wish(t, "s-1", server.Stopping)
			c.await(t, "s-1", server.Offline)
			for _, n := range nodes {
				n.looked(t, 5)
			}
			c.wish(t, "s-1", server.Starting)
		}
	}
}

func writes(c *catalogue) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

// What a node cannot open does not take a server from the others, and it goes on trying.
func TestNodeThatCannotListenLeavesItToTheOthers(t *testing.T) {
	t.Parallel()
	c := newCatalogue(server.Server{ServerId: "s-1", State: server.Starting})
	_, front := share(t, c, fleet.Addresses{Host: "127.0.0.1", TagAddress: fleet.TagSFTPAddress}.Listen)
	c.await(t, "s-1", server.Online)
	var can atomic.Bool
	late, lateFront := share(t, c, func(ctx context.Context, s server.Server) (net.Listener, error) {
		if !can.Load() {
			return nil, errors.New("the port is in use")
		}
		return fleet.Addresses{Host: "127.0.0.1", TagAddress: fleet.TagSFTPAddress}.Listen(ctx, s)
	})
	late.looked(t, 30)
	if s := c.await(t, "s-1", server.Online); lateFront.times() != 0 || front.times() != 1 {
		t.Errorf("%+v, served %d and %d times", s, front.times(), lateFront.times())
	}
	can.Store(true)
	limit := time.After(time.Minute)
	for lateFront.times() == 0 {
		select {
		case <-limit:
			t.Fatal("did not try again")
		case <-time.After(time.Millisecond):
		}
	}
}
