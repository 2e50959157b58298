package ingest

import (
	"cmp"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// span is a run of seconds from one boot, [from, to).
type span struct {
	from, to attribution.Second
	boot     attribution.Boot
}

// seconds is the set of seconds that a node has, as spans in order, which do
// not overlap. Adjacent spans of one boot are one.
type seconds struct{ spans []span }

// verdict is what a new chunk is to the seconds that are there.
type verdict uint8

const (
	fresh     verdict = iota // none of it is there
	duplicate                // all of it is there, from the same boot
	conflict                 // some of it is there, or from another boot
)

// after is the index of the first span that ends after s.
func (r *seconds) after(s attribution.Second) int {
	i, _ := slices.BinarySearchFunc(r.spans, s, func(x span, s attribution.Second) int {
		if x.to <= s {
			return -1
		}
		return 1
	})
	return i
}

func (r *seconds) judge(s span) verdict {
	i := r.after(s.from)
	if i == len(r.spans) || r.spans[i].from >= s.to {
		return fresh
	}
	if x := r.spans[i]; x.boot == s.boot && x.from <= s.from && x.to >= s.to {
		return duplicate
	}
	return conflict
}

// has reports whether the second is there.
func (r *seconds) has(s attribution.Second) bool {
	i := r.after(s)
	return i < len(r.spans) && r.spans[i].from <= s
}

// opens reports whether a fresh span would become one of its own.
func (r *seconds) opens(s span) bool {
	i := r.after(s.from)
	return !r.joinsLeft(i, s) && !r.joinsRight(i, s)
}

// add adds a fresh span.
func (r *seconds) add(s span) {
	i := r.after(s.from)
	left, right := r.joinsLeft(i, s), r.joinsRight(i, s)
	switch {
	case left && right:
		r.spans[i-1].to = r.spans[i].to
		r.spans = slices.Delete(r.spans, i, i+1)
	case left:
		r.spans[i-1].to = s.to
	case right:
		r.spans[i].from = s.from
	default:
		r.spans = slices.Insert(r.spans, i, s)
	}
}

func (r *seconds) joinsLeft(i int, s span) bool {
	return i > 0 && r.spans[i-1].to == s.from && r.spans[i-1].boot == s.boot
}

func (r *seconds) joinsRight(i int, s span) bool {
	return i < len(r.spans) && r.spans[i].from == s.to && r.spans[i].boot == s.boot
}

// end is the first second after the last, or 0 where there is none.
func (r *seconds) end() attribution.Second {
	if len(r.spans) == 0 {
		return 0
	}
	return r.spans[len(r.spans)-1].to
}

// sort puts spans that were gathered in any order into order.
func (r *seconds) sort() {
	slices.SortFunc(r.spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
}
