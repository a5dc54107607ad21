package hostkeys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"
)

// rsaBits is the size of a generated RSA key. Finding the primes of a 3072-bit key takes a quarter of a second and now
// and then most of one, those of a 2048-bit key 50 ms; a server must take its first login within a second. Every client
// that knows Ed25519 or ECDSA never sees this key, and who wants a larger one imports it.
const rsaBits = 2048

// Generate makes the three keys of a new server: Ed25519, ECDSA P-256 and RSA.
func Generate(now time.Time) ([]Key, error) {
	makers := []func() (crypto.PrivateKey, error){
		func() (crypto.PrivateKey, error) { _, key, err := ed25519.GenerateKey(rand.Reader); return key, err },
		func() (crypto.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		func() (crypto.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, rsaBits) },
	}
	keys := make([]Key, len(makers))
	var all errgroup.Group
	for i, maker := range makers {
		all.Go(func() error {
			private, err := maker()
			if err != nil {
				return fmt.Errorf("generate host key: %w", err)
			}
			keys[i], err = fromPrivate(private, now)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	return keys, nil
}

// fromPrivate describes a private key and gives it an id.
func fromPrivate(private crypto.PrivateKey, now time.Time) (Key, error) {
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return Key{}, fmt.Errorf("write host key: %w", err)
	}
	return Key{
		HostKeyId:    NewID(),
		Type:         signer.PublicKey().Type(),
		Fingerprint:  Fingerprint(signer.PublicKey()),
		PEM:          pem.EncodeToMemory(block),
		DateImported: now,
	}, nil
}
