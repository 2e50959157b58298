// Package plan works out what a rerating changes, before anything is changed.
//
// Where the chunks of a time are kept, they are rated anew, second by second,
// and the plan is exact to the last unit: the ledger will be as if it had been
// rated so from the start. Where only sums are kept, the finest are rated:
//
//   - The price of a device's bucket is that of exactly its seconds (law 1):
//     which seconds of a node are stored is kept for ever, and a device that
//     has all of its node's has these. Of a device that has only some, which
//     ones is no longer known, and its price is to within one nano unit per
//     run of seconds.
//   - It is divided over the owners by device time, largest remainder first, as
//     seconds are; the sum of a second's rounding is not repeated, so that an
//     owner's part is to within two nano units a second.
//
// A change that would have to cut a bucket, by the edge of the range or of a
// price rule, is refused.
package plan

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// MaxTransfers is how many a plan may have, unless the planner says otherwise:
// each takes some 200 bytes of memory. While they are made the store takes
// nothing else, some ten seconds on two busy cores.
const MaxTransfers = 500_000

// ErrTooLarge says that a plan would have too many transfers.
var ErrTooLarge = errors.New("too much changes at once: rerate a shorter range, then the next")

// ErrNothing says that nothing is stored in the range.
var ErrNothing = errors.New("nothing is stored in this range")

// Planner makes plans. Any number of goroutines may use it.
type Planner struct {
	// Decode decodes a stored chunk, as it came.
	Decode func(*store.Chunk, *store.Roster) (*attribution.Chunk, error)
	// MaxTransfers; 0: the constant.
	MaxTransfers int
}

// Sum is device time with what it costs before and after, in nano units. The
// time whose cost is unknown is not in the cost.
type Sum struct {
	Time, UnpricedBefore, UnpricedAfter big.Int // ns
	Before, After                       big.Int
}

// PricedBefore reports whether any of the time had a price.
func (s *Sum) PricedBefore() bool { return s.Time.Cmp(&s.UnpricedBefore) > 0 }

// PricedAfter reports whether any of the time gets a price.
func (s *Sum) PricedAfter() bool { return s.Time.Cmp(&s.UnpricedAfter) > 0 }

// Add adds another sum.
func (s *Sum) Add(o *Sum) {
	for _, x := range [...][2]*big.Int{
		{&s.Time, &o.Time},
		{&s.UnpricedBefore, &o.UnpricedBefore},
		{&s.UnpricedAfter, &o.UnpricedAfter},
		{&s.Before, &o.Before},
		{&s.After, &o.After},
	} {
		x[0].Add(x[0], x[1])
	}
}

func (s *Sum) add(time int64, before, after money.Amount, pricedBefore, pricedAfter bool) {
	var x big.Int
	s.Time.Add(&s.Time, x.SetInt64(time))
	if pricedBefore {
		s.Before.Add(&s.Before, x.SetInt64(int64(before)))
	} else {
		s.UnpricedBefore.Add(&s.UnpricedBefore, x.SetInt64(time))
	}
	if pricedAfter {
		s.After.Add(&s.After, x.SetInt64(int64(after)))
	} else {
		s.UnpricedAfter.Add(&s.UnpricedAfter, x.SetInt64(time))
	}
}

// OwnerSum is the sum of one owner.
type OwnerSum struct {
	Owner *attribution.Owner
	Sum
}

// Plan is what an entry of the journal would do to a state of the ledger.
type Plan struct {
	Entry     rerating.Entry
	Transfers []rerating.Transfer
	Moved     int64   // sums that change
	MovedTime big.Int // ns of them
	// Owners have all stored time of the range, changed or not.
	Owners map[rollup.Fingerprint]*OwnerSum
	Total  Sum

	devices map[rollup.Fingerprint]*attribution.Device
	seen    seen
	coarse  coarse
}

// coarse counts what was rated from sums.
type coarse struct {
	rows, buckets int64 // of devices
	partial       int64 // buckets of which the device has not all of its node's seconds
	finest        rollup.Resolution
	coarsest      rollup.Resolution
}

// seen is what of the ledger's state a plan depends on: late chunks make it
// more seconds, retention moves what is kept.
type seen struct {
	seconds int64 // stored of all nodes in the range
	next    uint32
	kept    [4]attribution.Second
}

var resolutions = [4]rollup.Resolution{store.Seconds, rollup.Minute, rollup.Hour, rollup.Day}

// runs are the stored seconds of each node in a range, in order.
type runs map[nodeName][]run

type nodeName struct{ cluster, node string }

type run struct{ from, to attribution.Second }

// look reads what a plan depends on, and the runs.
func look(ctx context.Context, r store.Reader, from, to attribution.Second) (seen, runs, error) {
	var s seen
	for i, res := range resolutions {
		s.kept[i] = r.Kept(res)
	}
	j, err := r.Journal(ctx)
	if err != nil {
		return s, nil, err
	}
	s.next = j.Next()
	rs := make(runs)
	err = r.Ranges(ctx, func(x store.Range) error {
		f, t := max(x.From, from), min(x.To, to)
		if f < t {
			n := nodeName{x.Cluster, x.Node}
			rs[n] = append(rs[n], run{f, t})
			s.seconds += int64(t - f)
		}
		return nil
	})
	return s, rs, err
}

