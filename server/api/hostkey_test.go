package api_test

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
	"golang.org/x/crypto/ssh"

	"github.com/transferd/transferd/hostkeys"
	"github.com/transferd/transferd/server"
)

func (c *catalogue) HostKeys(_ context.Context, id server.ID) ([]hostkeys.Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers[id] == nil {
		return nil, missing("Server", string(id))
	}
	return slices.SortedFunc(slices.Values(c.keys[id]), func(a, b hostkeys.Key) int {
		return cmp.Or(a.DateImported.Compare(b.DateImported), cmp.Compare(a.HostKeyId, b.HostKeyId))
	}), c.err
}

func (c *catalogue) AddHostKey(_ context.Context, id server.ID, k hostkeys.Key) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.servers[id] == nil {
		return missing("Server", string(id))
	}
	for _, old := range c.keys[id] {
		if old.Fingerprint == k.Fingerprint {
			return &server.ExistsError{ResourceType: "HostKey", Resource: old.HostKeyId}
		}
	}
	c.keys[id] = append(c.keys[id], k)
	return nil
}

// findKey is called with the lock held.
func (c *catalogue) findKey(id server.ID, key string) (int, error) {
	if c.servers[id] == nil {
		return 0, missing("Server", string(id))
	}
	at := slices.IndexFunc(c.keys[id], func(k hostkeys.Key) bool { return k.HostKeyId == key })
	if at < 0 {
		return 0, missing("HostKey", key)
	}
	return at, nil
}

func (c *catalogue) UpdateHostKey(_ context.Context, id server.ID, key string, change func(*hostkeys.Key) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, err := c.findKey(id, key)
	if err != nil {
		return err
	}
	doc, err := rewrite(encode(c.keys[id][at]), change)
	if err == nil {
		c.keys[id][at] = decode[hostkeys.Key](doc)
	}
	return err
}

func (c *catalogue) DeleteHostKey(_ context.Context, id server.ID, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, err := c.findKey(id, key)
	if err != nil {
		return err
	}
	if len(c.keys[id]) == 1 {
		return &server.LastKeyError{Server: id, HostKey: key}
	}
	c.keys[id] = slices.Delete(slices.Clone(c.keys[id]), at, at+1)
	return nil
}

func (w *world) hostKeys(t testing.TB, id string) []types.ListedHostKey {
	t.Helper()
	out := ok[*transfer.ListHostKeysOutput](t)(w.sdk.ListHostKeys(t.Context(), &transfer.ListHostKeysInput{ServerId: &id}))
	if *out.ServerId != id {
		t.Errorf("host keys of %s, want %s", *out.ServerId, id)
	}
	return out.HostKeys
}

func (w *world) hostKey(t testing.TB, id, key string) types.DescribedHostKey {
	t.Helper()
	out := ok[*transfer.DescribeHostKeyOutput](t)(w.sdk.DescribeHostKey(t.Context(), &transfer.DescribeHostKeyInput{ServerId: &id, HostKeyId: &key}))
	return *out.HostKey
}

func (w *world) importHostKey(t testing.TB, id, body string) (string, error) {
	t.Helper()
	out, err := w.sdk.ImportHostKey(t.Context(), &transfer.ImportHostKeyInput{ServerId: &id, HostKeyBody: &body})
	if err != nil {
		return "", err
	}
	return *out.HostKeyId, nil
}

// private writes a private key in OpenSSH's form and in PKCS#8.
func private(t testing.TB, key crypto.Signer) (openSSH, pkcs8 string) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// fingerprint is what AWS prints: ssh-keygen's, padded.
func fingerprint(t testing.TB, key crypto.Signer) string {
	t.Helper()
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return ssh.FingerprintSHA256(public) + "="
}

