package policy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// condition is one key of one operator: Condition is an AND over operators and keys, and an OR over values.
type condition struct {
	operator string // as it is written
	key      string // lower case: "context key names are not case-sensitive"
	values   list
	test     test
	negated  bool
	ifExists bool
	unknown  bool // for keys that no request here has
	each     quantifier
}

// quantifier is a set operator. All keys that we know have one value.
type quantifier int

const (
	single quantifier = iota
	forAll
	forAny
)

// test compares a value of the policy with that of the request. An error is a value that cannot be compared.
type test func(want []rune, got string) (bool, error)

// errNotEvaluated is the test of operators for keys that we do not know either.
var errNotEvaluated = errors.New("not evaluated")

// readConditions reads Condition, {operator: {key: values}}.
func (p *Policy) readConditions(at string, o object) (out []condition, err error) {
	value, there := o.get("Condition")
	if !there {
		return nil, nil
	}
	operators, ok := value.(object)
	if !ok {
		return nil, syntax(at, "must be an object")
	}
	for _, op := range operators {
		at := at + "." + op.name
		c, wild, err := readOperator(op.name)
		if err != nil {
			return nil, syntax(at, "%v", err)
		}
		keys, ok := op.value.(object)
		if !ok || len(keys) == 0 {
			return nil, syntax(at, "must be an object with condition keys")
		}
		for _, k := range keys {
			c.key = strings.ToLower(k.name)
			if !strings.Contains(c.key, ":") {
				return nil, syntax(at, "%q is no condition key such as s3:prefix", k.name)
			}
			if c.values, err = p.readValues(k.value, wild, c.test); err != nil {
				return nil, syntax(at+"."+k.name, "%v", err)
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// readOperator reads the name of an operator ("IAM JSON policy elements: Condition operators"); wild says whether its
// values have wildcards.
func readOperator(name string) (c condition, wild bool, err error) {
	c.operator = name
	base := name
	if rest, ok := strings.CutPrefix(base, "ForAllValues:"); ok {
		base, c.each = rest, forAll
	} else if rest, ok := strings.CutPrefix(base, "ForAnyValue:"); ok {
		base, c.each = rest, forAny
	}
	if base == "Null" && c.each == single {
		return c, false, nil // its test is whether the key is there
	}
	base, c.ifExists = strings.CutSuffix(base, "IfExists")
	if plain, ok := opposites(base); ok {
		base, c.negated = plain, true
	}
	c.test, wild = tests(base)
	c.unknown = strings.HasPrefix(base, "Arn") || strings.HasPrefix(base, "Binary")
	if c.test == nil {
		return c, false, fmt.Errorf("%q is no condition operator", name)
	}
	return c, wild, nil
}

// opposites are the operators that mean that another one does not hold.
func opposites(name string) (string, bool) {
	switch name {
	case "StringNotEquals", "StringNotEqualsIgnoreCase", "StringNotLike", "NumericNotEquals", "DateNotEquals", "ArnNotEquals", "ArnNotLike":
		return strings.Replace(name, "Not", "", 1), true
	case "NotIpAddress":
		return "IpAddress", true
	}
	return "", false
}

// tests are the operators; nil if there is none of the name. wild says whether * and ? are wildcards.
func tests(name string) (_ test, wild bool) {
	switch name {
	case "StringEquals":
		return func(want []rune, got string) (bool, error) { return string(want) == got, nil }, false
	case "StringEqualsIgnoreCase":
		return func(want []rune, got string) (bool, error) { return strings.EqualFold(string(want), got), nil }, false
	case "StringLike":
		return func(want []rune, got string) (bool, error) { return like(want, []rune(got)), nil }, true
	case "Bool":
		return ordered(strconv.ParseBool, func(got, want bool) bool { return got == want }), false
	case "IpAddress":
		return inNetwork, false
	case "ArnEquals", "ArnLike", "BinaryEquals": // S3's requests of a client have no key that these are for
		return func([]rune, string) (bool, error) { return false, errNotEvaluated }, true
	}
	if rest, ok := strings.CutPrefix(name, "Numeric"); ok {
		return comparison(rest, number, cmp.Compare[float64]), false
	}
	if rest, ok := strings.CutPrefix(name, "Date"); ok {
		return comparison(rest, date, time.Time.Compare), false
	}
	return nil, false
}

// comparison makes the test of an operator from what follows its type; nil if there is none.
func comparison[T any](name string, parse func(string) (T, error), compare func(a, b T) int) test {
	var holds func(order int) bool
	switch name {
	case "Equals":
		holds = func(order int) bool { return order == 0 }
	case "LessThan":
		holds = func(order int) bool { return order < 0 }
	case "LessThanEquals":
		holds = func(order int) bool { return order <= 0 }
	case "GreaterThan":
		holds = func(order int) bool { return order > 0 }
	case "GreaterThanEquals":
		holds = func(order int) bool { return order >= 0 }
	default:
		return nil
	}
	return ordered(parse, func(got, want T) bool { return holds(compare(got, want)) })
}

// ordered makes a test from values that have to be read first.
func ordered[T any](parse func(string) (T, error), holds func(got, want T) bool) test {
	return func(want []rune, got string) (bool, error) {
		w, err := parse(string(want))
		if err != nil {
			return false, err
		}
		g, err := parse(got)
		if err != nil {
			return false, err
		}
		return holds(g, w), nil
	}
}

func number(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
		err = fmt.Errorf("%q is no number", s)
	}
	return n, err
}

// date reads what IAM takes: ISO 8601 in the W3C's profile, or seconds since 1970.
func date(s string) (time.Time, error) {
	if seconds, err := strconv.ParseInt(s, 10, 64); err == nil && len(s) > 4 {
		return time.Unix(seconds, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", time.DateOnly, "2006-01", "2006"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no date such as 2026-01-31T00:00:00Z", s)
}

// inNetwork says whether an address is the one wanted, or in the network wanted.
func inNetwork(want []rune, got string) (bool, error) {
	network, err := network(string(want))
	if err != nil {
		return false, err
	}
	ip, err := netip.ParseAddr(got)
	if err != nil {
		return false, err
	}
	return network.Contains(ip.WithZone("").Unmap()), nil
}

func network(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Prefix(ip.BitLen())
	}
	n, err := netip.ParsePrefix(s)
	if err != nil {
		return n, fmt.Errorf("%q is no address or network such as 192.0.2.0/24", s)
	}
	return n.Masked(), nil
}

// readValues reads a value or a list of values. What has no variables is tried at once, so that a date or a network that
// is none is refused when the policy is set and not when it is used. IAM takes numbers and booleans without quotes too.
func (p *Policy) readValues(v any, wild bool, test test) (list, error) {
	all, several := v.([]any)
	if !several {
		all = []any{v}
	}
	var out list
	for _, v := range all {
		var text string
		switch v := v.(type) {
		case string:
			text = v
		case json.Number:
			text = v.String()
		case bool:
			text = strconv.FormatBool(v)
		default:
			return nil, errors.New("must be a string, a number, true or false, or a list of them")
		}
		how := reading(0)
		if wild {
			how = wildcards
		}
		t, err := compile(text, p.how(how))
		if err != nil {
			return nil, fmt.Errorf("%q %w", text, err)
		}
		if err := try(t, test, wild); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	if len(out) == 0 {
		return nil, errors.New("must not be an empty list")
	}
	return out, nil
}

// try compares a value with itself.
func try(t template, test test, wild bool) error {
	text, constant := t.constant()
	switch {
	case !constant || wild:
		return nil
	case test == nil: // Null
		if text != "true" && text != "false" {
			return fmt.Errorf("%q must be true or false", text)
		}
		return nil
	}
	self, _, _ := strings.Cut(text, "/") // a network's own address
	if _, err := test([]rune(text), text); err == nil {
		return nil
	}
	_, err := test([]rune(text), self)
	if err != nil {
		return fmt.Errorf("%q is no value for this operator", text)
	}
	return nil
}

// holds says whether a condition does. A key that is not there makes an operator false, its opposite true, and both with
// IfExists true ("…IfExists", "Null" and the note at the beginning of the page).
func (c condition) holds(e *evaluation) answer {
	got, there := e.key(c.key)
	switch {
	case there == doubt:
		e.doubt("condition key " + c.key)
		return doubt
	case c.test == nil:
		return c.isNull(e, there)
	case there == no:
		// ForAllValues is true of no values, ForAnyValue is not ("Set operators for multi-valued context keys").
		return truth(c.each == forAll || c.each == single && (c.negated || c.ifExists))
	}
	out := no
	for _, t := range c.values {
		want, known := t.resolve(e)
		if known == doubt {
			out = max(out, doubt)
			continue
		}
		is, err := c.test(want, got)
		if err != nil {
			e.doubt("operator " + c.operator + " of condition key " + c.key)
			out = max(out, doubt)
			continue
		}
		out = max(out, truth(is))
	}
	if c.negated {
		out = out.not()
	}
	return out
}

// isNull is the operator Null: "true" says that the key is not there.
func (c condition) isNull(e *evaluation, there answer) answer {
	out := no
	for _, t := range c.values {
		want, known := t.resolve(e)
		switch {
		case known == doubt:
			out = max(out, doubt)
		case string(want) == "true":
			out = max(out, there.not())
		default:
			out = max(out, truth(string(want) == "false" && there == yes))
		}
	}
	return out
}

func truth(is bool) answer {
	if is {
		return yes
	}
	return no
}
