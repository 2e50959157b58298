package duckdb

import "github.com/gpuledger/gpuledger/collector/rollup"

// idLimit bounds how many ids of one dimension are remembered: twice this.
const idLimit = 1 << 18

// ids remembers the ids of a dimension's rows that were lately used. What it
// does not know, the dimension's table may.
type ids[K comparable] struct {
	recent, older map[K]int32
	next          int32 // the next free id
}

func (d *ids[K]) get(k K) (int32, bool) {
	if id, ok := d.recent[k]; ok {
		return id, true
	}
	id, ok := d.older[k]
	if ok {
		d.put(k, id)
	}
	return id, ok
}

func (d *ids[K]) put(k K, id int32) {
	if d.recent == nil {
		d.recent = make(map[K]int32)
	}
	if len(d.recent) >= idLimit {
		d.older, d.recent = d.recent, make(map[K]int32, idLimit)
	}
	d.recent[k] = id
}

// fresh names something that the table does not have.
func (d *ids[K]) fresh(k K) int32 {
	id := d.next
	d.next++
	d.put(k, id)
	return id
}

// KnowsOwner implements [store.Knower].
func (s *Store) KnowsOwner(f rollup.Fingerprint) bool {
	return s.remembers(func(d *dimensions) bool { _, ok := d.owners.get(f); return ok })
}

// KnowsDevice implements [store.Knower].
func (s *Store) KnowsDevice(f rollup.Fingerprint) bool {
	return s.remembers(func(d *dimensions) bool { _, ok := d.devices.get(f); return ok })
}

// KnowsRoster implements [store.Knower].
func (s *Store) KnowsRoster(f rollup.Fingerprint) bool {
	return s.remembers(func(d *dimensions) bool { _, ok := d.rosters.get(f); return ok })
}

// remembers asks what the writer remembers, which is in the tables: owners and
// devices are never dropped, and of rosters nothing is remembered once any are. What
// it has forgotten by the next commit it looks up there.
func (s *Store) remembers(f func(*dimensions) bool) bool {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.dims != nil && f(s.dims)
}
