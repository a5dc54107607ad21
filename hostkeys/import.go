package hostkeys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// The reasons why a key cannot be imported. Their texts may be shown to whoever sent it.
var (
	ErrEncrypted = errors.New("host key is encrypted with a passphrase; import it without one")
	ErrNotAKey   = errors.New("host key is not a private key in PEM or OpenSSH form")
	ErrKeyType   = errors.New("host key type is not supported; use RSA, ECDSA (P-256, P-384, P-521) or Ed25519")
	ErrKeySize   = errors.New("RSA host key has an unsupported size; use 2048, 3072 or 4096 bits")
)

// Parse imports an unencrypted private key: OpenSSH's own form, PKCS#1, PKCS#8 or SEC 1 in PEM. The key is kept in
// OpenSSH's form whatever it came in.
func Parse(body []byte, description string, now time.Time) (Key, error) {
	private, err := parse(body)
	if err != nil {
		return Key{}, err
	}
	key, err := fromPrivate(private, now)
	key.Description = description
	return key, err
}

// parse reads a private key and checks that it is one that AWS takes (API: HostKeyBody of ImportHostKey).
func parse(body []byte) (crypto.PrivateKey, error) {
	raw, err := ssh.ParseRawPrivateKey(body)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		return nil, ErrEncrypted
	case err != nil:
		return nil, ErrNotAKey // the parser's own text may quote the input
	}
	switch key := raw.(type) {
	case *ed25519.PrivateKey:
		return *key, nil
	case ed25519.PrivateKey, *ecdsa.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits != 2048 && bits != 3072 && bits != 4096 {
			return nil, fmt.Errorf("%w (it has %d)", ErrKeySize, bits)
		}
		return key, nil
	default:
		return nil, ErrKeyType
	}
}

// Signer is the key at work. An RSA key signs with SHA-512 and SHA-256, with SHA-1 only if sha1 allows it (RFC 8332).
func (k Key) Signer(sha1 bool) (ssh.Signer, error) {
	private, err := parse(k.PEM)
	if err != nil {
		return nil, fmt.Errorf("host key %s: %w", k.HostKeyId, err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, fmt.Errorf("host key %s: %w", k.HostKeyId, err)
	}
	if signer.PublicKey().Type() != ssh.KeyAlgoRSA || sha1 {
		return signer, nil
	}
	algorithms, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("host key %s: %w", k.HostKeyId, ErrKeyType)
	}
	limited, err := ssh.NewSignerWithAlgorithms(algorithms, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
	if err != nil {
		return nil, fmt.Errorf("host key %s: %w", k.HostKeyId, err)
	}
	return limited, nil
}
