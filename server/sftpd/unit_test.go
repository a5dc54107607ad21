package sftpd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pkg/sftp"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/session"
	"github.com/transferd/transferd/storage"
)

func TestPolicies(t *testing.T) {
	t.Parallel()
	for _, name := range server.PolicyNames() {
		p, _ := server.LookupPolicy(name)
		if err := CheckPolicy(p); err != nil {
			t.Error(err)
		}
	}
	p, _ := server.LookupPolicy("")
	a, err := offer(p)
	if err != nil || a.sha1 || slices.Contains(a.kexs, "diffie-hellman-group18-sha512") || a.ciphers[0] != p.SshCiphers[0] {
		t.Errorf("offer = %+v, %v", a, err)
	}
	for class, empty := range map[string]func(*server.SecurityPolicy){
		"ciphers":       func(p *server.SecurityPolicy) { p.SshCiphers = []string{"rot13"} },
		"key exchanges": func(p *server.SecurityPolicy) { p.SshKexs = nil },
		"MACs":          func(p *server.SecurityPolicy) { p.SshMacs = []string{"umac-64@openssh.com"} },
	} {
		p, _ := server.LookupPolicy("")
		empty(&p)
		if err := CheckPolicy(p); err == nil || !strings.Contains(err.Error(), class) {
			t.Errorf("%s: %v", class, err)
		}
	}
}

func TestStatusOf(t *testing.T) {
	t.Parallel()
	secret := errors.New("GET https://s3.internal/bucket: 403")
	for _, c := range []struct {
		err  error
		code uint32
	}{
		{nil, codeOK},
		{fs.ErrNotExist, codeNoSuchFile},
		{fs.ErrPermission, codeDenied},
		{storage.ErrRandomAccess, codeUnsupported},
		{errors.ErrUnsupported, codeUnsupported},
		{fs.ErrExist, codeFailure},
		{storage.ErrNotEmpty, codeFailure},
		{storage.ErrNoSpace, codeFailure},
		{storage.ErrQuota, codeFailure},
		{storage.ErrUnavailable, codeFailure},
		{secret, codeFailure},
		{errHandles, codeFailure},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("/srv/data: %w", errors.Join(secret, err))
		}
		got := statusOf(err)
		if got.code != c.code || strings.Contains(got.text, "s3") || strings.Contains(got.text, "srv") {
			t.Errorf("%v: %+v, want code %d", c.err, got, c.code)
		}
		wire := wireError(err)
		if c.code == codeOK {
			if wire != nil {
				t.Errorf("nil became %v", wire)
			}
			continue
		}
		if wire.Error() != got.text {
			t.Errorf("%v: pkg/sftp would say %q, not %q", c.err, wire, got.text)
		}
	}
	if !errors.Is(wireError(fs.ErrPermission), sftp.ErrSSHFxPermissionDenied) || wireError(io.EOF) != io.EOF {
		t.Error("pkg/sftp does not find the code")
	}
}

// TestInput cuts packets of all sizes out of a stream that comes in pieces of all sizes.
func TestInput(t *testing.T) {
	t.Parallel()
	sizes := []int{1, 5, 100, idleBuffer - 4, idleBuffer, idleBuffer + 1, bulkBuffer - 5, longPacket, bulkBuffer, maxPacket, 1, maxPacket, 9}
	var stream []byte
	for i, n := range sizes {
		stream = binary.BigEndian.AppendUint32(stream, uint32(n))
		packet := bytes.Repeat([]byte{byte(i)}, n)
		packet[0] = fxpWrite
		stream = append(stream, packet...)
	}
	for name, src := range map[string]io.Reader{
		"whole": bytes.NewReader(stream), "bytes": iotest.OneByteReader(bytes.NewReader(stream)),
		"halves": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		for _, bulk := range []bool{false, true} {
			in := newInput(src, newBuffers())
			if bulk {
				in.src = bytes.NewReader(stream)
			}
			var got []int
			err := drive(in, bulk, func(p []byte) {
				if len(p) > 1 && p[len(p)-1] != byte(len(got)) {
					t.Errorf("%s: packet %d holds %d", name, len(got), p[len(p)-1])
				}
				got = append(got, len(p))
			})
			if err != io.EOF || !slices.Equal(got, sizes) {
				t.Errorf("%s, bulk %v: %v, %v", name, bulk, got, err)
			}
			if !bulk && len(*in.buf) != idleBuffer {
				t.Errorf("%s: an idle session keeps %d bytes", name, len(*in.buf))
			}
		}
	}
}

func drive(in *input, bulk bool, take func([]byte)) error {
	for {
		packet, err := in.next()
		if err != nil {
			return err
		}
		if packet != nil {
			take(packet)
			continue
		}
		if err := in.fill(bulk); err != nil {
			return err
		}
	}
}

// discard is an upload that goes nowhere.
type discard struct{ size int64 }

func (d *discard) WriteAt(p []byte, off int64) (int, error) {
	d.size = off + int64(len(p))
	return len(p), nil
}
func (d *discard) Close() error                 { return nil }
func (d *discard) SetAttrs(storage.Attrs) error { return nil }
func (d *discard) Size() int64                  { return d.size }
func (d *discard) Readable() bool               { return false }

// wire plays a client: it gives out the stream for ever and swallows the replies.
type wire struct {
	stream []byte
	left   int // bytes to give out
	at     int
}

func (w *wire) Read(p []byte) (int, error) {
	if w.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), w.left)], w.stream[w.at:])
	w.at = (w.at + n) % len(w.stream)
	w.left -= n
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) { return len(p), nil }

func benchFront(w *wire) *front {
	nothing := func() {}
	return newFront(w, newBuffers(), &quota{max: 10}, backing{
		createUpload: func(string, session.CreateOptions) (file, error) { return &discard{}, nil },
		over:         func() bool { return false },
		uploadBegins: func() bool { return true },
		uploadEnds:   nothing,
		used:         nothing,
		bulk:         func(bool) {},
		work:         func(f func()) { go f() },
		now:          time.Now,
	})
}

// writes is a stream of WRITEs to the first handle.
func writes(size int) []byte {
	var p []byte
	p = binary.BigEndian.AppendUint32(p, uint32(1+4+4+2+8+4+size))
	p = append(p, fxpWrite, 0, 0, 0, 1, 0, 0, 0, 2, 'w', '1', 0, 0, 0, 0, 0, 0, 0, 0)
	p = binary.BigEndian.AppendUint32(p, uint32(size))
	return append(p, make([]byte, size)...)
}

func TestWriteAllocatesNothing(t *testing.T) { // not parallel: others' allocations would count
	f := benchFront(&wire{})
	f.begun = true
	if _, err := f.create("x", openWrite|openCreate, storage.Attrs{}); err != nil {
		t.Fatal(err)
	}
	packet := writes(32 << 10)[4:]
	if n := testing.AllocsPerRun(1000, func() {
		if err := f.dispatch(packet); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a WRITE", n)
	}
}

func BenchmarkFront(b *testing.B) {
	for _, size := range []int{4 << 10, 32 << 10, maxData} {
		b.Run(fmt.Sprint(size>>10, "KiB"), func(b *testing.B) {
			w := &wire{stream: writes(size)}
			f := benchFront(w)
			f.begun = true
			if _, err := f.create("x", openWrite|openCreate, storage.Attrs{}); err != nil {
				b.Fatal(err)
			}
			w.left = b.N * len(w.stream)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			if err := f.run(); err != io.EOF {
				b.Fatal(err)
			}
		})
	}
}
