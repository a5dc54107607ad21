// Package gnupgtest runs GnuPG for tests, with keys of its own: it makes what DECRYPT steps decrypt.
//
// It knows nothing of steps.
package gnupgtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// GnuPG is GnuPG with keys of its own.
type GnuPG struct {
	t    *testing.T
	home string
}

// New makes an empty key ring. Its agent ends with the test.
func New(t *testing.T) *GnuPG {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // the agent's socket lies there, whose path must be short
	if err != nil {
		t.Fatal(err)
	}
	// Passphrases that are cheap to try: the tests are not about that.
	for _, name := range []string{"gpg.conf", "gpg-agent.conf"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte("s2k-count 65536\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g := &GnuPG{t, home}
	t.Cleanup(func() {
		if out, err := g.command("gpgconf", "--kill", "all").CombinedOutput(); err != nil {
			t.Errorf("gpgconf --kill all: %v\n%s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return g
}

// In is g for a subtest.
func (g *GnuPG) In(t *testing.T) *GnuPG { return &GnuPG{t, g.home} }

func (g *GnuPG) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home, "LC_ALL=C")
	return cmd
}

// Run runs gpg with what it reads and returns what it writes.
func (g *GnuPG) Run(stdin []byte, args ...string) []byte {
	g.t.Helper()
	args = append([]string{"--batch", "--quiet", "--no-tty", "--yes", "--trust-model", "always", "--pinentry-mode", "loopback"}, args...)
	cmd := g.command("gpg", args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("gpg %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes()
}

// parameters describes a kind of key as GnuPG's manual does.
func parameters(kind string) string {
	return map[string]string{
		"rsa":       "Key-Type: RSA\nKey-Length: 2048\nSubkey-Type: RSA\nSubkey-Length: 2048\n",
		"curve":     "Key-Type: EDDSA\nKey-Curve: ed25519\nSubkey-Type: ECDH\nSubkey-Curve: cv25519\n",
		"nist":      "Key-Type: ECDSA\nKey-Curve: nistp256\nSubkey-Type: ECDH\nSubkey-Curve: nistp384\n",
		"brainpool": "Key-Type: ECDSA\nKey-Curve: brainpoolP256r1\nSubkey-Type: ECDH\nSubkey-Curve: brainpoolP384r1\n",
		"elgamal":   "Key-Type: DSA\nKey-Length: 2048\nSubkey-Type: ELG\nSubkey-Length: 2048\n",
	}[kind]
}

// Key makes a key for NAME@example.com, of a kind: rsa, curve, nist, brainpool or elgamal.
func (g *GnuPG) Key(name, kind, passphrase string) {
	g.t.Helper()
	protection := "%no-protection\n"
	if passphrase != "" {
		protection = "Passphrase: " + passphrase + "\n"
	}
	g.Run([]byte(parameters(kind)+"Name-Email: "+name+"@example.com\n"+protection), "--gen-key")
}

// Private is a private key, armored.
func (g *GnuPG) Private(name, passphrase string) string {
	g.t.Helper()
	return string(g.Run(nil, "--armor", "--passphrase", passphrase, "--export-secret-keys", name+"@example.com"))
}

// Public is a public key, armored.
func (g *GnuPG) Public(name string) string {
	g.t.Helper()
	return string(g.Run(nil, "--armor", "--export", name+"@example.com"))
}

// Encrypt encrypts for somebody. gpg does not know the size, which gives another form of packets than that of EncryptFile.
func (g *GnuPG) Encrypt(content []byte, to string, args ...string) []byte {
	g.t.Helper()
	return g.Run(content, append(args, "--encrypt", "--recipient", to+"@example.com")...)
}

// EncryptFile encrypts a file, whose size gpg knows.
func (g *GnuPG) EncryptFile(content []byte, to string, args ...string) []byte {
	g.t.Helper()
	name := filepath.Join(g.t.TempDir(), "plain")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		g.t.Fatal(err)
	}
	return g.Run(nil, append(args, "--output", "-", "--recipient", to+"@example.com", "--encrypt", name)...)
}

// Secret is a secret with members, each a name and a value, as AWS Secrets Manager holds it.
func Secret(members ...string) []byte {
	m := map[string]string{}
	for i := 0; i < len(members); i += 2 {
		m[members[i]] = members[i+1]
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprint("strings that are no JSON: ", err))
	}
	return b
}
