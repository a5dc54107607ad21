package hostkeys_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/transferd/transferd/hostkeys"
)

// made is the private key that a command makes.
func made(t *testing.T, command string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	args := append(strings.Fields(command), "-out", file)
	if args[0] == "ssh-keygen" {
		args = append(strings.Fields(command), "-q", "-f", file)
		if !slices.Contains(args, "-N") {
			args = append(args, "-N", "")
		}
	}
	if args[1] == "genrsa" { // the size comes last
		size := slices.IndexFunc(args, func(a string) bool { _, err := strconv.Atoi(a); return err == nil })
		args = append(slices.Delete(slices.Clone(args), size, size+1), args[size])
	}
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// TestImport takes the keys that people's tools make, in each of their forms.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ command, begins, typ string }{
		{"ssh-keygen -t rsa -b 2048", "OPENSSH", "ssh-rsa"},
		{"ssh-keygen -t rsa -b 2048 -m PEM", "RSA", "ssh-rsa"},
		{"ssh-keygen -t rsa -b 2048 -m PKCS8", "", "ssh-rsa"},
		{"ssh-keygen -t rsa -b 2560", "OPENSSH", "ssh-rsa"},
		{"ssh-keygen -t rsa -b 3072 -m PEM", "RSA", "ssh-rsa"},
		{"ssh-keygen -t rsa -b 4096", "OPENSSH", "ssh-rsa"},
		{"ssh-keygen -t ecdsa -b 256", "OPENSSH", "ecdsa-sha2-nistp256"},
		{"ssh-keygen -t ecdsa -b 384 -m PEM", "EC", "ecdsa-sha2-nistp384"},
		{"ssh-keygen -t ecdsa -b 521 -m PKCS8", "", "ecdsa-sha2-nistp521"},
		{"ssh-keygen -t ed25519", "OPENSSH", "ssh-ed25519"},
		{"openssl genrsa 2048", "", "ssh-rsa"},
		{"openssl genrsa -traditional 2048", "RSA", "ssh-rsa"},
		{"openssl ecparam -name prime256v1 -genkey", "EC PARAMETERS", "ecdsa-sha2-nistp256"},
		{"openssl ecparam -name secp521r1 -genkey -noout", "EC", "ecdsa-sha2-nistp521"},
		{"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", "", "ecdsa-sha2-nistp384"},
		{"openssl genpkey -algorithm ed25519", "", "ssh-ed25519"},
	} {
		t.Run(c.command, func(t *testing.T) {
			t.Parallel()
			body := made(t, c.command)
			if !strings.HasPrefix(string(body), strings.TrimSpace("-----BEGIN "+c.begins)) {
				t.Fatalf("the tool wrote %.40q", body)
			}
			key, err := hostkeys.Parse(body, "", now())
			if err != nil {
				t.Fatal(err)
			}
			if key.Type != c.typ || keygen(t, key.PEM) != strings.TrimRight(key.Fingerprint, "=") {
				t.Errorf("key %s %s", key.Type, key.Fingerprint)
			}
			if _, err := key.Signer(false); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestImportRefusals: what is weak, locked or of another kind is refused with a text that says so.
func TestImportRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		command string
		want    error
	}{
		{"ssh-keygen -t rsa -b 1024", hostkeys.ErrKeySize},
		{"ssh-keygen -t rsa -b 2047 -m PEM", hostkeys.ErrKeySize},
		{"openssl genrsa 512", hostkeys.ErrKeySize},
		{"openssl genrsa -traditional 1024", hostkeys.ErrKeySize},
		{"openssl ecparam -name secp224r1 -genkey", hostkeys.ErrKeyType},
		{"openssl ecparam -name secp256k1 -genkey", hostkeys.ErrKeyType},
		{"openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", hostkeys.ErrKeyType},
		{"openssl genpkey -algorithm ed448", hostkeys.ErrKeyType},
		{"openssl genpkey -algorithm x25519", hostkeys.ErrKeyType},
		{"openssl genrsa -aes128 -passout pass:secret 2048", hostkeys.ErrEncrypted},
		{"openssl genrsa -aes128 -traditional -passout pass:secret 2048", hostkeys.ErrEncrypted},
		{"ssh-keygen -t ed25519 -N secret", hostkeys.ErrEncrypted},
		{"ssh-keygen -t ecdsa -m PEM -N secret", hostkeys.ErrEncrypted},
		{"ssh-keygen -t rsa -b 2048 -m PKCS8 -N secret", hostkeys.ErrEncrypted},
	} {
		t.Run(c.command, func(t *testing.T) {
			t.Parallel()
			if key, err := hostkeys.Parse(made(t, c.command), "", now()); !errors.Is(err, c.want) {
				t.Errorf("%+v, %v, want %v", key, err, c.want)
			}
		})
	}
}
