package policy

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// object is a JSON object in its order.
type object []member

type member struct {
	name  string
	value any
}

func (o object) get(name string) (any, bool) {
	for _, m := range o {
		if m.name == name {
			return m.value, true
		}
	}
	return nil, false
}

// only refuses members that are not named. Names are spelled exactly: a "condition" that is overlooked would allow more
// than was meant.
func (o object) only(at string, names ...string) error {
	for _, m := range o {
		if !slices.Contains(names, m.name) {
			return syntax(at, "has an element %q, which is none of %s", m.name, strings.Join(names, ", "))
		}
	}
	return nil
}

// decode reads one JSON value. encoding/json takes the last of two members with one name and does not care about case;
// who reads a policy must not see another one than the program.
func decode(text string) (any, error) {
	if !utf8.ValidString(text) {
		return nil, syntax("", "the policy is not UTF-8")
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	v, err := value(d, "")
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, syntax("", "the policy goes on after its end")
	}
	return v, nil
}

func value(d *json.Decoder, at string) (any, error) {
	t, err := d.Token()
	switch {
	case errors.Is(err, io.EOF):
		return nil, syntax(at, "ends too early")
	case err != nil:
		return nil, syntax(at, "is not JSON: %v", err)
	case t == json.Delim('{'):
		return members(d, at)
	case t == json.Delim('['):
		return elements(d, at)
	}
	return t, nil
}

func members(d *json.Decoder, at string) (any, error) {
	o := object{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, syntax(at, "is not JSON: %v", err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, syntax(at, "is not JSON: a name must be a string")
		}
		if _, twice := o.get(name); twice {
			return nil, syntax(at, "has %q twice", name)
		}
		v, err := value(d, strings.TrimPrefix(at+"."+name, "."))
		if err != nil {
			return nil, err
		}
		o = append(o, member{name, v})
	}
	return o, closed(d, at)
}

func elements(d *json.Decoder, at string) (any, error) {
	l := []any{}
	for d.More() {
		v, err := value(d, at)
		if err != nil {
			return nil, err
		}
		l = append(l, v)
	}
	return l, closed(d, at)
}

// closed reads the bracket at the end.
func closed(d *json.Decoder, at string) error {
	if _, err := d.Token(); err != nil {
		return syntax(at, "is not JSON: %v", err)
	}
	return nil
}

// texts reads a string or a list of strings.
func texts(v any) ([]string, bool) {
	all, several := v.([]any)
	if !several {
		all = []any{v}
	}
	out := make([]string, 0, len(all))
	for _, v := range all {
		s, ok := v.(string)
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// encode writes a value as decode read it, with strings as rewrite has them.
func encode(b *strings.Builder, v any, rewrite func(string) string) error {
	var list []any
	open, end := "[", "]"
	switch v := v.(type) {
	case object:
		open, end = "{", "}"
		for _, m := range v {
			list = append(list, m)
		}
	case []any:
		list = v
	case member:
		if err := encode(b, v.name, unchanged); err != nil {
			return err
		}
		b.WriteByte(':')
		return encode(b, v.value, rewrite)
	case string:
		return scalar(b, rewrite(v))
	default:
		return scalar(b, v)
	}
	b.WriteString(open)
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encode(b, v, rewrite); err != nil {
			return err
		}
	}
	b.WriteString(end)
	return nil
}

func unchanged(s string) string { return s }

func scalar(b *strings.Builder, v any) error {
	var line strings.Builder
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	b.WriteString(strings.TrimSuffix(line.String(), "\n"))
	return nil
}
