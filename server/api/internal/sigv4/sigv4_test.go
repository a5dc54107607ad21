package sigv4

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/transferd/transferd/server/api/internal/awsjson"
)

const body = `{"ServerId":"s-0123456789abcdef0"}`

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func verifier() *Verifier {
	return &Verifier{
		Secrets: map[string]string{"AKID": "secret", "OTHER": "other"}, Region: "eu-central-1", Service: "transfer",
		Now: func() time.Time { return noon },
	}
}

// signed is a request that its owner has signed.
func signed(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://transfer.example/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", awsjson.ContentType)
	r.Header.Set("X-Amz-Target", "TransferService.DescribeServer")
	sum := sha256.Sum256([]byte(body))
	key := aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}
	if err := v4.NewSigner().SignHTTP(context.Background(), key, r, hex.EncodeToString(sum[:]), "transfer", "eu-central-1", noon); err != nil {
		t.Fatal(err)
	}
	return r
}

// verify does both halves.
func verify(r *http.Request) (*Claim, error) {
	v := verifier()
	c, err := v.Claim(r)
	if err != nil {
		return nil, err
	}
	return c, v.Verify(context.Background(), c, r, []byte(body))
}

func TestVerify(t *testing.T) {
	t.Parallel()
	c, err := verify(signed(t))
	if err != nil || c.AccessKeyID != "AKID" {
		t.Fatalf("%+v, %v", c, err)
	}
	r := signed(t)
	r.Header.Set("X-Amz-Target", "TransferService.DeleteServer")
	if _, err := verify(r); err == nil {
		t.Error("another target has the same signature")
	}
}

// FuzzAuthorization: whatever stands in the headers that say who signed and when, the answer is one of the service's own
// refusals, short, or it is the signature that the owner made.
func FuzzAuthorization(f *testing.F) {
	good := signed(f)
	authorization, date := good.Header.Get("Authorization"), good.Header.Get("X-Amz-Date")
	f.Add(authorization, date)
	f.Add(strings.ReplaceAll(authorization, ", ", ","), date)
	f.Fuzz(func(t *testing.T, header, at string) {
		r := signed(t)
		r.Header.Set("Authorization", header)
		r.Header.Set("X-Amz-Date", at)
		_, err := verify(r)
		if err == nil {
			got, bad := parseAuthorization(header)
			want, _ := parseAuthorization(authorization)
			if bad != nil || at != date || got["Credential"] != want["Credential"] || got["Signature"] != want["Signature"] || got["SignedHeaders"] != want["SignedHeaders"] {
				t.Fatalf("accepted %q at %q", header, at)
			}
			return
		}
		refusal, ok := errors.AsType[*awsjson.Error](err)
		if !ok || refusal.Status < 400 || refusal.Status > 499 {
			t.Fatalf("%q at %q: %v", header, at, err)
		}
		if strings.Contains(refusal.Message, "secret") && !strings.Contains(header+at, "secret") {
			t.Fatalf("%q at %q: the refusal tells a secret: %v", header, at, refusal)
		}
	})
}
