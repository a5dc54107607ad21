package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits of what an error's text repeats, so that a large bad request does not make a larger answer.
const (
	maxEcho       = 256 // characters of a value
	maxViolations = 100
)

// SyntaxError says that a request is no JSON object, or has a member of the wrong JSON type.
type SyntaxError struct{ Text string }

func (e *SyntaxError) Error() string { return e.Text }

// ConstraintError says which constraints a request does not satisfy, all of them, in the service's words.
type ConstraintError struct{ Violations []string }

func (e *ConstraintError) Error() string {
	n, shown, noun := len(e.Violations), e.Violations, "errors"
	if n == 1 {
		noun = "error"
	}
	more := ""
	if n > maxViolations {
		shown, more = shown[:maxViolations], fmt.Sprintf("; and %d more", n-maxViolations)
	}
	return fmt.Sprintf("%d validation %s detected: %s%s", n, noun, strings.Join(shown, "; "), more)
}

// Check reads a JSON document of the named shape and returns it with nothing but the members that the model knows:
// members that it does not know are ignored, as the service ignores them, and a null is the same as an absent member.
// The result has passed every constraint, so whoever decodes it cannot see a value that nobody looked at.
// The error is a *SyntaxError or a *ConstraintError.
func (m *Model) Check(shapeName string, body []byte) ([]byte, error) {
	s := m.shapes[shapeName]
	if s == nil {
		return nil, fmt.Errorf("the model has no shape %s", shapeName)
	}
	value, err := parse(body)
	if err != nil {
		return nil, err
	}
	c := checker{shapes: m.shapes}
	clean := c.structure(s, value, "", s.Sensitive)
	if len(c.types) > 0 {
		return nil, &SyntaxError{Text: strings.Join(c.types[:min(len(c.types), maxViolations)], "; ")}
	}
	if len(c.violations) > 0 {
		return nil, &ConstraintError{Violations: c.violations}
	}
	return json.Marshal(clean)
}

// parse reads exactly one JSON object.
func parse(body []byte) (map[string]any, error) {
	if !utf8.Valid(body) {
		return nil, &SyntaxError{Text: "The request body is not valid UTF-8"}
	}
	if at := halfCharacter(body); at >= 0 {
		// The decoder would put another character in its place, and the caller would read that back.
		return nil, &SyntaxError{Text: "The request body is not valid JSON: half of a surrogate pair at byte " + strconv.Itoa(at)}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, &SyntaxError{Text: "The request body is not valid JSON: " + describeSyntax(err)}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, &SyntaxError{Text: "The request body has data after its JSON object"}
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, &SyntaxError{Text: "The request body must be a JSON object, not " + kind(v)}
	}
	return object, nil
}

// halfCharacter finds an escape \uD800 to \uDFFF that is not one of a pair (RFC 8259, section 7), or returns -1.
func halfCharacter(body []byte) int {
	for i := 0; i < len(body)-1; i++ {
		if body[i] != '\\' {
			continue
		}
		r := escaped(body[i:])
		switch {
		case !utf16.IsSurrogate(r):
			i++ // also past a second backslash, which begins no escape
		case utf16.DecodeRune(r, escaped(body[min(i+6, len(body)):])) == utf8.RuneError:
			return i
		default:
			i += 11
		}
	}
	return -1
}

// escaped reads an escape of four hexadecimal digits, or returns 0.
func escaped(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}

// describeSyntax says where the JSON ends to make sense, without the decoder's own prefixes.
func describeSyntax(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends too early"
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return e.Error() + " at byte " + strconv.FormatInt(e.Offset, 10)
	}
	return err.Error()
}

// checker collects what is wrong with one document.
type checker struct {
	shapes     map[string]*Shape
	types      []string // wrong JSON types
	violations []string // constraints not satisfied
}

// structure checks an object and returns its known members. quiet means that no value below may be repeated.
func (c *checker) structure(s *Shape, object map[string]any, path string, quiet bool) map[string]any {
	clean := make(map[string]any, len(s.names))
	for _, name := range s.names {
		where := join(path, name)
		value := object[name]
		if value == nil {
			if slices.Contains(s.Required, name) {
				c.violations = append(c.violations, "Value null at '"+where+"' failed to satisfy constraint: Member must not be null")
			}
			continue
		}
		clean[name] = c.value(c.shapes[s.Members[name]], value, where, quiet)
	}
	return clean
}

// value checks anything that is not null and returns what may be used of it.
func (c *checker) value(s *Shape, value any, path string, quiet bool) any {
	quiet = quiet || s.Sensitive
	switch s.Type {
	case "structure":
		object, ok := value.(map[string]any)
		if !ok {
			c.wrongType(path, "an object", value)
			return nil
		}
		return c.structure(s, object, path, quiet)
	case "list":
		list, ok := value.([]any)
		if !ok {
			c.wrongType(path, "a list", value)
			return nil
		}
		return c.list(s, list, path, quiet)
	}
	if want := wantScalar(s, value); want != "" {
		c.wrongType(path, want, value)
		return nil
	}
	for _, constraint := range s.unsatisfied(value) {
		c.fail(path, echo(value, quiet), constraint)
	}
	return value
}

