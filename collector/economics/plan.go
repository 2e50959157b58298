package economics

import (
	"slices"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/gateway/join"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/store"
)

// day is the stretch of time within which costs are split over what was served:
// a whole day of UTC.
const day = 86400

// asked is a checked request.
type asked struct {
	groupBy []store.Dimension
	// dims is groupBy, and behind it what later filters and the join of
	// customers need.
	dims []store.Dimension
	// before is for the store; after is for what a split has yielded.
	before, after []store.Filter
	step          int64 // seconds within which costs are split and covered, at most a day
	interval      int64 // seconds of a row; 0: the range
	customers     bool  // whether tenants or tiers are asked for
	splitBy       string
	gateways      *join.Set
}

// ofTally is whether a tally says it of itself.
func ofTally(d store.Dimension) bool {
	return d == store.Model || d == store.Family || d == store.Tier || d == store.OwnTier || d == store.Tenant
}

func plan(req *Request) (*asked, error) {
	p := &asked{splitBy: req.SplitBy, gateways: req.Gateways, interval: req.Step}
	if err := p.check(); err != nil {
		return nil, err
	}
	names := req.GroupBy
	if len(names) == 0 {
		names = []string{string(store.Model)}
	}
	var err error
	if p.groupBy, err = query.ParseDimensions(names); err != nil {
		return nil, err
	}
	filters, err := query.ParseFilters(req.Filters)
	if err != nil {
		return nil, err
	}
	p.need(p.groupBy...)
	for _, f := range filters {
		if !ofTally(f.Dimension) {
			p.before = append(p.before, f)
			continue
		}
		p.after = append(p.after, f)
		p.need(f.Dimension)
	}
	for _, d := range slices.Concat(p.groupBy, dimensionsOf(p.before)) {
		if err := countable(d); err != nil {
			return nil, err
		}
	}
	if p.customers = p.has(store.Tenant) || p.has(store.Tier); p.customers {
		p.need(store.Model, store.Tenant, store.Tier, store.OwnTier)
	}
	if p.step = p.interval; p.step == 0 || p.step > day {
		p.step = day
	}
	return p, nil
}

func (p *asked) check() error {
	switch {
	case p.splitBy == "":
		p.splitBy = ByTokens
	case p.splitBy != ByTokens && p.splitBy != ByRequests:
		return query.Invalid("costs can't be split by %q: want %s or %s", p.splitBy, ByTokens, ByRequests)
	}
	if p.interval < 0 || (p.interval > day && p.interval%day != 0) {
		return query.Invalid("step %d: want seconds up to a day, whole days, or 0 for the whole range", p.interval)
	}
	return nil
}

func (p *asked) checkStep(from, to attribution.Second) error {
	if p.interval == 0 {
		return nil
	}
	if n := (int64(to-from) + p.interval - 1) / p.interval; n > query.MaxBuckets {
		return query.Invalid("a step of %d s cuts the range into %d intervals: at most %d are allowed, so take a longer step", p.interval, n, query.MaxBuckets)
	}
	return nil
}

func (p *asked) need(ds ...store.Dimension) {
	for _, d := range ds {
		if !p.has(d) {
			p.dims = append(p.dims, d)
		}
	}
}

func (p *asked) has(d store.Dimension) bool { return slices.Contains(p.dims, d) }

// late is the same request with all filters applied after the split: what a
// gateway saw is of all that it is joined to, not of the part that is asked
// for.
func (p *asked) late() *asked {
	out := *p
	out.dims = slices.Clone(p.dims)
	out.before, out.after = nil, slices.Concat(p.after, p.before)
	out.need(dimensionsOf(p.before)...)
	return &out
}

func dimensionsOf(fs []store.Filter) []store.Dimension {
	var ds []store.Dimension
	for _, f := range fs {
		ds = append(ds, f.Dimension)
	}
	return ds
}

func countable(d store.Dimension) error {
	if slices.Contains([]store.Dimension{store.DeviceID, store.DeviceModel, store.Basis, store.Method, store.Revision}, d) {
		return query.Invalid("unit costs can't be told apart by %s: inferences are counted per owner, not per device or slice; ask for a report by %s instead", d, d)
	}
	return nil
}
