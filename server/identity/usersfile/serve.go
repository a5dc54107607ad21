package usersfile

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net/http"
)

// Host is the name that Transport serves. It exists in no DNS: .internal is set aside for private use.
const Host = "users-file.transferd.internal"

// URL is what a server's IdentityProviderDetails.Url must be, to have the users of the file.
const URL = "https://" + Host

// nobody is the answer to a wrong user or password: no Role (transfer-api 4.1).
const nobody = "{}"

// ServeHTTP answers GET /servers/{server}/users/{user}/config. Every server that asks has the same users.
func (f *File) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }

func (f *File) config(w http.ResponseWriter, r *http.Request) {
	known := f.current()
	u, found := known.byName[r.PathValue("user")]
	password, asked, err := password(r.Header)
	if err != nil {
		http.Error(w, "PasswordBase64 is no base64", http.StatusBadRequest)
		return
	}
	answer := u.keys
	if asked {
		h := known.decoy
		if u.hash != nil {
			h = *u.hash
		}
		matches, err := f.check(r.Context(), h, password)
		if err != nil {
			http.Error(w, "the request was given up", http.StatusServiceUnavailable)
			return
		}
		answer = nil
		if matches && found && u.hash != nil && password != "" {
			answer = u.password
		}
	}
	if answer == nil {
		answer = []byte(nobody)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // whoever does not read it any more misses it
}

// check compares a password with a hash, a bounded number at a time.
func (f *File) check(ctx context.Context, h hash, password string) (bool, error) {
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-f.slots }()
	f.checks.Inc()
	return h.matches(password), nil
}

// password is what the headers carry, PasswordBase64 first because Password cannot carry everything; false if there is
// none, and the question is one for keys.
func password(h http.Header) (string, bool, error) {
	if values := h.Values("PasswordBase64"); len(values) > 0 {
		b, err := base64.StdEncoding.DecodeString(values[0])
		return string(b), true, err
	}
	if values := h.Values("Password"); len(values) > 0 {
		return values[0], true, nil
	}
	return "", false, nil
}

// Transport answers requests to Host by itself, without a network, and hands all others to next.
func (f *File) Transport(next http.RoundTripper) http.RoundTripper {
	return transport{file: f, next: next}
}

type transport struct {
	file *File
	next http.RoundTripper
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != Host {
		return t.next.RoundTrip(r)
	}
	if r.Body != nil {
		_ = r.Body.Close() // the contract has none; RoundTrip must close it (net/http)
	}
	in := r.Clone(r.Context())
	in.Body = http.NoBody
	in.Header = http.Header{} // as a listener hands it over: names in canonical form
	for name, values := range r.Header {
		for _, v := range values {
			in.Header.Add(name, v)
		}
	}
	out := &recorder{header: http.Header{}, status: http.StatusOK}
	t.file.ServeHTTP(out, in)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(out.status), StatusCode: out.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: out.header,
		Body: io.NopCloser(&out.body), ContentLength: int64(out.body.Len()), Request: r,
	}, nil
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
