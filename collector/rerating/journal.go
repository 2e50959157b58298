// Package rerating prices the past anew. Time is primary and money derived (law
// 6): chunks stay as they arrived, with the prices of their day; what they cost
// is what the journal of reratings says on top.
//
// # The journal
//
// An [Entry] gives a stretch of seconds another rate card, or undoes an entry
// before it. Nothing is ever taken out of the journal, so that it tells who
// changed what, when and why. Of the entries in force, those that were not
// undone, the newest that covers a second prices it, whatever arrives how late
// (law 5). Only an entry that no later one in force overlaps can be undone:
// undoing goes back the way it came.
//
// A price by an entry has a revision that no rate card has, [Revision] of the
// entry, so that rows tell what they were rated by.
//
// # Transfers
//
// Rows of sums are changed in double entry: a [Transfer] takes the sums of one
// series in one bucket and gives them, at another cost, to the same series
// under the new revision. Time is moved, never made. All transfers of entries
// in force are kept, and undoing is making them backwards.
package rerating

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

// MaxEntries bounds the journal: it is held in memory and told as a whole, and
// every chunk is held against it.
const MaxEntries = 4096

// MaxDocument bounds an entry as it is stored, in bytes: that is, its card.
const MaxDocument = 256 << 10

const marked = 1 << 31

// Revision is the revision of prices by an entry.
func Revision(id uint32) uint32 { return marked | id }

// ID is the entry that prices of a revision are by; ok is false where they are
// by the rate card's own revision, or where there are none.
func ID(revision uint32) (id uint32, ok bool) { return revision &^ marked, revision&marked != 0 }

// Entry is one entry of the journal. It does not change.
type Entry struct {
	ID       uint32             // its place in the journal, from 1
	From, To attribution.Second // it covers [From, To)
	Applied  time.Time
	Reason   string // as a person gave it, may be ""

	// Card has the prices. Its revision is that of the rate card that it was
	// taken from, 0 where it never was in force. nil in an entry that undoes.
	Card *rating.Card
	// Undoes is the entry that this one takes back; 0: none.
	Undoes uint32

	Currency string
	// What the stretch cost when it was applied, as far as it was stored, and
	// what it cost then; decimal text, "" where nothing was priced.
	CostBefore, CostAfter string
}

// ErrUndo says why an entry cannot be undone.
var ErrUndo = errors.New("this rerating cannot be undone")

// ErrInvalid is wrapped by what is wrong with a new entry.
var ErrInvalid = errors.New("bad rerating")

// Journal is the entries up to some moment. It does not change; any number of
// goroutines may use it. nil is the empty journal.
type Journal struct {
	entries []Entry
	undone  map[uint32]uint32 // by which entry
	rules   []rule            // in force, oldest first
}

// rule is an entry in force.
type rule struct {
	id       uint32
	from, to attribution.Second
	rater    *rating.Rater
}

// Next is the number of the next entry.
func (j *Journal) Next() uint32 {
	if j == nil {
		return 1
	}
	return uint32(len(j.entries)) + 1
}

// Entries are all entries in order. They must not be changed.
func (j *Journal) Entries() []Entry {
	if j == nil {
		return nil
	}
	return j.entries
}

// Entry is an entry by its number.
func (j *Journal) Entry(id uint32) (*Entry, bool) {
	if id == 0 || id >= j.Next() {
		return nil, false
	}
	return &j.entries[id-1], true
}

// UndoneBy is the entry that took one back; 0: it is in force, or itself undoes.
func (j *Journal) UndoneBy(id uint32) uint32 {
	if j == nil {
		return 0
	}
	return j.undone[id]
}

// With is the journal with one more entry, whose ID must be Next and whose card
// valid. Errors wrap ErrInvalid or ErrUndo.
func (j *Journal) With(e Entry) (*Journal, error) {
	switch {
	case e.ID != j.Next():
		return nil, fmt.Errorf("%w: it has number %d and follows %d", ErrInvalid, e.ID, j.Next()-1)
	case e.ID > MaxEntries:
		return nil, fmt.Errorf("%w: there are %d in the journal, as many as there may be", ErrInvalid, MaxEntries)
	case e.From < 0 || e.To <= e.From || e.To > attribution.MaxSecond:
		return nil, fmt.Errorf("%w: it covers %d to %d: want Unix seconds, the first before the last", ErrInvalid, e.From, e.To)
	case (e.Card == nil) == (e.Undoes == 0):
		return nil, fmt.Errorf("%w: it wants either a rate card or an entry to undo", ErrInvalid)
	}
	next := &Journal{undone: make(map[uint32]uint32)}
	if j != nil {
		next.entries, next.rules = j.entries, j.rules
		maps.Copy(next.undone, j.undone)
	}
	next.entries = append(slices.Clip(next.entries), e)
	if e.Undoes != 0 {
		if err := j.CanUndo(e.Undoes); err != nil {
			return nil, err
		}
		next.undone[e.Undoes] = e.ID
		next.rules = slices.DeleteFunc(slices.Clone(next.rules), func(r rule) bool { return r.id == e.Undoes })
		return next, nil
	}
	card := *e.Card
	card.Revision = Revision(e.ID)
	rater, err := rating.NewRater(&card)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	next.rules = append(slices.Clip(next.rules), rule{e.ID, e.From, e.To, rater})
	return next, nil
}

// CanUndo says why an entry cannot be undone: it does not exist, is no more in
// force, or later ones lie over it. The error wraps ErrUndo.
func (j *Journal) CanUndo(id uint32) error {
	e, ok := j.Entry(id)
	switch {
	case !ok:
		return fmt.Errorf("%w: there is no rerating %d", ErrUndo, id)
	case e.Undoes != 0:
		return fmt.Errorf("%w: %d undid %d: make that one again with gpuledger rerate", ErrUndo, id, e.Undoes)
	case j.undone[id] != 0:
		return fmt.Errorf("%w: %d was undone by %d already", ErrUndo, id, j.undone[id])
	}
	for i := len(j.rules) - 1; i >= 0 && j.rules[i].id > id; i-- {
		if r := &j.rules[i]; r.from < e.To && r.to > e.From {
			return fmt.Errorf("%w: %d lies over %d and has to be undone first", ErrUndo, r.id, id)
		}
	}
	return nil
}

// Card is the card that prices of an entry are by, under their revision; nil
// where there is no such entry.
func (j *Journal) Card(id uint32) *rating.Card {
	e, ok := j.Entry(id)
	if !ok || e.Card == nil {
		return nil
	}
	c := *e.Card
	c.Revision = Revision(id)
	return &c
}

// Rater prices by an entry that is in force; nil where it is not.
func (j *Journal) Rater(id uint32) *rating.Rater {
	if j == nil {
		return nil
	}
	for i := range j.rules {
		if j.rules[i].id == id {
			return j.rules[i].rater
		}
	}
	return nil
}
