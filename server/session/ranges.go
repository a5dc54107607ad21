package session

import "slices"

// maxSpans bounds what a client that writes a file in very many pieces can make us remember.
const maxSpans = 1024

// span is [from, to) of a file.
type span struct{ from, to int64 }

// ranges knows which bytes of a file have come: all below end, and the spans ahead of it. A store that is a file system
// takes a hole for zeros and does not tell (Config.Integrity). Of a file in too many pieces it forgets the last gap: it
// may miss a hole and never invents one.
type ranges struct {
	end   int64
	ahead []span // sorted, apart from each other, all beyond end
}

// add notes that [from, to) came. A client that writes in order costs two comparisons.
func (r *ranges) add(from, to int64) {
	if from > r.end {
		r.addAhead(span{from, to})
		return
	}
	r.end = max(r.end, to)
	n := 0
	for n < len(r.ahead) && r.ahead[n].from <= r.end {
		r.end = max(r.end, r.ahead[n].to)
		n++
	}
	if n > 0 {
		r.ahead = slices.Delete(r.ahead, 0, n)
	}
}

func (r *ranges) addAhead(s span) {
	i := 0 // the first span that touches s or lies behind it
	for i < len(r.ahead) && r.ahead[i].to < s.from {
		i++
	}
	j := i // the first one behind it
	for j < len(r.ahead) && r.ahead[j].from <= s.to {
		s.from, s.to = min(s.from, r.ahead[j].from), max(s.to, r.ahead[j].to)
		j++
	}
	r.ahead = slices.Replace(r.ahead, i, j, s)
	if n := len(r.ahead); n > maxSpans {
		r.ahead[n-2].to = r.ahead[n-1].to
		r.ahead = r.ahead[:n-1]
	}
}

// cut notes that what lies from size on is gone.
func (r *ranges) cut(size int64) {
	r.end = min(r.end, size)
	r.ahead = slices.DeleteFunc(r.ahead, func(s span) bool { return s.from >= size })
	if n := len(r.ahead); n > 0 {
		r.ahead[n-1].to = min(r.ahead[n-1].to, size)
	}
}
