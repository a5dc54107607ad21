package steps_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/transferd/transferd/storage"
	"github.com/transferd/transferd/storage/memory"
	"github.com/transferd/transferd/storage/storagetest"
	"github.com/transferd/transferd/workflow"
	"github.com/transferd/transferd/workflow/steps"
	"github.com/transferd/transferd/workflow/steps/gnupgtest"
)

// secrets are secrets by their names.
type secrets map[string][]byte

var errSecrets = errors.New("secret-host: no answer")

func (s secrets) Secret(_ context.Context, name string) ([]byte, error) {
	b, ok := s[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	case b == nil:
		return nil, errSecrets
	}
	return b, nil
}

const (
	serverID = "s-01234567890abcdef"
	bySelf   = "aws/transfer/" + serverID + "/mary"
	byServer = "aws/transfer/" + serverID + "/@pgp-default"
)

// vault is a store with an encrypted file, and how it is decrypted.
type vault struct {
	t       *testing.T
	store   *memory.Store
	secrets secrets
	now     func() time.Time
	limit   int64
	runs    int
}

func newVault(t *testing.T, secret []byte) *vault {
	store := memory.New(memory.Config{Misuse: func(s string) { t.Error(s) }})
	return &vault{t: t, store: store, secrets: secrets{bySelf: secret}, now: time.Now}
}

func decryptTo(key string) workflow.StepSpec {
	return workflow.StepSpec{Type: workflow.TypeDecrypt, DecryptStepDetails: &workflow.DecryptStepDetails{
		Type: "PGP", DestinationFileLocation: &workflow.InputFileLocation{S3FileLocation: &workflow.S3InputFileLocation{Bucket: "bucket", Key: key}},
	}}
}

// put uploads a file.
func (v *vault) put(name string, content []byte) workflow.FileLocation {
	v.t.Helper()
	storagetest.Write(v.t, v.store, name, content)
	info, err := v.store.Stat(v.t.Context(), name)
	if err != nil {
		v.t.Fatal(err)
	}
	return s3File("bucket", name, info.Sys().(storage.Object).ETag)
}

func (v *vault) run(spec workflow.StepSpec, from workflow.FileLocation, attempt int) (*workflow.Input, error) {
	v.runs++
	in := &workflow.Input{
		Spec: spec, Source: from, Original: from, Previous: from, Attempt: attempt, Execution: workflow.ExecutionID(fmt.Sprint(v.runs)),
		User:       workflow.UserDetails{UserName: "mary", ServerId: serverID},
		UploadDate: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
	}
	s := &steps.Decrypt{Stores: v.store, Secrets: v.secrets, Now: v.now, MaxPlaintext: v.limit}
	return in, s.Run(v.t.Context(), in)
}

// decrypt decrypts a file and returns the plaintext, after a look at what the step says that it made.
func (v *vault) decrypt(message []byte) ([]byte, error) {
	v.t.Helper()
	in, err := v.run(decryptTo("out/"), v.put("in/file.gpg", message), 1)
	plain, _, _, made := v.store.Content("out/file.gpg")
	if left := v.store.Dangling(); len(left) > 0 {
		v.t.Errorf("unfinished uploads %v", left)
	}
	if err != nil {
		if made || !in.Output.IsZero() {
			v.t.Errorf("a file was made in spite of %v", err)
		}
		return nil, err
	}
	if at := in.Output.S3FileLocation; !made || at == nil || at.Key != "out/file.gpg" || at.Etag == "" {
		v.t.Errorf("output %+v", at)
	}
	return plain, nil
}

func (v *vault) refuses(message []byte, text string) {
	v.t.Helper()
	_, err := v.decrypt(message)
	if step := wantType(v.t, err, workflow.BadRequest); !strings.Contains(step.Message, text) {
		v.t.Errorf("message %q, want %q in it", step.Message, text)
	}
	if workflow.Retriable(err) {
		v.t.Errorf("%v is retriable", err)
	}
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b) // never fails
	return b
}

// What DECRYPT steps say.
const (
	tampered = "it was changed or cut short after it was encrypted."
	noKey    = "none of the keys of the secret fits."
	noPGP    = "it is no OpenPGP message that can be read."
)

