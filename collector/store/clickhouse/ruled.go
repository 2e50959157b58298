package clickhouse

import (
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
)

// ruled is mapping rules and what they said of owners: a month has a hundred
// thousand, and matching rules takes longer than summing what they own. Other
// rules begin with nothing said.
type ruled struct {
	rules store.Mapping // nil: none

	mu   sync.Mutex
	said map[rollup.Fingerprint]*scan.Answers
}

// of asks the rules of one owner.
func (r *ruled) of(o *attribution.Owner) (m store.Mapped) {
	if r.rules != nil {
		m = r.rules(o)
	}
	return m
}

// answers puts what is said of owners, whatever they served, into out.
func (r *ruled) answers(owners map[rollup.Fingerprint]*attribution.Owner, out map[rollup.Fingerprint]*scan.Answers) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said == nil || len(r.said) > knownAtMost {
		r.said = make(map[rollup.Fingerprint]*scan.Answers)
	}
	for f, o := range owners {
		a := r.said[f]
		if a == nil {
			a = scan.NewAnswers(o, r.of(o), store.Served{})
			r.said[f] = a
		}
		out[f] = a
	}
}
