package s3

import (
	"cmp"
	"slices"
)

// maxSpans bounds what a client that writes every other byte can make us remember.
const maxSpans = 4096

// span is [from, to) of a file.
type span struct{ from, to int64 }

// prefix knows which bytes of a file have arrived: all below end, and the spans ahead of it.
type prefix struct {
	end   int64
	ahead []span // sorted, apart from each other, all beyond end
}

// add notes that [from, to) arrived. It reports false if the file is in more pieces than are kept track of.
func (p *prefix) add(from, to int64) bool {
	if from > p.end {
		return p.addAhead(span{from, to})
	}
	p.end = max(p.end, to)
	n := 0
	for n < len(p.ahead) && p.ahead[n].from <= p.end {
		p.end = max(p.end, p.ahead[n].to)
		n++
	}
	if n > 0 {
		p.ahead = slices.Delete(p.ahead, 0, n)
	}
	return true
}

func (p *prefix) addAhead(s span) bool {
	// i is the first span that touches s or lies behind it, j the first one behind it.
	i, _ := slices.BinarySearchFunc(p.ahead, s.from, func(a span, from int64) int { return cmp.Compare(a.to, from) })
	j := i
	for j < len(p.ahead) && p.ahead[j].from <= s.to {
		s.from, s.to = min(s.from, p.ahead[j].from), max(s.to, p.ahead[j].to)
		j++
	}
	p.ahead = slices.Replace(p.ahead, i, j, s)
	return len(p.ahead) <= maxSpans
}
