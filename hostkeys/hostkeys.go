// Package hostkeys generates, imports and describes SSH host keys. It imports nothing of ours.
package hostkeys

import "time"

// Key is one host key of a server, with its private part.
type Key struct {
	HostKeyId    string    // hostkey-[0-9a-f]{17}
	Type         string    // ssh-rsa, ssh-ed25519, ecdsa-sha2-nistp256, …
	Fingerprint  string    // SHA256: and padded base64, as the API prints it
	PEM          []byte    // OpenSSH private key form, unencrypted
	Description  string    `json:",omitempty"`
	DateImported time.Time // oldest of a type is the active one
}
