package model

import (
	"fmt"
	"regexp"
	"strings"
)

// The model's patterns are Java's. These are the places where Go reads the same text differently.
const (
	javaSpace    = `\t\n\x0B\f\r `                     // \s, which in Go lacks the vertical tab
	javaNotSpace = `\x00-\x08\x0E-\x1F\x21-\x{10FFFF}` // \S
	javaAny      = `[^\n\r\x{0085}\x{2028}\x{2029}]`   // . stops at every line terminator
	javaPrint    = `\x20-\x7E`                         // \p{Print}
)

// compile turns a pattern of the model into a Go expression that matches a whole string: the current model writes its
// patterns without anchors and means full matches.
func compile(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	inClass := false
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\':
			n, text := translateEscape(pattern[i:], inClass)
			b.WriteString(text)
			i += n - 1
		case c == '.' && !inClass:
			b.WriteString(javaAny)
		default:
			if c == '[' {
				inClass = true
			} else if c == ']' {
				inClass = false
			}
			b.WriteByte(c)
		}
	}
	re, err := regexp.Compile(`\A(?:` + b.String() + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("compile pattern %s: %w", pattern, err)
	}
	return re, nil
}

// translateEscape reads the escape at the start of s and returns its length and what Go calls it.
func translateEscape(s string, inClass bool) (length int, text string) {
	class := func(members string) string {
		if inClass {
			return members
		}
		return "[" + members + "]"
	}
	switch {
	case strings.HasPrefix(s, `\s`):
		return 2, class(javaSpace)
	case strings.HasPrefix(s, `\S`):
		return 2, class(javaNotSpace)
	case strings.HasPrefix(s, `\p{Print}`):
		return len(`\p{Print}`), class(javaPrint)
	case strings.HasPrefix(s, `\u`) && len(s) >= 6:
		return 6, `\x{` + s[2:6] + `}`
	case len(s) >= 2:
		return 2, s[:2]
	}
	return len(s), s
}
