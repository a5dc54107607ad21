package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/transferd/transferd/storage/s3/gateway"
)

// gatewayCommand is the hidden command of the S3 store's child process.
const gatewayCommand = "s3-gateway-child"

const (
	gatewayStart   = 20 * time.Second       // the S3 store may take this long to answer for the first time
	gatewayRestart = 250 * time.Millisecond // between two starts of a store that died
)

// runGateway is the child: its configuration comes on stdin, and the end of stdin is its end.
func runGateway(ctx context.Context, p process, _ []string) error {
	return gateway.Child(ctx, os.Stdin, p.stdout)
}

// gatewayChild is the S3 store of dev mode. If the child dies it is started again on the same address, and the
// uploads' own retries bridge the gap.
type gatewayChild struct {
	spawn    gateway.SpawnConfig
	endpoint string
	stop     chan struct{}
	stopped  chan error
}

func startGateway(ctx context.Context, f devFlags, state *devState, log io.Writer) (*gatewayChild, error) {
	root, err := filepath.Abs(filepath.Join(f.data, "s3"))
	if err != nil {
		return nil, err
	}
	c := &gatewayChild{
		spawn: gateway.SpawnConfig{
			Config: gateway.Config{Root: root, Addr: f.s3, AccessKey: state.AccessKey, SecretKey: state.SecretKey, Region: devRegion},
			Args:   []string{gatewayCommand},
			Stderr: log,
		},
		stop: make(chan struct{}), stopped: make(chan error, 1),
	}
	p, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	c.endpoint, c.spawn.Addr = p.URL(), p.Addr()
	go func() { c.stopped <- c.watch(p) }()
	return c, nil
}

func (c *gatewayChild) start(ctx context.Context) (*gateway.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, gatewayStart)
	defer cancel()
	return gateway.Spawn(ctx, c.spawn)
}

// watch keeps a child running until Stop.
func (c *gatewayChild) watch(p *gateway.Process) error {
	ctx := context.Background() // the watch outlives whoever started it; Stop ends it
	for {
		select {
		case <-c.stop:
			return p.Stop(ctx)
		case <-p.Done():
		}
		for p = nil; p == nil; {
			select {
			case <-c.stop:
				return nil
			case <-time.After(gatewayRestart):
			}
			next, err := c.start(ctx)
			if err != nil {
				_, _ = io.WriteString(c.spawn.Stderr, "restart the S3 store: "+err.Error()+"\n")
				continue
			}
			p = next
		}
	}
}

// Endpoint is the store's URL; it stays the same for as long as this process lives.
func (c *gatewayChild) Endpoint() string { return c.endpoint }

// Stop ends the child, after everything that used it has ended. A child that was killed from outside is no error.
func (c *gatewayChild) Stop() error {
	close(c.stop)
	if err := <-c.stopped; err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}
