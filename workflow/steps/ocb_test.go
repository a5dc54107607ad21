package steps_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/eax"
	"github.com/ProtonMail/go-crypto/ocb"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/transferd/transferd/workflow/steps/gnupgtest"
)

// draft is how GnuPG 2.3 and later encrypts for keys that say they can have it, all that it makes itself: packet 20 of
// the draft that RFC 9580 has left behind (draft-koch-openpgp-2015-rfc4880bis, 5.16), mostly with OCB.
type draft struct {
	mode, chunk byte // mode 1 is EAX, 2 is OCB; a chunk has 64 << chunk bytes
	partial     bool // the packet's length is not told at its beginning
	cut         int  // that many chunks at the end are left out, but not the tag of the whole
	swap        bool // the first two chunks change places
	noEnd       bool // the tag of the whole is missing
}

// encrypt is inner encrypted for f.
func (d draft) encrypt(f *forger, inner []byte) []byte {
	f.t.Helper()
	key, nonce := make([]byte, 32), make([]byte, map[byte]int{1: 16, 2: 15}[d.mode])
	_, _ = rand.Read(key) // never fails, as in crypto/rand
	_, _ = rand.Read(nonce)
	header := []byte{0xc0 | 20, 1, byte(packet.CipherAES256), d.mode, d.chunk}
	body := slices.Concat(header[1:], nonce)
	aead := d.aead(f, key)
	var chunks [][]byte
	seal := func(text, more []byte) []byte {
		index := binary.BigEndian.AppendUint64(nil, uint64(len(chunks)))
		at := bytes.Clone(nonce)
		for i, b := range index {
			at[len(at)-8+i] ^= b
		}
		return aead.Seal(nil, at, text, slices.Concat(header, index, more))
	}
	for text := range slices.Chunk(inner, 64<<d.chunk) {
		chunks = append(chunks, seal(text, nil))
	}
	end := seal(nil, binary.BigEndian.AppendUint64(nil, uint64(len(inner))))
	chunks = chunks[:len(chunks)-d.cut]
	if d.swap {
		chunks[0], chunks[1] = chunks[1], chunks[0]
	}
	body = append(body, slices.Concat(chunks...)...)
	if !d.noEnd {
		body = append(body, end...)
	}
	return slices.Concat(f.sessionKey(key), header[:1], d.lengths(body))
}