func newECDSA(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestHostKeyLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	own := w.hostKeys(t, id)
	if len(own) != 1 || *own[0].Fingerprint != "SHA256:new=" {
		t.Fatalf("a new server has %s", pretty(own))
	}
	key := newEd25519(t)
	body, again := private(t, key)
	began := time.Now().Truncate(time.Millisecond)
	out := ok[*transfer.ImportHostKeyOutput](t)(w.sdk.ImportHostKey(t.Context(), &transfer.ImportHostKeyInput{
		ServerId: &id, HostKeyBody: &body, Description: aws.String("the next one"), Tags: []types.Tag{tag("b", "1"), tag("a", "")},
	}))
	if *out.ServerId != id {
		t.Errorf("imported to %s", *out.ServerId)
	}
	got := w.hostKey(t, id, *out.HostKeyId)
	if got.DateImported == nil || got.DateImported.Before(began) || got.DateImported.After(time.Now()) {
		t.Errorf("imported %v, want after %v", got.DateImported, began)
	}
	want := types.DescribedHostKey{
		Arn: aws.String("arn:aws:transfer:eu-central-1:123456789012:host-key/" + id + "/" + *out.HostKeyId), HostKeyId: out.HostKeyId,
		HostKeyFingerprint: aws.String(fingerprint(t, key)), Description: aws.String("the next one"), Type: aws.String("ssh-ed25519"),
		DateImported: got.DateImported, Tags: []types.Tag{tag("b", "1"), tag("a", "")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s\nwant %s", pretty(got), pretty(want))
	}
	all := w.hostKeys(t, id)
	listed := types.ListedHostKey{
		Arn: want.Arn, HostKeyId: want.HostKeyId, Fingerprint: want.HostKeyFingerprint, Description: want.Description, Type: want.Type, DateImported: want.DateImported,
	}
	if len(all) != 2 || *all[0].HostKeyId != *own[0].HostKeyId || !reflect.DeepEqual(all[1], listed) {
		t.Errorf("list %s", pretty(all))
	}

	_, err := w.importHostKey(t, id, again)
	refusal(t, err, "ResourceExistsException", *out.HostKeyId)
	describe := func(text string) {
		t.Helper()
		out := ok[*transfer.UpdateHostKeyOutput](t)(w.sdk.UpdateHostKey(t.Context(), &transfer.UpdateHostKeyInput{ServerId: &id, HostKeyId: want.HostKeyId, Description: &text}))
		if *out.ServerId != id || *out.HostKeyId != *want.HostKeyId {
			t.Errorf("updated %s", pretty(out))
		}
	}
	describe("now in use!")
	if got := w.hostKey(t, id, *want.HostKeyId); *got.Description != "now in use!" || len(got.Tags) != 2 || *got.HostKeyFingerprint != fingerprint(t, key) {
		t.Errorf("after an update %s", pretty(got))
	}
	describe("")
	if got := w.hostKey(t, id, *want.HostKeyId); got.Description != nil {
		t.Errorf("after an update to nothing %s", pretty(got))
	}

	remove := func(key *string) error {
		_, err := w.sdk.DeleteHostKey(t.Context(), &transfer.DeleteHostKeyInput{ServerId: &id, HostKeyId: key})
		return err
	}
	if err := remove(own[0].HostKeyId); err != nil {
		t.Fatal(err)
	}
	refusal(t, remove(own[0].HostKeyId), "ResourceNotFoundException", *own[0].HostKeyId)
	refusal(t, remove(want.HostKeyId), "InvalidRequestException", "last one of server "+id)
	if all := w.hostKeys(t, id); len(all) != 1 || *all[0].HostKeyId != *want.HostKeyId {
		t.Errorf("left: %s", pretty(all))
	}
}

// Every type and form that the service takes, with and without a line end.
func TestHostKeyForms(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256 := newECDSA(t, elliptic.P256())
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind  string
		key   crypto.Signer
		forms []string
	}{
		{"ssh-rsa", long, []string{string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(long)}))}},
		{"ssh-ed25519", newEd25519(t), nil},
		{"ecdsa-sha2-nistp256", p256, []string{string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))}},
		{"ecdsa-sha2-nistp384", newECDSA(t, elliptic.P384()), nil},
		{"ecdsa-sha2-nistp521", newECDSA(t, elliptic.P521()), nil},
	} {
		openSSH, pkcs8 := private(t, c.key)
		for _, body := range append(c.forms, openSSH, pkcs8, strings.TrimSpace(openSSH)) {
			id := w.newServer(t)
			key, err := w.importHostKey(t, id, body)
			if err != nil {
				t.Errorf("%s: %v\n%s", c.kind, err, body[:40])
				continue
			}
			if got := w.hostKey(t, id, key); *got.Type != c.kind || *got.HostKeyFingerprint != fingerprint(t, c.key) {
				t.Errorf("%s: %s", c.kind, pretty(got))
			}
		}
	}
}

