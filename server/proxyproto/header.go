package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a proxy tells about a connection that it passes on.
type Header struct {
	// Client is where the connection comes from and Reached where it was made to, at the proxy. Both are zero when the
	// proxy speaks for itself (a health check) or knows no IP addresses: then the connection's own addresses count.
	Client, Reached netip.AddrPort
	Version         int
}

// ErrHeader is wrapped by every complaint about a header.
var ErrHeader = errors.New("bad PROXY header")

// signature begins a header of version 2 (PROXY protocol 2.2). No line of text begins so.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

const (
	maxLine  = 107  // of version 1, with its end (PROXY protocol 2.1)
	maxBlock = 4096 // of version 2, behind its first 16 bytes; the protocol allows 64 KiB, load balancers send less than one
)

// The values of version 2's fields (PROXY protocol 2.2).
const (
	commandLocal = 0x20
	commandProxy = 0x21
	familyNone   = 0x00 // UNSPEC
	familyTCP4   = 0x11
	familyTCP6   = 0x21
	familyUnix   = 0x31
	tlvChecksum  = 0x03 // PP2_TYPE_CRC32C
)

// Read takes a header off the beginning of a stream, and not a byte more. io.EOF alone says that nothing came at all.
// Version 1, lines of text, is read only if the caller wants it.
func Read(r io.Reader, text bool) (Header, error) {
	begin := make([]byte, len(signature))
	for n := 0; n < len(begin); {
		m, err := r.Read(begin[n:])
		n += m
		switch {
		case n > 0 && !likely(begin[:n], text): // at once: whoever is there waits for an answer
			return Header{}, fmt.Errorf("%w: the connection begins with something else", ErrHeader)
		case n == len(begin) || err == nil:
		case n > 0 && errors.Is(err, io.EOF):
			return Header{}, fmt.Errorf("%w: only %d bytes came", ErrHeader, n)
		default:
			return Header{}, err
		}
	}
	if string(begin) == signature {
		return readBinary(r, begin)
	}
	return readText(r, begin)
}

// likely says whether a header may begin so.
func likely(begin []byte, text bool) bool {
	return prefixes(string(begin), signature) || text && prefixes(string(begin), "PROXY ")
}

// prefixes says whether one of two is the beginning of the other.
func prefixes(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

// readBinary reads the rest of version 2.
func readBinary(r io.Reader, begin []byte) (Header, error) {
	fixed := append(begin, 0, 0, 0, 0)
	if err := full(r, fixed[len(begin):]); err != nil {
		return Header{}, err
	}
	command, family, length := fixed[12], fixed[13], int(binary.BigEndian.Uint16(fixed[14:]))
	if length > maxBlock {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrHeader, length)
	}
	all := append(fixed, make([]byte, length)...)
	block := all[len(fixed):]
	if err := full(r, block); err != nil {
		return Header{}, err
	}
	h, extra, err := addresses(command, family, block)
	if err != nil {
		return Header{}, err
	}
	return h, checksum(all, len(all)-len(extra))
}

func full(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut", ErrHeader)
	}
	return err
}

// addresses reads a block's addresses and gives what stands behind them.
func addresses(command, family byte, block []byte) (Header, []byte, error) {
	size := map[byte]int{familyNone: 0, familyTCP4: 12, familyTCP6: 36, familyUnix: 216}
	n, known := size[family]
	switch {
	case command == commandLocal: // whatever the family is, it must be skipped; then there is nothing to find behind it
		return Header{Version: 2}, nil, nil
	case command != commandProxy:
		return Header{}, nil, fmt.Errorf("%w: version and command %#x", ErrHeader, command)
	case !known: // datagrams among them
		return Header{}, nil, fmt.Errorf("%w: address family and protocol %#x", ErrHeader, family)
	case len(block) < n:
		return Header{}, nil, fmt.Errorf("%w: %d bytes are too short for its addresses", ErrHeader, len(block))
	}
	h := Header{Version: 2}
	if family == familyTCP4 || family == familyTCP6 {
		ip := (n - 4) / 2
		h.Client = endpoint(block[:ip], block[2*ip:])
		h.Reached = endpoint(block[ip:2*ip], block[2*ip+2:])
	}
	return h, block[n:], nil
}

func endpoint(ip, port []byte) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip) // of 4 or 16 bytes, so it is one
	return netip.AddrPortFrom(addr.Unmap(), binary.BigEndian.Uint16(port))
}

// checksum looks through the fields behind the addresses, and at the one that it knows: a checksum that is there must be
// right (PROXY protocol 2.2.4).
func checksum(all []byte, at int) error {
	for at < len(all) {
		if len(all)-at < 3 {
			return fmt.Errorf("%w: a field is cut", ErrHeader)
		}
		kind, size := all[at], int(binary.BigEndian.Uint16(all[at+1:]))
		value := all[at+3:]
		if size > len(value) {
			return fmt.Errorf("%w: a field is cut", ErrHeader)
		}
		value = value[:size]
		at += 3 + size
		if kind != tlvChecksum {
			continue
		}
		if size != crc32.Size {
			return fmt.Errorf("%w: a checksum of %d bytes", ErrHeader, size)
		}
		told := binary.BigEndian.Uint32(value)
		clear(value) // it is counted as zero
		if crc32.Checksum(all, crc32.MakeTable(crc32.Castagnoli)) != told {
			return fmt.Errorf("%w: wrong checksum", ErrHeader)
		}
		binary.BigEndian.PutUint32(value, told)
	}
	return nil
}

// readText reads the rest of version 1, byte by byte: what comes behind the line is the client's.
func readText(r io.Reader, line []byte) (Header, error) {
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == maxLine {
			return Header{}, fmt.Errorf("%w: a line of more than %d bytes", ErrHeader, maxLine)
		}
		line = append(line, 0)
		if err := full(r, line[len(line)-1:]); err != nil {
			return Header{}, err
		}
	}
	fields := strings.Split(string(line[:len(line)-2]), " ")
	if len(fields) > 1 && fields[1] == "UNKNOWN" { // whatever follows
		return Header{Version: 1}, nil
	}
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return Header{}, fmt.Errorf("%w: not a line of version 1", ErrHeader)
	}
	client, err := textEndpoint(fields[1], fields[2], fields[4])
	if err != nil {
		return Header{}, err
	}
	reached, err := textEndpoint(fields[1], fields[3], fields[5])
	if err != nil {
		return Header{}, err
	}
	return Header{Client: client, Reached: reached, Version: 1}, nil
}

func textEndpoint(family, ip, port string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Zone() != "" || addr.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, fmt.Errorf("%w: address %q", ErrHeader, ip)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: port %q", ErrHeader, port)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}
