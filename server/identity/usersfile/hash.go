package usersfile

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of new hashes: OWASP's "Password Storage Cheat Sheet" for Argon2id. It is memory that a login needs for some
// tens of milliseconds, so it is not set higher than it has to be.
const (
	newMemory  = 19 << 10 // KiB
	newTime    = 2
	newThreads = 1
	newSalt    = 16
	newKey     = 32
)

// What a hash in the file may cost, so that nobody's hash stops the daemon.
const (
	maxMemory  = 256 << 10 // KiB
	maxTime    = 32
	maxThreads = 16
)

// cost is what a hash takes to compute.
type cost struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
	key     uint32 // bytes
}

// hash is an Argon2id hash (RFC 9106).
type hash struct {
	cost
	salt, sum []byte
}

// HashPassword makes a fresh hash of a password, as password_hash takes it.
func HashPassword(password string) string {
	h := hash{cost: cost{memory: newMemory, time: newTime, threads: newThreads, key: newKey}, salt: make([]byte, newSalt)}
	rand.Read(h.salt) // never fails
	h.sum = h.of(password)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads,
		base64.RawStdEncoding.EncodeToString(h.salt), base64.RawStdEncoding.EncodeToString(h.sum))
}

func (h hash) of(password string) []byte {
	return argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.threads, h.key)
}

func (h hash) matches(password string) bool {
	return subtle.ConstantTimeCompare(h.of(password), h.sum) == 1
}

// decoy is a hash that no password has, at a given cost.
func decoy(c cost) hash {
	h := hash{cost: c, salt: make([]byte, newSalt), sum: make([]byte, c.key)}
	rand.Read(h.salt)
	rand.Read(h.sum)
	return h
}

// parseHash reads the PHC string format: $argon2id$v=19$m=19456,t=2,p=1$salt$hash. Its errors do not repeat the hash.
func parseHash(s string) (hash, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return hash{}, errors.New("must be an argon2id hash, $argon2id$v=19$m=…,t=…,p=…$salt$hash, as `transferd passwd` makes it")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return hash{}, errors.New("must be of version 19: $argon2id$v=19$…")
	}
	var h hash
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.threads); n != 3 || err != nil ||
		parts[3] != fmt.Sprintf("m=%d,t=%d,p=%d", h.memory, h.time, h.threads) {
		return hash{}, errors.New("must have m=…,t=…,p=… as its third part")
	}
	if h.time < 1 || h.time > maxTime || h.threads < 1 || h.threads > maxThreads || h.memory < 8*uint32(h.threads) || h.memory > maxMemory {
		return hash{}, fmt.Errorf("must have m from 8*p to %d, t from 1 to %d and p from 1 to %d", maxMemory, maxTime, maxThreads)
	}
	var err, err2 error
	h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	h.sum, err2 = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err != nil || err2 != nil || len(h.salt) < 8 || len(h.salt) > 64 || len(h.sum) < 16 || len(h.sum) > 64 {
		return hash{}, errors.New("must have a salt of 8 to 64 bytes and a hash of 16 to 64, in base64 without padding")
	}
	h.key = uint32(len(h.sum))
	return h, nil
}
