package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsHandler serves what operators and orchestrators ask for: /metrics, /healthz (the process answers) and /readyz
// (everything listens; 503 and the reason before that and while it stops); and to this machine alone what the views show.
func (d *daemon) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{Registry: d.registry}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := d.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /debug/sessions", localOnly(d.debugSessions))
	mux.HandleFunc("GET /debug/uploads", localOnly(d.debugUploads))
	mux.HandleFunc("GET /debug/execution", localOnly(d.debugExecution))
	mux.HandleFunc("PUT /debug/retry", localOnly(d.debugRetry))
	mux.HandleFunc("GET /debug/nodes", localOnly(d.debugNodes))
	mux.HandleFunc("GET /debug/events", localOnly(d.debugEvents))
	mux.HandleFunc("GET /debug/events/sinks", localOnly(d.debugSinks))
	mux.HandleFunc("GET /debug/events/dead", localOnly(d.debugDead))
	mux.HandleFunc("PUT /debug/events/replay", localOnly(d.debugReplay))
	mux.HandleFunc("PUT /debug/events/forget", localOnly(d.debugForget))
	mux.HandleFunc("GET /debug/bans", localOnly(d.debugBans))
	mux.HandleFunc("DELETE /debug/bans", localOnly(d.debugUnban))
	mux.HandleFunc("PUT /debug/explain", localOnly(d.debugExplain))
	return mux
}

const healthAbout = `transferd healthcheck: ask a running transferd whether it is ready. Exit status 0 if it is, 1 if not.

Example:
  transferd healthcheck -url http://127.0.0.1:9470`

func runHealthcheck(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "healthcheck", healthAbout)
	url := fs.String("url", "http://127.0.0.1:9470", "the metrics address, as a `URL`")
	timeout := fs.Duration("timeout", 5*time.Second, "how long to wait for the answer")
	if err := parse(fs, args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	err := askLocal(ctx, http.MethodGet, strings.TrimSuffix(*url, "/")+"/readyz", nil, func(io.Reader) error { return nil })
	if _, no := errors.AsType[refusal](err); no {
		return fmt.Errorf("not ready: %w", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, "ready")
	return nil
}
