package attribution

import (
	"fmt"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// Holding is a claim on a device: the owner holds so many of its replicas.
type Holding struct {
	Owner    uint32
	Replicas int64 // ≥ 1
}

// Use is what one owner's processes did on a device within a segment.
type Use struct {
	Owner    uint32
	Kind     OwnerKind
	SMActive int64 // ns ≥ 0, as far as measured per process
	Memory   int64 // byte-seconds, 0 to MaxPerSecond
}

// Segment is a stretch of one device's time within a window, in which the
// holdings did not change and the agent was either looking or not.
type Segment struct {
	Length   int64 // ns
	Observed bool

	SMActive    int64 // ns of the device's SM activity, ≤ Length
	MemoryBytes int64 // the device's capacity, 0 where unknown
	// ProcessSM says that SM activity was measured per process. If not, the
	// uses' SMActive is meaningless and activity is split by other means.
	ProcessSM bool
	// SharedServer says that some of that is an MPS server's, which was split
	// over its clients: by their memory, else equally. The method tells.
	SharedServer bool

	// Holdings and Uses name each owner at most once, both in one canonical
	// order (CompareOwners), which decides ties.
	Holdings []Holding
	Uses     []Use
}

// Splitter cuts windows into slices. It holds scratch space, so one goroutine
// uses it at a time; the result depends on the arguments alone.
type Splitter struct {
	Policy Policy

	sm, used, weights, parts []int64
	uses                     []Use
}

// Split cuts one window into slices and appends them to dst, unordered but
// with each (owner, basis) once; cost and energy are left to [Rate]. The
// segments must follow one another and fill the window. It returns the method:
// the policy's name and the means by which activity was given to owners.
//
//   - Unobserved time goes to the holders by replicas, else to nobody.
//   - A single holder answers for all activity that no other process claims.
//   - Among several, each answers for its own processes, scaled down where
//     they exceed the device's activity; activity that no process accounts
//     for is unattributed, but for a few ns of rounding.
//   - Where activity per process can't be measured, several holders share it
//     by the memory of their processes, else by replicas.
//   - What is left idle is reserved by the holders, by replicas; without
//     holders it is unallocated.
func (s *Splitter) Split(segs []Segment, dst []Slice) ([]Slice, string) {
	base, means, total := len(dst), meansNone, int64(0)
	for i := range segs {
		g := &segs[i]
		if g.Length < 0 || g.SMActive < 0 || g.SMActive > g.Length {
			panic(fmt.Sprintf("BUG: split: segment of %d ns with %d ns active", g.Length, g.SMActive))
		}
		total += g.Length
		if !g.Observed {
			dst = s.share(dst, base, g.Length, g.Holdings, Unobserved, Unobserved)
			dst = addMemory(dst, base, g)
			continue
		}
		means = max(means, s.measure(g))
		dst = s.emit(g, dst, base)
	}
	if total != WindowNanos {
		panic(fmt.Sprintf("BUG: split: segments cover %d ns of a window", total))
	}
	return dst, s.Policy.methods[means]
}

// means says how activity was given to owners, in rising order of precedence
// when a window's segments differ.
type means uint8

const (
	meansNone     means = iota // there was nothing to give
	meansDevice                // a single holder has the device's counter
	meansMemory                // no process counters: by memory
	meansProcess               // by process counters
	meansMPS                   // by those of MPS servers, split over their clients
	meansReplicas              // no process counters, no memory: by replicas
)

// meansNames extend a policy's name to the method's.
var meansNames = [...]string{"", "/device", "/memory", "/process", "/mps", "/replicas"}

// measure fills s.uses with everyone who may have used the segment and s.sm
// with their SM-active time, summing to at most g.SMActive.
func (s *Splitter) measure(g *Segment) means {
	s.uses, s.sm = append(s.uses[:0], g.Uses...), s.sm[:0]
	known := int64(0)
	for i := range s.uses {
		u := &s.uses[i]
		if u.SMActive < 0 || u.Memory < 0 || u.Memory > MaxPerSecond {
			panic(fmt.Sprintf("BUG: split: a use with %d ns active, %d byte-seconds", u.SMActive, u.Memory))
		}
		x := int64(0)
		if g.ProcessSM {
			x = min(u.SMActive, g.Length) // a process is not active for longer than time passes
		}
		s.sm = append(s.sm, x)
		known += x
	}
	if known > g.SMActive {
		apportion.ByWeight(g.SMActive, s.sm, s.sm)
		known = g.SMActive
	}
	rest := g.SMActive - known
	switch {
	case len(g.Holdings) == 1:
		holder := s.use(g.Holdings[0].Owner) // may grow s.sm
		s.sm[holder] += rest
		if g.ProcessSM && len(s.uses) > 1 {
			return g.byProcess()
		}
		return meansDevice
	case g.ProcessSM:
		s.round(rest)
		return g.byProcess()
	case rest == 0:
		return meansNone
	}
	// Several holders or none, and only the device's own counter: the
	// processes' memory tells them apart, else their holdings do.
	s.weights = s.weights[:0]
	for _, u := range s.uses {
		s.weights = append(s.weights, u.Memory)
	}
	means := meansMemory
	if sum(s.weights) == 0 {
		if len(g.Holdings) == 0 {
			return meansNone // nobody to give it to: unattributed
		}
		means = meansReplicas
		for _, h := range g.Holdings {
			s.use(h.Owner)
		}
		s.weights = append(s.weights[:0], make([]int64, len(s.uses))...)
		for _, h := range g.Holdings {
			s.weights[s.use(h.Owner)] = h.Replicas
		}
	}
	s.parts = resize(s.parts, len(s.weights))
	apportion.ByWeight(rest, s.weights, s.parts)
	for i, p := range s.parts {
		s.sm[i] += p
	}
	return means
}

// rounding bounds what integer division leaves over for each counter of a
// segment, in ns: less than one at either end of each of the few intervals that
// meet in a window.
const rounding = 4

// round gives what is left of a device's activity for rounding's sake to the
// most active use. It is no stranger's: as unattributed it would make every
// window of a shared device one slice longer, and hide what is.
func (s *Splitter) round(rest int64) {
	if rest == 0 || rest > rounding*int64(len(s.sm)+1) {
		return
	}
	most := -1
	for i, x := range s.sm {
		if x > 0 && (most < 0 || x > s.sm[most]) {
			most = i
		}
	}
	if most >= 0 {
		s.sm[most] += rest
	}
}

// byProcess says whose counters a segment's process counters are.
func (g *Segment) byProcess() means {
	if g.SharedServer {
		return meansMPS
	}
	return meansProcess
}

// use is the index in s.uses of a holder, added with no activity if it has
// none there.
func (s *Splitter) use(owner uint32) int {
	for i := range s.uses {
		if s.uses[i].Owner == owner {
			return i
		}
	}
	s.uses = append(s.uses, Use{Owner: owner, Kind: Container})
	s.sm = append(s.sm, 0)
	return len(s.uses) - 1
}

func (s *Splitter) emit(g *Segment, dst []Slice, base int) []Slice {
	s.used = resize(s.used, len(s.uses))
	s.Policy.used(g.Length, g.MemoryBytes, s.uses, s.sm, s.used)

	idle := g.Length
	for i, u := range s.uses {
		basis := Used
		if u.Kind == UnknownProcess {
			basis = Unattributed
		}
		t := s.used[i]
		idle -= t
		if t == 0 && s.sm[i] == 0 {
			// Not active: its memory belongs to the time it reserved, if any.
			if u.Memory > 0 {
				if holds(g.Holdings, u.Owner) {
					basis = Reserved
				}
				dst = add(dst, base, u.Owner, basis, 0, 0, u.Memory)
			}
			continue
		}
		dst = add(dst, base, u.Owner, basis, t, s.sm[i], u.Memory)
	}
	// Activity that nobody accounts for: under a policy of time by SM it is
	// time too; under the others only the activity is on record.
	if lost := g.SMActive - sum(s.sm); lost > 0 {
		t := min(lost, idle)
		idle -= t
		dst = add(dst, base, 0, Unattributed, t, lost, 0)
	}
	return s.share(dst, base, idle, g.Holdings, Reserved, Unallocated)
}

// share splits time over the holders by replicas, else gives it to nobody.
func (s *Splitter) share(dst []Slice, base int, time int64, hs []Holding, held, free Basis) []Slice {
	switch {
	case time == 0:
		return dst
	case len(hs) == 0:
		return add(dst, base, 0, free, time, 0, 0)
	case len(hs) == 1:
		return add(dst, base, hs[0].Owner, held, time, 0, 0)
	}
	s.weights = s.weights[:0]
	for _, h := range hs {
		s.weights = append(s.weights, h.Replicas)
	}
	s.parts = resize(s.parts, len(hs))
	apportion.ByWeight(time, s.weights, s.parts)
	for i, h := range hs {
		if s.parts[i] > 0 {
			dst = add(dst, base, h.Owner, held, s.parts[i], 0, 0)
		}
	}
	return dst
}

// addMemory keeps memory known of unobserved time with the holder's slice.
func addMemory(dst []Slice, base int, g *Segment) []Slice {
	for _, u := range g.Uses {
		if u.Memory > 0 {
			dst = add(dst, base, u.Owner, Unobserved, 0, 0, u.Memory)
		}
	}
	return dst
}

func holds(hs []Holding, owner uint32) bool {
	for _, h := range hs {
		if h.Owner == owner {
			return true
		}
	}
	return false
}

// add merges into the slice of (owner, basis) behind base, or appends it.
func add(dst []Slice, base int, owner uint32, basis Basis, t, sm, mem int64) []Slice {
	for i := base; i < len(dst); i++ {
		if s := &dst[i]; s.Owner == owner && s.Basis == basis {
			s.Time += t
			s.SMActive += sm
			s.Memory += mem
			return dst
		}
	}
	return append(dst, Slice{Owner: owner, Basis: basis, Time: t, SMActive: sm, Memory: mem})
}

func resize(xs []int64, n int) []int64 {
	if cap(xs) < n {
		return make([]int64, n, 2*n)
	}
	return xs[:n]
}
