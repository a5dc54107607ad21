package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The headers of a webhook's posts.
const (
	// SignatureHeader says who sent a post and when: t=SECONDS,v1=HEX. HEX is the HMAC-SHA256, keyed with the secret, of the
	// seconds since 1970, a dot and the body. It is the header that CUSTOM steps send too.
	SignatureHeader = "Transferd-Signature"
	// EventHeader is the event's id, for receivers that look at it before the body.
	EventHeader = "Transferd-Event-Id"
)

// Webhook posts events to a URL, one a request. Any status of 2xx is an arrival, everything else is tried again; those of
// refusedStatus not for ever.
type Webhook struct {
	URL     string
	Secret  []byte // signs the posts; empty: they are not signed
	Shape   Shape
	Client  *http.Client
	Timeout time.Duration // of one post
	Now     func() time.Time
}

// Send is part of Sink.
func (w *Webhook) Send(ctx context.Context, events []Event) (int, error) {
	for i, e := range events {
		if err := w.post(ctx, e); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

func (w *Webhook) post(ctx context.Context, e Event) error {
	body, err := w.Shape.encode(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return plain(err)
	}
	req.Header.Set("Content-Type", w.Shape.contentType())
	req.Header.Set("User-Agent", "transferd")
	req.Header.Set(EventHeader, e.ID)
	if len(w.Secret) > 0 {
		req.Header.Set(SignatureHeader, Sign(w.Secret, w.Now(), body))
	}
	_, err = do(w.Client, req)
	var answer *statusError
	if errors.As(err, &answer) && refusedStatus(answer.status) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// refusedStatus says whether a status is about the event itself, so that another try will have the same answer (RFC 9110,
// 15.5, RFC 6585, 5). Those about who asks, where and how often (401, 403, 404, 405, 408, 409, 421, 423, 425, 429) somebody
// may see to.
func refusedStatus(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotAcceptable, http.StatusGone, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// Sign is the value of SignatureHeader.
func Sign(secret []byte, at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(seconds + "."))
	mac.Write(body)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// do sends a request and reads the answer, which must have a status of 2xx.
func do(c *http.Client, req *http.Request) (answer []byte, err error) {
	res, err := c.Do(req)
	if err != nil {
		return nil, plain(err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	answer, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode/100 != 2 {
		return nil, &statusError{res.StatusCode, answer}
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", plain(err))
	}
	return answer, nil
}

// statusError is an answer that is no arrival.
type statusError struct {
	status int
	body   []byte
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %.200q", e.status, e.body) }

// plain is an error without the URL, which may hold a secret.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// NewClient makes the client of a sink. Redirects are not followed: a signed event goes where the configuration says. Roots
// are the certificates that a receiver's must come from; nil are the system's.
func NewClient(roots *x509.CertPool, parallel int) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: max(parallel, 1),
			IdleConnTimeout:     time.Minute,
			TLSHandshakeTimeout: 10 * time.Second,
		},
	}
}
