package loadgen

import (
	"github.com/gpuledger/gpuledger/attribution"
)

// scratch is memory that seconds are made in. One goroutine uses it, and what
// was made in it until it makes the next.
type scratch struct {
	windows []attribution.DeviceWindow
	slices  []attribution.Slice
	tallies []attribution.Tally
}

func (x *scratch) reset() {
	x.windows, x.slices, x.tallies = x.windows[:0], x.slices[:0], x.tallies[:0]
}

// second is a node's second as a chunk of its own. Its costs are left out: they
// do not travel.
func (n *node) second(s attribution.Second, c *cast, x *scratch) *attribution.Chunk {
	x.reset()
	for i := range c.devices {
		n.window(i, s, c, x)
	}
	n.tally(s, c, x)
	return &attribution.Chunk{Key: n.key(s), Seconds: 1, Roster: c.roster, Windows: x.windows, Tallies: x.tallies}
}

// chunk is a node's chunk, and the cast of its last second; last is any cast.
func (n *node) chunk(from attribution.Second, seconds int, last *cast, x *scratch) (*attribution.Chunk, *cast) {
	first, end := n.castAt(from, last), from+attribution.Second(seconds)
	c := n.castAt(end-1, first)
	if c != first { // pods came and went in between
		var parts []*attribution.Chunk
		for s := from; s < end; s++ {
			first = n.castAt(s, first)
			parts = append(parts, n.second(s, first, &scratch{}))
		}
		return attribution.Join(n.key(from), seconds, parts), c
	}
	x.reset()
	for i := range c.devices {
		for s := from; s < end; s++ {
			n.window(i, s, c, x)
		}
	}
	for s := from; s < end; s++ {
		n.tally(s, c, x)
	}
	return &attribution.Chunk{Key: n.key(from), Seconds: seconds, Roster: c.roster, Windows: x.windows, Tallies: x.tallies}, c
}

func (n *node) key(s attribution.Second) attribution.ChunkKey {
	return attribution.ChunkKey{Cluster: n.fleet.Cluster, Node: n.name, Boot: n.boot, Sequence: s}
}

// window makes a device's second: each owner but the last used a part of it, in
// whole percents read at jittered times, and the last holds what is left.
func (n *node) window(i int, s attribution.Second, c *cast, x *scratch) {
	f := n.fleet
	device := uint64(c.devices[i])
	noise := f.hash(uint64(n.index), device, uint64(s))
	at := len(x.slices)
	left := attribution.WindowNanos
	using := max(1, f.Owners-1)
	limit := uint64(90 / using)
	cut := int64(noise % 40_000_000)
	idle := uint32(0)
	for _, p := range c.owners[i] {
		if p.slot >= using {
			idle = uint32(len(x.slices))
			x.slices = append(x.slices, attribution.Slice{Owner: p.owner, Basis: attribution.Reserved, Memory: 1 << 30})
			continue
		}
		r := f.hash(noise, uint64(p.slot))
		sm := (int64(r%max(1, limit))*(attribution.WindowNanos-cut) + int64(r>>32%max(1, limit))*cut) / 100
		left -= sm
		x.slices = append(x.slices, attribution.Slice{
			Owner: p.owner, Basis: attribution.Used, Time: sm, SMActive: sm, Memory: int64(8+(uint64(n.index)+device+uint64(p.slot))%12) << 30,
		})
	}
	if f.Owners == 1 {
		idle = uint32(len(x.slices))
		x.slices = append(x.slices, attribution.Slice{Owner: c.owners[i][0].owner, Basis: attribution.Reserved})
	}
	x.slices[idle].Time = left
	x.windows = append(x.windows, attribution.DeviceWindow{
		Device: uint32(i), Second: s, Price: c.price[i], Energy: int64(200+f.hash(uint64(n.index), device)%400+noise>>40%20) * 1_000_000,
		Slices: x.slices[at:len(x.slices):len(x.slices)],
	})
}

// tally makes what was served in a second.
func (n *node) tally(s attribution.Second, c *cast, x *scratch) {
	for i, d := range c.tells {
		requests := int64(n.fleet.hash(uint64(n.index), uint64(d), uint64(s), 0x7a11) % 20)
		for m, value := range []int64{requests, requests * 180} {
			x.tallies = append(x.tallies, attribution.Tally{Second: s, Subject: uint32(i), Measure: uint16(m), Value: value * int64(attribution.One)})
		}
	}
}
