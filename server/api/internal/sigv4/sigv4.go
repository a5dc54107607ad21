// Package sigv4 verifies AWS Signature Version 4 on requests, by computing the signature that the key's owner would
// have made with the SDK's own signer.
//
// It knows keys and headers, and nothing of operations. Rules: "Create a signed AWS API request", IAM user guide.
package sigv4

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/transferd/transferd/server/api/internal/awsjson"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	maxSkew    = 15 * time.Minute
)

// Verifier knows who may sign and for what.
type Verifier struct {
	Secrets map[string]string // secret access key by access key id
	Region  string
	Service string
	Now     func() time.Time
}

// Claim is what a request says about its signature. It proves nothing until Verify has seen the body.
type Claim struct {
	AccessKeyID string

	secret    string
	headers   []string // the signed ones, lower case
	signature string   // hexadecimal
	at        time.Time
}

// Claim reads the signature and refuses what cannot be right whatever the body is, so that nobody without an access
// key id of ours makes us read a body.
func (v *Verifier) Claim(r *http.Request) (*Claim, error) {
	if r.URL.RawQuery != "" {
		return nil, incomplete("Query strings are not accepted, presigned requests neither: sign with the Authorization header")
	}
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return nil, &awsjson.Error{Type: "MissingAuthenticationTokenException", Status: http.StatusForbidden, Message: "Missing Authentication Token: the request has no Authorization header"}
	}
	if len(values) > 1 {
		return nil, incomplete("The request has more than one Authorization header")
	}
	fields, err := parseAuthorization(values[0])
	if err != nil {
		return nil, err
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" {
		return nil, incomplete("Credential must be <access key id>/<date>/<region>/<service>/aws4_request")
	}
	c := &Claim{
		AccessKeyID: scope[0],
		headers:     strings.Split(fields["SignedHeaders"], ";"),
		signature:   fields["Signature"],
	}
	known := false
	if c.secret, known = v.Secrets[c.AccessKeyID]; !known {
		return nil, &awsjson.Error{Type: "UnrecognizedClientException", Status: http.StatusForbidden, Message: "The security token included in the request is invalid: unknown access key id"}
	}
	if scope[2] != v.Region {
		return nil, invalid("Credential should be scoped to the region %s that this service runs as, not %s", quote(v.Region), quote(scope[2]))
	}
	if scope[3] != v.Service {
		return nil, invalid("Credential should be scoped to the service %s, not %s", quote(v.Service), quote(scope[3]))
	}
	if err := v.checkTime(c, r, scope[1]); err != nil {
		return nil, err
	}
	return c, c.checkHeaders(r)
}

// parseAuthorization splits the header into its three fields.
func parseAuthorization(header string) (map[string]string, error) {
	scheme, rest, _ := strings.Cut(header, " ")
	if scheme != algorithm {
		return nil, incomplete("Authorization must use %s", algorithm)
	}
	fields := make(map[string]string, 3)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; !ok || twice {
			return nil, incomplete("Authorization is garbled")
		}
		fields[name] = value
	}
	for _, name := range []string{"Credential", "SignedHeaders", "Signature"} {
		if fields[name] == "" {
			return nil, incomplete("Authorization header requires '%s' parameter", name)
		}
	}
	return fields, nil
}

// checkTime refuses a request that is too old or too new. The texts are the service's own; SDKs correct their clocks
// when they see this exception.
func (v *Verifier) checkTime(c *Claim, r *http.Request, day string) error {
	values := r.Header.Values("X-Amz-Date")
	if len(values) != 1 {
		return incomplete("The request must have exactly one X-Amz-Date header")
	}
	at, err := time.Parse(timeFormat, values[0])
	if err != nil {
		return incomplete("X-Amz-Date must look like 20060102T150405Z")
	}
	if at.Format("20060102") != day {
		return invalid("Date in Credential scope does not match YYYYMMDD from X-Amz-Date")
	}
	now := v.Now().UTC()
	if edge := now.Add(-maxSkew); at.Before(edge) {
		return invalid("Signature expired: %s is now earlier than %s (%s - 15 min.)", values[0], edge.Format(timeFormat), now.Format(timeFormat))
	}
	if edge := now.Add(maxSkew); at.After(edge) {
		return invalid("Signature not yet current: %s is still later than %s (%s + 15 min.)", values[0], edge.Format(timeFormat), now.Format(timeFormat))
	}
	c.at = at
	return nil
}

// checkHeaders refuses a request with a header that matters and is not signed, or with a signed one that is not there.
func (c *Claim) checkHeaders(r *http.Request) error {
	signed := func(name string) bool { return slices.Contains(c.headers, name) }
	if !signed("host") {
		return invalid("'Host' must be a 'SignedHeader' in the AWS Authorization")
	}
	for name := range r.Header {
		// Everything named x-amz- means something to the service, X-Amz-Target and X-Amz-Security-Token above all.
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !signed(lower) {
			return invalid("'%s' must be a 'SignedHeader' in the AWS Authorization", name)
		}
	}
	for _, name := range c.headers {
		switch name {
		case "host", "content-length":
			continue // net/http keeps them outside of the headers
		case "authorization", "user-agent", "x-amzn-trace-id", "expect", "transfer-encoding":
			return invalid("'%s' cannot be a 'SignedHeader': proxies change it", name)
		}
		if name != strings.ToLower(name) || len(r.Header.Values(name)) == 0 {
			return invalid("SignedHeader %s is not a header of the request", quote(name))
		}
	}
	return nil
}

// Verify computes the signature over the signed headers and the body and compares it.
func (v *Verifier) Verify(ctx context.Context, c *Claim, r *http.Request, body []byte) error {
	again := &http.Request{Method: r.Method, URL: &url.URL{Scheme: "http", Host: r.Host, Path: r.URL.Path}, Host: r.Host, Header: http.Header{}}
	for _, name := range c.headers {
		switch name {
		case "host":
		case "content-length":
			again.ContentLength = int64(len(body))
		default:
			key := http.CanonicalHeaderKey(name)
			again.Header[key] = slices.Clone(r.Header[key])
		}
	}
	hash := sha256.Sum256(body)
	key := aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.secret}
	if err := v4.NewSigner().SignHTTP(ctx, key, again, hex.EncodeToString(hash[:]), v.Service, v.Region, c.at); err != nil {
		return fmt.Errorf("compute the signature: %w", err)
	}
	_, want, _ := strings.Cut(again.Header.Get("Authorization"), "Signature=")
	if subtle.ConstantTimeCompare([]byte(want), []byte(c.signature)) != 1 {
		return invalid("The request signature we calculated does not match the signature you provided. " +
			"Check your AWS Secret Access Key and signing method.")
	}
	return nil
}

func incomplete(format string, args ...any) error {
	return awsjson.Errorf("IncompleteSignatureException", format, args...)
}

func invalid(format string, args ...any) error {
	e := awsjson.Errorf("InvalidSignatureException", format, args...)
	e.Status = http.StatusForbidden
	return e
}

// quote repeats a word of the caller's, cut to a length that fits into a text.
func quote(word string) string { return "'" + word[:min(len(word), 64)] + "'" }
