// Package gateway runs an S3 store on a local directory: versitygw with its posix backend, for `transferd dev`, tests
// and benchmarks.
//
// The library changes the working directory of its process and keeps package-level state, so one process can run one
// store and should do nothing else: Spawn starts the running executable a second time, and that child calls Child.
// Run is what the child does.
//
// It knows nothing of storage.Backend, servers or workflows; to everybody else it is an address that speaks S3.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

const (
	// maxCopy is the largest object that one CopyObject takes, S3's own limit. The library means this to be its
	// default, but left at 0 it refuses every copy.
	maxCopy = 5 << 30
	// maxConnections and maxRequests are far above what one daemon with its pool opens: a refused connection would
	// look like an outage.
	maxConnections = 16384
	maxRequests    = 8192
	// maxActions bounds file system calls at a time, and so threads.
	maxActions = 256
	maxParts   = 10000
	// lockPoll is how often a directory that another process still serves is looked at again.
	lockPoll = 5 * time.Millisecond
	// portTries is how often a free port is chosen anew because somebody took it between choosing and binding.
	portTries = 20
)

// Config says what the store is. It goes to the child as JSON.
type Config struct {
	// Root is the directory that holds the objects, one subdirectory a bucket. Its file system needs user extended
	// attributes. It is made if it is missing.
	Root string
	// Addr is where to listen, host:port. Port 0 chooses a free port.
	Addr string
	// AccessKey and SecretKey are the one account.
	AccessKey string
	SecretKey string
	// Users are accounts besides, by access key, with their secrets. Each owns buckets of its own and sees no other's.
	Users map[string]string
	// Region defaults to us-east-1.
	Region string
	// Ready, if set, is called once, with the address that is listened on.
	Ready func(addr string) `json:"-"`
}

// Run serves the store until ctx ends. Requests under way get up to ten seconds to finish. It changes the process's
// working directory to Root, and a process may call it once at a time.
func Run(ctx context.Context, cfg Config) error {
	if cfg.AccessKey == "" || cfg.SecretKey == "" {
		return errors.New("s3 gateway: access key and secret key must be set")
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if err := os.MkdirAll(cfg.Root, 0o750); err != nil {
		return fmt.Errorf("s3 gateway: make the root: %w", err)
	}
	unlock, err := lock(ctx, cfg.Root)
	if err != nil {
		return fmt.Errorf("s3 gateway: lock the root: %w", err)
	}
	defer unlock()
	if err := (meta.XattrMeta{}).Test(cfg.Root); err != nil {
		return fmt.Errorf("s3 gateway: %s has no extended attributes: %w", cfg.Root, err)
	}
	store, err := posix.New(cfg.Root, meta.XattrMeta{}, posix.PosixOpts{
		Concurrency: maxActions, CopyObjectThreshold: maxCopy,
	})
	if err != nil {
		return fmt.Errorf("s3 gateway: open the root: %w", err)
	}
	defer store.Shutdown()
	return serve(ctx, cfg, store)
}

// lock waits until no other process serves the directory. The child of a parent that was killed finishes its requests
// after the next parent has started: a part, or a whole multipart upload, that it makes then would be there behind the
// back of a recovery that has looked already. The lock ends with the process, however it ends.
func lock(ctx context.Context, root string) (unlock func(), err error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = dir.Close() } // nothing was written through it
	for {
		err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			unlock()
			return nil, err
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			unlock()
			return nil, context.Cause(ctx)
		}
	}
}

// serve listens and answers until ctx ends.
func serve(ctx context.Context, cfg Config, store *posix.Posix) error {
	port := &portChoice{addr: cfg.Addr}
	root := auth.Account{Access: cfg.AccessKey, Secret: cfg.SecretKey, Role: auth.RoleAdmin}
	var once sync.Once
	srv, err := s3api.New(store,
		middlewares.RootUserConfig{Access: cfg.AccessKey, Secret: cfg.SecretKey}, cfg.Region,
		accounts{auth.NewIAMServiceSingle(root), cfg.Users},
		nil, nil, nil, nil,
		s3api.WithQuiet(), s3api.WithKeepAlive(), s3api.WithMpMaxParts(maxParts),
		s3api.WithConcurrencyLimiter(maxConnections, maxRequests),
		s3api.WithOnListen(func() {
			if cfg.Ready != nil {
				once.Do(func() { cfg.Ready(port.chosen) })
			}
		}))
	if err != nil {
		return fmt.Errorf("s3 gateway: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- listen(srv, port) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := srv.ShutDown(); err != nil {
		return fmt.Errorf("s3 gateway: shut down: %w", err)
	}
	<-ended // says that its listener was closed, which is what was asked for
	return nil
}

// accounts are the one account of the configuration and its users.
type accounts struct {
	auth.IAMService
	users map[string]string
}

// GetUserAccount finds an account by its access key.
func (a accounts) GetUserAccount(access string) (auth.Account, error) {
	if secret, ok := a.users[access]; ok {
		return auth.Account{Access: access, Secret: secret, Role: auth.RoleUserPlus}, nil
	}
	return a.IAMService.GetUserAccount(access)
}

// listen serves on the configured port, or on a free one. The library takes addresses and no listeners, so a free port
// has to be found first and bound a moment later; when somebody was faster, another one is tried.
func listen(srv *s3api.S3ApiServer, port *portChoice) error {
	for try := 1; ; try++ {
		if err := port.choose(); err != nil {
			return fmt.Errorf("s3 gateway: choose a port: %w", err)
		}
		err := srv.ServeMultiPort([]string{port.chosen})
		if err == nil {
			return nil
		}
		if !port.free || try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("s3 gateway: serve: %w", err)
		}
	}
}

// portChoice is an address whose port may be left open. The goroutine that listens owns it.
type portChoice struct {
	addr   string
	chosen string
	free   bool
}

func (p *portChoice) choose() error {
	p.chosen = p.addr
	if p.free = strings.HasSuffix(p.addr, ":0"); !p.free {
		return nil
	}
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		return err
	}
	p.chosen = l.Addr().String()
	return l.Close()
}