// TestDecryptGnuPG decrypts what GnuPG made: with keys of all kinds, in all forms.
func TestDecryptGnuPG(t *testing.T) {
	t.Parallel()
	g := gnupgtest.New(t)
	for _, kind := range []string{"rsa", "curve", "nist", "brainpool"} {
		g.Key(kind, kind, "")
	}
	g.Key("locked", "curve", "of mary")
	keys := map[string][]byte{"locked": gnupgtest.Secret("PGPPrivateKey", g.Private("locked", "of mary"), "PGPPassphrase", "of mary")}
	for _, kind := range []string{"rsa", "curve", "nist", "brainpool"} {
		keys[kind] = gnupgtest.Secret("PGPPrivateKey", g.Private(kind, ""))
	}
	plain := bytes.Repeat([]byte("many words\n"), 8_000)
	for _, tt := range []struct {
		name, to string
		content  []byte
		args     string
	}{
		{"RSA", "rsa", plain, ""}, {"curve 25519", "curve", plain, ""}, {"NIST", "nist", plain, ""}, {"brainpool", "brainpool", plain, ""},
		{"with a passphrase", "locked", plain, ""},
		{"nothing", "rsa", nil, ""}, {"one byte", "curve", []byte("x"), ""}, {"noise", "curve", noise(1_500_000), ""},
		{"armored", "curve", plain, "--armor"}, {"armored noise", "curve", noise(200_000), "--armor --comment words"},
		{"not compressed", "curve", plain, "--compress-algo none"}, {"zip", "curve", plain, "--compress-algo zip"},
		{"zlib", "curve", plain, "--compress-algo zlib"}, {"bzip2", "curve", plain, "--compress-algo bzip2"},
		{"text mode", "curve", plain, "--textmode"}, {"AES128", "curve", plain, "--cipher-algo AES128"},
		{"AES192", "curve", plain, "--cipher-algo AES192"}, {"3DES", "curve", plain, "--cipher-algo 3DES"}, {"CAST5", "curve", plain, "--cipher-algo CAST5"},
		{"several recipients", "rsa", plain, "--recipient curve@example.com --recipient nist@example.com"},
		{"hidden recipient", "curve", plain, "--throw-keyids"},
		{"a passphrase too", "curve", plain, "--symmetric --passphrase x"},
		{"signed", "curve", plain, "--sign --local-user nist@example.com"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g, args := g.In(t), strings.Fields(tt.args)
			messages := [][]byte{g.Encrypt(tt.content, tt.to, args...)}
			if len(tt.content) < 2 || tt.name == "noise" || tt.name == "signed" || tt.name == "zlib" {
				messages = append(messages, g.EncryptFile(tt.content, tt.to, args...))
			}
			for _, m := range messages {
				got, err := newVault(t, keys[tt.to]).decrypt(m)
				if tt.name == "text mode" {
					got = bytes.ReplaceAll(got, []byte("\r\n"), []byte("\n"))
				}
				if err != nil || !bytes.Equal(got, tt.content) {
					t.Errorf("%d bytes, %v; want %d", len(got), err, len(tt.content))
				}
			}
		})
	}
	t.Run("tampered", func(t *testing.T) { t.Parallel(); tamper(t, g.In(t), keys) })
	t.Run("refused", func(t *testing.T) { t.Parallel(); refuse(t, g.In(t), keys) })
	t.Run("secrets", func(t *testing.T) { t.Parallel(); lookUp(t, g.In(t), keys) })
	t.Run("signatures", func(t *testing.T) { t.Parallel(); signatures(t, g.In(t)) })
	t.Run("repeats", func(t *testing.T) { t.Parallel(); repeats(t, g.In(t), keys) })
	// The subtests run when this function has returned, and the key ring is removed after them.
}

// tamper changes and cuts messages at many places. Nothing of their plaintext shows, whatever came out before the error.
func tamper(t *testing.T, g *gnupgtest.GnuPG, keys map[string][]byte) {
	for _, args := range []string{"", "--compress-algo none", "--armor"} {
		message := g.EncryptFile(noise(40_000), "curve", strings.Fields(args)...)
		body := 0
		if args == "--armor" {
			body = bytes.Index(message, []byte("\n\n")) // which noise may have too
		}
		for i := range 10 {
			// The session key is at the front, the MDC at the end; -4 is the last of the base64 without its padding and checksum.
			at := body + 160 + (len(message)-body-260)*i/9
			changed := bytes.Clone(message)
			changed[at] ^= 1
			if args == "--armor" && changed[at] == '\n'^1 {
				continue // not base64 any more
			}
			newVault(t, keys["curve"]).refuses(changed, "it ")
			newVault(t, keys["curve"]).refuses(message[:at], "it ")
		}
		for cut := 1; cut <= 23 && args != "--armor"; cut += 11 {
			newVault(t, keys["curve"]).refuses(message[:len(message)-cut], tampered)
		}
		if args != "--armor" {
			newVault(t, keys["curve"]).refuses(append(bytes.Clone(message), message...), tampered)
			newVault(t, keys["curve"]).refuses(append(bytes.Clone(message), "words"...), tampered)
			mdc := bytes.Clone(message)
			mdc[len(mdc)-1] ^= 1
			newVault(t, keys["curve"]).refuses(mdc, tampered)
		}
	}
}

