package policy

import (
	"errors"
	"fmt"
	"strings"
)

// errNoEscape is a value that would be a wildcard in a document whose version cannot say otherwise.
var errNoEscape = errors.New("has a wildcard or a $ in it, which a policy of version " + version2008 + " cannot have as itself")

// Document is the policy for STS, which does not know Transfer's variables: their values stand in their places, escaped
// so that none is a wildcard. A variable without a value is an error, for STS would refuse it or, worse, take it for text.
func (p *Policy) Document(s Subject) (string, error) {
	var b strings.Builder
	err := encode(&b, p.document, func(text string) (string, error) { return p.substitute(s, text) })
	return b.String(), err
}

func (p *Policy) substitute(s Subject, text string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		inner, after, closed := strings.Cut(rest, "}")
		name := strings.ToLower(inner)
		if !closed || !strings.HasPrefix(name, transferPrefix) {
			out.WriteString("${")
			text = rest
			continue
		}
		value, ok := s.variable(name)
		if !ok {
			return "", fmt.Errorf("variable ${%s} has no value", inner)
		}
		if strings.ContainsAny(value, "*?$") {
			if !p.variables {
				return "", fmt.Errorf("variable ${%s} %w", inner, errNoEscape)
			}
			value = strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}").Replace(value)
		}
		out.WriteString(value)
		text = after
	}
}
