package server

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"time"
)

// ID is a server's id, s-[0-9a-f]{17}.
type ID string

// NewID makes a fresh server id.
func NewID() ID { return ID("s-" + hex17()) }

// NewSshPublicKeyID makes a fresh id for a user's public key, key-[0-9a-f]{17}.
func NewSshPublicKeyID() string { return "key-" + hex17() }

// hex17 is 17 random lower-case hexadecimal digits. crypto/rand.Read never fails.
func hex17() string {
	var b [9]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])[:17]
}

// Time is a moment as the JSON 1.1 protocol writes it: a number, epoch seconds with a fraction of milliseconds.
type Time struct{ time.Time }

// MarshalJSON writes epoch seconds.
func (t Time) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(t.UnixMilli())/1000, 'f', -1, 64), nil
}

// UnmarshalJSON reads epoch seconds.
func (t *Time) UnmarshalJSON(b []byte) error {
	s, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return err
	}
	t.Time = time.UnixMilli(int64(s*1000 + 0.5)).UTC()
	return nil
}
