package main

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is a key pair in two files that may be replaced at any time, as ACME clients and Kubernetes do. A pair
// that cannot be read, or does not fit while one file is new and the other still old, leaves the pair before it in use.
type certificate struct {
	files KeyPair
	log   *slog.Logger

	mu    sync.Mutex // guards what follows
	pair  *tls.Certificate
	read  [2]fs.FileInfo // what the files were when they were last tried
	tried bool           // the files in read could not be used, and the log says so
}

func newCertificate(files KeyPair, log *slog.Logger) (*certificate, error) {
	c := &certificate{files: files, log: log}
	var err error
	if c.read, err = c.stat(); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(files.Certificate, files.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", files.Certificate, files.Key, err)
	}
	c.pair = &pair
	return c, nil
}

// get answers a handshake with the newest pair that fits. Two calls of stat cost nothing beside a handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.stat()
	if err == nil && same(now, c.read) {
		return c.pair, nil
	}
	if err == nil {
		c.read = now
		c.tried = false
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.files.Certificate, c.files.Key); err == nil {
			c.pair = &pair
			c.log.Info("the control API's certificate was replaced", "not-after", pair.Leaf.NotAfter.Format(time.RFC3339))
			return c.pair, nil
		}
	}
	if !c.tried {
		c.tried = true
		c.log.Warn("the control API's certificate cannot be read: the one before it stays", "error", err.Error())
	}
	return c.pair, nil
}

func (c *certificate) stat() (found [2]fs.FileInfo, err error) {
	for i, name := range []string{c.files.Certificate, c.files.Key} {
		if found[i], err = os.Stat(name); err != nil {
			return found, err
		}
	}
	return found, nil
}

// same says whether both files are what they were: neither replaced nor written.
func same(a, b [2]fs.FileInfo) bool {
	for i := range a {
		if !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}

// tlsConfig is TLS for the control API.
func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{GetCertificate: c.get, MinVersion: tls.VersionTLS12}
}
