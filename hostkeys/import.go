package hostkeys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// The reasons why a key cannot be imported. Their texts may be shown to whoever sent it.
var (
	ErrEncrypted = errors.New("host key is encrypted with a passphrase; import it without one")
	ErrNotAKey   = errors.New("host key is not a private key in PEM or OpenSSH form")
	ErrPublicKey = errors.New("host key is a public key or a certificate; import the private key")
	ErrKeyType   = errors.New("host key type is not supported; use RSA, ECDSA (P-256, P-384, P-521) or Ed25519")
	ErrKeySize   = errors.New("RSA host key has an unsupported size; use 2048 to 8192 bits")
)

// The sizes of an RSA key: less is weak, and more would let each handshake take a second of the server's time.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// Parse imports an unencrypted private key: OpenSSH's own form, PKCS#1, PKCS#8 or SEC 1 in PEM. The key is kept in
// OpenSSH's form whatever it came in.
func Parse(body []byte, description string, now time.Time) (Key, error) {
	private, err := parse(body)
	if err != nil {
		return Key{}, err
	}
	key, err := fromPrivate(private, now)
	if err != nil {
		return Key{}, err
	}
	key.Description = description
	return key, nil
}

// parse reads a private key and checks that it is one that AWS takes (API: HostKeyBody of ImportHostKey).
func parse(body []byte) (crypto.PrivateKey, error) {
	block, err := privateBlock(body)
	if err != nil {
		return nil, err
	}
	raw, err := ssh.ParseRawPrivateKey(pem.EncodeToMemory(block))
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		return nil, ErrEncrypted
	case err != nil && foreign(block):
		return nil, ErrKeyType
	case err != nil:
		return nil, ErrNotAKey // the parser's own text may quote the input
	}
	switch key := raw.(type) {
	case *ed25519.PrivateKey:
		return *key, nil
	case ed25519.PrivateKey:
		return key, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P224() { // the one curve of the library that SSH has not (RFC 5656, 10.1)
			return nil, ErrKeyType
		}
		return key, nil
	case *rsa.PrivateKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("%w (it has %d)", ErrKeySize, bits)
		}
		return key, nil
	default:
		return nil, ErrKeyType
	}
}

// privateBlock finds the private key in what was sent. OpenSSL writes the curve's parameters in a block before it.
func privateBlock(body []byte) (*pem.Block, error) {
	block, rest := pem.Decode(body)
	for block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		if _, _, _, _, err := ssh.ParseAuthorizedKey(body); err == nil {
			return nil, ErrPublicKey
		}
		return nil, ErrNotAKey
	}
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY": // PKCS#8 (RFC 7468, 11)
		return nil, ErrEncrypted
	case strings.HasSuffix(block.Type, "PUBLIC KEY"), block.Type == "CERTIFICATE":
		return nil, ErrPublicKey
	case block.Type == "DSA PRIVATE KEY":
		return nil, ErrKeyType
	}
	return block, nil
}

// foreign says whether a block that cannot be read is a private key all the same, of a type that is not ours.
func foreign(block *pem.Block) bool {
	switch block.Type {
	case "PRIVATE KEY":
		var wrapped struct {
			Version   int
			Algorithm asn1.RawValue
			Key       []byte
			Rest      []asn1.RawValue `asn1:"optional,omitempty"`
		}
		_, err := asn1.Unmarshal(block.Bytes, &wrapped)
		return err == nil && !ours(wrapped.Algorithm.Bytes)
	case "EC PRIVATE KEY": // of a curve that the library has not
		var sequence asn1.RawValue
		_, err := asn1.Unmarshal(block.Bytes, &sequence)
		return err == nil
	case "OPENSSH PRIVATE KEY":
		const magic = "openssh-key-v1\x00" // OpenSSH's PROTOCOL.key, 1
		var envelope struct {
			Cipher, KDF, KDFOptions string
			Keys                    uint32
			Public                  []byte
			Rest                    []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(bytes.TrimPrefix(block.Bytes, []byte(magic)), &envelope) != nil {
			return false
		}
		var public struct {
			Type string
			Rest []byte `ssh:"rest"`
		}
		return ssh.Unmarshal(envelope.Public, &public) == nil && !slices.Contains([]string{ssh.KeyAlgoRSA, ssh.KeyAlgoED25519,
			ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521}, public.Type)
	}
	return false
}

// ours says whether an algorithm identifier of PKCS#8 is RSA or Ed25519 (RFC 8017, RFC 8410). One of ECDSA that cannot be
// read has a curve that is not ours.
func ours(algorithm []byte) bool {
	var id asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(algorithm, &id); err != nil {
		return true
	}
	return id.Equal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}) || id.Equal(asn1.ObjectIdentifier{1, 3, 101, 112})
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
