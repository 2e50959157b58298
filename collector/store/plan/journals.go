package plan

import (
	"fmt"
	"sync"
	"time"

	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Journals remembers the journal of reratings that was read last, so that states
// of the ledger that hold no more need not read it again. The zero value knows
// none. Any number of goroutines may use it.
type Journals struct {
	mu     sync.Mutex
	newest *rerating.Journal
}

// At is the journal of a state that holds n entries. read calls add with those
// from a number on, in order, and ends with its error. Entries that are missing or
// cannot be read are [store.ErrCorrupt].
func (j *Journals) At(n uint32, read func(from uint32, add func(applied time.Time, body []byte) error) error) (*rerating.Journal, error) {
	j.mu.Lock()
	have := j.newest
	j.mu.Unlock()
	if have.Next() > n+1 {
		have = nil // of a later state, or of what was not committed
	}
	if have.Next() <= n {
		if err := read(have.Next(), func(applied time.Time, body []byte) error {
			next, err := have.Append(applied, body)
			if err != nil {
				return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
			}
			have = next
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if have.Next() != n+1 {
		return nil, fmt.Errorf("%w: the journal of reratings has %d entries, and the last has number %d", store.ErrCorrupt, have.Next()-1, n)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.newest.Next() < have.Next() {
		j.newest = have
	}
	return have, nil
}
