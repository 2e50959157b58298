package duckdb

import (
	"context"
	"database/sql/driver"
	"fmt"
	"sync"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// mappings are the latest mappings by number, so that a view finds the one
// that its snapshot was made with.
type mappings struct {
	mu     sync.Mutex
	latest map[int64]store.Mapping
}

// mappingsKept is how many changes of the mapping a view may lie behind when
// it begins: it takes microseconds.
const mappingsKept = 8

func (m *mappings) put(n int64, f store.Mapping) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.latest == nil {
		m.latest = make(map[int64]store.Mapping)
	}
	m.latest[n] = f
	delete(m.latest, n-mappingsKept)
}

func (m *mappings) get(n int64) (store.Mapping, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.latest[n]
	if !ok && n != 0 {
		return nil, fmt.Errorf("%w: the mapping has changed too often while a view began", store.ErrUnavailable)
	}
	return f, nil
}

// SetMapping implements [store.Store].
func (s *Store) SetMapping(ctx context.Context, m store.Mapping) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.replaceMapping(ctx, m, s.state.mapping+1)
}

func (s *Store) replaceMapping(ctx context.Context, m store.Mapping, number int64) error {
	s.mapped.put(number, m)
	err := s.write(ctx, "map the owners", func() error {
		if _, err := s.db.writer.ExecContext(ctx, `DELETE FROM owner_map`); err != nil {
			return err
		}
		if m != nil {
			if err := s.mapOwners(ctx, m); err != nil {
				return err
			}
		}
		st := s.state
		st.mapping = number
		return st.write(ctx, s.db)
	}, func(now state) bool { return now.mapping == number })
	if err == nil {
		s.mapping = m
	}
	return err
}

// mapRow is a row of owner_map.
func mapRow(owner int32, m store.Mapped) []driver.Value {
	return []driver.Value{owner, m.Team, m.BudgetOwner, m.Environment, m.Model, m.Class, m.Tier, m.Run}
}

// mappedAtOnce is the number of owners held in memory while they are mapped.
const mappedAtOnce = 20_000

func (s *Store) mapOwners(ctx context.Context, m store.Mapping) error {
	for first := int32(0); first < s.dims.owners.next; first += mappedAtOnce {
		owners := make(map[int32]*attribution.Owner)
		if err := readOwners(ctx, s.db.writer, `id BETWEEN ? AND ?`, []any{first, first + mappedAtOnce - 1}, owners); err != nil {
			return err
		}
		err := appendTo(s.db, "", "owner_map", func(row appendRow) error {
			for id, o := range owners {
				if err := row(mapRow(id, m(o))...); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
