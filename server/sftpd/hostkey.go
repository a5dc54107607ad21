package sftpd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/hostkeys"
)

// The rotation of host keys (OpenSSH's PROTOCOL, 2.5): after the login a server names all its keys, and a client that
// wants to remember the new ones asks for proofs that the server holds them.
const (
	reqHostKeys      = "hostkeys-00@openssh.com"
	reqHostKeysProve = "hostkeys-prove-00@openssh.com"
)

// ring are the parsed host keys of a server, as its settings name them.
type ring struct {
	name   string
	active []ssh.Signer // the oldest of each type: those of the key exchange
	all    []ssh.Signer
}

// rings keeps the ring of the latest settings: parsing an RSA key costs more than a handshake, and a key that was
// deleted must leave the memory.
type rings struct {
	mu     sync.Mutex // guards latest
	latest *ring
}

// of is the ring of these keys. sha1 lets RSA keys sign with SHA-1 too.
func (r *rings) of(keys []hostkeys.Key, sha1 bool) (*ring, error) {
	name := fmt.Sprint(sha1)
	for _, key := range keys {
		name += fmt.Sprint(" ", key.HostKeyId, " ", key.Fingerprint, " ", key.DateImported.UnixNano())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.latest != nil && r.latest.name == name {
		return r.latest, nil
	}
	fresh, err := newRing(keys, sha1)
	if err != nil {
		return nil, err
	}
	fresh.name = name
	r.latest = fresh
	return fresh, nil
}

func newRing(keys []hostkeys.Key, sha1 bool) (*ring, error) {
	active := hostkeys.Active(keys)
	if len(active) == 0 {
		return nil, errors.New("server has no host key")
	}
	made := &ring{}
	for _, key := range active {
		signer, err := key.Signer(sha1)
		if err != nil {
			return nil, err
		}
		made.active = append(made.active, signer)
	}
	made.all = slices.Clone(made.active)
	for _, key := range keys {
		if slices.ContainsFunc(active, func(a hostkeys.Key) bool { return a.HostKeyId == key.HostKeyId }) {
			continue
		}
		signer, err := key.Signer(sha1)
		if err != nil {
			return nil, err
		}
		made.all = append(made.all, signer)
	}
	return made, nil
}

// announcement are all keys as hostkeys-00@openssh.com carries them.
func (r *ring) announcement() []byte {
	var body []byte
	for _, signer := range r.all {
		body = appendString(body, signer.PublicKey().Marshal())
	}
	return body
}

// prove answers hostkeys-prove-00@openssh.com: one signature for each key that was asked for, over the name of the
// request, the session's id and the key. Each key is asked for once only, so that nobody has us sign for ever.
func (r *ring) prove(asked, sessionID []byte, rsaAlgorithm string) ([]byte, error) {
	d := fields{rest: asked}
	var body []byte
	left := slices.Clone(r.all)
	for len(d.rest) > 0 {
		blob := d.bytes()
		i := slices.IndexFunc(left, func(s ssh.Signer) bool { return string(s.PublicKey().Marshal()) == string(blob) })
		if d.short || i < 0 {
			return nil, errMalformed
		}
		proof, err := prove(left[i], sessionID, rsaAlgorithm)
		if err != nil {
			return nil, err
		}
		body = appendString(body, ssh.Marshal(proof))
		left = slices.Delete(left, i, i+1)
	}
	return body, nil
}

func prove(key ssh.Signer, sessionID []byte, rsaAlgorithm string) (*ssh.Signature, error) {
	data := appendString(nil, []byte(reqHostKeysProve))
	data = appendString(data, sessionID)
	data = appendString(data, key.PublicKey().Marshal())
	if multi, ok := key.(ssh.AlgorithmSigner); ok && key.PublicKey().Type() == ssh.KeyAlgoRSA {
		return multi.SignWithAlgorithm(rand.Reader, data, rsaAlgorithm)
	}
	return key.Sign(rand.Reader, data)
}

// rsaProof is how RSA keys prove themselves: as one did in the key exchange, which is what OpenSSH then insists on, and
// else with SHA-512.
func rsaProof(negotiated string) string {
	switch negotiated {
	case ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA:
		return negotiated
	}
	return ssh.KeyAlgoRSASHA512
}

// announce names all host keys to the client. Who does not know the request ignores it.
func (c *connection) announce(ctx context.Context) {
	if _, _, err := c.ssh.SendRequest(reqHostKeys, false, c.keys.announcement()); err != nil {
		c.Log.DebugContext(ctx, "announce host keys", "source-ip", c.sourceIP, "error", err)
	}
}

// answer answers a global request: those for proofs once a connection, every other one with a no, which is what clients
// probe with (RFC 4254, 4).
func (c *connection) answer(ctx context.Context, r *ssh.Request) {
	var body []byte
	ok := r.Type == reqHostKeysProve && !c.proven
	if ok {
		c.proven = true
		negotiated := ""
		if m, known := c.ssh.Conn.(ssh.AlgorithmsConnMetadata); known {
			negotiated = m.Algorithms().HostKey
		}
		var err error
		if body, err = c.keys.prove(r.Payload, c.ssh.SessionID(), rsaProof(negotiated)); err != nil {
			ok = false
			c.Log.DebugContext(ctx, "prove host keys", "source-ip", c.sourceIP, "error", err)
		}
	}
	if err := r.Reply(ok, body); err != nil {
		c.Log.DebugContext(ctx, "global request", "source-ip", c.sourceIP, "error", err)
	}
}

func appendString(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
