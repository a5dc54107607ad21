// Package door is what the protocols' servers have in common before a connection speaks its protocol. It knows none.
package door

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Accept takes connections until the listener is closed. Running out of file descriptors passes: wait and go on.
func Accept(ctx context.Context, ln net.Listener, log *slog.Logger, admit func(context.Context, net.Conn)) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		conn, err := ln.Accept()
		switch {
		case err == nil:
			pause = shortest
			admit(ctx, conn)
			continue
		case errors.Is(err, net.ErrClosed):
			return err
		}
		log.WarnContext(ctx, "accept", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
			pause = min(2*pause, longest)
		}
	}
}

// Register registers a collector, or finds the one that an earlier server registered at the same place: the numbers are
// the process's, not one server's. With a nil Registerer they are counted and shown nowhere.
func Register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var earlier prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &earlier) {
		if same, ok := earlier.ExistingCollector.(C); ok {
			return same
		}
	}
	return c
}
