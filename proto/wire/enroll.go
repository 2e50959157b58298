package wire

import (
	"cmp"

	"github.com/gpuledger/gpuledger/attribution"
)

// A second's own roster is what occurs in it, so it changes whenever an owner
// pauses, or one more latency bucket is counted. The stream's roster is the
// union of those so far: it changes only for what is new. That it holds more
// than a second needs costs nothing, for the roster of the chunk is made anew
// from what occurs.

// enroll finds the numbers of a second's roster in the stream's, after adding
// what is not there.
func (e *LiveEncoder) enroll(r *attribution.Roster, id attribution.Fingerprint) {
	if e.roster != nil && id == e.own {
		return
	}
	e.own = id
	if e.roster == nil || id == e.rosterID {
		if e.roster == nil {
			e.roster, e.rosterID = r, id
		}
		e.numbers = numbering{same: true}
		return
	}
	n, ok := numbersIn(e.roster, r)
	if !ok {
		all := union(e.roster, r)
		if tooLarge(all, r) {
			e.roster, e.rosterID, n = r, id, numbering{same: true}
		} else {
			e.roster, e.rosterID = all, all.Fingerprint()
			n, _ = numbersIn(all, r)
		}
		e.Reset()
	}
	e.numbers = n
}

// tooLarge reports whether a union holds so much that is not in the newest
// second that it should begin anew.
func tooLarge(all, r *attribution.Roster) bool {
	const slack = 64
	for _, c := range [][3]int{
		{len(all.Devices), len(r.Devices), MaxDevices},
		{len(all.Owners), len(r.Owners), MaxOwners},
		{len(all.Methods), len(r.Methods), MaxMethods},
		{len(all.Subjects), len(r.Subjects), MaxSubjects},
		{len(all.Measures), len(r.Measures), MaxMeasures},
	} {
		if c[0] > min(2*c[1]+slack, c[2]) {
			return true
		}
	}
	return false
}

// numbering says which number each entry of a roster has in another. Both are
// in canonical order, hence so is what is numbered by it.
type numbering struct {
	same                                         bool // each its own
	devices, owners, methods, subjects, measures []uint32
}

func (n *numbering) windows(ws []attribution.DeviceWindow) {
	for i := range ws {
		w := &ws[i]
		w.Device, w.Method = n.devices[w.Device], uint16(n.methods[w.Method])
		for j := range w.Slices {
			w.Slices[j].Owner = n.owners[w.Slices[j].Owner]
		}
	}
}

func (n *numbering) tallies(ts []attribution.Tally) []attribution.Tally {
	if n.same || len(ts) == 0 {
		return ts
	}
	out := make([]attribution.Tally, len(ts))
	for i, t := range ts {
		t.Subject, t.Measure = n.subjects[t.Subject], uint16(n.measures[t.Measure])
		out[i] = t
	}
	return out
}

// numbersIn numbers r's entries as in all; ok is false where one is missing.
func numbersIn(all, r *attribution.Roster) (n numbering, ok bool) {
	oks := [5]bool{}
	if n.owners, oks[0] = places(all.Owners, r.Owners, attribution.CompareOwners); !oks[0] {
		return n, false
	}
	n.devices, oks[1] = places(all.Devices, r.Devices, attribution.CompareDevices)
	n.methods, oks[2] = places(all.Methods, r.Methods, compareValues[string])
	n.subjects, oks[3] = places(all.Subjects, renamed(r.Subjects, n.owners), attribution.CompareSubjects)
	n.measures, oks[4] = places(all.Measures, r.Measures, compareValues[attribution.Measure])
	return n, oks == [5]bool{true, true, true, true, true}
}

// union is the canonical roster of all that is on two.
func union(a, b *attribution.Roster) *attribution.Roster {
	r := &attribution.Roster{
		Devices:  merge(a.Devices, b.Devices, attribution.CompareDevices),
		Owners:   merge(a.Owners, b.Owners, attribution.CompareOwners),
		Methods:  merge(a.Methods, b.Methods, compareValues[string]),
		Measures: merge(a.Measures, b.Measures, compareValues[attribution.Measure]),
	}
	inA, _ := places(r.Owners, a.Owners, attribution.CompareOwners)
	inB, _ := places(r.Owners, b.Owners, attribution.CompareOwners)
	r.Subjects = merge(renamed(a.Subjects, inA), renamed(b.Subjects, inB), attribution.CompareSubjects)
	return r
}

// renamed is subjects whose owners have other numbers.
func renamed(ss []attribution.Subject, owners []uint32) []attribution.Subject {
	out := make([]attribution.Subject, len(ss))
	for i, s := range ss {
		s.Owner = owners[s.Owner]
		out[i] = s
	}
	return out
}

func compareValues[T cmp.Ordered](a, b *T) int { return cmp.Compare(*a, *b) }

// places finds the entries of one ordered list in another.
func places[T any](in, of []T, compare func(a, b *T) int) (at []uint32, ok bool) {
	at = make([]uint32, 0, len(of))
	for i := range in {
		if len(at) < len(of) && compare(&in[i], &of[len(at)]) == 0 {
			at = append(at, uint32(i))
		}
	}
	return at, len(at) == len(of)
}

// merge is the ordered list of what is in either of two.
func merge[T any](a, b []T, compare func(a, b *T) int) []T {
	out := make([]T, 0, max(len(a), len(b)))
	for len(a) > 0 && len(b) > 0 {
		c := compare(&a[0], &b[0])
		if c <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out = append(out, b[0])
		}
		if c >= 0 {
			b = b[1:]
		}
	}
	return append(append(out, a...), b...)
}