// A key that is not taken is named by its fault, and never repeated: not to the caller, not in the log.
func TestHostKeyRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakPEM, _ := private(t, weak)
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(newEd25519(t), "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	good, _ := private(t, newEd25519(t))
	p224, err := x509.MarshalECPrivateKey(newECDSA(t, elliptic.P224()))
	if err != nil {
		t.Fatal(err)
	}
	before := len(w.hostKeys(t, id))
	for name, c := range map[string]struct{ body, word string }{
		"weak":       {weakPEM, "1024"},
		"encrypted":  {string(pem.EncodeToMemory(locked)), "passphrase"},
		"P-224":      {string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: p224})), "not"},
		"DSA":        {dsaKey(t), "not supported"},
		"public key": {goodKey, "private key"},
		"cut":        {good[:len(good)/2], "not a private key"},
		"empty":      {"", "not a private key"},
		"word":       {"password", "not a private key"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.importHostKey(t, id, c.body)
			refusal(t, err, "InvalidRequestException", "HostKeyBody", c.word)
			for line := range strings.Lines(c.body) {
				if line = strings.TrimSpace(line); len(line) > 20 && !strings.HasPrefix(line, "-----") &&
					(strings.Contains(err.Error(), line) || strings.Contains(w.log.String(), line)) {
					t.Errorf("the key is repeated: %v", err)
				}
			}
		})
	}
	w.call(t, "ImportHostKey", `{"ServerId":"`+id+`","HostKeyBody":"`+strings.Repeat("secret", 700)+`"}`).
		refused(t, 400, "ValidationException", "'hostKeyBody' failed to satisfy constraint: Member must have length less than or equal to 4096")
	if strings.Contains(w.log.String(), "secretsecret") {
		t.Error("the log repeats a key")
	}
	w.call(t, "ImportHostKey", `{"ServerId":"`+id+`","HostKeyBody":"good","Description":"ü"}`).refused(t, 400, "ValidationException", "'description'")
	w.call(t, "ImportHostKey", `{"ServerId":"`+id+`","HostKeyBody":"good","Tags":[{"Key":"aws:x","Value":""}]}`).refused(t, 400, "InvalidRequestException", "reserved")
	if n := len(w.hostKeys(t, id)); n != before {
		t.Errorf("%d keys, want %d", n, before)
	}
}

// dsaKey has the form of a key of a type that nobody takes any more.
func dsaKey(t testing.TB) string {
	t.Helper()
	n := big.NewInt
	der, err := asn1.Marshal(struct {
		Version       int
		P, Q, G, Y, X *big.Int
	}{0, n(23), n(11), n(4), n(16), n(2)})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: der}))
}

func TestHostKeysOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	const nowhere, none = "s-0123456789abcdef0", "hostkey-0123456789abcdef0"
	for operation, more := range map[string]string{
		"ImportHostKey": `,"HostKeyBody":"good"`, "ListHostKeys": ``, "DescribeHostKey": `,"HostKeyId":"` + none + `"`,
		"UpdateHostKey": `,"HostKeyId":"` + none + `","Description":"x"`, "DeleteHostKey": `,"HostKeyId":"` + none + `"`,
	} {
		w.call(t, operation, `{"ServerId":"`+nowhere+`"`+more+`}`).refused(t, 400, "ResourceNotFoundException", nowhere)
		if strings.Contains(more, none) {
			w.call(t, operation, `{"ServerId":"`+id+`"`+more+`}`).refused(t, 400, "ResourceNotFoundException", none)
		}
	}
	w.call(t, "DescribeHostKey", `{"ServerId":"`+id+`","HostKeyId":"hostkey-1"}`).refused(t, 400, "ValidationException", "'hostKeyId'")
}

// Pages go from old to new, and stay what they are while keys come and go.
func TestListHostKeysPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.newServer(t)
	want := []string{*w.hostKeys(t, id)[0].HostKeyId}
	for i := range 4 {
		k := hostKey(strings.Repeat("x", i+1))
		k.DateImported = time.Now().Add(time.Duration(i+1) * time.Minute)
		if err := w.AddHostKey(t.Context(), server.ID(id), k); err != nil {
			t.Fatal(err)
		}
		want = append(want, k.HostKeyId)
	}
	var got []string
	in := &transfer.ListHostKeysInput{ServerId: &id, MaxResults: aws.Int32(2)}
	for n := 0; n == 0 || in.NextToken != nil; n++ { // the SDK has no paginator for this list
		out := ok[*transfer.ListHostKeysOutput](t)(w.sdk.ListHostKeys(t.Context(), in))
		for _, k := range out.HostKeys {
			got = append(got, *k.HostKeyId)
		}
		in.NextToken = out.NextToken
		if n == 0 { // the last one seen goes
			if err := w.DeleteHostKey(t.Context(), server.ID(id), want[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	w.call(t, "ListHostKeys", `{"ServerId":"`+id+`","NextToken":"forged"}`).refused(t, 400, "InvalidNextTokenException")
	w.call(t, "ListHostKeys", `{"ServerId":"`+id+`","MaxResults":0}`).refused(t, 400, "ValidationException", "'maxResults'")
}
