package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// untouched is a body that nobody must read.
type untouched struct {
	t      *testing.T
	closed atomic.Int32
}

func (u *untouched) Read([]byte) (int, error) {
	u.t.Error("the body was read that a whole one stands for")
	return 0, io.EOF
}

func (u *untouched) Close() error {
	u.closed.Add(1)
	return nil
}

// TestWholeBodies sends bodies as they lie in memory, of a size below and above all buffers, with TLS and without: they
// arrive whole.
func TestWholeBodies(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := sha256.New()
			if n, err := io.Copy(h, r.Body); err != nil || n != r.ContentLength {
				t.Errorf("%d of %d bytes: %v", n, r.ContentLength, err)
			}
			_, _ = w.Write(h.Sum(nil)) // the client tells
		}))
		if secure {
			server.StartTLS()
		} else {
			server.Start()
		}
		t.Cleanup(server.Close)
		transport, err := Config{}.newTransport()
		if err != nil {
			t.Fatal(err)
		}
		transport.TLSClientConfig = server.Client().Transport.(*http.Transport).TLSClientConfig
		t.Cleanup(transport.CloseIdleConnections)
		for _, size := range []int{1, 10 << 10, 100 << 10, 5 << 20} {
			putWhole(t, wholeBodies{transport}, server.URL, bytes.Repeat([]byte{7, byte(size >> 10)}, (size+1)/2)[:size])
		}
	}
}

func putWhole(t *testing.T, rt http.RoundTripper, url string, body []byte) {
	t.Helper()
	under := &untouched{t: t}
	req, err := http.NewRequestWithContext(withBody(t.Context(), body), http.MethodPut, url, under)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	res, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	_ = res.Body.Close() // read to its end
	if want := sha256.Sum256(body); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("%d bytes arrived as something else (%v)", len(body), err)
	}
	if under.closed.Load() == 0 {
		t.Error("the body was not closed")
	}
}

// TestWholeConn: one Write for all of a body, and no byte beyond the request's length.
func TestWholeConn(t *testing.T) {
	t.Parallel()
	got := make(chan []byte, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		all, _ := io.ReadAll(buffered) // the bytes tell
		got <- all
	}))
	t.Cleanup(server.Close)
	transport, err := Config{}.newTransport()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport.DialContext(context.Background(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	whole, ok := conn.(wholeConn)
	if !ok {
		t.Fatalf("the transport dials a %T", conn)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	body := &wholeBody{left: []byte("inside, outside"), under: http.NoBody}
	limited := &io.LimitedReader{R: body, N: 6}
	if n, err := whole.ReadFrom(limited); n != 6 || err != nil || limited.N != 0 || string(body.left) != ", outside" {
		t.Errorf("%d bytes sent (%v), %d to go, %q left", n, err, limited.N, body.left)
	}
	if n, err := whole.ReadFrom(bytes.NewReader([]byte("!"))); n != 1 || err != nil {
		t.Errorf("%d bytes of another reader sent: %v", n, err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if all := <-got; string(all) != "inside!" {
		t.Errorf("%q arrived", all)
	}
}

// TestWholeBodyIsLeft: after an answer that comes before the body was read, and after a request that was given up, nobody
// reads the part any more, which the next upload fills. The race detector is the judge.
func TestWholeBodyIsLeft(t *testing.T) {
	t.Parallel()
	began, gone := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusForbidden)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
		}
		began <- struct{}{}
		<-gone // and the body is not read
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(gone) })
	transport, err := Config{}.newTransport()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.CloseIdleConnections)
	part := make([]byte, 32*mib) // more than the kernel takes
	for _, path := range []string{"/refuse", "/hang"} {
		ctx, cancel := context.WithCancel(withBody(t.Context(), part))
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, server.URL+path, &untouched{t: t})
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = int64(len(part))
		if path == "/hang" {
			go func() { <-began; cancel() }()
		}
		res, err := wholeBodies{transport}.RoundTrip(req)
		if (err == nil) != (path == "/refuse") {
			t.Errorf("%s: %v", path, err)
		}
		for i := 0; i < len(part); i += 4 * kib {
			part[i]++
		}
		if err == nil {
			<-began
			_ = res.Body.Close() // what is in it does not matter
		}
		cancel()
	}
}
