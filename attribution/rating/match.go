package rating

import (
	"cmp"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// compareSpecificity orders rules by how specific they are: negative where a
// is the less specific, 0 where neither is more so.
func compareSpecificity(a, b *PriceRule) int {
	return cmp.Or(
		compareBools(!isGlob(a.Model), !isGlob(b.Model)),
		// Exact models differ in length without one being more exact.
		cmp.Compare(globLiterals(a.Model), globLiterals(b.Model)),
		compareBools(a.CapacityType != "", b.CapacityType != ""),
		cmp.Compare(len(a.NodeLabels), len(b.NodeLabels)),
	)
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// overlap reports whether some device at some time matches both rules.
func overlap(a, b *PriceRule) bool {
	return (a.CapacityType == "" || b.CapacityType == "" || a.CapacityType == b.CapacityType) &&
		timesMeet(a.From, a.To, b.From, b.To) &&
		labelsMeet(a.NodeLabels, b.NodeLabels) &&
		globsMeet(a.Model, b.Model)
}

func timesMeet(aFrom, aTo, bFrom, bTo attribution.Second) bool {
	return (aTo == 0 || bFrom == 0 || bFrom < aTo) && (bTo == 0 || aFrom == 0 || aFrom < bTo)
}

// labelsMeet reports whether one set of labels can match both selectors.
func labelsMeet(a, b attribution.Labels) bool {
	for _, l := range a {
		if v, ok := b.Get(l.Key); ok && v != l.Value {
			return false
		}
	}
	return true
}

func isGlob(pattern string) bool { return strings.ContainsAny(pattern, "*?") }

// globLiterals counts the characters of a glob that stand for themselves; all
// exact models count alike.
func globLiterals(pattern string) int {
	if !isGlob(pattern) {
		return 0
	}
	return len(pattern) - strings.Count(pattern, "*") - strings.Count(pattern, "?")
}

// matchGlob reports whether a pattern matches a name.
func matchGlob(pattern, name string) bool {
	return globMatch(pattern, name, func(p, n byte) bool { return p == '?' || p == n })
}

// globsMeet reports whether some name matches both patterns.
func globsMeet(a, b string) bool {
	same := func(x, y byte) bool { return x == '?' || y == '?' || x == y }
	switch {
	case !strings.Contains(a, "*"):
		return globMatch(b, a, same) // a is as good as a name, some bytes of it open
	case !strings.Contains(b, "*"):
		return globMatch(a, b, same)
	}
	// Both have a star. The name that begins with the longer head, goes on
	// with both middles and ends with the longer tail matches both, provided
	// that heads and tails agree as far as both go.
	aHead, bHead := a[:strings.IndexByte(a, '*')], b[:strings.IndexByte(b, '*')]
	for i := range min(len(aHead), len(bHead)) {
		if !same(aHead[i], bHead[i]) {
			return false
		}
	}
	aTail, bTail := a[strings.LastIndexByte(a, '*')+1:], b[strings.LastIndexByte(b, '*')+1:]
	for i := range min(len(aTail), len(bTail)) {
		if !same(aTail[len(aTail)-1-i], bTail[len(bTail)-1-i]) {
			return false
		}
	}
	return true
}

// globMatch matches greedily, going back to the last star only: each star
// takes as little as it can, which never prevents a later match.
func globMatch(pattern, name string, same func(p, n byte) bool) bool {
	p, n, star, mark := 0, 0, -1, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, n
			p++
		case p < len(pattern) && same(pattern[p], name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
