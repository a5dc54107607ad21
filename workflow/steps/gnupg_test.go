package steps_test

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

// gnupg is GnuPG with keys of its own.
type gnupg struct {
	t    *testing.T
	home string
}

// newGnuPG makes an empty key ring. Its agent ends with the test.
func newGnuPG(t *testing.T) *gnupg {
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
	g := &gnupg{t, home}
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

// in is g for a subtest.
func (g *gnupg) in(t *testing.T) *gnupg { return &gnupg{t, g.home} }

func (g *gnupg) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home, "LC_ALL=C")
	return cmd
}

// run runs gpg with what it reads and returns what it writes.
func (g *gnupg) run(stdin []byte, args ...string) []byte {
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

// The kinds of keys, as GnuPG's manual describes them.
var kinds = map[string]string{
	"rsa":       "Key-Type: RSA\nKey-Length: 2048\nSubkey-Type: RSA\nSubkey-Length: 2048\n",
	"curve":     "Key-Type: EDDSA\nKey-Curve: ed25519\nSubkey-Type: ECDH\nSubkey-Curve: cv25519\n",
	"nist":      "Key-Type: ECDSA\nKey-Curve: nistp256\nSubkey-Type: ECDH\nSubkey-Curve: nistp384\n",
	"brainpool": "Key-Type: ECDSA\nKey-Curve: brainpoolP256r1\nSubkey-Type: ECDH\nSubkey-Curve: brainpoolP384r1\n",
	"elgamal":   "Key-Type: DSA\nKey-Length: 2048\nSubkey-Type: ELG\nSubkey-Length: 2048\n",
}

// key makes a key for NAME@example.com.
func (g *gnupg) key(name, kind, passphrase string) {
	g.t.Helper()
	protection := "%no-protection\n"
	if passphrase != "" {
		protection = "Passphrase: " + passphrase + "\n"
	}
	g.run([]byte(kinds[kind]+"Name-Email: "+name+"@example.com\n"+protection), "--gen-key")
}

func (g *gnupg) private(name, passphrase string) string {
	g.t.Helper()
	return string(g.run(nil, "--armor", "--passphrase", passphrase, "--export-secret-keys", name+"@example.com"))
}

func (g *gnupg) public(name string) string {
	g.t.Helper()
	return string(g.run(nil, "--armor", "--export", name+"@example.com"))
}

// encrypt encrypts for somebody. A size that gpg knows gives another form of packets than one that it does not.
func (g *gnupg) encrypt(content []byte, to string, args ...string) []byte {
	g.t.Helper()
	return g.run(content, append(args, "--encrypt", "--recipient", to+"@example.com")...)
}

func (g *gnupg) encryptFile(content []byte, to string, args ...string) []byte {
	g.t.Helper()
	name := filepath.Join(g.t.TempDir(), "plain")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		g.t.Fatal(err)
	}
	return g.run(nil, append(args, "--output", "-", "--recipient", to+"@example.com", "--encrypt", name)...)
}

func secretOf(members ...string) []byte {
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
