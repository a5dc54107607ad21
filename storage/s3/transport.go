package s3

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"
)

// newTransport pools connections for hundreds of uploads: with the default of few idle connections a host, small files
// open a connection each. Bodies are incompressible or compressed already, and HTTP/2 would put all of them on one
// connection. A small file and its header fit into the write buffer; larger bodies pass by it.
func (cfg Config) newTransport() (*http.Transport, error) {
	proxy, trusted, err := cfg.network()
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:           proxy,
		TLSClientConfig: trusted,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if tcp, ok := conn.(*net.TCPConn); ok {
				return wholeConn{tcp}, err
			}
			return conn, err
		},
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
		WriteBufferSize:       16 * kib,
		ReadBufferSize:        64 * kib,
		Protocols:             http1(),
	}, nil
}

func http1() *http.Protocols {
	var p http.Protocols
	p.SetHTTP1(true)
	return &p
}

// bodyKey is the context's key of the bytes that a request sends.
type bodyKey struct{}

// withBody tells wholeBodies what a request's body is.
func withBody(ctx context.Context, body []byte) context.Context {
	return context.WithValue(ctx, bodyKey{}, body)
}

// wholeBodies gives a request that sends a part the part itself as its body. The SDK hides what it was given behind
// readers, out of which net/http copies 32 KiB at a time, each with a system call; a wholeConn sends what lies in memory
// with one, and without the copy.
type wholeBodies struct{ http.RoundTripper }

func (w wholeBodies) RoundTrip(req *http.Request) (*http.Response, error) {
	body, ok := req.Context().Value(bodyKey{}).([]byte)
	if !ok || req.Body == nil || req.ContentLength != int64(len(body)) {
		return w.RoundTripper.RoundTrip(req)
	}
	whole := *req // a RoundTripper must not change what it was given
	whole.Body = &wholeBody{left: body, under: req.Body}
	whole.GetBody = func() (io.ReadCloser, error) { return &wholeBody{left: body, under: req.Body}, nil }
	return w.RoundTripper.RoundTrip(&whole)
}

// wholeBody is a body in memory.
type wholeBody struct {
	left  []byte
	under io.Closer // the body in whose place it stands
}

func (b *wholeBody) Read(p []byte) (int, error) {
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *wholeBody) Close() error { return b.under.Close() }

// wholeConn is a connection without TLS that sends a wholeBody as it lies there.
type wholeConn struct{ *net.TCPConn }

// ReadFrom implements io.ReaderFrom, with which net/http sends bodies.
func (c wholeConn) ReadFrom(r io.Reader) (int64, error) {
	limited, ok := r.(*io.LimitedReader) // by net/http, to the body's length
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	body, ok := limited.R.(*wholeBody)
	if !ok {
		return c.TCPConn.ReadFrom(r)
	}
	n, err := c.Write(body.left[:min(int64(len(body.left)), limited.N)])
	body.left = body.left[n:]
	limited.N -= int64(n)
	return int64(n), err
}
