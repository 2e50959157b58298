package wire

import (
	"cmp"
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
)

// base is the windows of one earlier second, by device: what columns are told
// by. The empty base is none.
type base []attribution.DeviceWindow

// reference is what a window is told by.
type reference struct {
	second attribution.Second        // expected
	window *attribution.DeviceWindow // its numbers are expected
	slices []attribution.Slice       // of the device's previous window; none: nil
}

// nowhere stands for a window that was not there.
var nowhere attribution.DeviceWindow

// device is the device index that window i of a chunk is expected to have.
func (b base) device(c *attribution.Chunk, i int) uint32 {
	switch {
	case i < len(b):
		return b[i].Device
	case i > 0:
		return c.Windows[i-1].Device
	default:
		return 0
	}
}

// reference is that of window i of a chunk, whose device is known.
func (b base) reference(c *attribution.Chunk, i int) reference {
	device, before := c.Windows[i].Device, &nowhere
	if i > 0 {
		if before = &c.Windows[i-1]; before.Device == device {
			return reference{before.Second + 1, before, before.Slices}
		}
	}
	if w := b.find(device, i); w != nil {
		return reference{c.Key.Sequence, w, w.Slices}
	}
	return reference{c.Key.Sequence, before, nil}
}

// find is the window of a device, which is probably at i.
func (b base) find(device uint32, i int) *attribution.DeviceWindow {
	if i >= len(b) || b[i].Device != device {
		i, _ = slices.BinarySearchFunc(b, device, func(w attribution.DeviceWindow, d uint32) int { return cmp.Compare(w.Device, d) })
	}
	if i < len(b) && b[i].Device == device {
		return &b[i]
	}
	return nil
}

// sliceCount is how many slices window i would have if it had the pairs of the
// base's, which it probably does.
func (b base) sliceCount(i int) int {
	if i < len(b) {
		return len(b[i].Slices)
	}
	return 0
}
