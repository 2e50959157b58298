package query_test

import (
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

// engine answers by rules from what is stored and what is open.
func engine(rules *mapping.Rules, open []*attribution.Chunk, stored ...*attribution.Chunk) (*query.Engine, *querytest.Store) {
	s := querytest.NewStore(stored...)
	s.Map = rules.Compile()
	names := rules.Names()
	return query.New(query.Config{
		Store: s, Overlay: &querytest.Open{Items: open},
		Mapping: func() store.Mapping { return s.Map }, Names: func() *mapping.Names { return names },
	}), s
}

// drawNameRules makes rules over names that occur in storetest's worlds, and
// over owners.
func drawNameRules(t *rapid.T) *mapping.Rules {
	name := rapid.SampledFrom([]string{"a", "b", "a*b", "x", "y"})
	pattern := rapid.SampledFrom([]string{"a", "b", "a*", "*b", "*%*", "n*"})
	rs := &mapping.Rules{}
	for range rapid.IntRange(1, 6).Draw(t, "rules") {
		r := mapping.Rule{Target: rapid.SampledFrom([]string{mapping.Model, mapping.Family, mapping.Tier, mapping.Tier, mapping.Team}).Draw(t, "target")}
		switch owners := rapid.Bool().Draw(t, "owners"); {
		case r.Target == mapping.Team || owners && r.Target != mapping.Family:
			r.FromLabel = rapid.SampledFrom([]string{"app", "team"}).Draw(t, "label")
		case rapid.Bool().Draw(t, "from name"):
			r.FromName, r.Extract = true, rapid.SampledFrom([]string{"a*", "*b", "*"}).Draw(t, "extract")
		default:
			r.Value = name.Draw(t, "value")
		}
		if r.FromLabel == "" && r.Target == mapping.Tier {
			r.Tenant = pattern.Draw(t, "tenant")
		} else if r.FromLabel == "" {
			r.Served = pattern.Draw(t, "served")
		}
		rs.Rules = append(rs.Rules, r)
	}
	return rs
}

var (
	rawDimensions  = []store.Dimension{store.Model, store.Tier, store.OwnTier, store.Tenant, store.Team, store.Pod, store.Basis}
	nameDimensions = []store.Dimension{store.Model, store.Family, store.Tier, store.Tenant, store.Team, store.Pod, store.Basis}
)

// dumb is what a row is called in a dimension, by its raw names.
func dumb(n *mapping.Names, d store.Dimension, raw []store.Key, tally bool) store.Key {
	of := func(d store.Dimension) store.Key { return raw[slices.Index(rawDimensions, d)] }
	name := func(s string) store.Key { return store.Key{Value: s, Missing: s == ""} }
	switch {
	case d == store.Model:
		return name(n.Model(of(d).Value))
	case d == store.Family:
		return name(n.Family(n.Model(of(store.Model).Value)))
	case d == store.Tier && tally && of(store.OwnTier).Missing && n.Tier(of(store.Tenant).Value) != "":
		return name(n.Tier(of(store.Tenant).Value))
	}
	return of(d)
}

// sums adds up by text.
type sums map[string]*big.Int

func (s sums) add(what string, v *big.Int) {
	if s[what] == nil {
		s[what] = new(big.Int)
	}
	s[what].Add(s[what], v)
}

func (s sums) String() string {
	var out []string
	for k, v := range s {
		out = append(out, fmt.Sprintf("%s: %s", k, v))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// Whatever rules say of names, an answer is the raw rows, each called by its
// new names, filtered by those, and added up; and no rule changes a total.
func TestLaw7NamesAreLaidOverWhatIsStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var open, stored []*attribution.Chunk
		for _, c := range storetest.DrawWorld(t) {
			if rapid.Bool().Draw(t, "open") {
				open = append(open, c)
			} else {
				stored = append(stored, c)
			}
		}
		rules := drawNameRules(t)
		if rules.Validate() != nil {
			t.Skip("a rule hides another")
		}
		e, _ := engine(rules, open, stored...)
		q := &store.Query{Step: rapid.SampledFrom([]int64{0, 3600}).Draw(t, "step")}
		q.GroupBy = rapid.SliceOfNDistinct(rapid.SampledFrom(nameDimensions), 0, 4, rapid.ID).Draw(t, "group by")
		if d := rapid.SampledFrom(nameDimensions[:3]).Draw(t, "by name"); !slices.Contains(q.GroupBy, d) {
			q.GroupBy = append(q.GroupBy, d)
		}
		for range rapid.IntRange(0, 2).Draw(t, "filters") {
			q.Filters = append(q.Filters, store.Filter{
				Dimension: rapid.SampledFrom(nameDimensions).Draw(t, "dimension"), Negate: rapid.Bool().Draw(t, "negate"),
				Values: []string{rapid.SampledFrom([]string{"", "*", "a", "b", "x", "a*", "used"}).Draw(t, "value")},
			})
		}
		err := e.Snapshot(context.Background(), 0, 0, func(ctx context.Context, s *query.Snapshot) error {
			q.From, q.To = s.From, s.To
			// Rules over owners alone give the raw rows.
			raw, _ := engine(ownersOnly(rules), open, stored...)
			compareNames(ctx, t, rules.Names(), s, raw, q)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func ownersOnly(rs *mapping.Rules) *mapping.Rules {
	out := &mapping.Rules{}
	for _, r := range rs.Rules {
		if r.FromLabel != "" {
			out.Rules = append(out.Rules, r)
		}
	}
	return out
}

func compareNames(ctx context.Context, t *rapid.T, n *mapping.Names, s *query.Snapshot, raw *query.Engine, q *store.Query) {
	got, want := sums{}, sums{}
	rows, tallies := answer(ctx, t, s, q)
	for i := range rows {
		got.add(fmt.Sprint(rows[i].Time, rows[i].Keys, rows[i].Basis, " time"), &rows[i].DeviceTime)
		got.add(fmt.Sprint(rows[i].Time, rows[i].Keys, rows[i].Basis, " cost"), &rows[i].Cost)
	}
	for i := range tallies {
		got.add(fmt.Sprint(tallies[i].Time, tallies[i].Keys, tallies[i].Measure), &tallies[i].Value)
	}
	if len(got) != 2*len(rows)+len(tallies) {
		t.Fatalf("equal rows are not added up: %d rows and %d tallies are\n%s", len(rows), len(tallies), got)
	}
	keep := func(raw []store.Key, tally bool) ([]store.Key, bool) {
		for i := range q.Filters {
			if !q.Filters[i].Match(dumb(n, q.Filters[i].Dimension, raw, tally)) {
				return nil, false
			}
		}
		keys := make([]store.Key, len(q.GroupBy))
		for i, d := range q.GroupBy {
			keys[i] = dumb(n, d, raw, tally)
		}
		return keys, true
	}
	err := raw.Snapshot(ctx, q.From, q.To, func(ctx context.Context, s *query.Snapshot) error {
		rows, tallies := answer(ctx, t, s, &store.Query{From: q.From, To: q.To, Step: q.Step, GroupBy: rawDimensions})
		for i := range rows {
			if keys, ok := keep(rows[i].Keys, false); ok {
				want.add(fmt.Sprint(rows[i].Time, keys, rows[i].Basis, " time"), &rows[i].DeviceTime)
				want.add(fmt.Sprint(rows[i].Time, keys, rows[i].Basis, " cost"), &rows[i].Cost)
			}
		}
		for i := range tallies {
			if keys, ok := keep(tallies[i].Keys, true); ok {
				want.add(fmt.Sprint(tallies[i].Time, keys, tallies[i].Measure), &tallies[i].Value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Fatalf("%+v\ngot\n%s\nwant\n%s", *q, got, want)
	}
}

// answer is all that a snapshot says to a query.
func answer(ctx context.Context, t *rapid.T, s *query.Snapshot, q *store.Query) ([]store.Row, []store.TallyRow) {
	rows, err := s.Query(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	tallies, err := s.StoredTallies(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	_, open, err := s.Open(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range [][]store.TallyRow{tallies, open} {
		seen := map[string]bool{}
		for i := range of {
			k := fmt.Sprint(of[i].Time, of[i].Keys, of[i].Measure)
			if seen[k] {
				t.Fatalf("equal tallies are not added up: %s", k)
			}
			seen[k] = true
		}
	}
	return rows, scan.MergeTallies(tallies, open)
}

// A corrected name corrects history, and moves cost between models and
// families without making or losing any.
func TestLaw7ACorrectedNameCorrectsHistory(t *testing.T) {
	ask := func(text string, by ...string) string {
		rules, err := mapping.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		e, _ := engine(rules, nil, querytest.NewWorld().Chunks(0, 600)...)
		rep, err := e.Report(t.Context(), &query.Request{GroupBy: by, Filters: []string{"node=n1"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := rep.Total.Sum.Cost.String(); got != "833333332" {
			t.Errorf("%v: the total moved to %s", by, got)
		}
		return lines(rep)
	}
	const rules = `
rules:
  - {target: model, labels: {app: chat}, value: llama-70b-awq}
  - {target: model, served: "*-awq", from_name: true, extract: "*-awq"}
  - {target: model, served: rank-1, value: ranker}
  - {target: family, served: "llama-*", value: llama}
`
	for _, c := range []struct {
		rules, by, want string
	}{
		{`rules: []`, "model", `
			+0 —: 930.000 s cost 645833332 used=451.795 reserved=448.205 unallocated=30.000
			+0 "rank-1": 270.000 s cost 187500000 used=26.777 reserved=233.223 unobserved=10.000`},
		{rules, "model", `
			+0 "llama-70b": 600.000 s cost 416666666 used=151.795 reserved=448.205
			+0 —: 330.000 s cost 229166666 used=300.000 unallocated=30.000
			+0 "ranker": 270.000 s cost 187500000 used=26.777 reserved=233.223 unobserved=10.000`},
		{rules, "family", `
			+0 "llama": 600.000 s cost 416666666 used=151.795 reserved=448.205
			+0 —: 600.000 s cost 416666666 used=326.777 reserved=233.223 unallocated=30.000 unobserved=10.000`},
	} {
		if got := ask(c.rules, c.by); got != trim(c.want) {
			t.Errorf("by %s: got\n%s\nwant\n%s", c.by, got, trim(c.want))
		}
	}
}

// What no rule speaks of has no family, which is not a family named "".
func TestLaw9AModelWithoutAFamily(t *testing.T) {
	rules, err := mapping.Parse([]byte(`rules: [{target: family, served: "rank-*", value: rankers}]`))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := engine(rules, nil, querytest.NewWorld().Chunks(0, 60)...)
	for filter, want := range map[string]string{
		"family=":        `"search" —`,
		"family=*":       `"ads" "rankers"`,
		"family!=rank*":  `"search" —`,
		"family=rankers": `"ads" "rankers"`,
	} {
		rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"namespace", "family"}, Filters: []string{filter, "node=n1"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(rep); !strings.Contains(got, want) || len(rep.Rows) != 1 {
			t.Errorf("%s: got\n%s\nwant %s alone", filter, got, want)
		}
	}
}
