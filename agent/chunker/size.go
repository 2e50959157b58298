package chunker

import (
	"math/bits"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// maxWeight is what the seconds of a chunk of more than one may weigh: its body
// is then sure to travel, whatever is in it. 8 devices shared by 64 owners
// each, all of them active for ten seconds, weigh 100 kB.
const maxWeight = wire.MaxBody - headroom

// headroom is more than what compression adds to what it can't compress, and
// what columns have besides their entries.
const headroom = 4 << 10

// The most bytes that an entry takes in all its columns, where it is one that
// [attribution.Chunk.Check] passes and a roster holds no more than wire takes.
const (
	windowWeight = 32
	sliceWeight  = 20
	tallyWeight  = 5 // and what its value takes
)

// weigh is an upper bound of the bytes that a second takes in a body. It
// depends on nothing but the facts, so a chunk is cut at the same place
// whoever numbers them, in every life of the agent (law 4).
func weigh(windows []attribution.DeviceWindow, tallies []attribution.Tally) int {
	n := 8 + windowWeight*len(windows)
	for i := range windows {
		n += sliceWeight * len(windows[i].Slices)
	}
	for i := range tallies {
		n += tallyWeight + (bits.Len64(uint64(tallies[i].Value)|1)+6)/7
	}
	return n
}

// rosterWithin reports whether a second's roster is sure to be one that wire
// takes: quickly, so that it may be false of one that is.
func rosterWithin(windows []attribution.DeviceWindow, tallies []attribution.Tally, facts attribution.Facts) bool {
	var b rosterBound
	slices := 0
	for i := range windows {
		d := facts.Device(windows[i].Device)
		b.texts(d.ID, d.Cluster, d.Node, d.Model, d.CapacityType, d.Parent, d.Profile, facts.Method(windows[i].Method))
		b.labels(d.Labels)
		slices += len(windows[i].Slices)
		for j, x := range windows[i].Slices {
			if j == 0 || x.Owner != windows[i].Slices[j-1].Owner { // mostly one has them all
				b.owner(facts.Owner(x.Owner))
			}
		}
	}
	for i := range tallies {
		s := facts.Subject(tallies[i].Subject)
		b.texts(s.Model, s.Tenant, s.Tier, string(facts.Measure(tallies[i].Measure)))
		b.owner(facts.Owner(s.Owner))
	}
	return !b.long && b.bytes <= wire.MaxBody-headroom && len(windows) <= wire.MaxMethods && len(tallies) <= wire.MaxMeasures &&
		slices+len(tallies) <= wire.MaxOwners
}

// rosterBound is an upper bound of a roster's encoding.
type rosterBound struct {
	bytes int
	long  bool // something is over a limit of its own
}

// entryBytes is more than what a device, owner or subject takes besides its
// texts.
const entryBytes = 128

func (b *rosterBound) owner(o *attribution.Owner) {
	b.texts(o.Cluster, o.Node, o.Namespace, o.Pod, o.PodUID, o.Container, o.ControllerKind, o.Controller, o.Command)
	b.labels(o.Labels)
}

func (b *rosterBound) texts(texts ...string) {
	b.bytes += entryBytes
	for _, s := range texts {
		b.bytes += len(s)
		b.long = b.long || len(s) > wire.MaxText
	}
}

func (b *rosterBound) labels(ls attribution.Labels) {
	b.long = b.long || len(ls) > wire.MaxLabels
	for i := range ls {
		b.bytes += 16 + len(ls[i].Key) + len(ls[i].Value)
		b.long = b.long || len(ls[i].Key) > wire.MaxText || len(ls[i].Value) > wire.MaxText
	}
}
