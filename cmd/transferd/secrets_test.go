package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// secretFile writes a secret with a fresh key.
func secretFile(t *testing.T) string {
	t.Helper()
	entity, err := openpgp.NewEntity("Server", "", "server@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = errors.Join(entity.SerializePrivate(w, nil), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return writeSecret(t, filepath.Join(t.TempDir(), "secret.json"), map[string]string{"PGPPrivateKey": b.String()})
}

func writeSecret(t *testing.T, name string, members map[string]string) string {
	t.Helper()
	b, err := json.Marshal(members)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, b, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestSecrets: a secret is what the file says now; one that cannot be read is not a missing one; no name leads out.
func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const name = "aws/transfer/s-01234567890abcdef/mary"
	file := write(name+".json", "1")
	write("outside.json", "2")
	files := secretFiles{name: file, "gone": filepath.Join(dir, "gone")}
	folder := secretFolder(filepath.Join(dir, "aws"))
	for _, text := range []string{"1", "changed"} {
		write(name+".json", text)
		if b, err := files.Secret(t.Context(), name); err != nil || string(b) != text {
			t.Errorf("%q, %v; want %q", b, err, text)
		}
		if b, err := folder.Secret(t.Context(), strings.TrimPrefix(name, "aws/")); err != nil || string(b) != text {
			t.Errorf("%q, %v; want %q", b, err, text)
		}
	}
	if _, err := files.Secret(t.Context(), "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a secret that nobody has: %v", err)
	}
	if _, err := files.Secret(t.Context(), "gone"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	for _, missing := range []secretFolder{folder, secretFolder(filepath.Join(dir, "nowhere"))} {
		if _, err := missing.Secret(t.Context(), "other"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", missing, err)
		}
	}
	if b, err := folder.Secret(t.Context(), "../outside"); err == nil {
		t.Errorf("a name leads out of the folder: %q", b)
	}
}
