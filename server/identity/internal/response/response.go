// Package response reads what custom identity providers say about a user: API_GATEWAY and AWS_LAMBDA providers speak
// the same JSON (AWS user guide, "Working with custom identity providers", "Lambda response values").
//
// It is lenient where AWS's own samples are odd, and never where that would let somebody in. It knows nothing of how the
// answer came.
package response

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
)

const (
	typePath    = "PATH"
	typeLogical = "LOGICAL"

	// maxGids is how many SecondaryGids the API's model allows.
	maxGids = 16
)

// keysReason is for the operator's log.
const keysReason = "the identity provider returned PublicKeys on a password attempt: it may not have seen the password"

// Response is an answer. Who may be let in is Grant's to say.
type Response struct {
	Role                  string
	PublicKeys            []string // authorized_keys form, blank ones left out
	Policy                string
	HomeDirectory         string
	HomeDirectoryType     string // PATH or LOGICAL; "" if the answer does not say
	HomeDirectoryMappings []server.HomeDirectoryMapEntry
	PosixProfile          *server.PosixProfile
}

// wire has every member as it came. Members that we do not know are ignored: samples return tags and notes of their own.
type wire struct {
	Role, Policy, PublicKeys, HomeDirectory, HomeDirectoryType, HomeDirectoryDetails, PosixProfile json.RawMessage
}

// Parse reads an answer. One without a Role says "no", and nothing else in it matters.
func Parse(b []byte) (Response, error) {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		// The library's texts may repeat a value, so they are not passed on.
		return Response{}, errors.New("the answer is no JSON object")
	}
	var r Response
	var err error
	if r.Role, err = text("Role", w.Role); err != nil || strings.TrimSpace(r.Role) == "" {
		return Response{}, err
	}
	if r.PublicKeys, err = publicKeys(w.PublicKeys); err != nil {
		return Response{}, err
	}
	if r.HomeDirectory, err = text("HomeDirectory", w.HomeDirectory); err != nil {
		return Response{}, err
	}
	if r.PosixProfile, err = posixProfile(w.PosixProfile); err != nil {
		return Response{}, err
	}
	r.Policy = policy(w.Policy)
	return r, r.home(w)
}

// Grant is what the user gets. Keys are compared with the attempt's; a password was the provider's to check.
func (r Response) Grant(a identity.Attempt) (identity.Grant, error) {
	switch {
	case strings.TrimSpace(r.Role) == "":
		return identity.Grant{}, identity.ErrDenied
	case len(a.PublicKey) > 0 && !r.holds(a.PublicKey):
		return identity.Grant{}, identity.ErrDenied
	case len(a.PublicKey) == 0 && a.Password == "":
		return identity.Grant{}, identity.ErrDenied
	case len(a.PublicKey) == 0 && len(r.PublicKeys) > 0:
		return identity.Grant{}, &identity.DeniedError{Reason: keysReason}
	}
	return identity.Grant{
		UserName: a.UserName, Role: strings.TrimSpace(r.Role), HomeDirectory: r.HomeDirectory, HomeDirectoryType: r.HomeDirectoryType,
		HomeDirectoryMappings: r.HomeDirectoryMappings, Policy: strings.TrimSpace(r.Policy), PosixProfile: r.PosixProfile,
	}, nil
}

// holds says whether a key in wire form is one of the user's.
func (r Response) holds(key []byte) bool {
	return slices.ContainsFunc(r.PublicKeys, func(line string) bool {
		fields := strings.Fields(line) // type, base64, comment: sshd(8), AUTHORIZED_KEYS FILE FORMAT
		if len(fields) < 2 {
			return false
		}
		body, err := base64.StdEncoding.DecodeString(fields[1])
		return err == nil && bytes.Equal(body, key)
	})
}