// list checks a list. Constraints on elements that are scalars are reported for the list as a whole, as the service
// does; elements that are structures have paths of their own, counted from 1.
func (c *checker) list(s *Shape, list []any, path string, quiet bool) []any {
	element := c.shapes[s.Member]
	quiet = quiet || element.Sensitive
	for _, constraint := range s.lengths(int64(len(list))) {
		c.fail(path, echo(list, quiet), constraint)
	}
	clean := make([]any, 0, len(list))
	var inner []string
	for i, value := range list {
		switch {
		case value == nil:
			inner = append(inner, "Member must not be null")
		case element.Type == "structure" || element.Type == "list":
			clean = append(clean, c.value(element, value, path+"."+strconv.Itoa(i+1)+".member", quiet))
		default:
			if want := wantScalar(element, value); want != "" {
				c.wrongType(path+"."+strconv.Itoa(i+1)+".member", want, value)
				continue
			}
			inner = append(inner, element.unsatisfied(value)...)
			clean = append(clean, value)
		}
	}
	if len(inner) > 0 {
		// Equal constraints of several elements are one statement about the list.
		slices.Sort(inner)
		c.fail(path, echo(list, quiet), "Member must satisfy constraint: ["+strings.Join(slices.Compact(inner), ", ")+"]")
	}
	return clean
}

func (c *checker) fail(path, echo, constraint string) {
	text := "'" + path + "' failed to satisfy constraint: " + constraint
	if echo != "" {
		text = "Value " + echo + " at " + text
	}
	c.violations = append(c.violations, text)
}

func (c *checker) wrongType(path, want string, value any) {
	c.types = append(c.types, "'"+path+"' must be "+want+", not "+kind(value))
}

// wantScalar is empty if the value has the JSON type that the shape asks for, else it says which one that is.
func wantScalar(s *Shape, value any) string {
	switch s.Type {
	case "string", "blob":
		if _, ok := value.(string); !ok {
			return "a string"
		}
	case "boolean":
		if _, ok := value.(bool); !ok {
			return "a boolean"
		}
	case "integer", "long":
		n, ok := value.(json.Number)
		if !ok {
			return "a whole number"
		}
		if _, err := strconv.ParseInt(n.String(), 10, 64); err != nil {
			return "a whole number"
		}
	case "timestamp":
		if _, ok := value.(json.Number); !ok {
			return "a number of seconds"
		}
	}
	return ""
}

// unsatisfied are the constraints of the shape that a scalar of the right type does not satisfy.
func (s *Shape) unsatisfied(value any) []string {
	var failed []string
	switch v := value.(type) {
	case string:
		if s.Type == "string" {
			failed = s.lengths(int64(utf8.RuneCountInString(v)))
		}
		if s.regexp != nil && !s.regexp.MatchString(v) {
			failed = append(failed, "Member must satisfy regular expression pattern: "+s.Pattern)
		}
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
			failed = append(failed, "Member must satisfy enum value set: ["+strings.Join(s.Enum, ", ")+"]")
		}
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return nil // a timestamp with a fraction has no range
		}
		failed = s.between(n, "Member must have value")
	}
	return failed
}

// lengths are the constraints that a length does not satisfy.
func (s *Shape) lengths(n int64) []string { return s.between(n, "Member must have length") }

func (s *Shape) between(n int64, text string) []string {
	var failed []string
	if s.Max != nil && n > *s.Max {
		failed = append(failed, fmt.Sprintf("%s less than or equal to %d", text, *s.Max))
	}
	if s.Min != nil && n < *s.Min {
		failed = append(failed, fmt.Sprintf("%s greater than or equal to %d", text, *s.Min))
	}
	return failed
}

// echo is a value between quotes, or nothing if it is a secret, long, or has structure.
func echo(value any, quiet bool) string {
	if quiet {
		return ""
	}
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	case []any:
		words := make([]string, 0, min(len(v), maxEcho))
		for _, e := range v {
			s, ok := e.(string)
			if !ok || len(words) >= maxEcho {
				return ""
			}
			words = append(words, s)
		}
		text = "[" + strings.Join(words, ", ") + "]"
	default:
		return ""
	}
	if utf8.RuneCountInString(text) > maxEcho {
		return ""
	}
	return "'" + text + "'"
}

// join makes the path of a member as the service writes it: lowerCamel, with dots.
func join(path, name string) string {
	first, size := utf8.DecodeRuneInString(name)
	name = string(unicode.ToLower(first)) + name[size:]
	if path == "" {
		return name
	}
	return path + "." + name
}

// kind names the JSON type of a value.
func kind(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}
