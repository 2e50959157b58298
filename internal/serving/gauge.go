package serving

import (
	"math"
	"math/bits"

	"github.com/gpuledger/gpuledger/attribution"
)

// Integrate turns the gauges of a reading into gauges times seconds over the
// nanoseconds that they held, with [attribution.Observed] beside them, once,
// on the subject that all gauges share, else on none. Gauges hold from their
// reading to the next; the caller bounds how long at most. Without gauges, or
// time, there is nothing.
func Integrate(gauges []Value, nanos int64) []Value {
	if len(gauges) == 0 || nanos <= 0 {
		return nil
	}
	out := make([]Value, 0, len(gauges)+1)
	shared := gauges[0].Subject
	for _, g := range gauges {
		if g.Subject != shared {
			shared = Subject{}
		}
		g.Value = overSeconds(g.Value, nanos)
		out = append(out, g)
	}
	return append(out, Value{
		Subject: shared, Measure: attribution.Observed, Value: overSeconds(int64(attribution.One), nanos),
	})
}

// overSeconds is ⌊v × nanos / 10⁹⌋, at most what 64 bits hold.
func overSeconds(v, nanos int64) int64 {
	if v <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(v), uint64(nanos))
	if hi >= 1e9 {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, 1e9)
	return int64(min(q, math.MaxInt64))
}
