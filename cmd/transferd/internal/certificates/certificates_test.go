package certificates

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const arn = "arn:aws:acm:eu-central-1:123456789012:certificate/one"

// clock is moved by hand.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// made is a self-signed pair for a host.
func made(t *testing.T, now time.Time, hosts ...string) (certificate, key []byte) {
	t.Helper()
	certificate, key, err := SelfSigned(now, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// signed is a self-signed pair with a given key.
func signed(t *testing.T, private crypto.Signer) (certificate, key []byte) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func metric(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if m := f.GetMetric()[0]; f.GetName() == name && m.GetLabel()[0].GetValue() == arn {
			return m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// TestReload: a new pair is shown within a second, half of one is not, and a bad one leaves the pair before it.
func TestReload(t *testing.T) {
	t.Parallel()
	dir, now, log, registry := t.TempDir(), &clock{}, &bytes.Buffer{}, prometheus.NewRegistry()
	now.forward(time.Duration(time.Now().UnixNano()))
	f := Files{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	put := func(certificate, key []byte) {
		t.Helper()
		if certificate != nil {
			write(t, f.Certificate, certificate)
		}
		if key != nil {
			write(t, f.Key, key)
		}
	}
	put(made(t, now.now(), "one.example"))
	s, err := New(Config{Files: map[string]Files{arn: f}, Now: now.now, Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: registry})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(what, host string, stale float64) {
		t.Helper()
		got, err := s.Get(arn)
		if err != nil || got.Leaf.VerifyHostname(host) != nil {
			t.Fatalf("%s: shows %v, %v", what, got.Leaf.DNSNames, err)
		}
		if metric(t, registry, "transferd_certificate_stale") != stale ||
			metric(t, registry, "transferd_certificate_expiry_timestamp_seconds") != float64(got.Leaf.NotAfter.Unix()) {
			t.Errorf("%s: metrics are wrong", what)
		}
	}
	expect("first", "one.example", 0)
	put(made(t, now.now().Add(time.Hour), "two.longer.example"))
	expect("within the second", "one.example", 0)
	now.forward(checkEvery)
	expect("after it", "two.longer.example", 0)

	certificate, key := made(t, now.now(), "three.example")
	put(certificate, nil)
	now.forward(checkEvery)
	expect("a new certificate with the old key", "two.longer.example", 1)
	now.forward(checkEvery)
	expect("still", "two.longer.example", 1)
	put(nil, key)
	now.forward(checkEvery)
	expect("the new key too", "three.example", 0)

	if err := os.Remove(f.Key); err != nil {
		t.Fatal(err)
	}
	now.forward(checkEvery)
	expect("no key", "three.example", 1)
	put(nil, key)
	now.forward(checkEvery)
	expect("the key is back", "three.example", 0)
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d complaints in the log:\n%s", n, log)
	}
	var unknown *UnknownError
	if _, err := s.Get("arn:other"); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "arn:other") {
		t.Errorf("unknown: %v", err)
	}
}

func TestExpired(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), &bytes.Buffer{}
	f := Files{filepath.Join(dir, "crt"), filepath.Join(dir, "key")}
	certificate, key := made(t, time.Now().Add(-selfSignedFor-time.Hour), "old.example")
	write(t, f.Certificate, certificate)
	write(t, f.Key, key)
	if _, err := New(Config{Files: map[string]Files{arn: f}, Log: slog.New(slog.NewTextHandler(log, nil))}); err != nil || !strings.Contains(log.String(), "expired") {
		t.Errorf("%v, log %s", err, log)
	}
}

// TestRefused: every error says what is wrong, and all come at once.
func TestRefused(t *testing.T) {
	t.Parallel()
	good, goodKey := made(t, time.Now(), "one.example")
	other, otherKey := made(t, time.Now(), "other.example")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edCert, edKey := signed(t, edwards)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	smallCert, smallKey := signed(t, p224)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	older := []byte("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\neA==\n-----END RSA PRIVATE KEY-----\n")
	openssh := pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("x")})
	dir := t.TempDir()
	files, want := map[string]Files{"arn:none": {filepath.Join(dir, "no.crt"), filepath.Join(dir, "no.key")}}, map[string]string{"arn:none": "no such file"}
	for name, c := range map[string]struct {
		certificate, key []byte
		want             string
	}{
		"empty":     {nil, goodKey, "no PEM block CERTIFICATE"},
		"exchanged": {goodKey, good, "exchanged"},
		"no-key":    {good, good, "no PEM block PRIVATE KEY"},
		"encrypted": {good, encrypted, "is encrypted"},
		"older":     {good, older, "is encrypted"},
		"openssh":   {good, openssh, "OpenSSH's format"},
		"mismatch":  {good, otherKey, "does not match"},
		"chain":     {append(bytes.Clone(other), good...), goodKey, "does not match"},
		"edwards":   {edCert, edKey, "the key is Ed25519: it must be RSA of 2048 or 4096 bits"},
		"curve":     {smallCert, smallKey, "P-224"},
	} {
		f := Files{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
		write(t, f.Certificate, c.certificate)
		write(t, f.Key, c.key)
		files["arn:"+name], want["arn:"+name] = f, c.want
	}
	_, err = New(Config{Files: files})
	if err == nil {
		t.Fatal("was taken")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Errorf("%d errors, want %d", len(lines), len(want))
	}
	for _, line := range lines {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "certificate "), ": ")
		if !strings.Contains(line, want[name]) || want[name] == "" {
			t.Errorf("%s\nwant %s", line, want[name])
		}
	}
}

