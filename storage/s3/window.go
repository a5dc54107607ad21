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

// covers reports whether all of [from, to) arrived.
func (p *prefix) covers(from, to int64) bool {
	if p.end >= to {
		return true
	}
	i, _ := slices.BinarySearchFunc(p.ahead, from, func(a span, from int64) int { return cmp.Compare(a.to, from+1) })
	return i < len(p.ahead) && p.ahead[i].from <= from && p.ahead[i].to >= to
}

const (
	// maxNext is how many parts behind cur a write may lie in.
	maxNext = 16
	// maxEarly is how much memory one upload may hold for what comes early, but one part in any case.
	maxEarly = 64 * mib
)

// slot is a part behind cur.
type slot struct {
	size int
	buf  []byte // nil before the first byte and when it has left
	sent bool
}

// early is where bytes go that lie at behind the end of cur; nil if there is no place for them.
func (u *upload) early(at int64) []byte {
	most := maxNext
	if u.old != nil { // what nobody writes has to be read in between
		most = 1
	}
	for i := 0; i < most && int(u.part)+i < maxParts; i++ {
		size := int64(u.store.sizes.of(u.part + 1 + int32(i)))
		if at >= size {
			at -= size
			continue
		}
		if i >= len(u.next) || u.next[i].buf == nil && !u.next[i].sent {
			if !u.take(i, int(size)) {
				return nil
			}
		}
		if u.next[i].sent {
			return nil
		}
		return u.next[i].buf[at:]
	}
	return nil
}

// take gets the buffer of a slot, if there is one free and the upload may have it.
func (u *upload) take(i, size int) bool {
	held := 0
	for _, s := range u.next {
		held += len(s.buf)
	}
	if held > 0 && held+size > maxEarly {
		return false
	}
	buf := u.store.cfg.Budget.tryPart(size)
	if buf == nil {
		return false
	}
	for n := len(u.next); n <= i; n++ {
		u.next = append(u.next, slot{size: u.store.sizes.of(u.part + 1 + int32(n))})
	}
	u.next[i].buf = buf
	return true
}

// leaveEarly sends the parts behind cur that are full.
func (u *upload) leaveEarly() error {
	if u.old != nil || len(u.next) == 0 || len(u.got.ahead) == 0 {
		return nil
	}
	from := u.base + int64(len(u.cur))
	for i := range u.next {
		s := &u.next[i]
		to := from + int64(s.size)
		if s.buf != nil && u.got.covers(from, to) && u.got.end < from {
			if err := u.ready(u.ctx, len(s.buf)); err != nil {
				return err
			}
			buf := s.buf
			s.buf, s.sent = nil, true
			u.leave(u.part+1+int32(i), buf)
		}
		from = to
	}
	return nil
}

// step goes on to the next part that has not left, when the first n bytes of what is held have.
func (u *upload) step(n int64) {
	u.base += n
	u.cur = nil
	for u.part++; len(u.next) > 0; u.part++ {
		s := u.next[0]
		u.next = u.next[1:]
		if !s.sent {
			u.cur = s.buf
			return
		}
		u.base += int64(s.size)
	}
}
