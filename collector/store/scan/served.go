package scan

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Served collects what is known of owners' tallies, such as from chunks that
// are not stored yet on top of what a [store.Reader] says.
type Served map[rollup.Fingerprint]store.Served

// Chunk adds a chunk's tallies.
func (s Served) Chunk(c *attribution.Chunk) {
	const seen, serves = 1, 2
	known := make([]uint8, len(c.Roster.Subjects))
	for _, t := range c.Tallies {
		m, is := c.Roster.Measures[t.Measure], uint8(seen)
		if m.Serves() {
			is |= serves
		}
		if known[t.Subject]|is == known[t.Subject] {
			continue
		}
		known[t.Subject] |= is
		sub := &c.Roster.Subjects[t.Subject]
		f := c.Roster.Owners[sub.Owner].Fingerprint()
		s[f] = s[f].With(sub, m)
	}
}

// Of is what is known of an owner: the zero value where nothing is.
func (s Served) Of(f rollup.Fingerprint) store.Served { return s[f] }