func (d draft) aead(f *forger, key []byte) cipher.AEAD {
	f.t.Helper()
	block, err := aes.NewCipher(key)
	var aead cipher.AEAD
	if err == nil && d.mode == 1 {
		aead, err = eax.NewEAX(block)
	} else if err == nil {
		aead, err = ocb.NewOCB(block)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return aead
}

// lengths puts the lengths of its parts into a packet's body (RFC 9580, 4.2.1).
func (d draft) lengths(body []byte) (b []byte) {
	for d.partial && len(body) > 1<<9 {
		b = append(append(b, 224+9), body[:1<<9]...)
		body = body[1<<9:]
	}
	return append(binary.BigEndian.AppendUint32(append(b, 255), uint32(len(body))), body...)
}

// sessionKey is the session key encrypted for f.
func (f *forger) sessionKey(key []byte) []byte {
	f.t.Helper()
	recipient, ok := f.entity().EncryptionKey(time.Now(), nil)
	if !ok {
		f.t.Fatal("no encryption key")
	}
	var b bytes.Buffer
	if err := packet.SerializeEncryptedKey(&b, recipient.PublicKey, packet.CipherAES256, key, nil); err != nil {
		f.t.Fatal(err)
	}
	return b.Bytes()
}

// literal is a packet with contents, compressed if compress.
func (f *forger) literal(content []byte, compress bool) []byte {
	f.t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = nopCloser{&b}
	var err error
	if compress {
		w, err = packet.SerializeCompressed(w, packet.CompressionZLIB, nil)
	}
	var l io.WriteCloser
	if err == nil {
		l, err = packet.SerializeLiteral(nopCloser{w}, true, "", 0)
	}
	if err == nil {
		_, err = l.Write(content)
		err = errors.Join(err, l.Close(), w.Close())
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return b.Bytes()
}

// TestDecryptOCB: the authenticated encryption of GnuPG 2.3 and later, with GnuPG 2.2 as the judge, which reads and does not
// write it. Changed and cut ones show nothing.
func TestDecryptOCB(t *testing.T) {
	t.Parallel()
	g := gnupgtest.New(t)
	g.Key("curve", "curve", "")
	private := g.Private("curve", "")
	f := &forger{t, private, gnupgtest.Secret("PGPPrivateKey", private)}
	many := bytes.Repeat([]byte("many words\n"), 8_000)
	for _, c := range []struct {
		name     string
		draft    draft
		content  []byte
		compress bool
	}{
		{"nothing", draft{mode: 2, chunk: 16}, nil, false},
		{"a word", draft{mode: 2, chunk: 16}, []byte("word"), false},
		{"GnuPG's own size of chunks", draft{mode: 2, chunk: 16, partial: true}, many, true},
		{"more than one of those", draft{mode: 2, chunk: 16, partial: true}, noise(4_300_000), false},
		{"many chunks", draft{mode: 2, chunk: 4, partial: true}, many, false},
		{"chunks that come out even", draft{mode: 2, chunk: 0}, noise(64*20 - len(f.literal(noise(64*20), false)) + 64*20), false},
		{"EAX", draft{mode: 1, chunk: 4}, many, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := f.in(t)
			message := c.draft.encrypt(f, f.literal(c.content, c.compress))
			if judged := g.In(t).Run(message, "--decrypt"); !bytes.Equal(judged, c.content) {
				t.Fatalf("this is not what GnuPG reads: %d bytes, want %d", len(judged), len(c.content))
			}
			got, err := newVault(t, f.secret).decrypt(message)
			if err != nil || !bytes.Equal(got, c.content) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(c.content))
			}
		})
	}
	t.Run("tampered", func(t *testing.T) { t.Parallel(); tamperOCB(f.in(t)) })
}

func tamperOCB(f *forger) {
	inner := f.literal(noise(5_000), false)
	whole := draft{mode: 2, chunk: 4}
	message := whole.encrypt(f, inner)
	body := len(f.sessionKey(make([]byte, 32)))
	for i := range 40 { // in every part: the header, the nonce, chunks, their tags and the last one
		at := body + (len(message)-body-1)*i/39
		changed := bytes.Clone(message)
		changed[at] ^= 0x10
		newVault(f.t, f.secret).refuses(changed, "it ")
		newVault(f.t, f.secret).refuses(message[:at], "it ")
	}
	newVault(f.t, f.secret).refuses(append(bytes.Clone(message), "words"...), tampered)
	newVault(f.t, f.secret).refuses(append(bytes.Clone(message), message...), tampered)
	for _, d := range []draft{
		{mode: 2, chunk: 4, cut: 1}, {mode: 2, chunk: 4, cut: 3}, {mode: 2, chunk: 4, swap: true},
		{mode: 2, chunk: 4, noEnd: true}, {mode: 2, chunk: 4, noEnd: true, cut: 1}, {mode: 2, chunk: 4, partial: true, noEnd: true, cut: 2},
	} {
		f.t.Run(fmt.Sprintf("%+v", d), func(t *testing.T) {
			t.Parallel()
			newVault(t, f.secret).refuses(d.encrypt(f.in(t), inner), tampered)
		})
	}
	// The version before them has no meaning yet: the library takes any for 1, which is what is authentic.
	for _, c := range []struct {
		name, want string
		at         int
	}{
		{"cipher", "in a way that is not supported", 1}, {"mode", noPGP, 2}, {"size of chunks", "in a way that is not supported", 3},
	} {
		f.t.Run("unknown "+c.name, func(t *testing.T) {
			t.Parallel()
			changed := bytes.Clone(message)
			changed[body+1+5+c.at] = 77
			newVault(t, f.secret).refuses(changed, c.want)
		})
	}
}