// home reads what belongs to the home directory. HomeDirectoryDetails count with LOGICAL alone, where they are required.
func (r *Response) home(w wire) (err error) {
	if r.HomeDirectoryType, err = text("HomeDirectoryType", w.HomeDirectoryType); err != nil {
		return err
	}
	switch r.HomeDirectoryType {
	case "", typePath:
		return nil
	case typeLogical:
	default:
		return errors.New("HomeDirectoryType must be PATH or LOGICAL")
	}
	details := []byte(w.HomeDirectoryDetails)
	if is(details, '"') { // a string with JSON in it, which is the documented form; the list itself is as clear
		inner, err := text("HomeDirectoryDetails", details)
		if err != nil {
			return err
		}
		details = []byte(inner)
	}
	if len(bytes.TrimSpace(details)) > 0 && json.Unmarshal(details, &r.HomeDirectoryMappings) != nil {
		return errors.New("HomeDirectoryDetails must be a string with a JSON list of Entry and Target")
	}
	if len(r.HomeDirectoryMappings) == 0 {
		return errors.New("HomeDirectoryType LOGICAL needs HomeDirectoryDetails")
	}
	for _, m := range r.HomeDirectoryMappings {
		if m.Entry == "" || m.Target == "" {
			return errors.New("HomeDirectoryDetails has an element without Entry or Target")
		}
	}
	return nil
}

// text reads a member that is a string; absent and null are "".
func text(name string, raw json.RawMessage) (s string, err error) {
	if absent(raw) {
		return "", nil
	}
	if json.Unmarshal(raw, &s) != nil {
		return "", errors.New(name + " must be a string")
	}
	return s, nil
}

// policy is the member's text. A policy that came as an object, not as a string, is still one.
func policy(raw json.RawMessage) string {
	if s, err := text("Policy", raw); err == nil {
		return s
	}
	return string(raw)
}

// publicKeys reads a list of strings or, as a sample of AWS has it, one string "[ssh-rsa …]".
func publicKeys(raw json.RawMessage) ([]string, error) {
	if absent(raw) {
		return nil, nil
	}
	var keys []string
	if is(raw, '"') {
		s, err := text("PublicKeys", raw)
		if err != nil {
			return nil, err
		}
		if json.Unmarshal([]byte(s), &keys) != nil {
			s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(s), "["), "]")
			keys = strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' })
		}
	} else if json.Unmarshal(raw, &keys) != nil {
		return nil, errors.New("PublicKeys must be a list of strings")
	}
	return slices.DeleteFunc(keys, func(k string) bool { return strings.TrimSpace(k) == "" }), nil
}

func posixProfile(raw json.RawMessage) (*server.PosixProfile, error) {
	if absent(raw) || string(raw) == `""` {
		return nil, nil
	}
	var p struct {
		Uid, Gid      json.RawMessage
		SecondaryGids []json.RawMessage
	}
	if json.Unmarshal(raw, &p) != nil {
		return nil, errors.New("PosixProfile must be an object with Uid, Gid and SecondaryGids")
	}
	if len(p.SecondaryGids) > maxGids {
		return nil, fmt.Errorf("PosixProfile has more than %d SecondaryGids", maxGids)
	}
	out := &server.PosixProfile{}
	var err error
	if out.Uid, err = number("Uid", p.Uid); err != nil {
		return nil, err
	}
	if out.Gid, err = number("Gid", p.Gid); err != nil {
		return nil, err
	}
	for _, raw := range p.SecondaryGids {
		gid, err := number("SecondaryGids", raw)
		if err != nil {
			return nil, err
		}
		out.SecondaryGids = append(out.SecondaryGids, gid)
	}
	return out, nil
}

// number reads an id, also one between quotes, as a sample of AWS has it.
func number(name string, raw json.RawMessage) (int64, error) {
	digits := string(raw)
	if is(raw, '"') {
		digits = strings.Trim(digits, `"`)
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, errors.New("PosixProfile." + name + " must be a whole number from 0 to 4294967295")
	}
	return int64(n), nil
}

func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func is(raw []byte, first byte) bool { return len(raw) > 0 && raw[0] == first }
