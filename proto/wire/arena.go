package wire

import "github.com/gpuledger/gpuledger/attribution"

// Arena is memory for chunks that nobody keeps: what is decoded into it is good
// until [Arena.Reset], and then overwritten. The zero value is ready; a nil one
// gives memory that may be kept. One goroutine at a time uses it.
type Arena struct {
	windows []attribution.DeviceWindow
	slices  []attribution.Slice
	tallies []attribution.Tally
}

// mostArena is how many slices an arena may hold to be used again: those of 50
// chunks of a node of 8 devices that 4 pods share.
const mostArena = 1 << 14

// Reset makes all of the memory free.
func (a *Arena) Reset() {
	if cap(a.windows)+cap(a.slices)+cap(a.tallies) > 2*mostArena {
		*a = Arena{}
	}
	a.windows, a.slices, a.tallies = a.windows[:0], a.slices[:0], a.tallies[:0]
}

// Windows are n of them, zero; nil for none.
func (a *Arena) Windows(n int) []attribution.DeviceWindow {
	if a == nil {
		return fresh[attribution.DeviceWindow](n)
	}
	return cut(&a.windows, n)
}

// Slices are n of them, likewise.
func (a *Arena) Slices(n int) []attribution.Slice {
	if a == nil {
		return fresh[attribution.Slice](n)
	}
	return cut(&a.slices, n)
}

// Tallies are n of them, likewise.
func (a *Arena) Tallies(n int) []attribution.Tally {
	if a == nil {
		return fresh[attribution.Tally](n)
	}
	return cut(&a.tallies, n)
}

func fresh[T any](n int) []T {
	if n == 0 {
		return nil
	}
	return make([]T, n)
}

// cut takes n from a block. Where it is too small a larger one takes its place;
// what was cut from it before stays as it is.
func cut[T any](block *[]T, n int) []T {
	if n == 0 {
		return nil
	}
	used := len(*block)
	if cap(*block)-used < n {
		*block, used = make([]T, 0, 2*(used+n)), 0
	}
	*block = (*block)[:used+n]
	out := (*block)[used : used+n : used+n]
	clear(out)
	return out
}
