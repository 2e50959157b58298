package attribution

import (
	"fmt"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// Policy decides how much of a segment of device time was used, and by whom.
// It is a pure function with a name that goes into every slice's method.
type Policy struct {
	Name string
	// used fills one device time (ns) per entry of g.Uses. The times sum to at
	// most g.Length.
	used func(g *Segment, sm []int64, out []int64)
}

// The policies, by name.
//
//	sm        a use's share of the device's SM activity
//	memory    a use's share of the device's memory
//	dominant  the larger of the two
var (
	PolicySM       = Policy{"sm", usedBySM}
	PolicyDominant = Policy{"dominant", usedByDominant}
	PolicyMemory   = Policy{"memory", usedByMemory}
)

// PolicyByName finds a policy; "" is the default, sm.
func PolicyByName(name string) (Policy, error) {
	switch name {
	case "", "sm":
		return PolicySM, nil
	case "dominant":
		return PolicyDominant, nil
	case "memory":
		return PolicyMemory, nil
	}
	return Policy{}, fmt.Errorf("unknown policy %q: want sm, dominant or memory", name)
}

func usedBySM(_ *Segment, sm, out []int64) { copy(out, sm) }

func usedByMemory(g *Segment, _ []int64, out []int64) {
	memoryTimes(g, out)
	shrink(out, g.Length)
}

func usedByDominant(g *Segment, sm, out []int64) {
	memoryTimes(g, out)
	for i := range out {
		out[i] = max(out[i], sm[i])
	}
	shrink(out, g.Length)
}

// memoryTimes turns each use's share of the device's memory into time. Without
// a known capacity no share can be told, and every time is 0.
func memoryTimes(g *Segment, out []int64) {
	for i, u := range g.Uses {
		out[i] = 0
		if g.MemoryBytes > 0 {
			// Memory is byte-seconds over the segment: divided by the capacity
			// it is seconds of the whole memory.
			out[i] = min(g.Length, mulDiv(u.Memory, WindowNanos, g.MemoryBytes))
		}
	}
}

// shrink scales the parts down so that they sum to at most limit.
func shrink(parts []int64, limit int64) {
	if sum(parts) > limit {
		apportion.ByWeight(limit, parts, parts)
	}
}

func sum(xs []int64) (s int64) {
	for _, x := range xs {
		s += x
	}
	return s
}
