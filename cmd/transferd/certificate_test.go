package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newKeyPair makes a self-signed certificate for 127.0.0.1 with a common name to tell it by.
func newKeyPair(t *testing.T, dir, name string) KeyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair := KeyPair{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	writePEM(t, pair.Certificate, "CERTIFICATE", der)
	writePEM(t, pair.Key, "PRIVATE KEY", private)
	return pair
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := replaceFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCertificateReload: new files are used from the next handshake on; while they do not fit, the old pair is.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	live := newKeyPair(t, t.TempDir(), "first")
	var log bytes.Buffer
	c, err := newCertificate(live, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	expect := func(name string) {
		t.Helper()
		if got := presented(t, c); got != name {
			t.Errorf("the handshake shows %q, want %q", got, name)
		}
	}
	expect("first")
	next := newKeyPair(t, t.TempDir(), "second")
	copyFile(t, next.Certificate, live.Certificate) // the key is still the old one
	expect("first")
	expect("first")
	if n := strings.Count(log.String(), "the one before it stays"); n != 1 {
		t.Errorf("%d warnings about one pair that does not fit:\n%s", n, log.String())
	}
	copyFile(t, next.Key, live.Key)
	expect("second")
	if err := os.Remove(live.Key); err != nil {
		t.Fatal(err)
	}
	expect("second")
	newKeyPair(t, filepath.Dir(live.Key), "third")
	expect("third")
	if _, err := newCertificate(KeyPair{Certificate: live.Certificate, Key: live.Certificate}, nil); err == nil {
		t.Error("a certificate without its key is taken")
	}
}

// presented is the common name that a client sees.
func presented(t *testing.T, c *certificate) string {
	t.Helper()
	near, far := net.Pipe()
	server := tls.Server(near, c.tlsConfig())
	done := make(chan error, 1)
	go func() { done <- server.Handshake(); _, _ = io.Copy(io.Discard, server); _ = server.Close() }()
	client := tls.Client(far, &tls.Config{InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	name := client.ConnectionState().PeerCertificates[0].Subject.CommonName
	_ = client.Close() // the other side may have closed already
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return name
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := replaceFile(to, mustRead(t, from), 0o600); err != nil {
		t.Fatal(err)
	}
}
