package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/transferd/transferd/server"
)

// devFlags are what can be said to `transferd dev`.
type devFlags struct {
	data, api, sftp, s3, metrics string
	logTo, readyFile             string
	readyFD                      int
	buffers                      int64
	workers                      int
	drain, keepalive, retry      time.Duration
	demo, demoExit               bool
}

const devAbout = `transferd dev: the whole product on one machine, nothing to install or configure.

Starts the control API, an S3 store on local disk, a bucket, and one SFTP server with a user whose key it makes. All
state is in -data, so a second start has the same ids, keys, users and objects. Prints the commands to try and writes
DATA/dev.env (export NAME=value lines). Ends on Ctrl-C or SIGTERM.

Examples:
  transferd dev -demo                        show the whole way of an upload first
  transferd dev -data /tmp/t -api 127.0.0.1:0 -sftp 127.0.0.1:0 -s3 127.0.0.1:0 -metrics 127.0.0.1:0
  . ./transferd-data/dev.env && aws transfer list-servers`

func runDev(ctx context.Context, p process, args []string) error {
	var f devFlags
	fs := newFlags(p, "dev", devAbout)
	fs.StringVar(&f.data, "data", "transferd-data", "`folder` for all state; made if it is missing")
	fs.StringVar(&f.api, "api", "127.0.0.1:8470", "control API `host:port`; port 0 is any free one")
	fs.StringVar(&f.sftp, "sftp", "127.0.0.1:2222", "SFTP `host:port`; port 0 is any free one")
	fs.StringVar(&f.s3, "s3", "127.0.0.1:7070", "S3 store `host:port`; port 0 is any free one")
	fs.StringVar(&f.metrics, "metrics", "127.0.0.1:9470", "`host:port` of /metrics, /healthz and /readyz; port 0 is any free one")
	fs.StringVar(&f.logTo, "log", "", "`file` for the JSON log, - for standard error (default DATA/transferd.log)")
	fs.StringVar(&f.readyFile, "ready-file", "", "`file` to write when everything listens")
	fs.IntVar(&f.readyFD, "ready-fd", 0, "file `descriptor` to write \"ready\" to when everything listens")
	fs.Int64Var(&f.buffers, "buffers", 1<<30, "`bytes` of memory that all uploads together may use for parts on their way to S3")
	fs.IntVar(&f.workers, "workers", 16, "workflow `steps` that run at a time")
	fs.DurationVar(&f.drain, "drain", 10*time.Second, "how long a stop waits for sessions before it cuts them")
	fs.DurationVar(&f.keepalive, "keepalive", 30*time.Second, "how often a silent SFTP client is asked whether it lives")
	fs.DurationVar(&f.retry, "s3-retry", 30*time.Second, "how long a request to the S3 store is tried again before it fails")
	fs.BoolVar(&f.demo, "demo", false, "show the whole way of an upload: one file whole, one cut, and their workflows")
	fs.BoolVar(&f.demoExit, "demo-exit", false, "with -demo: end after it, with status 1 if anything is not as promised")
	if err := parse(fs, args); err != nil {
		return err
	}
	return f.run(ctx, p)
}

// run brings the parts up in the order in which they need each other, and takes them down again.
func (f devFlags) run(ctx context.Context, p process) (err error) {
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return err
	}
	state, err := loadDevState(f.data)
	if err != nil {
		return err
	}
	log, err := f.openLog(p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	d, err := openDaemon(ctx, f.config(state, log), p.seams)
	if err != nil {
		return err
	}
	store, err := startGateway(ctx, f, state, log)
	if err != nil {
		return errors.Join(fmt.Errorf("start the S3 store: %w", err), d.close())
	}
	defer func() { err = errors.Join(err, store.Stop()) }()
	d.cfg.S3.Endpoint = store.Endpoint()
	if err := errors.Join(d.assemble(ctx), d.askAddress(ctx, state.ServerID, f.sftp)); err != nil {
		return errors.Join(err, d.close())
	}
	return f.serve(ctx, p, d, state)
}

// serve runs the daemon, and in front of it what makes it useful at once.
func (f devFlags) serve(ctx context.Context, p process, d *daemon, state *devState) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	served := make(chan error, 1)
	go func() { served <- d.run(ctx); cancel(errServeEnded) }()
	err := f.attend(ctx, p, d, state)
	cancel(nil)
	if serveErr := <-served; serveErr != nil {
		return serveErr
	}
	return err
}

// errServeEnded is why the work in front of a daemon stops when the daemon does.
var errServeEnded = errors.New("the daemon ended")

// attend sets the server up, says that it is ready, shows the demo, and waits for the end.
func (f devFlags) attend(ctx context.Context, p process, d *daemon, state *devState) error {
	if err := d.waitReady(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	dev, err := setUpDev(ctx, f, d, state)
	if err != nil {
		return ignoreEnd(ctx, err)
	}
	if err := dev.writeEnv(f.data); err != nil {
		return err
	}
	dev.printCommands(p.stdout, f.data)
	if err := f.sayReady(p.stdout); err != nil {
		return err
	}
	if f.demo {
		asPromised, err := dev.demo(ctx, p.stdout)
		if err != nil && ctx.Err() == nil && !f.demoExit {
			fmt.Fprintf(p.stdout, "the demo stopped: %v\n", err)
		} else if err != nil {
			return ignoreEnd(ctx, err)
		}
		if f.demoExit && !asPromised {
			return exitError(1)
		}
		if f.demoExit {
			return nil
		}
	}
	<-ctx.Done()
	return nil
}

// ignoreEnd drops an error that only says that we were asked to end.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (f devFlags) config(state *devState, log io.Writer) Config {
	return Config{
		Data:    f.data,
		Realm:   server.Realm{Region: devRegion, Account: devAccount},
		Keys:    map[string]string{state.AccessKey: state.SecretKey},
		API:     f.api,
		SFTP:    f.sftp,
		Metrics: f.metrics,
		S3: S3Config{
			Region: devRegion, AccessKey: state.AccessKey, SecretKey: state.SecretKey,
			// The store is our own child on the loopback interface: nobody can alter what passes there.
			RetryBudget: f.retry, Unsigned: true,
		},
		Buffers: f.buffers, Workers: f.workers, Drain: f.drain, Keepalive: f.keepalive, Log: log,
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func (f devFlags) openLog(p process) (io.WriteCloser, error) {
	switch f.logTo {
	case "-":
		return nopCloser{p.stderr}, nil
	case "":
		f.logTo = filepath.Join(f.data, "transferd.log")
	}
	return os.OpenFile(f.logTo, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// sayReady tells whoever waits: a line on stdout always, a file or a descriptor if asked.
func (f devFlags) sayReady(stdout io.Writer) error {
	fmt.Fprintln(stdout, "ready")
	if f.readyFile != "" {
		if err := os.WriteFile(f.readyFile, []byte("ready\n"), 0o600); err != nil {
			return err
		}
	}
	if f.readyFD == 0 {
		return nil
	}
	fd := os.NewFile(uintptr(f.readyFD), "ready-fd")
	if fd == nil {
		return fmt.Errorf("-ready-fd %d is no open descriptor", f.readyFD)
	}
	_, err := fd.WriteString("ready\n")
	return errors.Join(err, fd.Close())
}

// splitPort splits an address that has been listened on.
func splitPort(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, ""
	}
	return host, port
}
