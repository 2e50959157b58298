package query

import (
	"cmp"
	"context"
	"errors"
	"math/big"
	"slices"
	"strconv"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// Line is the part of a cost that one line of the rate card makes.
type Line struct {
	Name string
	Cost big.Int // nano units
}

// UnknownLine is the line of a cost whose card or device is on record no more.
const UnknownLine = "(unknown)"

// maxCuts bounds how often prices may change within the range of a question.
const maxCuts = 1000

// lineRow is the lines of one row of the answer, before rows are added up.
type lineRow struct {
	time  attribution.Second
	keys  []store.Key
	lines []Line
}

// lines itemises the cost of the rows that answer q. Cost is stored as one
// number: each device's is divided in proportion to the lines of its price
// under the card that it was rated by, exactly, so that lines always sum to
// the cost. Overheads of a node are divided over the GPUs that it had at any
// time between two changes of prices.
func (e *Engine) lines(ctx context.Context, s *Snapshot, q *store.Query) ([]lineRow, error) {
	raters, err := e.raters(ctx, s, q)
	if err != nil {
		return nil, err
	}
	cuts, err := changes(raters, s.From, s.To)
	if err != nil {
		return nil, err
	}
	// Where a card changed in the middle of an hour of which only the sum is
	// kept, it counts from the beginning of that hour.
	for _, unit := range []int64{1, 60, 3600, 86400} {
		var out []lineRow
		if out, err = s.itemise(ctx, q, raters, cuts, unit); !errors.Is(err, store.ErrTooFine) {
			return out, err
		}
	}
	return nil, err
}

// raters are those of the revisions that the answer's cost was rated by.
func (e *Engine) raters(ctx context.Context, s *Snapshot, q *store.Query) (map[string]*rating.Rater, error) {
	rows, err := s.Query(ctx, &store.Query{From: q.From, To: q.To, GroupBy: []store.Dimension{store.Revision}, Filters: q.Filters})
	if err != nil {
		return nil, err
	}
	journal, err := s.reader.Journal(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]*rating.Rater{}
	for i := range rows {
		k := rows[i].Keys[0].Value
		if _, ok := out[k]; ok {
			continue
		}
		out[k] = nil
		n, err := strconv.ParseUint(k, 10, 32)
		if err != nil || n == 0 {
			continue // unpriced
		}
		card, err := e.card(ctx, journal, uint32(n))
		if err != nil {
			return nil, err
		}
		if card == nil {
			continue
		}
		if out[k], err = rating.NewRater(card); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// card is what prices of a revision are by, a rate card or an entry of the
// journal of reratings; nil where it is on record no more.
func (e *Engine) card(ctx context.Context, journal *rerating.Journal, revision uint32) (*rating.Card, error) {
	if id, ok := rerating.ID(revision); ok {
		return journal.Card(id), nil
	}
	card, err := e.cfg.Card(ctx, revision)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return card, err
}

// changes are the seconds within (from, to) at which any price may change.
func changes(raters map[string]*rating.Rater, from, to attribution.Second) ([]attribution.Second, error) {
	var cuts []attribution.Second
	for _, r := range raters {
		if r == nil {
			continue
		}
		for at := r.NextChange(from); at < to; at = r.NextChange(at) {
			cuts = append(cuts, at)
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	if len(cuts) > maxCuts {
		return nil, Invalid("prices change %d times within the range: lines are told for at most %d changes, so take a shorter range", len(cuts), maxCuts)
	}
	return cuts, nil
}

// byDevice are what cost is told apart by beside the question's own keys.
var byDevice = [...]store.Dimension{store.Cluster, store.Node, store.DeviceID, store.Revision}

// itemise cuts the range where prices change, to whole units, and itemises each
// part.
func (s *Snapshot) itemise(ctx context.Context, q *store.Query, raters map[string]*rating.Rater, cuts []attribution.Second, unit int64) ([]lineRow, error) {
	full := slices.Clone(q.GroupBy)
	var at [len(byDevice)]int
	for i, d := range byDevice {
		if at[i] = slices.Index(full, d); at[i] < 0 {
			at[i] = len(full)
			full = append(full, d)
		}
	}
	var out []lineRow
	begin, priced := q.From, q.From // the part's first second, and one with its prices
	for i := range len(cuts) + 1 {
		end := q.To
		if i < len(cuts) {
			end = floor(cuts[i], unit)
		}
		if end > begin {
			rows, err := s.Query(ctx, &store.Query{From: begin, To: end, Step: q.Step, GroupBy: full, Filters: q.Filters})
			if err != nil {
				return nil, err
			}
			items, err := s.prices(ctx, begin, end, priced, raters)
			if err != nil {
				return nil, err
			}
			for j := range rows {
				r := &rows[j]
				if r.Cost.Sign() == 0 {
					continue
				}
				k := priceKey{r.Keys[at[0]].Value, r.Keys[at[1]].Value, r.Keys[at[2]].Value, r.Keys[at[3]].Value}
				out = append(out, lineRow{q.Bucket(r.Time), r.Keys[:len(q.GroupBy)], divide(&r.Cost, items[k])})
			}
		}
		if i < len(cuts) {
			begin, priced = max(begin, end), cuts[i]
		}
	}
	return out, nil
}

type priceKey struct{ cluster, node, device, revision string }

// prices are the lines of all devices of [from, to) at a second, under each
// card.
func (s *Snapshot) prices(ctx context.Context, from, to, at attribution.Second, raters map[string]*rating.Rater) (map[priceKey][]rating.Line, error) {
	part := *s
	part.From, part.To = from, to
	seen := map[deviceKey]*Device{}
	if err := part.devices(ctx, nil, seen); err != nil {
		return nil, err
	}
	type nodeKey struct{ cluster, node string }
	nodes := map[nodeKey][]attribution.Device{}
	for k, d := range seen {
		if d.First < to && d.Last > from {
			n := nodeKey{k.cluster, k.node}
			nodes[n] = append(nodes[n], d.Device)
		}
	}
	out := map[priceKey][]rating.Line{}
	for n, devices := range nodes {
		slices.SortFunc(devices, func(a, b attribution.Device) int { return cmp.Compare(a.ID, b.ID) })
		for revision, r := range raters {
			if r == nil {
				continue
			}
			for i, ls := range r.Lines(devices, at) {
				out[priceKey{n.cluster, n.node, devices[i].ID, revision}] = ls
			}
		}
	}
	return out, nil
}

// divide splits a cost in proportion to the lines of a price.
func divide(cost *big.Int, price []rating.Line) []Line {
	weights := make([]*big.Int, len(price))
	some := false
	for i, l := range price {
		weights[i] = big.NewInt(int64(l.PerHour))
		some = some || l.PerHour > 0
	}
	if !some {
		unknown := Line{Name: UnknownLine}
		unknown.Cost.Set(cost)
		return []Line{unknown}
	}
	out := make([]Line, 0, len(price))
	for i, part := range apportion.Big(cost, weights) {
		l := Line{Name: price[i].Name}
		l.Cost.Set(part)
		out = append(out, l)
	}
	return out
}

// addLines adds to a row's lines, which stay in the order of their names.
func (r *Row) addLines(ls []Line) {
	for i := range ls {
		at, found := slices.BinarySearchFunc(r.Lines, ls[i].Name, func(l Line, name string) int { return cmp.Compare(l.Name, name) })
		if !found {
			r.Lines = slices.Insert(r.Lines, at, Line{Name: ls[i].Name})
		}
		r.Lines[at].Cost.Add(&r.Lines[at].Cost, &ls[i].Cost)
	}
}