func TestKeyTypes(t *testing.T) {
	t.Parallel()
	for bits, good := range map[uint]bool{1024: false, 2048: true, 3072: false, 4096: true, 8192: false} {
		key := &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}
		if err := checkKey(&x509.Certificate{PublicKey: key}); (err == nil) != good {
			t.Errorf("RSA of %d bits: %v", bits, err)
		}
	}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(signed(t, private)); err != nil {
			t.Errorf("%s: %v", curve.Params().Name, err)
		}
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	certificate, _ := signed(t, private)
	key := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
	if _, err := parse(certificate, key); err != nil {
		t.Errorf("PKCS #1: %v", err)
	}
}

// TestSelfSigned: who is told to trust the certificate can shake hands by each of its names, and by no other.
func TestSelfSigned(t *testing.T) {
	t.Parallel()
	certificate, key := made(t, time.Now(), "localhost", "127.0.0.1", "::1")
	pair, err := parse(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(certificate) {
		t.Fatal("no certificate")
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	for host, good := range map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true, "elsewhere.example": false} {
		served := make(chan error, 1)
		go func() { served <- shake(ln) }()
		client, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", ln.Addr().String(),
			&tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12})
		if (err == nil) != good {
			t.Errorf("%s: client: %v", host, err)
		}
		if err := <-served; (err == nil) != good {
			t.Errorf("%s: server: %v", host, err)
		}
		if client != nil {
			client.Close()
		}
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	if _, _, err := SelfSigned(time.Now()); err == nil {
		t.Error("a certificate for nobody")
	}
}

// shake takes one connection as far as the end of its handshake.
func shake(ln net.Listener) error {
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	err = errors.Join(c.SetDeadline(time.Now().Add(10*time.Second)), c.(*tls.Conn).Handshake())
	c.Close()
	return err
}

// TestManyAtOnce: handshakes go on while files are replaced, each with a whole pair.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), &clock{}
	f := Files{filepath.Join(dir, "crt"), filepath.Join(dir, "key")}
	replace := func() {
		certificate, key := made(t, time.Now(), "one.example")
		write(t, f.Certificate, certificate)
		write(t, f.Key, key)
		now.forward(checkEvery)
	}
	replace()
	s, err := New(Config{Files: map[string]Files{arn: f}, Now: now.now})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				pair, err := s.Get(arn)
				if err != nil || !pair.Leaf.PublicKey.(*ecdsa.PublicKey).Equal(pair.PrivateKey.(crypto.Signer).Public()) {
					t.Errorf("half a pair: %v", err)
					return
				}
			}
		})
	}
	for range 20 {
		replace()
	}
	close(done)
	wg.Wait()
}
