package usersfile

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/identity"
)

// maxGids is how many SecondaryGids the API's model allows.
const maxGids = 16

// users are what a file says. They never change after they are read.
type users struct {
	byName map[string]user
	decoy  hash // what a password is compared with where there is no hash
}

// user is one user: how to prove it, and what the answer is then.
type user struct {
	hash     *hash  // nil: no password is right
	password []byte // answer to the right password; it has no PublicKeys (transfer-api 4.3)
	keys     []byte // answer to the question for keys; nil: there are none
}

// entry is one user as the file has it.
type entry struct {
	name, hash, role, home, homeType, policy string

	keys     []string
	mappings []server.HomeDirectoryMapEntry
	posix    *server.PosixProfile
}

// parse reads a file. All errors come at once.
func parse(b []byte) (*users, error) {
	root, err := document(b)
	if err != nil {
		return nil, err
	}
	r, u := &reader{}, &users{byName: map[string]user{}}
	var role string
	var list place
	r.table(root, map[string]func(place){
		"role":  r.text(&role, checkRole),
		"users": func(at place) { list = at },
	})
	if list.node == nil {
		r.fail(root, "needs users")
	} else {
		r.list(list, func(at place) { u.add(r, at, role) })
	}
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	u.decoy = decoy(u.usual())
	return u, nil
}

// add reads one user.
func (u *users) add(r *reader, at place, role string) {
	e := entry{role: role}
	found := r.table(at, map[string]func(place){
		"name":                    r.text(&e.name, checkName),
		"password_hash":           r.text(&e.hash, nil),
		"role":                    r.text(&e.role, checkRole),
		"home_directory":          r.text(&e.home, checkHome),
		"home_directory_type":     r.text(&e.homeType, oneOf("PATH", "LOGICAL")),
		"policy":                  r.text(&e.policy, checkPolicy),
		"home_directory_mappings": func(at place) { r.list(at, func(at place) { e.mappings = append(e.mappings, mapping(r, at)) }) },
		"posix_profile":           func(at place) { e.posix = posixProfile(r, at) },
		"public_keys": func(at place) {
			r.list(at, func(at place) {
				var key string
				r.text(&key, checkKey)(at)
				e.keys = append(e.keys, strings.TrimSpace(key))
			})
		},
	})
	if found == nil {
		return
	}
	var h *hash
	if e.hash != "" {
		parsed, err := parseHash(e.hash)
		r.failure(found["password_hash"], err)
		h = &parsed
	}
	e.check(r, at, found)
	if _, twice := u.byName[e.name]; twice && e.name != "" {
		r.fail(found["name"], "another user has this name")
	}
	one := user{hash: h, password: e.answer(nil)}
	if len(e.keys) > 0 {
		one.keys = e.answer(e.keys)
	}
	u.byName[e.name] = one
}

// check looks at what members mean together.
func (e *entry) check(r *reader, at place, found map[string]place) {
	where := func(key string) place {
		if p, ok := found[key]; ok {
			return p
		}
		return at
	}
	switch {
	case e.name == "":
		r.fail(where("name"), "needs a name")
	case e.role == "":
		r.fail(at, "needs a role, its own or the file's")
	case e.hash == "" && len(e.keys) == 0:
		r.fail(at, "needs a password_hash or public_keys, or nobody can log in")
	case e.homeType == "LOGICAL" && len(e.mappings) == 0:
		r.fail(where("home_directory_type"), "LOGICAL needs home_directory_mappings")
	case e.homeType != "LOGICAL" && len(e.mappings) > 0:
		r.fail(where("home_directory_mappings"), "needs home_directory_type: LOGICAL")
	}
	entries := map[string]bool{}
	for _, m := range e.mappings {
		if entries[m.Entry] {
			r.fail(where("home_directory_mappings"), "has an entry twice")
		}
		entries[m.Entry] = true
	}
}

// answer is the documented answer (transfer-api 4.3), with the mappings as JSON in a string. All of it can be encoded.
func (e *entry) answer(keys []string) []byte {
	details := ""
	if len(e.mappings) > 0 {
		b, err := json.Marshal(e.mappings)
		if err != nil {
			panic(fmt.Sprintf("usersfile: encode mappings: %v", err))
		}
		details = string(b)
	}
	b, err := json.Marshal(struct {
		Role                 string
		PublicKeys           []string             `json:",omitempty"`
		Policy               string               `json:",omitempty"`
		HomeDirectoryType    string               `json:",omitempty"`
		HomeDirectoryDetails string               `json:",omitempty"`
		HomeDirectory        string               `json:",omitempty"`
		PosixProfile         *server.PosixProfile `json:",omitempty"`
	}{e.role, keys, e.policy, e.homeType, details, e.home, e.posix})
	if err != nil {
		panic(fmt.Sprintf("usersfile: encode a user: %v", err))
	}
	return b
}

