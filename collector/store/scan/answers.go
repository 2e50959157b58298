package scan

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Answers is an owner with what rules say of it and what it served: what keys
// of dimensions are read from, by stores that work them out themselves.
type Answers struct{ a ownerAnswers }

// NewAnswers keeps the owner, which must not change.
func NewAnswers(o *attribution.Owner, m store.Mapped, s store.Served) *Answers {
	return &Answers{ownerAnswers{owner: o, mapped: m, served: s}}
}

// Key is the key of the owner's slices in a dimension of owners.
func (a *Answers) Key(d store.Dimension) store.Key { return a.a.key(d) }

// TallyKey is the key of what the owner served to a subject, in any dimension.
func (a *Answers) TallyKey(d store.Dimension, s *attribution.Subject) store.Key {
	return a.a.tallyKey(d, s)
}
