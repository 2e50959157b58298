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
		raw, err := hex.DecodeString(id)
		if err != nil || len(raw) != len(wanted[i]) {
			return nil, fmt.Errorf("%q is no owner's id", id)
		}
		copy(wanted[i][:], raw)
	}
	stored, err := s.reader.Owners(ctx, wanted)
	if err != nil {
		return nil, err
	}
	open := map[rollup.Fingerprint]*attribution.Owner{}
	seen := map[*attribution.Roster]bool{}
	for _, c := range s.open {
		if seen[c.Roster] {
			continue
		}
		seen[c.Roster] = true
		for i := range c.Roster.Owners {
			o := &c.Roster.Owners[i]
			open[o.Fingerprint()] = o
		}
	}
	out := make(map[string]*attribution.Owner, len(ids))
	for i, f := range wanted {
		if o := stored[f]; o != nil {
			out[ids[i]] = o
		} else if o := open[f]; o != nil {
			out[ids[i]] = o
		}
	}
	return out, nil
}