// refuse: what is no message for us.
func refuse(t *testing.T, g *gnupgtest.GnuPG, keys map[string][]byte) {
	plain := []byte("words")
	for _, tt := range []struct {
		name    string
		message []byte
		want    string
	}{
		{"another's", g.Encrypt(plain, "rsa"), noKey},
		{"for a passphrase", g.Run(plain, "--symmetric", "--passphrase", "x"), noKey},
		{"signed and not encrypted", g.Run(plain, "--sign", "--local-user", "nist@example.com"), "it is not encrypted."},
		{"stored", g.Run(plain, "--store"), "it is not encrypted."},
		{"text", []byte("words\nand more\n"), noPGP},
		{"empty", nil, noPGP},
		{"noise", append([]byte{0xff}, noise(10_000)...), noPGP},
		{"a key", []byte(g.Public("rsa")), noPGP},
		{"begins like armor", []byte("-----BEGIN PGP MESSAGE-----\n\n"), noPGP},
		{"a cipher that few have", g.Encrypt(plain, "curve", "--cipher-algo", "TWOFISH"), "it is encrypted in a way that is not supported."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			newVault(t, keys["curve"]).refuses(tt.message, tt.want)
		})
	}
}

// lookUp: which secret is used, and what it may hold.
func lookUp(t *testing.T, g *gnupgtest.GnuPG, keys map[string][]byte) {
	message := g.Encrypt([]byte("words"), "curve")
	key, rsa := g.Private("curve", ""), g.Private("rsa", "")
	locked := g.Private("locked", "of mary")
	for _, tt := range []struct {
		name string
		have secrets
		want string // "": it works
	}{
		{"the user's", secrets{bySelf: keys["curve"], byServer: keys["rsa"]}, ""},
		{"the server's", secrets{byServer: keys["curve"]}, ""},
		{"the user's alone counts", secrets{bySelf: keys["rsa"], byServer: keys["curve"]}, noKey},
		{"none", secrets{}, "there is no secret " + bySelf + " and none " + byServer},
		{"the third", secrets{bySelf: gnupgtest.Secret("PGPPrivateKey", rsa, "PGPPrivateKey2", locked, "PGPPassphrase2", "of mary", "PGPPrivateKey3", key)}, ""},
		{"other members", secrets{bySelf: []byte(`{"Password":"x","N":1,"PGPPrivateKey2":` + string(gnupgtest.Secret("k", key)[len(`{"k":`):]))}, ""},
		{"no JSON", secrets{bySelf: []byte("hush")}, "it is no JSON object"},
		{"no key", secrets{bySelf: gnupgtest.Secret("Password", "hush")}, "it has no PGPPrivateKey"},
		{"a number", secrets{bySelf: []byte(`{"PGPPrivateKey":1}`)}, "PGPPrivateKey is no string"},
		{"no armor", secrets{bySelf: gnupgtest.Secret("PGPPrivateKey2", "hush")}, "PGPPrivateKey2 is no armored key"},
		{"a public key", secrets{bySelf: gnupgtest.Secret("PGPPrivateKey", g.Public("curve"))}, "PGPPrivateKey is a public key"},
		{"a wrong passphrase", secrets{bySelf: gnupgtest.Secret("PGPPrivateKey", locked, "PGPPassphrase", "hush")}, "PGPPassphrase does not open PGPPrivateKey"},
		{"no passphrase", secrets{bySelf: gnupgtest.Secret("PGPPrivateKey", key, "PGPPrivateKey3", locked)}, "PGPPassphrase3 does not open PGPPrivateKey3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, nil)
			v.secrets = tt.have
			if tt.want == "" {
				if got, err := v.decrypt(message); err != nil || string(got) != "words" {
					t.Errorf("%q, %v", got, err)
				}
				return
			}
			v.refuses(message, tt.want)
			if _, err := v.decrypt(message); strings.Contains(err.Error(), "hush") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		_, err := newVault(t, nil).decrypt(message)
		step := wantType(t, err, workflow.InternalServerError)
		if !workflow.Retriable(err) || strings.Contains(step.Message, "secret-host") || !errors.Is(err, errSecrets) {
			t.Errorf("%v", err)
		}
	})
}

