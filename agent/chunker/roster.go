package chunker

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/proto/wire"
)

// roster is a roster with what is costly to work out from it.
type roster struct {
	facts    *attribution.Roster
	id       attribution.Fingerprint
	encoding []byte // of its message
}

// rosterCache remembers the last few rosters: most chunks of a node share one,
// and its seconds alternate between that and the same without tallies.
type rosterCache struct {
	recent [4]*roster // newest first
}

func (c *rosterCache) get(r *attribution.Roster) (*roster, error) {
	for i, x := range c.recent {
		if x != nil && equalRosters(x.facts, r) {
			copy(c.recent[1:i+1], c.recent[:i])
			c.recent[0] = x
			return x, nil
		}
	}
	m := wire.EncodeRoster(r)
	if _, err := wire.DecodeRoster(m); err != nil {
		return nil, err // as the collector would
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("roster: %w", err)
	}
	if len(b) > wire.MaxBody-headroom {
		if _, err := wire.DecodeRoster(wire.PackRoster(b)); err != nil {
			return nil, err
		}
	}
	x := &roster{facts: r, id: r.Fingerprint(), encoding: b}
	copy(c.recent[1:], c.recent[:len(c.recent)-1])
	c.recent[0] = x
	return x, nil
}

func equalRosters(a, b *attribution.Roster) bool {
	return len(a.Devices) == len(b.Devices) && len(a.Owners) == len(b.Owners) &&
		slices.Equal(a.Methods, b.Methods) && slices.Equal(a.Measures, b.Measures) && slices.Equal(a.Subjects, b.Subjects) &&
		equalAll(a.Devices, b.Devices, attribution.CompareDevices) &&
		equalAll(a.Owners, b.Owners, attribution.CompareOwners)
}

func equalAll[T any](a, b []T, compare func(x, y *T) int) bool {
	for i := range a {
		if compare(&a[i], &b[i]) != 0 {
			return false
		}
	}
	return true
}
