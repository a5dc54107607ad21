package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/transferd/transferd/server/proxyproto"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

// binaryHeader builds version 2.
func binaryHeader(command, family byte, block []byte) []byte {
	b := append([]byte(signature), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(block))), block...)
}

// tcp builds version 2 for TCP.
func tcp(client, reached string, fields ...byte) []byte {
	c, r := netip.MustParseAddrPort(client), netip.MustParseAddrPort(reached)
	block := append(c.Addr().AsSlice(), r.Addr().AsSlice()...)
	block = binary.BigEndian.AppendUint16(block, c.Port())
	block = binary.BigEndian.AppendUint16(block, r.Port())
	family := byte(0x11)
	if c.Addr().Is6() {
		family = 0x21
	}
	return binaryHeader(0x21, family, append(block, fields...))
}

// checked has a checksum over everything, wrong by what is added to it.
func checked(wrong uint32) []byte {
	b := tcp("192.0.2.1:1", "198.51.100.1:21", 3, 0, 4, 0, 0, 0, 0)
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) + wrong
	binary.BigEndian.PutUint32(b[len(b)-4:], sum)
	return b
}

func TestRead(t *testing.T) {
	t.Parallel()
	four := [2]string{"192.0.2.1:40000", "198.51.100.1:21"}
	six := [2]string{"[2001:db8::1]:40000", "[2001:db8::2]:21"}
	for _, c := range []struct {
		name  string
		bytes []byte
		want  [2]string // nothing: the proxy itself
		fails bool
	}{
		{"v2 IPv4", tcp(four[0], four[1]), four, false},
		{"v2 IPv6", tcp(six[0], six[1]), six, false},
		{"v2 IPv4 in IPv6", tcp("[::ffff:192.0.2.1]:40000", "[::ffff:198.51.100.1]:21"), four, false},
		{"v2 with fields", tcp(four[0], four[1], 0xea, 0, 2, 1, 'x', 4, 0, 0), four, false},
		{"v2 with a checksum", checked(0), [2]string{"192.0.2.1:1", "198.51.100.1:21"}, false},
		{"v2 with a wrong checksum", checked(1), [2]string{}, true},
		{"v2 with a short checksum", tcp(four[0], four[1], 3, 0, 1, 9), [2]string{}, true},
		{"v2 with a cut field", tcp(four[0], four[1], 0xea, 0, 3, 1), [2]string{}, true},
		{"v2 with half a field's head", tcp(four[0], four[1], 0xea), [2]string{}, true},
		{"v2 LOCAL", binaryHeader(0x20, 0, nil), [2]string{}, false},
		{"v2 LOCAL with addresses", binaryHeader(0x20, 0x11, make([]byte, 12)), [2]string{}, false},
		{"v2 unknown family", binaryHeader(0x21, 0, []byte{4, 0, 0}), [2]string{}, false},
		{"v2 unix", binaryHeader(0x21, 0x31, make([]byte, 216)), [2]string{}, false},
		{"v2 datagrams", binaryHeader(0x21, 0x12, make([]byte, 12)), [2]string{}, true},
		{"v2 short addresses", binaryHeader(0x21, 0x11, make([]byte, 11)), [2]string{}, true},
		{"v2 bad command", binaryHeader(0x22, 0x11, make([]byte, 12)), [2]string{}, true},
		{"v3", binaryHeader(0x31, 0x11, make([]byte, 12)), [2]string{}, true},
		{"v2 far too long", binaryHeader(0x21, 0x11, make([]byte, 5000)), [2]string{}, true},
		{"v2 cut", tcp(four[0], four[1])[:20], [2]string{}, true},
		{"v2 cut before its length", tcp(four[0], four[1])[:14], [2]string{}, true},
		{"v1 TCP4", []byte("PROXY TCP4 192.0.2.1 198.51.100.1 40000 21\r\n"), four, false},
		{"v1 TCP6", []byte("PROXY TCP6 2001:db8::1 2001:db8::2 40000 21\r\n"), six, false},
		{"v1 UNKNOWN", []byte("PROXY UNKNOWN\r\n"), [2]string{}, false},
		{"v1 UNKNOWN and more", []byte("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n"), [2]string{}, false},
		{"v1 wrong family", []byte("PROXY TCP4 2001:db8::1 198.51.100.1 40000 21\r\n"), [2]string{}, true},
		{"v1 bad port", []byte("PROXY TCP4 192.0.2.1 198.51.100.1 40000 65536\r\n"), [2]string{}, true},
		{"v1 bad reached port", []byte("PROXY TCP4 192.0.2.1 198.51.100.1 -1 21\r\n"), [2]string{}, true},
		{"v1 name", []byte("PROXY TCP4 host 198.51.100.1 40000 21\r\n"), [2]string{}, true},
		{"v1 zone", []byte("PROXY TCP6 fe80::1%eth0 fe80::2 40000 21\r\n"), [2]string{}, true},
		{"v1 too few", []byte("PROXY TCP4 192.0.2.1\r\n"), [2]string{}, true},
		{"v1 UDP", []byte("PROXY UDP4 192.0.2.1 198.51.100.1 40000 21\r\n"), [2]string{}, true},
		{"v1 endless", []byte("PROXY TCP4 " + strings.Repeat("x", 200)), [2]string{}, true},
		{"v1 cut", []byte("PROXY TCP4 192.0.2.1 "), [2]string{}, true},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.2\r\n"), [2]string{}, true},
		{"short", []byte("NOOP\r\n"), [2]string{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			behind := "the client's first bytes"
			stream := strings.NewReader(string(c.bytes))
			if !c.fails {
				stream = strings.NewReader(string(c.bytes) + behind)
			}
			h, err := proxyproto.Read(iotest.OneByteReader(stream), true)
			if c.fails {
				if !errors.Is(err, proxyproto.ErrHeader) {
					t.Fatalf("%+v, %v", h, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want [2]netip.AddrPort
			if c.want[0] != "" {
				want = [2]netip.AddrPort{netip.MustParseAddrPort(c.want[0]), netip.MustParseAddrPort(c.want[1])}
			}
			if h.Client != want[0] || h.Reached != want[1] {
				t.Errorf("%v to %v, want %v", h.Client, h.Reached, want)
			}
			if rest, err := io.ReadAll(stream); err != nil || string(rest) != behind {
				t.Errorf("behind the header: %q, %v", rest, err)
			}
		})
	}
}

// Version 1 is read for those alone who want it, and a stream without a byte is no bad header.
func TestReadLimits(t *testing.T) {
	t.Parallel()
	if _, err := proxyproto.Read(strings.NewReader("PROXY TCP4 192.0.2.1 198.51.100.1 40000 21\r\n"), false); !errors.Is(err, proxyproto.ErrHeader) {
		t.Errorf("version 1: %v", err)
	}
	if _, err := proxyproto.Read(bytes.NewReader(nil), true); err != io.EOF {
		t.Errorf("nothing: %v", err)
	}
	far := errors.New("reset")
	if _, err := proxyproto.Read(io.MultiReader(strings.NewReader(signature), iotest.ErrReader(far)), true); !errors.Is(err, far) || errors.Is(err, proxyproto.ErrHeader) {
		t.Errorf("reset: %v", err)
	}
}

// Whatever comes, Read neither panics nor takes what it did not understand for a header.
func FuzzRead(f *testing.F) {
	f.Add(tcp("192.0.2.1:1", "198.51.100.1:21", 3, 0, 4, 0, 0, 0, 0))
	f.Add(binaryHeader(0x20, 0, nil))
	f.Add([]byte("PROXY TCP6 2001:db8::1 2001:db8::2 40000 21\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := proxyproto.Read(bytes.NewReader(b), true)
		if err == nil && h.Client.IsValid() != h.Reached.IsValid() {
			t.Errorf("half a header: %+v", h)
		}
		if err != nil && h != (proxyproto.Header{}) && !errors.Is(err, proxyproto.ErrHeader) {
			t.Errorf("%+v with %v", h, err)
		}
	})
}
