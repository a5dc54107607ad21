package s3

import (
	"io/fs"
	"net/http"
	"os"
	"sync"
)

// transport is the connections to a store. The file with the certificates that are trusted there may be replaced at any
// time, as a CA's certificate is before it ends: then new connections are made, and those before it get no more requests.
// A file that cannot be read, or is half written, leaves what was trusted before it.
type transport struct {
	cfg Config

	mu     sync.Mutex // guards what follows
	pool   *http.Transport
	before *http.Transport // with requests on their way perhaps, from the last time the file was replaced
	read   fs.FileInfo     // what the file was when it was last tried
	failed bool            // the file could not be looked at or used, and the log says so
}

func newTransport(cfg Config) (t *transport, err error) {
	t = &transport{cfg: cfg}
	if cfg.CAFile != "" {
		if t.read, err = os.Stat(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	t.pool, err = cfg.newTransport()
	return t, err
}

// RoundTrip makes it an http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

// CloseIdleConnections closes the connections that nobody uses.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pool.CloseIdleConnections()
	if t.before != nil {
		t.before.CloseIdleConnections()
	}
}

// current is the pool that trusts what the file says now. A call of stat costs nothing beside a request.
func (t *transport) current() *http.Transport {
	if t.cfg.CAFile == "" {
		return t.pool
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now, err := os.Stat(t.cfg.CAFile)
	if err == nil && t.read != nil && unchanged(now, t.read) {
		return t.pool
	}
	if err == nil {
		t.read, t.failed = now, false
		var pool *http.Transport
		if pool, err = t.cfg.newTransport(); err == nil {
			t.pool.CloseIdleConnections()
			if t.before != nil {
				t.before.CloseIdleConnections()
			}
			t.pool, t.before = pool, t.pool
			t.cfg.Logger.Info("the certificates trusted at the store were replaced", "file", t.cfg.CAFile)
			return t.pool
		}
	}
	if !t.failed {
		t.failed = true
		t.cfg.Logger.Warn("the certificates to trust at the store cannot be read: those before stay", "file", t.cfg.CAFile, "error", err.Error())
	}
	return t.pool
}

// unchanged says that a file was neither replaced nor written.
func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
