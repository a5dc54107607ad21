// Package pgtest runs a private PostgreSQL for tests: a cluster of its own in a temporary directory, reached over a socket
// there, which ends with the test's process. It is for tests alone and knows nothing of what they keep in it.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrMissing is a machine without PostgreSQL's programs (Debian's package postgresql).
var ErrMissing = errors.New("initdb and postgres are not installed (deploy/test-deps.sh does it)")

// patience bounds every start, which may be on a busy machine.
const patience = 2 * time.Minute

// Cluster is a running server. Its methods may be called from many goroutines.
type Cluster struct {
	bin, dir string
	options  []string
	as       *syscall.Credential // PostgreSQL refuses to be root

	mu     sync.Mutex // guards what follows
	server *os.Process
	gone   chan struct{} // closed when the server has ended
}

// Start makes a cluster and starts it. Options are settings, as name=value; without fsync=on it trusts the machine not to
// lose its power.
func Start(ctx context.Context, options ...string) (_ *Cluster, err error) {
	c := &Cluster{options: append([]string{"fsync=off", "full_page_writes=off", "listen_addresses=", "max_connections=300",
		"shared_buffers=64MB", "log_min_messages=fatal"}, options...)}
	if c.bin, err = find(); err != nil {
		return nil, err
	}
	if c.dir, err = os.MkdirTemp("", "transferd-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if os.Geteuid() == 0 {
		if err := c.notRoot(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"), "-D", c.data(), "-U", "postgres", "-A", "trust", "-N",
		"--locale=C", "-E", "UTF8")
	cmd.Dir, cmd.SysProcAttr = c.dir, &syscall.SysProcAttr{Credential: c.as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return c, c.Run(ctx)
}

// find looks where Debian puts the programs, the newest version first, and then along PATH.
func find() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		version := func(path string) int {
			n, err := strconv.Atoi(strings.Split(path, "/")[4])
			if err != nil {
				return 0
			}
			return n
		}
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", ErrMissing
}

// notRoot gives the directory to the user that Debian's package made.
func (c *Cluster) notRoot() error {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return os.Chown(c.dir, int(uid), int(gid))
	}
	return errors.New("neither a user postgres nor nobody to run PostgreSQL as")
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// Run starts the server, after Start or a Kill, and returns when it answers.
func (c *Cluster) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	args := []string{"-D", c.data(), "-k", c.dir}
	for _, o := range c.options {
		args = append(args, "-c", o)
	}
	cmd := exec.Command(filepath.Join(c.bin, "postgres"), args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &said, &said, c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as, Pdeathsig: syscall.SIGQUIT}
	cmd.WaitDelay = time.Second // backends of a killed server may hold its output for a moment
	started, gone := make(chan error, 1), make(chan struct{})
	go func() {
		// The server ends with the thread that started it, however this process ends: so the thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(gone)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ends is the caller's wish
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	c.mu.Lock()
	c.server, c.gone = cmd.Process, gone
	c.mu.Unlock()
	for {
		conn, err := pgx.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-gone:
			return fmt.Errorf("postgres ended: %s", &said)
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL names a database of the cluster.
func (c *Cluster) URL(database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/" + database,
		RawQuery: url.Values{"host": {c.dir}}.Encode()}).String()
}

// Create makes a database that sorts text as people do, which is what operators have; or a copy of template, if that is
// not empty, which nobody may use meanwhile. One that exists already is fine.
func (c *Cluster) Create(ctx context.Context, database, template string) error {
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) // nothing is lost with it
	var there bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)`, database).Scan(&there); err != nil || there {
		return err
	}
	from := `template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'`
	if template != "" {
		from = pgx.Identifier{template}.Sanitize()
	}
	_, err = conn.Exec(ctx, `CREATE DATABASE `+pgx.Identifier{database}.Sanitize()+` TEMPLATE `+from)
	return err
}

// Kill ends the server as kill -9 does, and waits until all of its processes have let go of the data.
func (c *Cluster) Kill() error { return c.end(syscall.SIGKILL) }

// Stop ends the server and removes everything.
func (c *Cluster) Stop() error { return errors.Join(c.end(syscall.SIGQUIT), os.RemoveAll(c.dir)) }

func (c *Cluster) end(signal os.Signal) error {
	c.mu.Lock()
	server, gone := c.server, c.gone
	c.server = nil
	c.mu.Unlock()
	if server == nil {
		return nil
	}
	err := server.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-gone
	return err
}
