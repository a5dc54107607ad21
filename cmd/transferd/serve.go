package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

const serveAbout = `transferd serve: the daemon as one YAML file describes it.

Every key, its default and the variables for secrets stand in docs/configuration.md; deploy/transferd.yaml is a file to
begin with. Unknown keys are errors. Prints "ready" when everything listens. Ends on Ctrl-C or SIGTERM: open uploads get
the time that the key drain says.

Examples:
  transferd serve -config /etc/transferd.yaml -check    say what is wrong with the file, serve nothing
  TRANSFERD_ACCESS_KEYS=AKIAEXAMPLE:secret TRANSFERD_S3_SECRET_KEY=secret transferd serve -config /etc/transferd.yaml`

func runServe(ctx context.Context, p process, args []string) (err error) {
	fs := newFlags(p, "serve", serveAbout)
	name := fs.String("config", "/etc/transferd.yaml", "the configuration `file`")
	check := fs.Bool("check", false, "read the file, say what is wrong with it, and end: status 0 if nothing is")
	var ready readiness
	ready.flags(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	f, err := loadFile(*name, os.Getenv)
	if err != nil {
		return err
	}
	if *check {
		fmt.Fprintf(p.stdout, "%s is valid\n", *name)
		return nil
	}
	cfg := f.config()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return err
	}
	log, err := openLog(p, f.Log.File)
	if err != nil {
		return fmt.Errorf("log.file: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	cfg.Log = log
	d, err := openDaemon(ctx, cfg, p.seams)
	if err != nil {
		return err
	}
	if err := d.assemble(ctx); err != nil {
		return errors.Join(err, d.close())
	}
	d.warnOfPlainHTTP()
	return d.runWith(ctx, func(ctx context.Context) error {
		if err := d.waitReady(ctx); err != nil {
			return ignoreEnd(ctx, err)
		}
		fmt.Fprintf(p.stdout, "control API %s\nmetrics     %s/metrics\n", d.apiURL(), d.metricsURL())
		if err := ready.say(p.stdout); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	})
}

// warnOfPlainHTTP says when what callers send can be read on the way.
func (d *daemon) warnOfPlainHTTP() {
	at, err := netip.ParseAddrPort(d.apiListener.Addr().String())
	if err == nil && !at.Addr().IsLoopback() && d.cfg.Certificate == (KeyPair{}) {
		d.log.Warn("the control API listens beyond the loopback interface without TLS: set api.tls, or let nobody but a proxy with TLS reach it", "address", at.String())
	}
}
