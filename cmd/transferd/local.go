package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// localTimeout bounds a question to the metrics address.
const localTimeout = 10 * time.Second

// metricsFlag is where the metrics address is.
func metricsFlag(fs *flag.FlagSet) *string {
	usual := cmp.Or(strings.TrimSuffix(os.Getenv("METRICS_URL"), "/metrics"), "http://127.0.0.1:9470")
	return fs.String("url", usual, "the metrics address, as a `URL`")
}

// refusal is an answer that is no good one.
type refusal struct{ status, text string }

func (r refusal) Error() string { return r.text }

// askLocal asks a running daemon at its metrics address, and has a good answer read.
func askLocal(ctx context.Context, method, url string, question io.Reader, read func(io.Reader) error) (err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, question)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusNoContent {
		text, err := io.ReadAll(io.LimitReader(res.Body, 4096))
		return errors.Join(refusal{res.Status, strings.TrimSpace(string(text))}, err)
	}
	return read(res.Body)
}

// getJSON asks a running daemon for something.
func getJSON(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	err := askLocal(ctx, http.MethodGet, url, nil, func(r io.Reader) error { return json.NewDecoder(r).Decode(into) })
	if no, ok := errors.AsType[refusal](err); ok {
		return fmt.Errorf("%s: %s: %w", url, no.status, err)
	}
	return err
}

// order asks a running daemon to do something and returns its answer. It is a PUT or a DELETE because no page of a browser may
// send one to somebody else's address unasked (Fetch standard, CORS-preflight request).
func order(ctx context.Context, method, url string) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	err = askLocal(ctx, method, url, nil, func(r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, 4096))
		answer = strings.TrimSpace(string(text))
		return err
	})
	return answer, err
}
