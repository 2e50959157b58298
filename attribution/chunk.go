package attribution

import (
	"cmp"
	"slices"
)

// Facts resolves the indexes in windows and tallies that have not yet been
// given a roster, such as a meter's own numbering.
type Facts interface {
	Device(i uint32) *Device
	Owner(i uint32) *Owner // 0 is nobody
	Method(i uint16) string
	Subject(i uint32) *Subject // whose Owner is in the same numbering
	Measure(i uint16) Measure
}

// Facts resolves a roster's own numbering.
func (r *Roster) Facts() Facts { return rosterFacts{r} }

type rosterFacts struct{ *Roster }

func (r rosterFacts) Device(i uint32) *Device   { return &r.Devices[i] }
func (r rosterFacts) Owner(i uint32) *Owner     { return &r.Owners[i] }
func (r rosterFacts) Method(i uint16) string    { return r.Methods[i] }
func (r rosterFacts) Subject(i uint32) *Subject { return &r.Subjects[i] }
func (r rosterFacts) Measure(i uint16) Measure  { return r.Measures[i] }

// BuildChunk closes a chunk over its windows and tallies: it makes their
// canonical roster, renumbers and orders everything by it, and rates each
// window. The result depends on the facts, times and prices alone, not on the
// numbering they came in (law 4). windows, tallies and their slices are taken
// over and changed.
func BuildChunk(key ChunkKey, seconds int, facts Facts, windows []DeviceWindow, tallies []Tally) *Chunk {
	b := rosterBuilder{facts: facts, roster: &Roster{}}
	for i := range windows {
		w := &windows[i]
		b.devices.note(w.Device)
		b.methods.note(uint32(w.Method))
		for j := range w.Slices {
			b.owners.note(w.Slices[j].Owner)
		}
	}
	for i := range tallies {
		t := &tallies[i]
		b.subjects.note(t.Subject)
		b.measures.note(uint32(t.Measure))
		b.owners.note(facts.Subject(t.Subject).Owner)
	}
	b.build()
	for i := range windows {
		w := &windows[i]
		w.Device, w.Method = b.devices.new(w.Device), uint16(b.methods.new(uint32(w.Method)))
		for j := range w.Slices {
			w.Slices[j].Owner = b.owners.new(w.Slices[j].Owner)
		}
		w.Slices = foldSlices(w.Slices)
		Rate(w)
	}
	windows = sortWindows(windows, len(b.roster.Devices))
	for i := range tallies {
		t := &tallies[i]
		t.Subject, t.Measure = b.subjects.new(t.Subject), uint16(b.measures.new(uint32(t.Measure)))
	}
	return &Chunk{Key: key, Seconds: seconds, Roster: b.roster, Windows: windows, Tallies: foldTallies(tallies)}
}

// sortWindows orders windows by (device, second). They are mostly sealed second
// by second, so dealing them out by device, in order, is all there is to do.
func sortWindows(windows []DeviceWindow, devices int) []DeviceWindow {
	if slices.IsSortedFunc(windows, compareWindows) {
		return windows
	}
	at := make([]int, devices+1) // where each device's windows begin
	for i := range windows {
		at[windows[i].Device+1]++
	}
	for d := range devices {
		at[d+1] += at[d]
	}
	out := make([]DeviceWindow, len(windows))
	for i := range windows {
		d := windows[i].Device
		out[at[d]] = windows[i]
		at[d]++
	}
	if !slices.IsSortedFunc(out, compareWindows) {
		slices.SortFunc(out, compareWindows)
	}
	return out
}

func compareWindows(a, b DeviceWindow) int {
	if c := cmp.Compare(a.Device, b.Device); c != 0 {
		return c
	}
	return cmp.Compare(a.Second, b.Second)
}

// Join makes one chunk of chunks that hold disjoint parts of its seconds, such
// as the seconds that were sent as they were sealed. It is the chunk that
// BuildChunk makes of all their windows and tallies (law 4). parts stay as
// they are; the chunk shares no windows or slices with them.
func Join(key ChunkKey, seconds int, parts []*Chunk) *Chunk {
	var all Roster
	var windows []DeviceWindow
	var tallies []Tally
	nw, ns, nt := 0, 0, 0
	for _, p := range parts {
		nw, nt = nw+len(p.Windows), nt+len(p.Tallies)
		for i := range p.Windows {
			ns += len(p.Windows[i].Slices)
		}
	}
	if nw > 0 {
		windows = make([]DeviceWindow, 0, nw)
	}
	if nt > 0 {
		tallies = make([]Tally, 0, nt)
	}
	arena := make([]Slice, 0, ns)
	var last *Roster
	var devices, owners, subjects uint32 // where the numbering of last begins in all
	var methods, measures uint16
	for _, p := range parts {
		if r := p.Roster; r != last {
			last = r
			devices, owners, subjects = uint32(len(all.Devices)), uint32(len(all.Owners)), uint32(len(all.Subjects))
			methods, measures = uint16(len(all.Methods)), uint16(len(all.Measures))
			all.append(r)
		}
		for _, w := range p.Windows {
			at := len(arena)
			for _, s := range w.Slices {
				s.Owner += owners
				arena = append(arena, s)
			}
			w.Device, w.Method, w.Slices = w.Device+devices, w.Method+methods, arena[at:len(arena):len(arena)]
			windows = append(windows, w)
		}
		for _, t := range p.Tallies {
			t.Subject, t.Measure = t.Subject+subjects, t.Measure+measures
			tallies = append(tallies, t)
		}
	}
	return BuildChunk(key, seconds, all.Facts(), windows, tallies)
}

