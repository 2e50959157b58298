package push

import (
	"hash/maphash"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// Bounds of the models, tenants and tiers that a group of pushers may name:
// each of them is a row of the ledger in every minute that it is named in.
const (
	maxSubjects    = 1024
	maxGroups      = 512
	forgetSubjects = 3600 // seconds of silence
)

// subjects are those that groups have named lately, by a hash. A restart
// forgets them.
type subjects struct {
	seed maphash.Seed
	of   map[string]map[uint64]attribution.Second // when they were named last
}

func newSubjects() subjects {
	return subjects{maphash.MakeSeed(), map[string]map[uint64]attribution.Second{}}
}

// admit reports whether a group may name a subject.
func (s *subjects) admit(group string, x serving.Subject, now attribution.Second) bool {
	named := s.of[group]
	if named == nil {
		if len(s.of) >= maxGroups {
			s.forget(now)
		}
		if len(s.of) >= maxGroups {
			return false
		}
		named = map[uint64]attribution.Second{}
		s.of[group] = named
	}
	key := maphash.Comparable(s.seed, x)
	if _, known := named[key]; !known && len(named) >= maxSubjects {
		forgetSilent(named, now)
		if len(named) >= maxSubjects {
			return false
		}
	}
	named[key] = now
	return true
}

// forget drops groups that have been silent.
func (s *subjects) forget(now attribution.Second) {
	for group, named := range s.of {
		if forgetSilent(named, now); len(named) == 0 {
			delete(s.of, group)
		}
	}
}

func forgetSilent(named map[uint64]attribution.Second, now attribution.Second) {
	for key, at := range named {
		if at < now-forgetSubjects {
			delete(named, key)
		}
	}
}
