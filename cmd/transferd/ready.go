package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

// readiness is how a daemon tells whoever started it that everything listens.
type readiness struct {
	file string
	fd   int
}

func (r *readiness) flags(fs *flag.FlagSet) {
	fs.StringVar(&r.file, "ready-file", "", "`file` to write when everything listens")
	fs.IntVar(&r.fd, "ready-fd", 0, "file `descriptor` to write \"ready\" to when everything listens")
}

// say tells it: a line on stdout always, a file or a descriptor if asked.
func (r *readiness) say(stdout io.Writer) error {
	fmt.Fprintln(stdout, "ready")
	if r.file != "" {
		if err := os.WriteFile(r.file, []byte("ready\n"), 0o600); err != nil {
			return err
		}
	}
	if r.fd == 0 {
		return nil
	}
	fd := os.NewFile(uintptr(r.fd), "ready-fd")
	if fd == nil {
		return fmt.Errorf("-ready-fd %d is no open descriptor", r.fd)
	}
	_, err := fd.WriteString("ready\n")
	return errors.Join(err, fd.Close())
}

// openLog opens the file of the log; - is standard error.
func openLog(p process, name string) (io.WriteCloser, error) {
	if name == "-" {
		return nopCloser{p.stderr}, nil
	}
	return os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// runWith runs the daemon, and beside it what makes it useful to whoever started it. Both end with ctx, and with each
// other.
func (d *daemon) runWith(ctx context.Context, attend func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	served := make(chan error, 1)
	go func() { served <- d.run(ctx); cancel(errServeEnded) }()
	err := attend(ctx)
	cancel(nil)
	if serveErr := <-served; serveErr != nil {
		return serveErr
	}
	return err
}

// errServeEnded is why the work beside a daemon stops when the daemon does.
var errServeEnded = errors.New("the daemon ended")

// ignoreEnd drops an error that only says that we were asked to end.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
