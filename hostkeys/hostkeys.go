// Package hostkeys generates, imports and describes SSH host keys. It imports nothing of ours.
package hostkeys

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Key is one host key of a server, with its private part.
type Key struct {
	HostKeyId    string    // hostkey-[0-9a-f]{17}
	Type         string    // ssh-rsa, ssh-ed25519, ecdsa-sha2-nistp256, …
	Fingerprint  string    // SHA256: and padded base64, as the API prints it
	PEM          []byte    // OpenSSH private key form, unencrypted
	Description  string    `json:",omitempty"`
	DateImported time.Time // oldest of a type is the active one
	Tags         []Tag     `json:",omitempty"`
}

// Tag is a key and a value.
type Tag struct {
	Key   string
	Value string
}

// NewID makes a fresh host key id, hostkey-[0-9a-f]{17}.
func NewID() string {
	var b [9]byte
	rand.Read(b[:]) // never fails
	return "hostkey-" + hex.EncodeToString(b[:])[:17]
}

// Fingerprint is a public key's fingerprint as the API prints it: ssh-keygen's, but with the padding (DescribeServer's
// HostKeyFingerprint, DescribedHostKey).
func Fingerprint(key ssh.PublicKey) string {
	print := ssh.FingerprintSHA256(key)
	sum := strings.TrimPrefix(print, "SHA256:")
	if pad := len(sum) % 4; pad != 0 {
		print += strings.Repeat(string(base64.StdPadding), 4-pad)
	}
	return print
}

// Active are the keys that a server shows: of each type the oldest (AWS's page on host keys: "the oldest key of each
// type is the active one"), in the order that clients should prefer them.
func Active(keys []Key) []Key {
	sorted := slices.Clone(keys)
	slices.SortFunc(sorted, func(a, b Key) int {
		return cmp.Or(cmp.Compare(rank(a.Type), rank(b.Type)), cmp.Compare(a.Type, b.Type),
			a.DateImported.Compare(b.DateImported), cmp.Compare(a.HostKeyId, b.HostKeyId))
	})
	return slices.CompactFunc(sorted, func(a, b Key) bool { return a.Type == b.Type })
}

// rank sorts types: small and fast signatures first, RSA for those who know nothing else.
func rank(typ string) int {
	switch typ {
	case ssh.KeyAlgoED25519:
		return 0
	case ssh.KeyAlgoRSA:
		return 2
	default:
		return 1
	}
}
