package hostkeys_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/hostkeys"
)

func now() time.Time { return time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC) }

func TestGenerate(t *testing.T) {
	t.Parallel()
	keys, err := hostkeys.Generate(now())
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, key := range keys {
		types = append(types, key.Type)
		if !regexp.MustCompile(`^hostkey-[0-9a-f]{17}$`).MatchString(key.HostKeyId) || !key.DateImported.Equal(now()) {
			t.Errorf("key %+v", key)
		}
		if got := keygen(t, key.PEM); got != strings.TrimRight(key.Fingerprint, "=") {
			t.Errorf("fingerprint = %s, ssh-keygen says %s", key.Fingerprint, got)
		}
		if !regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}=$`).MatchString(key.Fingerprint) {
			t.Errorf("fingerprint %s lacks its padding", key.Fingerprint)
		}
	}
	if want := []string{"ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"}; !slices.Equal(types, want) {
		t.Errorf("types = %q, want %q", types, want)
	}
}

// keygen is the fingerprint as OpenSSH computes it.
func keygen(t *testing.T, pem []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-lf", file).Output()
	if err != nil {
		t.Fatalf("ssh-keygen: %v", err)
	}
	return strings.Fields(string(out))[1]
}

func TestParseForms(t *testing.T) {
	t.Parallel()
	curve, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	for form, block := range map[string]*pem.Block{
		"SEC 1":  {Type: "EC PRIVATE KEY", Bytes: sec1},
		"PKCS#8": {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		key, err := hostkeys.Parse(pem.EncodeToMemory(block), "old one", now())
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		if key.Type != "ecdsa-sha2-nistp384" || key.Description != "old one" {
			t.Errorf("%s: %+v", form, key)
		}
		again, err := hostkeys.Parse(key.PEM, "", now())
		if err != nil || again.Fingerprint != key.Fingerprint {
			t.Errorf("%s: what was kept reads as %+v, %v", form, again, err)
		}
	}
}

func TestParseRefusals(t *testing.T) {
	t.Parallel()
	keys, err := hostkeys.Generate(now())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := ssh.ParseRawPrivateKey(keys[1].PEM)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(raw, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	odd, err := rsa.GenerateKey(rand.Reader, 1536)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys[0].Signer(false)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body []byte
		want error
	}{
		"passphrase":  {pem.EncodeToMemory(locked), hostkeys.ErrEncrypted},
		"empty":       {nil, hostkeys.ErrNotAKey},
		"garbage":     {[]byte("not a key"), hostkeys.ErrNotAKey},
		"cut":         {keys[0].PEM[:len(keys[0].PEM)/2], hostkeys.ErrNotAKey},
		"public part": {ssh.MarshalAuthorizedKey(signer.PublicKey()), hostkeys.ErrPublicKey},
		"odd size": {pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY",
			Bytes: x509.MarshalPKCS1PrivateKey(odd)}), hostkeys.ErrKeySize},
	} {
		if _, err := hostkeys.Parse(c.body, "", now()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestSignerSHA1(t *testing.T) {
	t.Parallel()
	keys, err := hostkeys.Generate(now())
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := keys[2]
	strict, err := rsaKey.Signer(false)
	if err != nil {
		t.Fatal(err)
	}
	multi, ok := strict.(ssh.MultiAlgorithmSigner)
	if !ok || slices.Contains(multi.Algorithms(), ssh.KeyAlgoRSA) {
		t.Errorf("strict signer offers SHA-1 or everything: %T", strict)
	}
	if _, err := multi.SignWithAlgorithm(rand.Reader, []byte("x"), ssh.KeyAlgoRSA); err == nil {
		t.Error("strict signer signs with SHA-1")
	}
	lax, err := rsaKey.Signer(true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lax.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, []byte("x"), ssh.KeyAlgoRSA); err != nil {
		t.Errorf("lax signer: %v", err)
	}
}

func TestActive(t *testing.T) {
	t.Parallel()
	at := func(days int) time.Time { return now().AddDate(0, 0, days) }
	keys := []hostkeys.Key{
		{HostKeyId: "r2", Type: "ssh-rsa", DateImported: at(2)},
		{HostKeyId: "r1", Type: "ssh-rsa", DateImported: at(1)},
		{HostKeyId: "c1", Type: "ecdsa-sha2-nistp256", DateImported: at(3)},
		{HostKeyId: "e2", Type: "ssh-ed25519", DateImported: at(2)},
		{HostKeyId: "e1", Type: "ssh-ed25519", DateImported: at(0)},
	}
	var got []string
	for _, key := range hostkeys.Active(keys) {
		got = append(got, key.HostKeyId)
	}
	if want := []string{"e1", "c1", "r1"}; !slices.Equal(got, want) {
		t.Errorf("active = %q, want %q", got, want)
	}
	if keys[0].HostKeyId != "r2" {
		t.Error("the caller's list was sorted")
	}
}
