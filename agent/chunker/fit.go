package chunker

import (
	"cmp"
	"slices"
	"sort"

	"github.com/gpuledger/gpuledger/attribution"
)

// fit packs a chunk however large it is. What travels is bounded (law 8), but
// no device time is lost to that (law 2): a chunk that is too large becomes
// chunks of its seconds, and of a second that is too large by itself goes, in
// this order and only as far as needed: its tallies, labels of its owners, its
// owners. All of it is counted and told of.
func (c *Chunker) fit(chunk *attribution.Chunk) []*closed {
	x, err := c.pack(chunk)
	if err == nil {
		return []*closed{x}
	}
	if chunk.Seconds > 1 {
		var out []*closed
		for s := chunk.Key.Sequence; s < chunk.End(); s++ {
			out = append(out, c.fit(secondOf(chunk, s))...)
		}
		return out
	}
	return c.reduce(chunk, err)
}

// reduce packs what can be kept of a second that can't be packed because of
// err.
func (c *Chunker) reduce(chunk *attribution.Chunk, err error) []*closed {
	at := []any{"node", c.o.Node, "second", int64(chunk.Key.Sequence), "err", err}
	if n := len(chunk.Tallies); n > 0 {
		c.stats.droppedTallies.Add(uint64(n))
		c.tell(lossTallies, "what was SERVED is not recorded; device time and cost are", at)
		chunk = rebuild(chunk, chunk.Roster.Facts(), chunk.Windows, nil)
		if x, err := c.pack(chunk); err == nil {
			return []*closed{x}
		}
	}
	if x, n := c.withoutLabels(chunk); x != nil {
		c.stats.unlabeledOwners.Add(uint64(n))
		c.tell(lossLabels, "owners are recorded WITHOUT LABELS; device time and cost as they are", at)
		return []*closed{x}
	}
	n := uint64(len(chunk.Windows))
	x, err := c.pack(withoutOwners(chunk))
	if err != nil {
		c.stats.lostWindows.Add(n)
		c.tell(lossWindows, "more devices than can be recorded: the second is LOST", at)
		return nil
	}
	c.stats.unownedWindows.Add(n)
	c.tell(lossOwners, "more owners than can be recorded: device time is UNATTRIBUTED", at)
	return []*closed{x}
}

// loss is a kind of what reduce gives up. Each is told of once.
type loss uint8

const (
	lossTallies loss = iota
	lossLabels
	lossOwners
	lossWindows
	losses // how many kinds there are
)

func (c *Chunker) tell(l loss, effect string, at []any) {
	if !c.told[l] {
		c.told[l] = true
		c.o.Logger.Error("chunker: a second is TOO LARGE to travel; said once, the metrics count", append(at, "effect", effect)...)
	}
}

// withoutLabels packs a second with the labels of as few owners as possible
// left out, the largest first, and says of how many; nil if that does not
// help.
func (c *Chunker) withoutLabels(chunk *attribution.Chunk) (*closed, int) {
	r := chunk.Roster
	var bySize []int // owners with labels
	for i := range r.Owners {
		if len(r.Owners[i].Labels) > 0 {
			bySize = append(bySize, i)
		}
	}
	slices.SortStableFunc(bySize, func(i, j int) int {
		return cmp.Compare(labelBytes(r.Owners[j].Labels), labelBytes(r.Owners[i].Labels))
	})
	var last *closed
	lastN := 0
	sort.Search(len(bySize), func(i int) bool {
		bare := *r
		bare.Owners = slices.Clone(r.Owners)
		for _, o := range bySize[:i+1] {
			bare.Owners[o].Labels = nil
		}
		x, err := c.pack(rebuild(chunk, bare.Facts(), chunk.Windows, chunk.Tallies))
		if err == nil {
			last, lastN = x, i+1 // each is of fewer than the one before
		}
		return err == nil
	})
	return last, lastN
}

func labelBytes(ls attribution.Labels) int {
	var b rosterBound
	b.labels(ls)
	return b.bytes
}

// withoutOwners is a second whose device time maps to no owner.
func withoutOwners(chunk *attribution.Chunk) *attribution.Chunk {
	bare := *chunk.Roster
	bare.Owners = []attribution.Owner{{
		Kind: attribution.UnknownProcess, Cluster: chunk.Key.Cluster, Node: chunk.Key.Node, Command: "(more owners than can be recorded)",
	}}
	bare.Devices = slices.Clone(bare.Devices)
	for i := range bare.Devices {
		bare.Devices[i].Labels = nil
	}
	ws := slices.Clone(chunk.Windows)
	for i := range ws {
		one := attribution.Slice{Basis: attribution.Unattributed}
		for _, s := range ws[i].Slices {
			one.Time += s.Time
			one.SMActive = min(one.SMActive+s.SMActive, attribution.WindowNanos)
			one.Memory = min(one.Memory+s.Memory, attribution.MaxPerSecond)
		}
		ws[i].Slices = []attribution.Slice{one}
	}
	return rebuild(chunk, bare.Facts(), ws, nil)
}

// secondOf is one second of a chunk as a chunk of its own.
func secondOf(chunk *attribution.Chunk, s attribution.Second) *attribution.Chunk {
	one := &attribution.Chunk{Key: chunk.Key, Seconds: 1, Roster: chunk.Roster}
	one.Key.Sequence = s
	for i := range chunk.Windows {
		if chunk.Windows[i].Second == s {
			one.Windows = append(one.Windows, chunk.Windows[i])
		}
	}
	for _, t := range chunk.Tallies {
		if t.Second == s {
			one.Tallies = append(one.Tallies, t)
		}
	}
	return rebuild(one, one.Roster.Facts(), one.Windows, one.Tallies)
}

// rebuild makes a chunk like another over other contents, which stay as they
// are.
func rebuild(like *attribution.Chunk, facts attribution.Facts, windows []attribution.DeviceWindow, tallies []attribution.Tally) *attribution.Chunk {
	ws := slices.Clone(windows)
	for i := range ws {
		ws[i].Slices = slices.Clone(ws[i].Slices)
	}
	return attribution.BuildChunk(like.Key, like.Seconds, facts, ws, slices.Clone(tallies))
}
