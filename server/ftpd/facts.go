package ftpd

import (
	"slices"
	"strings"
)

// facts are what MLSD and MLST tell of a file (RFC 3659, 7.5), as the library spells them, in its order.
func facts() []string { return []string{"Type", "Size", "Modify"} }

// unwanted are the facts that a client does not want to see: those that its OPTS MLST left out.
type unwanted []string

// chooseFacts is OPTS MLST (RFC 3659, 7.9): its arguments are all that listings show from then on, and unknown ones are
// passed over.
func (c *connection) chooseFacts(arg string) (string, bool) {
	wanted := strings.Split(strings.ToUpper(arg), ";")
	c.unwanted = nil
	var shown strings.Builder
	for _, fact := range facts() {
		if slices.Contains(wanted, strings.ToUpper(fact)) {
			shown.WriteString(strings.ToLower(fact) + ";")
		} else {
			c.unwanted = append(c.unwanted, fact)
		}
	}
	return c.answer(200, strings.TrimSpace("MLST OPTS "+shown.String()))
}

// feature is the line of FEAT: an asterisk marks what listings show (RFC 3659, 7.8).
func (u unwanted) feature() string {
	line := "MLST "
	for _, fact := range facts() {
		line += strings.ToLower(fact)
		if !slices.Contains(u, fact) {
			line += "*"
		}
		line += ";"
	}
	return line
}

// trim takes unwanted facts out of an entry: facts, a space, and the name, which may have anything in it.
func (u unwanted) trim(entry string) string {
	if len(u) == 0 {
		return entry
	}
	told, name, _ := strings.Cut(entry, " ")
	kept := slices.DeleteFunc(strings.SplitAfter(told, ";"), func(fact string) bool {
		key, _, _ := strings.Cut(fact, "=")
		return slices.Contains(u, key)
	})
	return strings.Join(kept, "") + " " + name
}
