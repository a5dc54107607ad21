package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/transferd/transferd/cmd/transferd/internal/certificates"
	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api"
	"github.com/transferd/transferd/server/fleet"
)

// devFlags are what can be said to `transferd dev`.
type devFlags struct {
	database                                 string
	data, api, sftp, ftp, s3, metrics, users string
	functionsFile                            string
	functions                                map[string]functionFile // that it holds
	eventsFile                               string
	events                                   eventsFile // that it holds
	logTo                                    string
	ready                                    readiness
	buffers                                  int64
	workers                                  int
	drain, keepalive, retry                  time.Duration
	demo, demoExit                           bool
}

const devAbout = `transferd dev: the whole product on one machine, nothing to install or configure.

Starts the control API, an S3 store on local disk, a bucket, one SFTP server with a user whose key it makes, and one
server for FTP and FTPS with a users file and a certificate that it signs itself. The folder DATA/efs is an EFS file
system, for servers with Domain EFS (EFS_FILE_SYSTEM_ID in dev.env). All state is in -data, so a second
start has the same ids, keys, users and objects. Prints the commands to try and writes
DATA/dev.env (export NAME=value lines). Ends on Ctrl-C or SIGTERM.

Examples:
  transferd dev -demo                        show the whole way of an upload first
  transferd dev -data /tmp/t -api 127.0.0.1:0 -sftp 127.0.0.1:0 -ftp 127.0.0.1:0 -s3 127.0.0.1:0 -metrics 127.0.0.1:0
  . ./transferd-data/dev.env && aws transfer list-servers`

func runDev(ctx context.Context, p process, args []string) error {
	var f devFlags
	fs := newFlags(p, "dev", devAbout)
	fs.StringVar(&f.data, "data", "transferd-data", "`folder` for all state; made if it is missing")
	fs.StringVar(&f.api, "api", "127.0.0.1:8470", "control API `host:port`; port 0 is any free one")
	fs.StringVar(&f.sftp, "sftp", "127.0.0.1:2222", "SFTP `host:port`; port 0 is any free one")
	fs.StringVar(&f.ftp, "ftp", "", "FTP and FTPS `host:port`; port 0 is any free one (default 127.0.0.1:2121, or any free port if that is taken)")
	fs.StringVar(&f.users, "users", "", "`file` with the users of FTP and FTPS (default DATA/users.yaml, made with the user demo)")
	fs.StringVar(&f.functionsFile, "functions", "", "`file` with the key functions of serve's configuration: what CUSTOM steps call")
	fs.StringVar(&f.eventsFile, "events", "", "`file` with the key events of serve's configuration: who is told of what became of files")
	fs.StringVar(&f.s3, "s3", "127.0.0.1:7070", "S3 store `host:port`; port 0 is any free one")
	fs.StringVar(&f.metrics, "metrics", "127.0.0.1:9470", "`host:port` of /metrics, /healthz and /readyz; port 0 is any free one")
	fs.StringVar(&f.logTo, "log", "", "`file` for the JSON log, - for standard error (default DATA/transferd.log)")
	fs.StringVar(&f.database, "database", "", "`URL` of a PostgreSQL database for the state (default SQLite in DATA)")
	f.ready.flags(fs)
	fs.Int64Var(&f.buffers, "buffers", 1<<30, "`bytes` of memory that the daemon may take; half of it holds parts of uploads on their way to S3")
	fs.IntVar(&f.workers, "workers", 16, "workflow `steps` that run at a time")
	fs.DurationVar(&f.drain, "drain", 10*time.Second, "how long a stop waits for sessions before it cuts them")
	fs.DurationVar(&f.keepalive, "keepalive", 30*time.Second, "how often a silent SFTP client is asked whether it lives")
	fs.DurationVar(&f.retry, "s3-retry", 30*time.Second, "how long a request to the S3 store is tried again before it fails")
	fs.BoolVar(&f.demo, "demo", false, "show the whole way of an upload: one file whole, one cut, and their workflows")
	fs.BoolVar(&f.demoExit, "demo-exit", false, "with -demo: end after it, with status 1 if anything is not as promised")
	if err := parse(fs, args); err != nil {
		return err
	}
	if f.ftp == "" {
		f.ftp = freeOr("127.0.0.1:2121", "127.0.0.1:0")
	}
	var err error
	if f.functions, err = loadFunctions(f.functionsFile); err != nil {
		return err
	}
	if f.events, err = loadEvents(f.eventsFile, os.Getenv); err != nil {
		return err
	}
	return f.run(ctx, p)
}

