package scan

import (
	"math/big"
	"math/bits"
)

// wide is a sum of int64s that cannot overflow: 128 bits, two's complement.
type wide struct {
	hi int64
	lo uint64
}

func (w *wide) add(v int64) {
	lo, carry := bits.Add64(w.lo, uint64(v), 0)
	w.lo = lo
	w.hi += v>>63 + int64(carry)
}

// set stores the sum in z.
func (w *wide) set(z *big.Int) {
	z.SetInt64(w.hi)
	z.Lsh(z, 64)
	z.Add(z, new(big.Int).SetUint64(w.lo))
}
