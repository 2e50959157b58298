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
	seen := make([]bool, len(c.Roster.Subjects))
	for _, t := range c.Tallies {
		if seen[t.Subject] {
			continue
		}
		seen[t.Subject] = true
		sub := &c.Roster.Subjects[t.Subject]
		f := c.Roster.Owners[sub.Owner].Fingerprint()
		s[f] = s[f].With(sub.Model)
	}
}

// Of is what is known of an owner: the zero value where nothing is.
func (s Served) Of(f rollup.Fingerprint) store.Served { return s[f] }
