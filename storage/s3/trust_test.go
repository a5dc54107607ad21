package s3

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// authority is a new certificate that vouches for itself, and its PEM.
func authority(t *testing.T, serial int64) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestCAFileIsReadAgain: a store whose CA changes is believed when the file has the new one, without a restart, and not
// before; what the file had is trusted no more. A file that is no use leaves things as they are.
func TestCAFileIsReadAgain(t *testing.T) {
	t.Parallel()
	far, err := url.Parse(sharedGateway(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	var shown atomic.Pointer[tls.Certificate]
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(far))
	server.Config.Handler = func(next http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close") // each request shakes hands
			next.ServeHTTP(w, r)
		}
	}(server.Config.Handler)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return shown.Load(), nil }}
	// StartTLS would show a certificate of its own to whoever sends no name.
	server.Listener = tls.NewListener(server.Listener, server.TLS)
	server.Start()
	t.Cleanup(server.Close)
	endpoint := strings.Replace(server.URL, "http://", "https://", 1)

	first, firstPEM := authority(t, 1)
	second, secondPEM := authority(t, 2)
	file := filepath.Join(t.TempDir(), "ca.pem")
	put := func(content []byte) { // as whoever renews it does
		if err := os.WriteFile(file+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	put(firstPEM)
	shown.Store(&first)
	s := testStore(t, endpoint, func(c *Config) {
		c.CAFile, c.RetryBudget, c.Logger = file, time.Millisecond, slog.New(slog.NewTextHandler(&said, nil))
	})
	b := testBucket(t, s, "trust")
	ask := func() error { _, err := b.store.Backend(t.Context(), "S3", "trust"); return err }
	fresh := func(what string, want bool) {
		t.Helper()
		s.mu.Lock()
		clear(s.known)
		s.mu.Unlock()
		if err := ask(); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", what, err)
		}
	}
	fresh("the first CA", true)
	shown.Store(&second)
	fresh("a CA that is not in the file", false)
	put(secondPEM)
	fresh("the new CA", true)
	shown.Store(&first)
	fresh("the old CA", false)
	put([]byte("half a fi"))
	fresh("the old CA, and a file without certificates", false)
	shown.Store(&second)
	fresh("a file without certificates", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	fresh("no file", true)
	put(append(firstPEM, secondPEM...))
	fresh("both", true)
	if n := strings.Count(said.String(), "cannot be read"); n != 1 {
		t.Errorf("%d complaints, want one:\n%s", n, &said)
	}
}
