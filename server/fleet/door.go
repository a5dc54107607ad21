package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

// Door is a way into a server. A server has those that serve it, and is ONLINE when all of them listen.
type Door struct {
	// Name says in logs and to whoever looks at a server which door it is about.
	Name string
	// Serves says whether a server has this door. When the answer changes while the server is ONLINE, the door opens or
	// closes and the server's other doors go on. Nil: every server has it.
	Serves func(s server.Server) bool
	// Listen opens the listener; usually Addresses.Listen.
	Listen   func(ctx context.Context, s server.Server) (net.Listener, error)
	Frontend Frontend
	// TagAddress is the tag that tells the address. A server that is ONLINE without this door has no such tag.
	TagAddress string
}

// Frontend serves a protocol.
type Frontend interface {
	// Serve serves until ctx ends; then it closes the listener, ends its sessions with their verdicts and returns. current
	// gives the settings of this moment, for each new connection.
	Serve(ctx context.Context, ln net.Listener, current func() Settings) error
}

// Settings are a server as the catalogue has it now.
type Settings struct {
	Server   server.Server
	HostKeys []hostkeys.Key
}

// place is a door of a server.
type place struct {
	server server.ID
	door   int // in Config.Doors
}

func (f *Fleet) name(at place) string { return f.cfg.Doors[at.door].Name }

// errNoDoor is a server that nobody would serve.
var errNoDoor = errors.New("none of the server's protocols is served")

// serve opens the doors that a server should have and closes those that it should not. The server is ONLINE when all that
// it should have listen.
func (f *Fleet) serve(ctx context.Context, s server.Server) error {
	keys, err := f.cfg.Catalogue.HostKeys(ctx, s.ServerId)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read host keys: %w", err)
	}
	settings := Settings{Server: s, HostKeys: keys}
	addresses := map[place]server.Tag{}
	wanted, listening := 0, 0
	for n, door := range f.cfg.Doors {
		at := place{s.ServerId, n}
		if door.Serves != nil && !door.Serves(s) {
			f.shut(at)
			addresses[at] = server.Tag{Key: door.TagAddress}
			continue
		}
		wanted++
		i, err := f.open(ctx, at, settings)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return f.giveUp(ctx, s, fmt.Errorf("%s: %w", door.Name, err))
		}
		if i != nil {
			listening++
			addresses[at] = server.Tag{Key: door.TagAddress, Value: i.address}
		}
	}
	switch {
	case wanted == 0:
		return f.giveUp(ctx, s, errNoDoor)
	case listening < wanted:
		return nil // a wake is set for the next try, or comes when the door of before has closed
	}
	return f.online(ctx, s, addresses)
}

// open gives the instance of a door with the settings of now, started if need be. It is nil if the door has to wait: for
// its next try, or for the end of an instance that was stopped before the server was started again. An error says that
// the door cannot open.
func (f *Fleet) open(ctx context.Context, at place, settings Settings) (*instance, error) {
	if i := f.running[at]; i != nil {
		if i.stopping() {
			return nil, nil
		}
		i.settings.Store(&settings)
		return i, nil
	}
	switch t := f.trouble[at]; {
	case t.tries >= tries:
		return nil, t.cause
	case t.next.After(f.cfg.Now()):
		return nil, nil
	}
	ln, err := f.cfg.Doors[at.door].Listen(ctx, settings.Server)
	if err != nil {
		// One that was ONLINE gets a few tries more: the process before this one may still hold the address.
		if ctx.Err() == nil && settings.Server.State == server.Online && f.again(at, err) {
			return nil, nil
		}
		return nil, err
	}
	i := f.run(ctx, at, ln, settings)
	f.cfg.Log.Info("server listens", "server", string(at.server), "door", f.name(at), "address", i.address)
	return i, nil
}

// again plans another try; false when there were enough.
func (f *Fleet) again(at place, cause error) bool {
	t := f.trouble[at]
	t.tries++
	t.cause = cause
	wait := f.cfg.Retry << (t.tries - 1)
	t.next = f.cfg.Now().Add(wait)
	f.trouble[at] = t
	if t.tries >= tries {
		return false
	}
	f.cfg.Log.Warn("server is not up: trying again",
		"server", string(at.server), "door", f.name(at), "wait", wait.String(), "error", cause.Error())
	f.wakeIn(wait)
	return true
}

// shut closes a door, and forgets what trouble it had. It gives the instance that has yet to end, nil if there is none.
func (f *Fleet) shut(at place) *instance {
	delete(f.trouble, at)
	i := f.running[at]
	if i != nil {
		f.stop(at, i)
	}
	return i
}

// close closes every door of a server and gives the instances that have yet to end.
func (f *Fleet) close(id server.ID) []*instance {
	var open []*instance
	for n := range f.cfg.Doors {
		if i := f.shut(place{id, n}); i != nil {
			open = append(open, i)
		}
	}
	return open
}
