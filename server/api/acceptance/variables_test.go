package acceptance_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// variables are what the steps of a group find: keys made for it, and names.
func variables(t testing.TB) map[string]string {
	t.Helper()
	vars := map[string]string{"region": region, "account": account, "role": role, "role2": role2}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ed25519": ed, "ecdsa": ec, "rsa": rs} {
		public, err := ssh.NewPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		vars["pem_"+name] = privatePEM(t, key, "")
		vars["ssh_"+name] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))) + " anna@example.com"
		sum := sha256.Sum256(public.Marshal())
		vars["fingerprint_"+name] = "SHA256:" + base64.StdEncoding.EncodeToString(sum[:])
	}
	vars["pem_encrypted"] = privatePEM(t, ed, "passphrase")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	vars["pem_weak"] = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(weak)}))
	return vars
}

// privatePEM writes a private key in OpenSSH's form.
func privatePEM(t testing.TB, key crypto.PrivateKey, passphrase string) string {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}