// Fresh reports whether a state of the ledger is the one that the plan is of,
// as far as that matters to it.
func (p *Plan) Fresh(ctx context.Context, r store.Reader) (bool, error) {
	now, _, err := look(ctx, r, p.Entry.From, p.Entry.To)
	return now == p.seen, err
}

// Rerating is the plan as the store takes it.
func (p *Plan) Rerating() *store.Rerating {
	out := &store.Rerating{Entry: p.Entry, Transfers: p.Transfers, Devices: p.devices, Seconds: p.seen.seconds, Owners: make(map[rollup.Fingerprint]*attribution.Owner, len(p.Owners))}
	for f, o := range p.Owners {
		out.Owners[f] = o.Owner
	}
	return out
}

// Rerate plans an entry that has a card; its number and its costs are filled
// in. Errors wrap rerating.ErrInvalid, ErrNothing, ErrTooLarge, store.ErrTooFine
// or are the reader's.
func (pl *Planner) Rerate(ctx context.Context, r store.Reader, e rerating.Entry) (*Plan, error) {
	p, before, err := begin(ctx, r, &e)
	if err != nil {
		return nil, err
	}
	after, err := before.With(e)
	if err != nil {
		return nil, err
	}
	if _, err := e.Marshal(); err != nil {
		return nil, err
	}
	w := &work{Plan: p, planner: pl, reader: r, before: before, after: after, rater: after.Rater(e.ID)}
	if w.seen, w.runs, err = look(ctx, r, e.From, e.To); err != nil {
		return nil, err
	}
	if w.seen.seconds == 0 {
		return nil, ErrNothing
	}
	parts, err := w.parts(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range parts {
		if x.res == store.Seconds {
			err = w.chunks(ctx, x)
		} else {
			err = w.rows(ctx, x)
		}
		if err != nil {
			return nil, err
		}
	}
	p.end()
	return p, nil
}

// Undo plans an entry that takes another back.
func (pl *Planner) Undo(ctx context.Context, r store.Reader, e rerating.Entry) (*Plan, error) {
	p, journal, err := begin(ctx, r, &e)
	if err != nil {
		return nil, err
	}
	if err := journal.CanUndo(e.Undoes); err != nil {
		return nil, err
	}
	undone, _ := journal.Entry(e.Undoes)
	p.Entry.From, p.Entry.To, p.Entry.Currency = undone.From, undone.To, undone.Currency
	if p.seen, _, err = look(ctx, r, undone.From, undone.To); err != nil {
		return nil, err
	}
	f := newFacts(p)
	err = r.Transfers(ctx, rollup.Day, rollup.Day.Start(undone.From), undone.To, func(x *store.TransferRow) error {
		if x.Entry != e.Undoes {
			return nil
		}
		f.owner(x.Owner).add(x.Sums.Time, money.Amount(x.CostAfter), money.Amount(x.Sums.Cost), x.To != 0, x.Revision != 0)
		p.Moved += x.Count
		p.MovedTime.Add(&p.MovedTime, big.NewInt(x.Sums.Time))
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.end()
	return p, nil
}

func begin(ctx context.Context, r store.Reader, e *rerating.Entry) (*Plan, *rerating.Journal, error) {
	journal, err := r.Journal(ctx)
	if err != nil {
		return nil, nil, err
	}
	e.ID = journal.Next()
	return &Plan{
		Entry: *e, Owners: make(map[rollup.Fingerprint]*OwnerSum), devices: make(map[rollup.Fingerprint]*attribution.Device),
	}, journal, nil
}

// end sums up.
func (p *Plan) end() {
	for _, o := range p.Owners {
		p.Total.Add(&o.Sum)
	}
	if len(p.Transfers) > 0 {
		p.Moved = int64(len(p.Transfers))
		for i := range p.Transfers {
			p.MovedTime.Add(&p.MovedTime, big.NewInt(p.Transfers[i].Sums.Time))
		}
	}
	if p.Total.PricedBefore() {
		p.Entry.CostBefore = money.Text(&p.Total.Before)
	}
	if p.Total.PricedAfter() {
		p.Entry.CostAfter = money.Text(&p.Total.After)
	}
}

// Note says what is not exact to the nano unit, and why; "" where all is.
func (p *Plan) Note() string {
	c := &p.coarse
	if c.rows == 0 {
		return ""
	}
	kept := names[c.finest]
	if c.coarsest != c.finest {
		kept += " or " + names[c.coarsest]
	}
	out := fmt.Sprintf("%d sums are of a time of which only whole %ss are kept: what a device costs in each is exact, "+
		"what an owner costs is to within 2 nano units a second.", c.rows, kept)
	if c.partial > 0 {
		out += fmt.Sprintf(" In %d of %d such sums of a device it was not there all the time that its node was: "+
			"which seconds it was there is no longer known, so its cost is to within a nano unit for each time it came.", c.partial, c.buckets)
	}
	return out
}

var names = map[rollup.Resolution]string{store.Seconds: "second", rollup.Minute: "minute", rollup.Hour: "hour", rollup.Day: "day"}
