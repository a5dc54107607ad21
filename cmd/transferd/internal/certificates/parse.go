package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// parse reads a pair and checks that it is one that a server may have (CreateServer's page, Certificate): RSA of 2048 or
// 4096 bits, or an elliptic curve key on P-256, P-384 or P-521. Its errors say what to do, and repeat nothing of the key.
func parse(certificate, key []byte) (*tls.Certificate, error) {
	if !has(certificate, isCertificate) {
		if has(certificate, isKey) {
			return nil, errors.New("the certificate's file has a private key and no certificate: are the two files exchanged?")
		}
		return nil, errors.New("the certificate's file has no PEM block CERTIFICATE")
	}
	switch {
	case has(key, isEncrypted):
		return nil, errors.New("the key's file is encrypted: decrypt it (openssl pkey -in KEY -out KEY.plain)")
	case has(key, func(b *pem.Block) bool { return b.Type == "OPENSSH PRIVATE KEY" }):
		return nil, errors.New("the key's file is in OpenSSH's format: TLS needs PKCS #8 or PKCS #1 (ssh-keygen -p -m PEM)")
	case !has(key, isKey):
		return nil, errors.New("the key's file has no PEM block PRIVATE KEY")
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "tls: "))
	}
	if err := checkKey(pair.Leaf); err != nil {
		return nil, err
	}
	return &pair, nil
}

func checkKey(leaf *x509.Certificate) error {
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits != 2048 && bits != 4096 {
			return fmt.Errorf("the key is RSA of %d bits: it must be RSA of 2048 or 4096 bits, or EC on P-256, P-384 or P-521", bits)
		}
		return nil
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, k.Curve) {
			return fmt.Errorf("the key is on the curve %s: it must be on P-256, P-384 or P-521", k.Curve.Params().Name)
		}
		return nil
	}
	return fmt.Errorf("the key is %s: it must be RSA of 2048 or 4096 bits, or EC on P-256, P-384 or P-521", leaf.PublicKeyAlgorithm)
}

// has says whether a PEM file has such a block.
func has(file []byte, such func(*pem.Block) bool) bool {
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if such(block) {
			return true
		}
	}
	return false
}

func isCertificate(b *pem.Block) bool { return b.Type == "CERTIFICATE" }

func isKey(b *pem.Block) bool { return strings.HasSuffix(b.Type, "PRIVATE KEY") }

// isEncrypted knows PKCS #8 by its type and the older form by its header (RFC 1421, 4.6.1.3).
func isEncrypted(b *pem.Block) bool {
	return b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED")
}