// usual is the cost that most hashes have, so that an unknown user takes the time of most known ones.
func (u *users) usual() cost {
	count, best := map[cost]int{}, cost{memory: newMemory, time: newTime, threads: newThreads, key: newKey}
	for _, one := range u.byName {
		if one.hash != nil {
			count[one.hash.cost]++
		}
	}
	for c, n := range count {
		if n > count[best] || n == count[best] && uint64(c.memory)*uint64(c.time) > uint64(best.memory)*uint64(best.time) {
			best = c
		}
	}
	return best
}

func mapping(r *reader, at place) (m server.HomeDirectoryMapEntry) {
	found := r.table(at, map[string]func(place){
		"entry":  r.text(&m.Entry, checkPath),
		"target": r.text(&m.Target, checkTarget),
		"type":   r.text(&m.Type, oneOf("FILE", "DIRECTORY")),
	})
	if found != nil && (m.Entry == "" || m.Target == "") {
		r.fail(at, "needs entry and target")
	}
	return m
}

func posixProfile(r *reader, at place) *server.PosixProfile {
	p := &server.PosixProfile{}
	found := r.table(at, map[string]func(place){
		"uid": r.id(&p.Uid),
		"gid": r.id(&p.Gid),
		"secondary_gids": func(at place) {
			r.list(at, func(at place) {
				var gid int64
				r.id(&gid)(at)
				p.SecondaryGids = append(p.SecondaryGids, gid)
			})
			if len(p.SecondaryGids) > maxGids {
				r.fail(at, "has more than %d", maxGids)
			}
		},
	})
	if found != nil && (found["uid"].node == nil || found["gid"].node == nil) {
		r.fail(at, "needs uid and gid")
	}
	return p
}

// rolePattern is the API's pattern of roles (shape Role).
var rolePattern = regexp.MustCompile(`^arn:.*role/\S+$`)

func checkRole(s string) error {
	if len(s) < 20 || len(s) > 2048 || !rolePattern.MatchString(s) {
		return errors.New("must be the ARN of a role, arn:aws:iam::123456789012:role/name")
	}
	return nil
}

func checkName(s string) error {
	if !identity.ValidUserName(s) {
		return errors.New("must have 3 to 100 letters of a-z A-Z 0-9 _ - . @, and not begin with - . @")
	}
	return nil
}

func checkHome(s string) error {
	if s == "" {
		return nil
	}
	return checkPath(s)
}

func checkPath(s string) error {
	if !strings.HasPrefix(s, "/") || len(s) > 1024 {
		return errors.New("must begin with / and have at most 1024 bytes")
	}
	return nil
}

func checkTarget(s string) error {
	if strings.HasSuffix(s, "/") {
		return errors.New("must not end with /")
	}
	return checkPath(s)
}

func checkPolicy(s string) error {
	if s != "" && !json.Valid([]byte(s)) {
		return errors.New("must be JSON")
	}
	return nil
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return errors.New("must be " + strings.Join(values, " or "))
		}
		return nil
	}
}

// checkKey looks at a public key in authorized_keys form. The types are the API's (shape SshPublicKeyBody).
func checkKey(s string) error {
	fields := strings.Fields(s)
	if len(fields) < 2 || strings.ContainsAny(strings.TrimSpace(s), "\r\n") {
		return errors.New("must be one public key on one line, as in a .pub file: type, base64, comment")
	}
	if err := oneOf("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")(fields[0]); err != nil {
		return err
	}
	wire, err := base64.StdEncoding.DecodeString(fields[1])
	// RFC 4253, 6.6: the wire form begins with the type, as a string with its length.
	begin := append(binary.BigEndian.AppendUint32(nil, uint32(len(fields[0]))), fields[0]...)
	if err != nil || !bytes.HasPrefix(wire, begin) {
		return errors.New("is damaged: what stands after " + fields[0] + " is no key of this type")
	}
	return nil
}
