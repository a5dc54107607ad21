package usersfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Error is one thing that is wrong with a file. It never repeats a value: that may be a secret.
type Error struct {
	Line   int
	Key    string // users[0].name; "" is the file itself
	Reason string
}

func (e *Error) Error() string {
	text := e.Reason
	if e.Key != "" {
		text = e.Key + ": " + text
	}
	return fmt.Sprintf("line %d: %s", e.Line, text)
}

// reader walks a document and collects what is wrong. It stops for nothing, so that all errors come at once.
type reader struct{ errs []error }

// place is where the reader stands.
type place struct {
	node *yaml.Node
	key  string
}

func (r *reader) fail(at place, format string, args ...any) {
	r.errs = append(r.errs, &Error{Line: at.node.Line, Key: at.key, Reason: fmt.Sprintf(format, args...)})
}

// failure adds an error, if there is one.
func (r *reader) failure(at place, err error) {
	if err != nil {
		r.fail(at, "%v", err)
	}
}

// document is the one document of a file.
func document(b []byte) (place, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		return place{}, errors.New("the file is empty; without users it is `users: []`")
	}
	if err != nil {
		return place{}, errors.New(strings.TrimPrefix(err.Error(), "yaml: ")) // it names the line and no value
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return place{}, errors.New("one document is read, and the file has more")
	}
	return place{node: doc.Content[0]}, nil
}

// table reads a mapping whose keys are known. It says where each key stood.
func (r *reader) table(at place, known map[string]func(place)) map[string]place {
	if at.node.Kind != yaml.MappingNode {
		r.fail(at, "must be a table of keys")
		return nil
	}
	found := map[string]place{}
	for i := 0; i+1 < len(at.node.Content); i += 2 {
		name, value := at.node.Content[i], at.node.Content[i+1]
		here := place{node: name, key: name.Value}
		if at.key != "" {
			here.key = at.key + "." + name.Value
		}
		read, ok := known[name.Value]
		_, twice := found[name.Value]
		switch {
		case name.Kind != yaml.ScalarNode:
			r.fail(at, "a key must be a word")
		case !ok && name.Value == "password":
			r.fail(here, "passwords do not belong into the file: put what `transferd passwd` prints under password_hash")
		case !ok:
			r.fail(here, "unknown key")
		case twice:
			r.fail(here, "stands here a second time")
		default:
			found[name.Value] = here
			if value.Kind != yaml.ScalarNode || value.Tag != "!!null" { // a key without a value says nothing
				read(place{node: value, key: here.key})
			}
		}
	}
	return found
}

// list reads each element of a list.
func (r *reader) list(at place, read func(place)) {
	if at.node.Kind != yaml.SequenceNode {
		r.fail(at, "must be a list")
		return
	}
	for i, n := range at.node.Content {
		read(place{node: n, key: fmt.Sprintf("%s[%d]", at.key, i)})
	}
}

// text reads a scalar, and checks it.
func (r *reader) text(into *string, check func(string) error) func(place) {
	return func(at place) {
		if at.node.Kind != yaml.ScalarNode {
			r.fail(at, "must be text")
			return
		}
		*into = at.node.Value
		if check != nil {
			r.failure(at, check(*into))
		}
	}
}

// id reads a user or group id (shape PosixId).
func (r *reader) id(into *int64) func(place) {
	return func(at place) {
		n, err := strconv.ParseUint(at.node.Value, 10, 32)
		if at.node.Kind != yaml.ScalarNode || err != nil {
			r.fail(at, "must be a whole number from 0 to 4294967295")
			return
		}
		*into = int64(n)
	}
}
