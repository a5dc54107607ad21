package steps

import (
	"errors"
	"hash"
	"io"
	"slices"
	"time"

	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// refusal is why a file cannot be decrypted, in words for whoever reads the execution.
type refusal string

func (r refusal) Error() string { return string(r) }

const (
	errNotPGP      refusal = "it is no OpenPGP message that can be read"
	errPlain       refusal = "it is not encrypted"
	errUnprotected refusal = "its encryption has no integrity protection"
	errCipher      refusal = "it is encrypted in a way that is not supported"
	errNoKey       refusal = "none of the keys of the secret fits"
	errTampered    refusal = "it was changed or cut short after it was encrypted"
	errUnsigned    refusal = "it is not signed, and the secret has keys to verify signatures"
	errSignature   refusal = "no signature of a key of the secret is valid"
	errTooLarge    refusal = "what it decrypts to is too large"
)

const (
	// overhead is what may stand before the contents of a message, and what behind: the session key for each recipient, and
	// signatures. The packets of that are kept in memory, so whatever an attacker compresses into them has to stay small.
	overhead = 128 << 10
	// maxChunk is what has to be read of an encrypted packet before a byte of it is authentic (RFC 9580, 5.13.2: 4 MiB, which
	// GnuPG takes), with its tag and the length of each of its parts.
	maxChunk = 4<<20 + 64<<10
)

// allowance is how much may still be read of a message beside its contents: of the file, and of all layers within what the
// file has encrypted.
type allowance struct {
	left     int
	contents bool // the contents are being read, of which any amount may come
}

// metered is a layer of a message.
type metered struct {
	io.Reader
	*allowance
}

func (m metered) Read(p []byte) (int, error) {
	if !m.contents {
		if m.left <= 0 {
			return 0, errNotPGP
		}
		p = p[:min(len(p), m.left)]
	}
	n, err := m.Reader.Read(p)
	if !m.contents {
		m.left -= n
	}
	return n, err
}

// message is an OpenPGP message (RFC 9580, 10.3) as it is read. The library's own ReadMessage keeps packets of any size and
// number in memory; this does not.
type message struct {
	packets   *packet.CheckReader
	outer     *allowance // of the file
	inner     *allowance // of what it has encrypted
	keys      keyring
	config    *packet.Config
	now       time.Time
	decrypted io.ReadCloser
	contents  io.Reader
	signed    []*signed
	ended     error
}

// signed is a signature of a key that the secret has.
type signed struct {
	entity       *openpgp.Entity
	id           uint64
	hash, hashed hash.Hash // hashed is fed, and feeds hash
	good         bool
}

// openMessage reads a message up to its contents. Reading those ends with io.EOF only when the message has ended as it
// should and, if the keyring has keys of signers, one of them has signed it. Its own errors are refusals.
func openMessage(r io.Reader, keys keyring, now time.Time) (*message, error) {
	outer, inner := &allowance{left: overhead}, &allowance{left: overhead}
	m := &message{
		packets: packet.NewCheckReader(metered{r, outer}), outer: outer, inner: inner, keys: keys, now: now,
		config: &packet.Config{
			Time: func() time.Time { return now },
			// AWS takes ElGamal keys too, and GnuPG keys that do not say what they are for.
			RejectPublicKeyAlgorithms:           map[packet.PublicKeyAlgorithm]bool{packet.PubKeyAlgoDSA: true},
			InsecureAllowAllKeyFlagsWhenMissing: true,
		},
	}
	if err := m.decrypt(); err != nil {
		return nil, err
	}
	m.outer.contents = true
	if err := m.packets.Push(metered{m.decrypted, m.inner}); err != nil {
		return nil, errNotPGP
	}
	return m, m.findContents()
}

// decrypt reads the session keys and opens what they encrypt.
func (m *message) decrypt() error {
	var sessions []*packet.EncryptedKey
	for {
		p, err := m.packets.Next()
		if _, unsupported := errors.AsType[pgperrors.UnsupportedError](err); unsupported {
			return errCipher
		}
		if err != nil {
			return errNotPGP
		}
		switch p := p.(type) {
		case *packet.EncryptedKey:
			sessions = append(sessions, p)
		case *packet.SymmetricallyEncrypted:
			if !p.IntegrityProtected {
				return errUnprotected
			}
			return m.unlock(p, sessions)
		case *packet.AEADEncrypted:
			return m.unlock(p, sessions)
		case *packet.SymmetricKeyEncrypted: // for a passphrase, which nobody here has
		default:
			return errPlain
		}
	}
}

// unlock tries the keys. Expired ones decrypt too, as in GnuPG: the file may be older.
func (m *message) unlock(p packet.EncryptedDataPacket, sessions []*packet.EncryptedKey) error {
	reason := errNoKey
	for _, session := range sessions {
		for _, entity := range m.keys.private.EntitiesById(session.KeyId) {
			for _, key := range entity.DecryptionKeys(session.KeyId, time.Time{}, m.config) {
				if key.PrivateKey == nil || key.PrivateKey.Encrypted {
					continue
				}
				err := session.Decrypt(key.PrivateKey, m.config)
				if err == nil {
					reason = errTampered
					m.decrypted, err = p.Decrypt(session.CipherFunc, session.Key)
				}
				if err == nil {
					return nil
				}
				if _, unsupported := errors.AsType[pgperrors.UnsupportedError](err); unsupported {
					reason = errCipher
				}
			}
		}
	}
	return reason
}

// findContents reads what stands before the contents. From here on nobody learns what exactly is wrong, because somebody
// could find out about the plaintext by asking often.
func (m *message) findContents() error {
	for {
		p, err := m.packets.Next()
		if err != nil {
			return errTampered
		}
		switch p := p.(type) {
		case *packet.Compressed:
			if err := m.packets.Push(metered{p.Body, m.inner}); err != nil {
				return errTampered
			}
		case *packet.OnePassSignature:
			m.expect(p)
		case *packet.LiteralData:
			m.contents = p.Body
			m.inner.contents = true
			return nil
		case *packet.Signature: // old, before what it signs; nobody verifies that here
		default:
			return errTampered
		}
	}
}

// expect prepares for a signature that follows, if its key is known and its hash function is to be trusted.
func (m *message) expect(p *packet.OnePassSignature) {
	if m.config.RejectMessageHashAlgorithm(p.Hash) || !p.Hash.Available() {
		return
	}
	for _, entity := range m.keys.signers.EntitiesById(p.KeyId) {
		s := &signed{entity: entity, id: p.KeyId, hash: p.Hash.New()}
		s.hash.Write(p.Salt)
		s.hashed = s.hash
		if p.SigType == packet.SigTypeText {
			s.hashed = openpgp.NewCanonicalTextHash(s.hash)
		}
		m.signed = append(m.signed, s)
	}
}

// Read implements io.Reader for the contents.
func (m *message) Read(p []byte) (int, error) {
	if m.ended != nil {
		return 0, m.ended
	}
	n, err := m.contents.Read(p)
	for _, s := range m.signed {
		s.hashed.Write(p[:n])
	}
	switch {
	case err == io.EOF: // and nothing that wraps it
		m.ended = m.finish()
	case err != nil:
		m.ended = errTampered
	}
	return n, m.ended
}

// finish reads what stands behind the contents, and says io.EOF if all is well. Integrity comes first.
func (m *message) finish() error {
	*m.outer, *m.inner = allowance{left: maxChunk + overhead}, allowance{left: overhead}
	var signatures []*packet.Signature
	for {
		p, err := m.packets.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return errTampered
		}
		if s, ok := p.(*packet.Signature); ok {
			signatures = append(signatures, s)
		}
	}
	if err := m.decrypted.Close(); err != nil {
		return errTampered
	}
	if len(m.keys.signers) == 0 {
		return io.EOF
	}
	if len(signatures) == 0 {
		return errUnsigned
	}
	if !slices.ContainsFunc(signatures, m.verify) {
		return errSignature
	}
	return io.EOF
}

// verify tells whether a signature is valid, now, and of a key that may sign. What is hashed for a signature can be
// finished once.
func (m *message) verify(sig *packet.Signature) bool {
	for _, s := range m.signed {
		if sig.IssuerKeyId == nil || *sig.IssuerKeyId != s.id || s.good || sig.SigExpired(m.now) {
			continue
		}
		if sig.SigType != packet.SigTypeBinary && sig.SigType != packet.SigTypeText {
			continue
		}
		key, ok := s.entity.SigningKeyById(m.now, s.id, m.config)
		if ok && key.PublicKey.VerifySignature(s.hash, sig) == nil {
			s.good = true
			return true
		}
	}
	return false
}
