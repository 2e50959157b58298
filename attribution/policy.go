package attribution

import (
	"fmt"

	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// Policy decides how much of a segment of device time was used, and by whom.
// It is a pure function with a name that goes into every slice's method.
type Policy struct {
	Name string
	// used fills out with one device time (ns) per use. The times sum to at
	// most length.
	used usedFunc
	// methods has the method's name for each means of giving activity.
	methods [len(meansNames)]string
}

// usedFunc decides on a segment of so many ns, of a device with so many bytes
// of memory. sm has the uses' SM-active times, which sum to at most length.
type usedFunc func(length, capacity int64, uses []Use, sm, out []int64)

func newPolicy(name string, used usedFunc) Policy {
	p := Policy{Name: name, used: used}
	for i, m := range meansNames {
		p.methods[i] = name + m
	}
	return p
}

// The policies, by name.
//
//	sm        a use's share of the device's SM activity
//	memory    a use's share of the device's memory
//	dominant  the larger of the two
var (
	PolicySM       = newPolicy("sm", usedBySM)
	PolicyDominant = newPolicy("dominant", usedByDominant)
	PolicyMemory   = newPolicy("memory", usedByMemory)
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

func usedBySM(_, _ int64, _ []Use, sm, out []int64) { copy(out, sm) }

func usedByMemory(length, capacity int64, uses []Use, _, out []int64) {
	memoryTimes(length, capacity, uses, out)
	shrink(out, length)
}

func usedByDominant(length, capacity int64, uses []Use, sm, out []int64) {
	memoryTimes(length, capacity, uses, out)
	for i := range out {
		out[i] = max(out[i], sm[i])
	}
	shrink(out, length)
}

// memoryTimes turns each use's share of the device's memory into time. Without
// a known capacity no share can be told, and every time is 0.
func memoryTimes(length, capacity int64, uses []Use, out []int64) {
	for i, u := range uses {
		out[i] = 0
		if capacity > 0 {
			// Memory is byte-seconds over the segment: divided by the capacity
			// it is seconds of the whole memory.
			out[i] = min(length, apportion.MulDiv(u.Memory, WindowNanos, capacity))
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
