package meter

import (
	"github.com/gpuledger/gpuledger/attribution"
)

// KeepSeconds is how many sealed seconds pass at least between the last
// appearance of a number in a [Sealed] and its being given to another fact.
const KeepSeconds = 60

// entry is one interned fact. Its value never changes. Producers hold entries
// inside handles for as long as they like; an entry that the table has
// forgotten meanwhile is admitted again when a record brings it.
type entry[T any] struct {
	value T
	hash  uint64

	// The sealer's own, once the entry is in the table.
	live     bool // in the table
	numbered bool
	number   uint32
	seen     attribution.Second // last appearance in a Sealed, or its registration
	mark     uint64             // the last sweep that found it in use
	heir     *entry[T]          // an equal entry that took its place
}

// table interns facts by content and gives them numbers. byHash, size and
// refused are guarded by the meter's mutex; numbers, free and the numbering of
// entries are the sealer's own.
type table[T any] struct {
	equal   func(a, b *T) bool
	limit   int
	byHash  map[uint64][]*entry[T]
	size    int
	refused uint64

	numbers []*entry[T]
	free    []uint32
}

func newTable[T any](limit int, equal func(a, b *T) bool) *table[T] {
	return &table[T]{equal: equal, limit: limit, byHash: map[uint64][]*entry[T]{}}
}

func (t *table[T]) find(hash uint64, value *T) *entry[T] {
	for _, e := range t.byHash[hash] {
		if t.equal(&e.value, value) {
			return e
		}
	}
	return nil
}

// insert puts an entry that find did not find into the table, and reports
// whether there was room.
func (t *table[T]) insert(e *entry[T], now attribution.Second) bool {
	if t.size >= t.limit {
		t.refused++
		return false
	}
	t.byHash[e.hash] = append(t.byHash[e.hash], e)
	t.size++
	e.seen, e.live = now, true
	return true
}

// readmit finds the living entry for one that was forgotten, or revives it.
// It returns nil if the table is full.
func (t *table[T]) readmit(e *entry[T], now attribution.Second) *entry[T] {
	if other := t.find(e.hash, &e.value); other != nil {
		e.heir = other
		return other
	}
	e.heir = nil
	if !t.insert(e, now) {
		return nil
	}
	return e
}

// give numbers a living entry.
func (t *table[T]) give(e *entry[T]) {
	if e.numbered {
		return
	}
	e.numbered = true
	if n := len(t.free); n > 0 {
		e.number, t.free = t.free[n-1], t.free[:n-1]
		t.numbers[e.number] = e
		return
	}
	e.number = uint32(len(t.numbers))
	t.numbers = append(t.numbers, e)
}

// sweep forgets the entries that were not marked in this sweep and whose last
// appearance lies far enough back.
func (t *table[T]) sweep(mark uint64, now attribution.Second) {
	for hash, es := range t.byHash {
		kept := es[:0]
		for _, e := range es {
			if e.mark == mark || now-e.seen <= KeepSeconds {
				kept = append(kept, e)
				continue
			}
			t.size--
			e.live = false
			if e.numbered {
				e.numbered = false
				t.numbers[e.number] = nil
				t.free = append(t.free, e.number)
			}
		}
		if len(kept) == 0 {
			delete(t.byHash, hash)
			continue
		}
		clear(es[len(kept):])
		t.byHash[hash] = kept
	}
}
