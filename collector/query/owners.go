package query

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

// Owners gives the facts of owners by their keys in the dimension
// store.OwnerID, as this snapshot's answers have them. Those that the ledger
// does not know are not in the answer. They must not be changed.
func (s *Snapshot) Owners(ctx context.Context, ids []string) (map[string]*attribution.Owner, error) {
	wanted := make([]rollup.Fingerprint, len(ids))
	for i, id := range ids {
		var err error
		if wanted[i], err = fingerprint(id); err != nil {
			return nil, err
		}
	}
	known, err := s.owners(ctx, wanted)
	if err != nil {
		return nil, err
	}
	out := make(map[string]*attribution.Owner, len(ids))
	for i, f := range wanted {
		if o := known[f]; o != nil {
			out[ids[i]] = o
		}
	}
	return out, nil
}

// fingerprint reads a key of the dimension store.OwnerID.
func fingerprint(id string) (f rollup.Fingerprint, err error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != len(f) {
		return f, fmt.Errorf("%q is no owner's id", id)
	}
	copy(f[:], raw)
	return f, nil
}

// owners is Owners by fingerprint.
func (s *Snapshot) owners(ctx context.Context, wanted []rollup.Fingerprint) (map[rollup.Fingerprint]*attribution.Owner, error) {
	known, err := s.reader.Owners(ctx, wanted)
	if err != nil {
		return nil, err
	}
	unknown := make(map[rollup.Fingerprint]bool)
	for _, f := range wanted {
		if known[f] == nil {
			unknown[f] = true
		}
	}
	if len(unknown) == 0 {
		return known, nil
	}
	return known, s.openRosters(ctx, func(r *attribution.Roster) {
		for i := range r.Owners {
			if f := r.Owners[i].Fingerprint(); unknown[f] && known[f] == nil {
				own := r.Owners[i] // and not the whole roster
				known[f] = &own
			}
		}
	})
}
