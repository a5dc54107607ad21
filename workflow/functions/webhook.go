package functions

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/transferd/transferd/workflow/steps"
)

// SignatureHeader says who sent a call and when: t=SECONDS,v1=HEX. HEX is the HMAC-SHA256, keyed with the secret, of the
// seconds since 1970, a dot and the body. The time is part of it, so that a receiver can refuse what was recorded earlier.
const SignatureHeader = "Transferd-Signature"

// The headers that mark repeats: a receiver that has seen the execution and step's token before knows the work.
const (
	ExecutionHeader = "Transferd-Execution-Id"
	AttemptHeader   = "Transferd-Attempt"
)

// Webhook posts the payload to a URL. A status of 2xx means that the function has taken the call, whatever the answer
// holds.
type Webhook struct {
	URL    string
	Secret []byte
	// Client sends; its redirects are not followed, for the payload's token is for the URL alone.
	Client *http.Client
	// Timeout bounds one call. Default 30 seconds.
	Timeout time.Duration
	Now     func() time.Time
}

var _ steps.Function = (*Webhook)(nil)

// NewClient makes the client that webhooks share. It verifies certificates, as Go's does.
func NewClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Invoke posts the payload once.
func (w *Webhook) Invoke(ctx context.Context, c steps.Call) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(w.Timeout, 30*time.Second))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(c.Payload))
	if err != nil {
		return fmt.Errorf("call the function's URL: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "transferd")
	req.Header.Set(ExecutionHeader, string(c.Execution))
	req.Header.Set(AttemptHeader, strconv.Itoa(c.Attempt))
	if len(w.Secret) > 0 {
		req.Header.Set(SignatureHeader, Sign(w.Secret, w.Now(), c.Payload))
	}
	res, err := w.Client.Do(req)
	if err != nil {
		return failed("The function's URL could not be reached.", true, err)
	}
	defer res.Body.Close() // read or not, nothing comes of it
	status := res.StatusCode
	if status/100 == 2 {
		return nil
	}
	begins, _ := io.ReadAll(io.LimitReader(res.Body, 1024)) // for the log; what cannot be read is not there
	again := status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
	return failed(fmt.Sprintf("The function's URL answered with status %d.", status), again,
		fmt.Errorf("answer begins %q", begins))
}

// Sign is the value of SignatureHeader.
func Sign(secret []byte, at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(seconds + "."))
	mac.Write(body)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
