package policy

import "strings"

// Document is the policy for STS, which does not know Transfer's variables: their values stand in their places, escaped
// so that none is a wildcard. A variable without a value stays, and so does one whose value the old version of the language
// has no escape for: it then allows nothing there, and what it would deny Evaluate denies here.
func (p *Policy) Document(s Subject) (string, error) {
	var b strings.Builder
	err := encode(&b, p.document, func(text string) string { return p.substitute(s, text) })
	return b.String(), err
}

func (p *Policy) substitute(s Subject, text string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		inner, after, closed := strings.Cut(rest, "}")
		name := strings.ToLower(inner)
		value, known := "", false
		if closed && strings.HasPrefix(name, transferPrefix) {
			value, known = s.variable(name)
		}
		if !known || !p.variables && strings.ContainsAny(value, "*?$") {
			out.WriteString("${")
			text = rest
			continue
		}
		if p.variables {
			value = strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}").Replace(value)
		}
		out.WriteString(value)
		text = after
	}
}
