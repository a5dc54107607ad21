package policy

import "slices"

// Doubts are the condition keys, operators and variables of a policy that will never be evaluated for a subject: for
// whoever runs the server, before somebody wonders why so little is allowed.
func (p *Policy) Doubts(s Subject) []string {
	e := &evaluation{subject: s, request: Request{Action: listBucket}} // listings have every key that we know
	for _, st := range p.statements {
		e.unresolved(st.resources)
		for _, c := range st.conditions {
			if _, there := e.key(c.key); there == doubt {
				e.doubt("condition key " + c.key)
			} else if c.unknown {
				e.doubt("operator " + c.operator + " of condition key " + c.key)
			}
			e.unresolved(c.values)
		}
	}
	slices.Sort(e.doubts)
	return e.doubts
}

func (e *evaluation) unresolved(l list) {
	for _, t := range l {
		t.resolve(e)
	}
}
