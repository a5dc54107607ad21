package api

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/base64"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/server"
)

const minRSABits = 2048 // as for host keys

type importSshPublicKeyRequest struct {
	ServerId         server.ID
	UserName         string
	SshPublicKeyBody string
}

type importSshPublicKeyAnswer struct {
	ServerId       server.ID
	SshPublicKeyId string
	UserName       string
}

func (a *API) importSshPublicKey(ctx context.Context, in importSshPublicKeyRequest) (*importSshPublicKeyAnswer, error) {
	key, err := a.newSshPublicKey(in.SshPublicKeyBody)
	if err != nil {
		return nil, err
	}
	err = a.users.UpdateUser(ctx, in.ServerId, in.UserName, func(u *server.User) error { return a.addKey(u, key) })
	if err != nil {
		return nil, err
	}
	return &importSshPublicKeyAnswer{in.ServerId, key.SshPublicKeyId, in.UserName}, nil
}

type deleteSshPublicKeyRequest struct {
	ServerId       server.ID
	UserName       string
	SshPublicKeyId string
}

func (a *API) deleteSshPublicKey(ctx context.Context, in deleteSshPublicKeyRequest) error {
	return a.users.UpdateUser(ctx, in.ServerId, in.UserName, func(u *server.User) error {
		rest := slices.DeleteFunc(slices.Clone(u.SshPublicKeys), func(k server.SshPublicKey) bool {
			return k.SshPublicKeyId == in.SshPublicKeyId
		})
		if len(rest) == len(u.SshPublicKeys) {
			return &server.NotFoundError{ResourceType: "SshPublicKey", Resource: in.SshPublicKeyId}
		}
		u.SshPublicKeys = rest
		return nil
	})
}

// newSshPublicKey makes a key of what a caller sent.
func (a *API) newSshPublicKey(body string) (server.SshPublicKey, error) {
	body = strings.TrimSpace(body)
	if _, err := parseKey(body); err != nil {
		return server.SshPublicKey{}, err
	}
	return server.SshPublicKey{
		DateImported:     server.Time{Time: a.now().UTC()},
		SshPublicKeyBody: body,
		SshPublicKeyId:   server.NewSshPublicKeyID(),
	}, nil
}

// addKey gives a user one key more.
func (a *API) addKey(u *server.User, key server.SshPublicKey) error {
	blob := keyBlob(key.SshPublicKeyBody)
	for _, k := range u.SshPublicKeys {
		if bytes.Equal(keyBlob(k.SshPublicKeyBody), blob) {
			return &server.ExistsError{ResourceType: "SshPublicKey", Resource: k.SshPublicKeyId}
		}
	}
	if n := a.limits.KeysPerUser; n > 0 && len(u.SshPublicKeys) >= n {
		return &server.QuotaError{ResourceType: "SshPublicKey", Limit: n}
	}
	u.SshPublicKeys = append(slices.Clone(u.SshPublicKeys), key)
	return nil
}

// parseKey reads a public key in authorized_keys form and refuses the types that the service does not take
// (SshPublicKeyBody's page: RSA, ECDSA on the three NIST curves, Ed25519).
func parseKey(body string) (ssh.PublicKey, error) {
	refusal := invalid("Unsupported or invalid SSH public key format")
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(body))
	if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 || strings.Fields(body)[0] != key.Type() {
		return nil, refusal
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return key, nil
	case ssh.KeyAlgoRSA:
		crypto, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return nil, refusal
		}
		public, ok := crypto.CryptoPublicKey().(*rsa.PublicKey)
		if !ok {
			return nil, refusal
		}
		if bits := public.N.BitLen(); bits < minRSABits {
			return nil, invalid("RSA keys must have at least %d bits, this one has %d", minRSABits, bits)
		}
		return key, nil
	}
	return nil, refusal
}

// keyBlob is the part of a stored body that makes the key what it is: the comment does not.
func keyBlob(body string) []byte {
	fields := strings.Fields(body)
	if len(fields) < 2 {
		return nil
	}
	blob, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return []byte(fields[1])
	}
	return blob
}