// append adds another roster's entries behind r's own, whose order it so
// loses.
func (r *Roster) append(o *Roster) {
	owners := uint32(len(r.Owners))
	r.Devices = append(r.Devices, o.Devices...)
	r.Owners = append(r.Owners, o.Owners...)
	r.Methods = append(r.Methods, o.Methods...)
	r.Measures = append(r.Measures, o.Measures...)
	for _, s := range o.Subjects {
		s.Owner += owners
		r.Subjects = append(r.Subjects, s)
	}
}

// foldSlices puts a window's slices in their canonical order, (owner, basis),
// and merges those of owners that turned out to be the same.
func foldSlices(ss []Slice) []Slice {
	sortSlices(ss)
	out := ss[:0]
	for _, s := range ss {
		if n := len(out); n > 0 && out[n-1].Owner == s.Owner && out[n-1].Basis == s.Basis {
			out[n-1].Time += s.Time
			out[n-1].SMActive += s.SMActive
			out[n-1].Memory += s.Memory
			continue
		}
		out = append(out, s)
	}
	return out
}

func sortSlices(ss []Slice) {
	if len(ss) > 64 {
		slices.SortFunc(ss, func(a, b Slice) int { return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Basis, b.Basis)) })
		return
	}
	// Windows have a handful of slices, mostly in order: insertion sort.
	for i := 1; i < len(ss); i++ {
		for j := i; j > 0 && lessSlice(&ss[j], &ss[j-1]); j-- {
			ss[j], ss[j-1] = ss[j-1], ss[j]
		}
	}
}

func lessSlice(a, b *Slice) bool {
	if a.Owner != b.Owner {
		return a.Owner < b.Owner
	}
	return a.Basis < b.Basis
}

// foldTallies orders tallies and adds up those of one (second, subject,
// measure).
func foldTallies(ts []Tally) []Tally {
	slices.SortFunc(ts, CompareTallies)
	out := ts[:0]
	for _, t := range ts {
		if n := len(out); n > 0 && CompareTallies(out[n-1], t) == 0 {
			out[n-1].Value += t.Value
			continue
		}
		out = append(out, t)
	}
	return out
}

// CompareTallies orders tallies by (second, subject, measure).
func CompareTallies(a, b Tally) int {
	if c := cmp.Compare(a.Second, b.Second); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Subject, b.Subject); c != 0 {
		return c
	}
	return cmp.Compare(a.Measure, b.Measure)
}

// rosterBuilder numbers the facts that occur, each distinct fact once.
type rosterBuilder struct {
	facts                                        Facts
	roster                                       *Roster
	devices, owners, methods, subjects, measures renumbering
}

// renumbering maps old indexes, which are small and dense, to new ones.
type renumbering struct {
	to  []int32 // −1: not seen; else the new index, or 0 while collecting
	old []uint32
}

func (r *renumbering) note(i uint32) {
	for int(i) >= len(r.to) {
		r.to = append(r.to, -1)
	}
	if r.to[i] < 0 {
		r.to[i] = 0
		r.old = append(r.old, i)
	}
}

func (r *renumbering) new(i uint32) uint32 { return uint32(r.to[i]) }

// settle sorts the noted indexes by compare and numbers them, equal ones
// alike; keep is called once per new number.
func (r *renumbering) settle(compare func(a, b uint32) int, keep func(old uint32)) {
	slices.SortFunc(r.old, compare)
	n := int32(-1)
	for i, o := range r.old {
		if i == 0 || compare(r.old[i-1], o) != 0 {
			n++
			keep(o)
		}
		r.to[o] = n
	}
}

func (b *rosterBuilder) build() {
	f, r := b.facts, b.roster
	b.devices.settle(
		func(x, y uint32) int { return CompareDevices(f.Device(x), f.Device(y)) },
		func(o uint32) { r.Devices = append(r.Devices, *f.Device(o)) })
	b.owners.settle(
		func(x, y uint32) int { return CompareOwners(f.Owner(x), f.Owner(y)) },
		func(o uint32) { r.Owners = append(r.Owners, *f.Owner(o)) })
	b.methods.settle(
		func(x, y uint32) int { return cmp.Compare(f.Method(uint16(x)), f.Method(uint16(y))) },
		func(o uint32) { r.Methods = append(r.Methods, f.Method(uint16(o))) })
	b.measures.settle(
		func(x, y uint32) int { return cmp.Compare(f.Measure(uint16(x)), f.Measure(uint16(y))) },
		func(o uint32) { r.Measures = append(r.Measures, f.Measure(uint16(o))) })
	renamed := func(x uint32) Subject {
		s := *f.Subject(x)
		s.Owner = b.owners.new(s.Owner)
		return s
	}
	b.subjects.settle(
		func(x, y uint32) int { sx, sy := renamed(x), renamed(y); return CompareSubjects(&sx, &sy) },
		func(o uint32) { r.Subjects = append(r.Subjects, renamed(o)) })
}
