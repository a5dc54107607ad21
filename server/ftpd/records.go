package ftpd

import "encoding/binary"

const (
	recordHeader = 5  // bytes (RFC 8446, 5.1)
	longestAlert = 64 // bytes of a record with an alert, whatever the cipher adds to its two
)

// records follows the records of a TLS stream by their headers, to tell where in one the stream ended.
//
// A client that says close_notify into a full socket buffer and closes, as lftp does, sends only the beginning of that
// record. All of its file has come by then, so that is no other end than one without close_notify.
type records struct {
	header [recordHeader]byte
	have   int // bytes of the header; 0 between two records
	left   int // bytes of the record behind it that are still to come
}

// pass takes what was read.
func (r *records) pass(p []byte) {
	for len(p) > 0 {
		if r.have < recordHeader {
			n := copy(r.header[r.have:], p)
			r.have += n
			p = p[n:]
			if r.have == recordHeader {
				r.left = r.length()
			}
		}
		n := min(r.left, len(p))
		r.left -= n
		p = p[n:]
		if r.have == recordHeader && r.left == 0 {
			r.have = 0
		}
	}
}

func (r *records) length() int { return int(binary.BigEndian.Uint16(r.header[3:])) }

// farewell is true inside a record that may be close_notify.
func (r *records) farewell() bool {
	return r.have > 0 && (r.have < recordHeader || r.length() <= longestAlert)
}
