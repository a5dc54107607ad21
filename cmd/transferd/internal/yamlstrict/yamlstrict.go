// Package yamlstrict reads YAML into structs and refuses what the structs do not know. Every error names the line and the
// key, and none repeats a value: it may be a secret.
//
// It knows nothing of what the structs mean; who calls it does, and can name lines too, by Lines.
package yamlstrict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Error is one thing that is wrong.
type Error struct {
	Line   int
	Key    string // api.access_keys[0].id; "" is the file itself
	Reason string
}

func (e *Error) Error() string {
	text := e.Reason
	if e.Key != "" {
		text = e.Key + ": " + text
	}
	if e.Line == 0 {
		return text
	}
	return fmt.Sprintf("line %d: %s", e.Line, text)
}

// Lines says on which line each key stands.
type Lines map[string]int

// At makes an error about a key. A key that the file does not have has no line.
func (l Lines) At(key, reason string) error { return &Error{Line: l[key], Key: key, Reason: reason} }

// Parse reads the one document of a file; nil if the file is empty.
func Parse(b []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	err := d.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, &Error{Line: more.Line, Reason: "one document is read, and here begins a second"}
	}
	return doc.Content[0], nil
}

// Decode reads a node into a pointer. Names of fields are their yaml tags, else the fields' own names; embedded structs
// are inline. What the node does not have stays as it is, so defaults can be set before. All errors come at once.
func Decode(n *yaml.Node, into any) (Lines, error) { return DecodeAt(n, "", into) }

// DecodeAt is Decode for a part of a file that has a key itself. A field of type yaml.Node takes a part undecoded.
func DecodeAt(n *yaml.Node, key string, into any) (Lines, error) {
	d := decoder{lines: Lines{}}
	if n != nil {
		d.value(n, reflect.ValueOf(into).Elem(), key)
	}
	return d.lines, errors.Join(d.errs...)
}

type decoder struct {
	lines Lines
	errs  []error
}

func (d *decoder) fail(n *yaml.Node, key, format string, args ...any) {
	d.errs = append(d.errs, &Error{Line: n.Line, Key: key, Reason: fmt.Sprintf(format, args...)})
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode {
		d.fail(n, key, "aliases are not read")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value says nothing
	}
	if part, ok := v.Addr().Interface().(*yaml.Node); ok {
		*part = *n
		return
	}
	if own, ok := v.Addr().Interface().(yaml.Unmarshaler); ok {
		if err := own.UnmarshalYAML(n); err != nil {
			d.fail(n, key, "%v", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		d.value(n, fresh.Elem(), key)
		v.Set(fresh)
	case reflect.Struct:
		d.object(n, v, key)
	case reflect.Map:
		d.table(n, v, key)
	case reflect.Slice:
		d.list(n, v, key)
	default:
		if n.Kind != yaml.ScalarNode || n.Decode(v.Addr().Interface()) != nil {
			d.fail(n, key, "must be %s", kind(v.Type()))
		}
	}
}

// members calls f for each key of a mapping, and refuses keys that come twice.
func (d *decoder) members(n *yaml.Node, key string, f func(name *yaml.Node, value *yaml.Node, key string)) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, key, "must be a table of keys")
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		name := n.Content[i]
		path := join(key, name.Value)
		if name.Kind != yaml.ScalarNode {
			d.fail(name, key, "a key must be a word")
			continue
		}
		if seen[name.Value] {
			d.fail(name, path, "stands here a second time")
			continue
		}
		seen[name.Value] = true
		d.lines[path] = name.Line
		f(name, n.Content[i+1], path)
	}
}

func (d *decoder) object(n *yaml.Node, v reflect.Value, key string) {
	known := map[string]reflect.Value{}
	fields(v, known)
	d.members(n, key, func(name, value *yaml.Node, path string) {
		field, ok := known[name.Value]
		if !ok {
			d.fail(name, path, "unknown key%s", guess(name.Value, known))
			return
		}
		d.value(value, field, path)
	})
}

func (d *decoder) table(n *yaml.Node, v reflect.Value, key string) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	d.members(n, key, func(name, value *yaml.Node, path string) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, item, path)
		v.SetMapIndex(reflect.ValueOf(name.Value).Convert(v.Type().Key()), item)
	})
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, key, "must be a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		path := fmt.Sprintf("%s[%d]", key, i)
		d.lines[path] = item.Line
		d.value(item, v.Index(i), path)
	}
}

// fields collects what a struct knows.
func fields(v reflect.Value, known map[string]reflect.Value) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		switch {
		case name == "-":
		case f.Anonymous && f.IsExported() && f.Type.Kind() == reflect.Struct:
			fields(v.Field(i), known)
		case !f.IsExported():
		case name == "":
			known[f.Name] = v.Field(i)
		default:
			known[name] = v.Field(i)
		}
	}
}

// guess names the known key that was probably meant: the one that differs only in case, dashes or a letter, two in a
// long word.
func guess(name string, known map[string]reflect.Value) string {
	var near []string
	for k := range known {
		if distance(plain(k), plain(name)) <= max(1, min(2, len(name)/3)) {
			near = append(near, k)
		}
	}
	if len(near) == 0 {
		return ""
	}
	slices.Sort(near)
	return "; is it " + strings.Join(near, " or ") + "?"
}

func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// distance is how many letters have to be added, dropped or exchanged to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func kind(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s, 10m or 720h"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	}
	return "a number"
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
