package steps_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/memory"
	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps/gnupgtest"
)

// forger makes messages that GnuPG does not.
type forger struct {
	t       *testing.T
	private string // the key of whom they are for, in armor
	secret  []byte
}

func newForger(t *testing.T, config *packet.Config) *forger {
	t.Helper()
	entity, err := openpgp.NewEntity("Mary", "", "mary@example.com", config)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PrivateKeyType, nil)
	if err == nil {
		err = errors.Join(entity.SerializePrivate(w, nil), w.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return &forger{t, b.String(), gnupgtest.Secret("PGPPrivateKey", b.String())}
}

// entity is the key, read anew: the library keeps notes in its keys, so tests side by side cannot share them.
func (f *forger) entity() *openpgp.Entity {
	f.t.Helper()
	ring, err := openpgp.ReadArmoredKeyRing(strings.NewReader(f.private))
	if err != nil {
		f.t.Fatal(err)
	}
	return ring[0]
}

// in is f for a subtest.
func (f *forger) in(t *testing.T) *forger { return &forger{t, f.private, f.secret} }

// encrypt is a message as the library makes it.
func (f *forger) encrypt(content []byte, config *packet.Config) []byte {
	f.t.Helper()
	var b bytes.Buffer
	w, err := openpgp.Encrypt(&b, []*openpgp.Entity{f.entity()}, nil, nil, nil, config)
	if err == nil {
		_, err = w.Write(content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return b.Bytes()
}

// seal encrypts packets, whatever they are, compressed if compress.
func (f *forger) seal(compress bool, fill func(w io.Writer) error) []byte {
	f.t.Helper()
	var b bytes.Buffer
	key := bytes.Repeat([]byte{7}, 32)
	must := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	recipient, ok := f.entity().EncryptionKey(time.Now(), nil)
	if !ok {
		f.t.Fatal("no encryption key")
	}
	must(packet.SerializeEncryptedKey(&b, recipient.PublicKey, packet.CipherAES256, key, nil))
	w, err := packet.SerializeSymmetricallyEncrypted(&b, packet.CipherAES256, false, packet.CipherSuite{}, key, nil)
	must(err)
	var inner io.WriteCloser = w
	if compress {
		inner, err = packet.SerializeCompressed(w, packet.CompressionZLIB, nil)
		must(err)
	}
	must(fill(inner))
	must(inner.Close())
	return b.Bytes()
}

// zeros writes n zeros.
func zeros(w io.Writer, n int) error {
	for block := make([]byte, 1<<20); n > 0; n -= len(block) {
		if _, err := w.Write(block[:min(n, len(block))]); err != nil {
			return err
		}
	}
	return nil
}

// TestDecryptBombs: small files that would become large ones, in the store or in memory.
func TestDecryptBombs(t *testing.T) {
	t.Parallel()
	f := newForger(t, nil)
	literal := func(n int) func(io.Writer) error {
		return func(w io.Writer) error {
			l, err := packet.SerializeLiteral(nopCloser{w}, true, "", 0)
			if err != nil {
				return err
			}
			return errors.Join(zeros(l, n), l.Close())
		}
	}
	// A one-pass signature of version 3 by key 0, one of many: "nested" says that more of them follow.
	nested := []byte{0xc4, 13, 3, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	// A signature of version 6 that says that 2 MiB of subpackets follow.
	huge := []byte{0xc2, 0xff, 0x00, 0x20, 0, 8, 6, 0, 1, 8, 0x00, 0x20, 0, 0}
	for _, tt := range []struct {
		name string
		fill func(io.Writer) error
		want string // "": it works
	}{
		{"zeros that may be", literal(1 << 16), ""},
		{"zeros", literal(8 << 20), "what it decrypts to is too large."},
		{"packets before the contents", func(w io.Writer) error {
			_, err := w.Write(bytes.Repeat(nested, 200_000))
			return errors.Join(err, literal(10)(w))
		}, tampered},
		{"a large packet before the contents", func(w io.Writer) error {
			_, err := w.Write(huge)
			return errors.Join(err, zeros(w, 2<<20))
		}, tampered},
		{"a large packet behind the contents", func(w io.Writer) error {
			_, err := w.Write(nested)
			err = errors.Join(err, literal(10)(w))
			_, more := w.Write(huge)
			return errors.Join(err, more, zeros(w, 2<<20))
		}, tampered},
		{"nothing but a key", func(w io.Writer) error { return f.entity().PrimaryKey.Serialize(w) }, tampered},
		{"a message in a message", func(w io.Writer) error {
			_, err := w.Write(f.seal(true, literal(10)))
			return err
		}, tampered},
		{"nothing", func(io.Writer) error { return nil }, tampered},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, f.secret)
			v.limit = 1 << 16
			message := f.in(t).seal(true, tt.fill)
			if tt.want != "" {
				v.refuses(message, tt.want)
			} else if got, err := v.decrypt(message); err != nil || len(got) != 1<<16 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	// The session key of an RSA key has a length of two octets (RFC 9580, 4.2.1.2).
	message := f.encrypt([]byte("words"), nil)
	session := message[:3+int(message[1]-192)<<8+int(message[2])+192]
	t.Run("many recipients", func(t *testing.T) {
		t.Parallel()
		newVault(t, f.secret).refuses(append(bytes.Repeat(session, 5_000), message...), noPGP)
	})
	t.Run("no integrity protection", func(t *testing.T) {
		t.Parallel()
		newVault(t, f.secret).refuses(append(bytes.Clone(session), 0xc9, 5, 1, 2, 3, 4, 5), "no integrity protection")
	})
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// TestDecryptAEAD: the authenticated encryption of RFC 9580, which GnuPG does not write, cut and changed too.
func TestDecryptAEAD(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		mode  packet.AEADMode
		chunk uint64
		size  int
	}{
		{"OCB", packet.AEADModeOCB, 1 << 12, 30_000}, {"EAX", packet.AEADModeEAX, 1 << 12, 30_000}, {"GCM", packet.AEADModeGCM, 1 << 12, 30_000},
		{"OCB with large chunks", packet.AEADModeOCB, 1 << 20, 1_500_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, AEADConfig: &packet.AEADConfig{DefaultMode: tt.mode, ChunkSize: tt.chunk}}
			f := newForger(t, config)
			content := noise(tt.size)
			message := f.encrypt(content, config)
			if !bytes.Contains(message[:200], []byte{2, 7, byte(tt.mode)}) {
				t.Fatalf("this is not what was asked for: % x", message[:min(len(message), 200)])
			}
			if got, err := newVault(t, f.secret).decrypt(message); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			places := 12
			if tt.size > 1_000_000 {
				places = 3
			}
			for i := range places {
				at := 150 + (len(message)-151)*i/(places-1)
				changed := bytes.Clone(message)
				changed[at] ^= 0x10
				newVault(t, f.secret).refuses(changed, "it ")
				newVault(t, f.secret).refuses(message[:at], "it ")
			}
		})
	}
}

// TestDecryptOutages: what a store does not do is not the message's fault, and nothing half-made stays.
func TestDecryptOutages(t *testing.T) {
	t.Parallel()
	f := newForger(t, nil)
	message := f.encrypt(noise(1_200_000), nil)
	outage := errors.Join(storage.ErrUnavailable, io.ErrUnexpectedEOF, errors.New("secret-host"))
	for _, op := range []memory.Op{memory.Stat, memory.Open, memory.Read, memory.Create, memory.Write, memory.Commit} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			var down atomic.Bool
			v := newVault(t, f.secret)
			v.store = memory.New(memory.Config{Misuse: func(s string) { t.Error(s) }, Fail: func(o memory.Op, _ string) (bool, error) {
				if o == op && down.Load() {
					return false, outage
				}
				return false, nil
			}})
			from := v.put("a.gpg", message)
			down.Store(true)
			_, err := v.run(decryptTo("b"), from, 1)
			step := wantType(t, err, workflow.InternalServerError)
			if !workflow.Retriable(err) || strings.Contains(step.Message, "secret-host") || !strings.Contains(step.Message, "did not answer") {
				t.Errorf("%v", err)
			}
			if _, _, _, made := v.store.Content("b"); made || len(v.store.Dangling()) > 0 {
				t.Errorf("made %v, unfinished %v", made, v.store.Dangling())
			}
		})
	}
}
