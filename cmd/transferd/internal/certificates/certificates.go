// Package certificates finds the certificate and key that an ARN stands for: files that the operator names, read again
// when they change, as ACME clients and Kubernetes replace them. Certificates of ACM live outside this product, so the
// configuration says which files mean which ARN.
//
// It knows nothing of servers and protocols: whoever shakes hands asks by ARN.
package certificates

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// checkEvery is how often files are looked at, at most.
const checkEvery = time.Second

// Files are a certificate with its chain, leaf first, and its key, both in PEM.
type Files struct{ Certificate, Key string }

// Config says which files mean which ARN.
type Config struct {
	Files map[string]Files // by ARN
	Now   func() time.Time
	Log   *slog.Logger
	// Metrics shows when each certificate expires, and whether newer files are of no use; nil: nowhere.
	Metrics prometheus.Registerer
}

// Set is the certificates of an installation.
type Set struct {
	pairs map[string]*pair
}

// UnknownError says that no files are named for an ARN.
type UnknownError struct{ ARN string }

func (e *UnknownError) Error() string {
	return "no files are configured for certificate " + e.ARN + " (key certificates of the configuration)"
}

// New reads all files. Its error names all that is wrong, ARN by ARN.
func New(c Config) (*Set, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	expiry := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "transferd_certificate_expiry_timestamp_seconds", Help: "When a certificate expires, in seconds since 1970.",
	}, []string{"arn"})
	stale := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "transferd_certificate_stale", Help: "1 while a certificate's files are of no use and the pair before them is shown.",
	}, []string{"arn"})
	s := &Set{pairs: make(map[string]*pair, len(c.Files))}
	var errs []error
	for _, arn := range slices.Sorted(maps.Keys(c.Files)) {
		p := &pair{
			files: c.Files[arn], now: c.Now, log: c.Log.With("certificate", arn), checked: c.Now(),
			expiry: expiry.WithLabelValues(arn), stale: stale.WithLabelValues(arn),
		}
		if err := p.load(); err != nil {
			errs = append(errs, fmt.Errorf("certificate %s: %w", arn, err))
		}
		s.pairs[arn] = p
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(expiry, stale)
	}
	return s, nil
}

// Get is the newest pair of an ARN that can be used; an *UnknownError if no files are named for it. The pair is shared:
// nobody may change it.
func (s *Set) Get(arn string) (*tls.Certificate, error) {
	p, ok := s.pairs[arn]
	if !ok {
		return nil, &UnknownError{ARN: arn}
	}
	return p.get(), nil
}

// pair is one certificate. One that cannot be read, or does not fit its key while one file is new and the other still
// old, leaves the pair before it in use.
type pair struct {
	files         Files
	now           func() time.Time
	log           *slog.Logger
	expiry, stale prometheus.Gauge

	mu         sync.Mutex // guards what follows
	pair       *tls.Certificate
	read       [2]fs.FileInfo // what the files were when they were last tried; nil if they could not be read
	failed     error          // what is wrong with them
	checked    time.Time
	complained string // what the log says already
}

func (p *pair) get() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if since := now.Sub(p.checked); since >= 0 && since < checkEvery {
		return p.pair
	}
	p.checked = now
	err := p.load()
	switch {
	case err == nil:
		p.complained = ""
		p.stale.Set(0)
	case err.Error() != p.complained:
		p.complained = err.Error()
		p.stale.Set(1)
		p.log.Error("the certificate's files cannot be used: the pair before them stays", "error", err.Error())
	}
	return p.pair
}

// load reads the files if they are not what they were. They are looked at before they are read: what changes meanwhile is
// found the next time. Files that do not fit are not read twice, those that could not be read are.
func (p *pair) load() error {
	info, err := p.stat()
	if err != nil {
		p.read = [2]fs.FileInfo{}
		return err
	}
	if same(info[0], p.read[0]) && same(info[1], p.read[1]) {
		return p.failed
	}
	p.read = [2]fs.FileInfo{}
	certificate, err := os.ReadFile(p.files.Certificate)
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.files.Key)
	if err != nil {
		return err
	}
	p.read = info
	fresh, err := parse(certificate, key)
	if err != nil {
		p.failed = fmt.Errorf("%s with key %s: %w", p.files.Certificate, p.files.Key, err)
		return p.failed
	}
	p.failed, p.pair = nil, fresh
	p.expiry.Set(float64(fresh.Leaf.NotAfter.Unix()))
	attrs := []any{"not-after", fresh.Leaf.NotAfter.UTC().Format(time.RFC3339), "names", fresh.Leaf.DNSNames}
	if p.now().After(fresh.Leaf.NotAfter) {
		p.log.Warn("the certificate is expired, and clients will refuse it", attrs...)
	} else {
		p.log.Info("the certificate was read", attrs...)
	}
	return nil
}

// stat looks at both files.
func (p *pair) stat() (found [2]fs.FileInfo, err error) {
	for i, name := range []string{p.files.Certificate, p.files.Key} {
		if found[i], err = os.Stat(name); err != nil {
			return found, err
		}
	}
	return found, nil
}

func same(a, b fs.FileInfo) bool {
	return b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