// signatures: with public keys in the secret, one of them must have signed.
func signatures(t *testing.T, g *gnupgtest.GnuPG) {
	key, nist, rsa := g.Private("curve", ""), g.Public("nist"), g.Public("rsa")
	plain := bytes.Repeat([]byte("words \r\n"), 10_000)
	sign := func(as ...string) []byte {
		args := []string{"--sign"}
		for _, name := range as {
			args = append(args, "--local-user", name+"@example.com")
		}
		return g.Encrypt(plain, "curve", args...)
	}
	ours := gnupgtest.Secret("PGPPrivateKey", key, "PGPPublicKey", nist, "PGPPublicKey3", rsa)
	for _, tt := range []struct {
		name            string
		secret, message []byte
		want            string
	}{
		{"the first", ours, sign("nist"), ""},
		{"the third", ours, sign("rsa"), ""},
		{"one of two", ours, sign("brainpool", "nist"), ""},
		{"as text", ours, g.Encrypt(plain, "curve", "--sign", "--textmode", "--local-user", "rsa@example.com"), ""},
		{"not compressed", ours, g.Encrypt(plain, "curve", "--sign", "--compress-algo", "none", "--local-user", "rsa@example.com"), ""},
		{"nobody", ours, g.Encrypt(plain, "curve"), "it is not signed"},
		{"somebody else", ours, sign("brainpool"), "no signature of a key of the secret is valid"},
		{"the private key is no signer", ours, sign("curve"), "no signature of a key of the secret is valid"},
		{"with SHA-1", ours, g.Encrypt(plain, "curve", "--sign", "--digest-algo", "SHA1", "--local-user", "rsa@example.com"), "no signature of a key of the secret is valid"},
		{"expired", ours, g.Encrypt(plain, "curve", "--sign", "--default-sig-expire", "1d", "--local-user", "rsa@example.com"), "no signature of a key of the secret is valid"},
		{"whoever, where nobody asks", gnupgtest.Secret("PGPPrivateKey", key), sign("brainpool"), ""},
		{"no key", gnupgtest.Secret("PGPPrivateKey", key, "PGPPublicKey2", "hush"), nil, "PGPPublicKey2 is no armored key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, tt.secret)
			if tt.name == "expired" {
				v.now = func() time.Time { return time.Now().AddDate(0, 0, 2) }
			}
			if tt.want != "" {
				v.refuses(tt.message, tt.want)
				return
			}
			got, err := v.decrypt(tt.message)
			if err != nil || len(got) == 0 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if tt.name != "as text" && !bytes.Equal(got, plain) {
				t.Error("other bytes came out")
			}
		})
	}
}

// repeats: a step that runs again after a crash, and targets that stand.
func repeats(t *testing.T, g *gnupgtest.GnuPG, keys map[string][]byte) {
	v := newVault(t, keys["curve"])
	from := v.put("a.gpg", g.Encrypt(noise(1_100_000), "curve"))
	first, err := v.run(decryptTo("a"), from, 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.run(decryptTo("a"), from, 2)
	if err != nil || *again.Output.S3FileLocation != *first.Output.S3FileLocation {
		t.Errorf("a repeat: %v, %+v", err, again.Output.S3FileLocation)
	}
	_, err = v.run(decryptTo("a"), from, 1)
	wantType(t, err, workflow.AlreadyExists)
	other := bytes.Clone(noise(1_100_000))
	other[1_090_000] ^= 1
	for _, content := range [][]byte{[]byte("other"), other, nil, noise(1_099_999), append(noise(1_100_000), 0)} {
		v.put("a", content)
		_, err = v.run(decryptTo("a"), from, 2)
		wantType(t, err, workflow.AlreadyExists)
		if now, _, _, _ := v.store.Content("a"); !bytes.Equal(now, content) {
			t.Error("the file that stood there has changed")
		}
	}
	spec := decryptTo("${transfer:UserName}/${transfer:UploadDate}/a")
	spec.DecryptStepDetails.OverwriteExisting = "TRUE"
	v.put("mary/2026-11-22/a", []byte("old"))
	if _, err := v.run(spec, from, 1); err != nil {
		t.Error(err)
	}
	if got, _, _, _ := v.store.Content("mary/2026-11-22/a"); !bytes.Equal(got, noise(1_100_000)) {
		t.Errorf("%d bytes", len(got))
	}
	_, err = v.run(decryptTo("a.gpg"), from, 1)
	wantType(t, err, workflow.BadRequest)
	_, err = v.run(decryptTo("b"), s3File("bucket", "a.gpg", "old"), 1)
	wantType(t, err, workflow.NotFound)
	_, err = v.run(workflow.StepSpec{Type: workflow.TypeDecrypt}, from, 1)
	wantType(t, err, workflow.BadRequest)
}
