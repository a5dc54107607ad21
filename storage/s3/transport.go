package s3

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
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
// with one, and without the copy. When RoundTrip returns, nobody looks at the part any more, whatever came of it.
type wholeBodies struct{ http.RoundTripper }

func (w wholeBodies) RoundTrip(req *http.Request) (*http.Response, error) {
	part, ok := req.Context().Value(bodyKey{}).([]byte)
	if !ok || req.Body == nil || req.ContentLength != int64(len(part)) {
		return w.RoundTripper.RoundTrip(req)
	}
	body := &wholeBody{left: part, under: req.Body}
	whole := *req // a RoundTripper must not change what it was given
	whole.Body = body
	res, err := w.RoundTripper.RoundTrip(&whole)
	// net/http closes it too, but maybe later: after an early answer or an error it may still be sending.
	_ = body.Close() // under's error would be the transport's
	return res, err
}

// wholeBody is a body in memory.
type wholeBody struct {
	under io.Closer // the body in whose place it stands

	mu   sync.Mutex // guards what follows
	left []byte     // empty once it is closed
	conn *net.TCPConn
	sent chan struct{} // set with conn: closed when conn does not send it any more
	cut  bool          // conn was told to stop
}

func (b *wholeBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

// Close returns when nobody looks at the bytes any more.
func (b *wholeBody) Close() error {
	b.mu.Lock()
	b.left = nil
	conn, sent := b.conn, b.sent
	if conn != nil {
		b.cut = true
		_ = conn.SetWriteDeadline(time.Unix(1, 0)) // fails if it is closed, which ends a Write too
	}
	b.mu.Unlock()
	if conn != nil {
		<-sent
	}
	return b.under.Close()
}

// send writes up to n bytes to a connection.
func (b *wholeBody) send(conn *net.TCPConn, n int64) (int64, error) {
	b.mu.Lock()
	p := b.left[:min(int64(len(b.left)), n)]
	sent := make(chan struct{})
	b.conn, b.sent = conn, sent
	b.mu.Unlock()
	defer close(sent)

	wrote, err := conn.Write(p)

	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = nil
	if b.cut { // it may have been told so after the last byte, and be used again
		err = errors.Join(err, conn.SetWriteDeadline(time.Time{}))
	} else {
		b.left = b.left[wrote:]
	}
	return int64(wrote), err
}

// wholeConn is a connection without TLS that sends a wholeBody as it lies there.
type wholeConn struct{ *net.TCPConn }

// ReadFrom implements io.ReaderFrom, with which net/http sends bodies.
func (c wholeConn) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok { // by net/http, to the body's length
		if body, ok := limited.R.(*wholeBody); ok {
			n, err := body.send(c.TCPConn, limited.N)
			limited.N -= n
			return n, err
		}
	}
	return c.TCPConn.ReadFrom(r)
}
