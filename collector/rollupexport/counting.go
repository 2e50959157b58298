package rollupexport

import (
	"cmp"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// counting fills a snapshot.
type counting struct {
	r      *Rollups
	s      *Snapshot
	series map[string]*Series
	counts map[string]*Count
	others map[string]bool // groups under Other
}

func newCounting(r *Rollups, s *Snapshot) *counting {
	return &counting{r: r, s: s, series: map[string]*Series{}, counts: map[string]*Count{}, others: map[string]bool{}}
}

// values are a group's labels. A missing value is as an empty one here.
func values(keys []store.Key) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = strings.ToValidUTF8(k.Value, "\uFFFD")
	}
	return out
}

func id(values []string) string { return strings.Join(values, "\xff") }

// admit gives series of their own to the groups that cost most, as many as
// there is space for. Who has them keeps them.
func (c *counting) admit(rows []store.Row) {
	costs := map[string]*big.Int{}
	var order []string
	for i := range rows {
		g := id(values(rows[i].Keys))
		if costs[g] == nil {
			costs[g] = new(big.Int)
			order = append(order, g)
		}
		costs[g].Add(costs[g], &rows[i].Cost)
	}
	slices.SortFunc(order, func(a, b string) int { return cmp.Or(costs[b].Cmp(costs[a]), cmp.Compare(a, b)) })
	for _, g := range order {
		c.member(g)
	}
}

func (c *counting) member(g string) bool {
	if len(c.r.members) < c.r.o.MaxGroups {
		c.r.members[g] = true
	}
	return c.r.members[g]
}

// group is the labels under which a tuple of keys is counted.
func (c *counting) group(keys []store.Key) []string {
	vs := values(keys)
	if g := id(vs); !c.member(g) {
		c.others[g] = true
		for i := range vs {
			vs[i] = Other
		}
	}
	return vs
}

func (c *counting) row(r *store.Row) {
	vs := c.group(r.Keys)
	k := id(vs) + "\xff" + r.Basis.String()
	x := c.series[k]
	if x == nil {
		x = &Series{Values: vs, Basis: r.Basis}
		c.series[k] = x
	}
	x.Time.Add(&x.Time, &r.DeviceTime)
	x.Cost.Add(&x.Cost, &r.Cost)
	x.Unpriced.Add(&x.Unpriced, &r.Unpriced)
}

func (c *counting) tally(t *store.TallyRow) {
	switch m := t.Measure; {
	case m == attribution.Success:
		c.count(t, Inferences, "success")
	case strings.HasPrefix(string(m), string(attribution.FailurePrefix)):
		c.count(t, Inferences, "failure")
	case m == attribution.TokensInput:
		c.count(t, Tokens, "input")
	case m == attribution.TokensCached:
		c.count(t, Tokens, "cached")
	case m == attribution.TokensOutput:
		c.count(t, Tokens, "output")
	case m == attribution.TokensAborted:
		c.count(t, Tokens, "aborted")
	default:
		b, ok := attribution.BucketOf(m, attribution.LatencyPrefix)
		for i, target := range c.r.buckets {
			if ok && b <= target {
				c.count(t, Within, short(c.r.o.Targets[i]))
			}
		}
	}
}

// short writes 1m0s as 1m.
func short(d time.Duration) string {
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

func (c *counting) count(t *store.TallyRow, metric Metric, kind string) {
	vs := c.group(t.Keys)
	k := id(vs) + "\xff" + string(metric) + "\xff" + kind
	x := c.counts[k]
	if x == nil {
		x = &Count{Values: vs, Metric: metric, Type: kind}
		c.counts[k] = x
	}
	x.Value.Add(&x.Value, &t.Value)
}

func (c *counting) finish() {
	for _, x := range c.series {
		c.s.Series = append(c.s.Series, x)
	}
	for _, x := range c.counts {
		c.s.Counts = append(c.s.Counts, x)
	}
	slices.SortFunc(c.s.Series, func(a, b *Series) int {
		return cmp.Or(slices.Compare(a.Values, b.Values), cmp.Compare(a.Basis, b.Basis))
	})
	slices.SortFunc(c.s.Counts, func(a, b *Count) int {
		return cmp.Or(slices.Compare(a.Values, b.Values), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Type, b.Type))
	})
	c.s.Groups, c.s.Others = len(c.r.members), len(c.others)
}