// run brings the parts up in the order in which they need each other, and takes them down again.
func (f devFlags) run(ctx context.Context, p process) (err error) {
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		return err
	}
	if err := f.ensureFileSystem(); err != nil {
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

	files := make(chan error, 1)
	go func() { files <- f.ftpFiles(state) }() // a hash takes its time: beside the database and the S3 store
	d, err := openDaemon(ctx, f.config(state, log), p.seams)
	if made := <-files; err != nil || made != nil {
		err = errors.Join(err, made)
		if d != nil {
			err = errors.Join(err, d.close())
		}
		return err
	}
	store, err := startGateway(ctx, f, state, log)
	if err != nil {
		return errors.Join(fmt.Errorf("start the S3 store: %w", err), d.close())
	}
	defer func() { err = errors.Join(err, store.Stop()) }()
	d.cfg.S3.Endpoint = store.Endpoint()
	if err := errors.Join(d.assemble(ctx), d.askAddress(ctx, state.ServerID, fleet.TagSFTPAsk, f.sftp), d.askAddress(ctx, state.FTPServerID, fleet.TagFTPAsk, f.ftp)); err != nil {
		return errors.Join(err, d.close())
	}
	return d.runWith(ctx, func(ctx context.Context) error { return f.attend(ctx, p, d, state) })
}

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
	if err := f.ready.say(p.stdout); err != nil {
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

func (f devFlags) config(state *devState, log io.Writer) Config {
	host, _ := splitPort(f.sftp)
	ftp, _ := splitPort(f.ftp)
	return Config{
		Database: f.database,
		Data:     f.data,
		Realm:    server.Realm{Region: devRegion, Account: devAccount},
		Keys:     []api.AccessKey{{ID: state.AccessKey, Secret: state.SecretKey}},
		API:      f.api,
		Metrics:  f.metrics,
		SFTP:     SFTPConfig{Host: host, Keepalive: f.keepalive, KeepaliveMax: devKeepaliveMax},
		FTP:      FTPConfig{Host: ftp}, Certificates: map[string]certificates.Files{devCertificate: f.certificate()}, UsersFile: f.usersFile(),
		FileSystems: f.fileSystems(),
		S3: S3Config{
			Region: devRegion, AccessKey: state.AccessKey, SecretKey: state.SecretKey,
			// The store is our own child on the loopback interface: nobody can alter what passes there.
			PathStyle: true, RetryBudget: f.retry, Unsigned: true,
		},
		Buffers: f.buffers, Workers: f.workers, Drain: f.drain, Retention: devRetention, Log: log, Functions: f.functions, Events: f.events,
		Secrets: secretFolder(filepath.Join(f.data, "secrets")),
	}
}

const (
	devKeepaliveMax = 3 // questions that a client may leave unanswered
	devRetention    = 30 * 24 * time.Hour
)

func (f devFlags) openLog(p process) (io.WriteCloser, error) {
	return openLog(p, cmp.Or(f.logTo, filepath.Join(f.data, "transferd.log")))
}

// splitPort splits an address that has been listened on.
func splitPort(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, ""
	}
	return host, port
}

// freeOr is the address if it can be listened on now, else another one: nobody asked for FTP, so it stands in nobody's
// way.
func freeOr(address, other string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return other
	}
	_ = l.Close() // nothing was accepted
	return address
}
