package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/transferd/transferd/server"
)

// Addresses is the pool that servers get the addresses of one door from.
type Addresses struct {
	// Host is where servers listen that ask for nothing; "" is every interface.
	Host string
	// First and Last are the ports that may be given out, both included. Both 0: any free one. Last 0: First alone.
	First, Last int
	// TagAddress and TagAsk are the door's tags: where a server listens or last listened, and where it asks to.
	TagAddress, TagAsk string
}

// Listen opens the listener of a server: exactly where the tag TagAsk asks for, else on the port that it
// had before if that is still in the pool and free, else on the first free port of the pool. The tag counts when the
// server starts; a change while it is up waits for the next start.
func (a Addresses) Listen(ctx context.Context, s server.Server) (net.Listener, error) {
	candidates, err := a.candidates(s)
	if err != nil {
		return nil, err
	}
	var config net.ListenConfig
	var first error
	for _, address := range candidates {
		ln, err := config.Listen(ctx, "tcp", address)
		if err == nil {
			return ln, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(candidates) > 1 {
		return nil, fmt.Errorf("none of %d addresses is free: %w", len(candidates), first)
	}
	return nil, first
}

// candidates are the addresses to try, in order.
func (a Addresses) candidates(s server.Server) ([]string, error) {
	before := port(tag(s, a.TagAddress))
	if asked := tag(s, a.TagAsk); asked != "" {
		host, p, err := net.SplitHostPort(asked)
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", a.TagAsk, err)
		}
		if p == "0" && before != 0 {
			return []string{join(host, before), asked}, nil
		}
		return []string{asked}, nil
	}
	first, last := a.First, max(a.First, a.Last)
	if first < 0 || last > 65535 || first == 0 && last != 0 {
		return nil, errors.New("bad range of ports in the configuration")
	}
	var list []string
	if before != 0 && (first == 0 || first <= before && before <= last) {
		list = append(list, join(a.Host, before))
	}
	for p := first; p <= last; p++ {
		if p != before || p == 0 {
			list = append(list, join(a.Host, p))
		}
	}
	return list, nil
}

// port is the port of host:port, 0 if there is none.
func port(address string) int {
	_, p, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		return 0
	}
	return n
}

func join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
