package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// errNotDirectory is the answer to rmdir on a file.
var errNotDirectory = fmt.Errorf("not a directory: %w", fs.ErrInvalid)

// userNameVariable is the one variable that a path may hold. The API's text writes Transfer as often as transfer
// (transfer-api 3.3), so the case does not matter.
var userNameVariable = regexp.MustCompile(`(?i)\$\{transfer:UserName\}`)

// kind says what the grant makes of a path.
type kind int

const (
	inStore    kind = iota // an ordinary name in a store
	mappedFile             // the entry of a FILE mapping
	mappedDir              // the entry of a DIRECTORY mapping, or the home bucket itself: exists, cannot be taken away
	synthetic              // a directory above such entries: in no store, listable, not writable
)

// place is where a client's path lies.
type place struct {
	client string // absolute and cleaned
	kind   kind
	store  string
	name   string
}

// fail dresses an error with the client's path; nil stays nil.
func (p place) fail(op string, err error) error {
	var pe *fs.PathError
	if err == nil || errors.As(err, &pe) && pe.Path == p.client {
		return err
	}
	return &fs.PathError{Op: op, Path: p.client, Err: err}
}

// grants are the entries of a user: a PATH home is one entry, /bucket. It never changes after it is made.
type grants struct {
	entries map[string]place    // by entry, without a client path
	below   map[string][]string // directory → names of entries, or of directories above entries, right below it
}

// find finds the longest entry that holds a cleaned path.
func (g grants) find(client string) (place, error) {
	for entry := client; ; entry = parent(entry) {
		if at, ok := g.entries[entry]; ok {
			return at.descend(client, entry)
		}
		if entry == "/" {
			break
		}
	}
	if client == "/" || len(g.below[client]) > 0 {
		return place{client: client, kind: synthetic}, nil
	}
	return place{}, fs.ErrNotExist
}

// parent is path.Dir of a cleaned absolute path, without cleaning it once more: find goes up a path that may have
// thousands of elements.
func parent(p string) string { return p[:max(1, strings.LastIndexByte(p, '/'))] }

// descend goes from an entry to a path below it.
func (p place) descend(client, entry string) (place, error) {
	p.client = client
	rest := strings.TrimPrefix(strings.TrimPrefix(client, entry), "/")
	if rest == "" {
		return p, nil
	}
	if p.kind == mappedFile {
		return place{}, fs.ErrNotExist
	}
	p.kind = inStore
	p.name = path.Join(p.name, rest)
	return p, nil
}

func (g grants) children(client string) []string { return g.below[client] }

// hides says whether an entry stands where a store has a name of its own.
func (g grants) hides(client, name string) bool {
	_, found := slices.BinarySearch(g.below[client], name)
	return found
}

// grant reads a home. The second result is the landing directory.
func grant(home Home) (grants, string, error) {
	if strings.ContainsAny(home.UserName, "/\x00") {
		return grants{}, "", invalid("user name", home.UserName)
	}
	landing, err := absolute(expand(home.Directory, home.UserName))
	if err != nil {
		return grants{}, "", fmt.Errorf("home directory: %w", err)
	}
	var g grants
	switch home.Type {
	case typePath, "":
		g, err = pathGrant(landing)
	case typeLogical:
		g, err = logicalGrant(home)
	default:
		err = invalid("home directory type", home.Type)
	}
	return g, landing, err
}

func pathGrant(landing string) (grants, error) {
	g := grants{entries: map[string]place{}, below: map[string][]string{}}
	if store, _, _ := strings.Cut(landing[1:], "/"); store != "" {
		g.add("/"+store, place{kind: mappedDir, store: store})
	}
	return g, nil
}

func logicalGrant(home Home) (grants, error) {
	if len(home.Mappings) == 0 {
		return grants{}, invalid("home directory mappings", "none")
	}
	g := grants{entries: make(map[string]place, len(home.Mappings)), below: map[string][]string{}}
	for _, m := range home.Mappings {
		entry, err := absolute(expand(m.Entry, home.UserName))
		if err != nil {
			return grants{}, fmt.Errorf("mapping entry: %w", err)
		}
		at, err := target(expand(m.Target, home.UserName), m.Type)
		if err != nil {
			return grants{}, fmt.Errorf("mapping target: %w", err)
		}
		if _, twice := g.entries[entry]; twice {
			return grants{}, invalid("mapping entry", entry)
		}
		if entry == "/" && at.kind == mappedFile {
			return grants{}, invalid("mapping entry", entry)
		}
		g.add(entry, at)
	}
	for dir := range g.below {
		slices.Sort(g.below[dir])
		g.below[dir] = slices.Compact(g.below[dir])
	}
	return g, nil
}

// add takes an entry and makes the directories above it.
func (g grants) add(entry string, at place) {
	g.entries[entry] = at
	for dir := entry; dir != "/"; dir = path.Dir(dir) {
		parent := path.Dir(dir)
		known := len(g.below[parent]) > 0
		g.below[parent] = append(g.below[parent], path.Base(dir))
		if known {
			return // what stands above was made with the first
		}
	}
}

// target reads a mapping's target, /store or /store/name; a trailing slash is an error on AWS too (transfer-api 3.2).
func target(s, typ string) (place, error) {
	store, name, _ := strings.Cut(strings.TrimPrefix(s, "/"), "/")
	if !strings.HasPrefix(s, "/") || store == "" || path.Clean(s) != s || !valid(s) || len(name) > maxName {
		return place{}, invalid("path", s)
	}
	at := place{kind: mappedDir, store: store, name: name}
	switch typ {
	case typeDir, "":
	case typeFile:
		if name == "" {
			return place{}, invalid("file", s)
		}
		at.kind = mappedFile
	default:
		return place{}, invalid("type", typ)
	}
	return at, nil
}

// absolute reads a path as the client will see it; empty is "/". Dots would say something else than they show.
func absolute(s string) (string, error) {
	if s == "" {
		return "/", nil
	}
	clean := path.Clean(s)
	if s[0] != '/' || !valid(s) || slices.Contains(strings.Split(s, "/"), "..") {
		return "", invalid("path", s)
	}
	return clean, nil
}

func valid(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

func invalid(what, value string) error { return fmt.Errorf("%s %q: %w", what, value, fs.ErrInvalid) }

func expand(s, userName string) string { return userNameVariable.ReplaceAllLiteralString(s, userName) }

// named gives a file the name that the client knows it by.
type named struct {
	fs.FileInfo
	name string
}

func (n named) Name() string { return n.name }

// dirInfo describes a directory that no store knows.
type dirInfo string

func (d dirInfo) Name() string     { return string(d) }
func (dirInfo) Size() int64        { return 0 }
func (dirInfo) Mode() fs.FileMode  { return fs.ModeDir | 0o755 }
func (dirInfo) ModTime() time.Time { return time.Unix(0, 0).UTC() }
func (dirInfo) IsDir() bool        { return true }
func (dirInfo) Sys() any           { return nil }
