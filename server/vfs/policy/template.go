package policy

import (
	"errors"
	"strings"
)

// reading says what is special in a text of a policy.
type reading int

const (
	wildcards        reading = 1 << iota // * and ?
	oldVersion                           // ${…} is no variable unless it is one of Transfer
	literalVariables                     // ${…} is never a variable
)

// template is a text of a policy: literal runes, wildcards and variables.
type template []piece

type piece struct {
	r        rune // a literal, anyRunes, oneRune or variable
	name     string
	fallback *string // of a variable that has no value
}

// Runes that no text has.
const (
	anyRunes rune = -1 - iota
	oneRune
	variable
)

// list is what an element lists.
type list []template

var errVariable = errors.New("has a ${ that begins no variable")

// compile reads a text ("IAM policy elements: Variables and tags"; "IAM JSON policy elements: Resource", wildcards).
func compile(text string, how reading) (template, error) {
	var t template
	for text != "" {
		if rest, ok := strings.CutPrefix(text, "${"); ok && how&literalVariables == 0 {
			inner, after, closed := strings.Cut(rest, "}")
			p, is := readVariable(inner, how&oldVersion != 0)
			if closed && is {
				t, text = append(t, p), after
				continue
			}
			if how&oldVersion == 0 {
				return nil, errVariable
			}
		}
		r := []rune(text[:min(len(text), 4)])[0]
		text = text[len(string(r)):]
		if how&wildcards != 0 {
			switch r {
			case '*':
				r = anyRunes
			case '?':
				r = oneRune
			}
		}
		t = append(t, piece{r: r})
	}
	return t, nil
}

// readVariable reads what is between ${ and }. ${*}, ${?} and ${$} are these characters themselves.
func readVariable(inner string, old bool) (piece, bool) {
	name := strings.ToLower(inner) // keys have no case
	if strings.HasPrefix(name, transferPrefix) && !strings.ContainsAny(name, ", '") {
		return piece{r: variable, name: name}, true
	}
	if old {
		return piece{}, false
	}
	if inner == "*" || inner == "?" || inner == "$" {
		return piece{r: rune(inner[0])}, true
	}
	name, after, has := strings.Cut(inner, ",")
	p := piece{r: variable, name: strings.ToLower(strings.TrimSpace(name))}
	if has {
		quoted := strings.TrimSpace(after)
		if len(quoted) < 2 || quoted[0] != '\'' || quoted[len(quoted)-1] != '\'' {
			return piece{}, false
		}
		value := strings.ReplaceAll(quoted[1:len(quoted)-1], "''", "'")
		p.fallback = &value
	}
	return p, p.name != "" && !strings.ContainsAny(p.name, "${}'")
}

// resolve puts values in place of variables. They are literal: a user who is called "*" is no wildcard. doubt if one has
// no value, because then IAM may pass over the whole statement.
func (t template) resolve(e *evaluation) ([]rune, answer) {
	out := make([]rune, 0, len(t)+32)
	for _, p := range t {
		if p.r != variable {
			out = append(out, p.r)
			continue
		}
		value, ok := e.variable(p.name)
		switch {
		case ok:
		case p.fallback != nil:
			value = *p.fallback
		default:
			e.doubt("variable ${" + p.name + "}")
			return nil, doubt
		}
		out = append(out, []rune(value)...)
	}
	return out, yes
}

// constant says whether a text has no variables, and what it is then.
func (t template) constant() (string, bool) {
	var b strings.Builder
	for _, p := range t {
		if p.r == variable {
			return "", false
		}
		b.WriteRune(p.r)
	}
	return b.String(), true
}

// isARN says whether a text has the six parts of an ARN, or wildcards that may stand for some. The colon in a variable's
// name separates nothing: "You can use a variable in the resource portion of an ARN" (IAM policy elements: Variables).
func (t template) isARN() bool {
	colons := 0
	for _, p := range t {
		if p.r == anyRunes {
			return true
		}
		if p.r == ':' {
			colons++
		}
	}
	return colons >= 5
}

// matches says whether a text is one of the list's.
func (l list) matches(e *evaluation, text string) answer {
	out := no
	value := []rune(text)
	for _, t := range l {
		pattern, ok := t.resolve(e)
		switch {
		case ok == doubt:
			out = doubt
		case like(pattern, value):
			return yes
		}
	}
	return out
}

// like matches a text with a pattern of literal runes, anyRunes and oneRune. It goes back to the last anyRunes alone,
// so it takes no more than the product of the lengths.
func like(pattern, text []rune) bool {
	p, t := 0, 0
	star, mark := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == anyRunes:
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == oneRune || pattern[p] == text[t]):
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == anyRunes {
		p++
	}
	return p == len(pattern)
}
