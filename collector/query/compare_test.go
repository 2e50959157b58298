package query_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

func parse(t testing.TB, text string) *mapping.Rules {
	t.Helper()
	rules, err := mapping.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func moves(c *query.Comparison) string {
	var out []string
	text := func(k store.Key) string {
		if k.Missing {
			return "—"
		}
		return k.Value
	}
	for i := range c.Moves {
		m := &c.Moves[i]
		cost := "unpriced"
		if m.Priced() {
			cost = m.Cost.String()
		}
		out = append(out, fmt.Sprintf("%s %s → %s: %s, %s s, %d", m.Target, text(m.From), text(m.To), cost, seconds(&m.DeviceTime), m.Owners))
	}
	return strings.Join(append(out, fmt.Sprintf("%v of %v", &c.Moved.Cost, &c.Total.Cost)), "\n")
}

func TestCompareRules(t *testing.T) {
	const before = `
rules:
  - {target: team, from_label: team}
  - {target: model, served: rank-1, value: ranker}
`
	const after = `
rules:
  - {target: team, namespace: research, value: science}
  - {target: team, namespace: "s*", value: find}
  - {target: team, from_label: team}
  - {target: family, served: "rank-*", value: rankers}
  - {target: run, controller: "Job/*", from_controller: true}
`
	chunks := querytest.NewWorld().Chunks(0, 600)
	// Half of it is open: that makes no difference.
	e, s := engine(parse(t, before), chunks[100:], chunks[:100]...)
	ask := func(targets ...string) string {
		t.Helper()
		c, err := e.CompareRules(t.Context(), &query.CompareRequest{Rules: parse(t, after), Targets: targets})
		if err != nil {
			t.Fatal(err)
		}
		return moves(c)
	}
	was := s.Map(&querytest.NewWorld().Owners[querytest.Trainer])
	for _, c := range []struct{ targets, want string }{
		{"", `
			team search → find: 416666666, 1078.205 s, 2
			run — → research/train: 208333333, 300.000 s, 1
			team — → science: 208333333, 300.000 s, 1
			family — → rankers: 187500000, 270.000 s, 1
			model ranker → rank-1: 187500000, 270.000 s, 1
			812499999 of 812499999`},
		{"run,class", `
			run — → research/train: 208333333, 300.000 s, 1
			208333333 of 812499999`},
		{"run,run", `
			run — → research/train: 208333333, 300.000 s, 1
			208333333 of 812499999`},
		{"tier", `0 of 812499999`},
	} {
		var targets []string
		if c.targets != "" {
			targets = strings.Split(c.targets, ",")
		}
		if got := ask(targets...); got != trim(c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.targets, got, trim(c.want))
		}
	}
	if s.Map(&querytest.NewWorld().Owners[querytest.Trainer]) != was {
		t.Error("comparing has applied the rules")
	}
	if _, err := e.CompareRules(t.Context(), &query.CompareRequest{Rules: parse(t, after), Targets: []string{"temas"}}); !errors.Is(err, query.ErrInvalid) ||
		!strings.Contains(err.Error(), `unknown target "temas" (did you mean team?): want one of team, budget-owner`) {
		t.Errorf("got %v", err)
	}
	s.KeptFrom = querytest.Start + 300
	if _, err := e.CompareRules(t.Context(), &query.CompareRequest{From: start + 1, To: start + 61, Rules: parse(t, after)}); !errors.Is(err, store.ErrTooFine) ||
		!strings.Contains(err.Error(), "whole minutes") {
		t.Errorf("got %v", err)
	}
}

func TestCompareNothing(t *testing.T) {
	e := query.New(query.Config{Store: querytest.NewStore()})
	c, err := e.CompareRules(t.Context(), &query.CompareRequest{Rules: mapping.Default()})
	if err != nil || len(c.Moves) != 0 || c.Total.DeviceTime.Sign() != 0 || !c.Total.Priced() {
		t.Errorf("an empty ledger compares %+v, %v", c, err)
	}
}

// What a comparison says moves is what reports by the rules before and after
// differ in, to the last digit.
func TestLaw7AComparisonIsTheDifferenceOfReports(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		world := storetest.DrawWorld(t)
		before, after := drawNameRules(t), drawNameRules(t)
		if before.Validate() != nil || after.Validate() != nil {
			t.Skip("a rule hides another")
		}
		e, _ := engine(before, nil, world...)
		c, err := e.CompareRules(context.Background(), &query.CompareRequest{Rules: after})
		if err != nil {
			t.Fatal(err)
		}
		other, _ := engine(after, nil, world...)
		for _, target := range []string{mapping.Team, mapping.Model, mapping.Family, mapping.Tier} {
			want := sums{}
			for sign, e := range map[int64]*query.Engine{-1: e, 1: other} {
				rep, err := e.Report(context.Background(), &query.Request{
					GroupBy: []string{target}, Filters: []string{"basis=used", "basis=reserved", "basis=unobserved"},
				})
				if err != nil {
					t.Fatal(err)
				}
				for i := range rep.Rows {
					k, s := rep.Rows[i].Keys[0], &rep.Rows[i].Sum
					want.add(fmt.Sprint(k, " cost"), new(big.Int).Mul(&s.Cost, big.NewInt(sign)))
					want.add(fmt.Sprint(k, " time"), new(big.Int).Mul(&s.DeviceTime, big.NewInt(sign)))
				}
			}
			got := sums{}
			for i := range c.Moves {
				m := &c.Moves[i]
				if m.Target != target {
					continue
				}
				for sign, k := range map[int64]store.Key{-1: m.From, 1: m.To} {
					got.add(fmt.Sprint(k, " cost"), new(big.Int).Mul(&m.Cost, big.NewInt(sign)))
					got.add(fmt.Sprint(k, " time"), new(big.Int).Mul(&m.DeviceTime, big.NewInt(sign)))
				}
			}
			for _, s := range []sums{got, want} {
				for k, v := range s {
					if v.Sign() == 0 {
						delete(s, k)
					}
				}
			}
			if got.String() != want.String() {
				t.Fatalf("%s moves\n%s\nreports differ by\n%s", target, got, want)
			}
		}
	})
}

// An answer of more owners than a query may have is refused by the store.
func TestLaw8AComparisonIsBounded(t *testing.T) {
	s := &tooMany{querytest.NewStore(querytest.NewWorld().Chunks(0, 60)...)}
	e := query.New(query.Config{Store: s, Mapping: func() store.Mapping { return s.Map }})
	if _, err := e.CompareRules(t.Context(), &query.CompareRequest{Rules: mapping.Default()}); !errors.Is(err, store.ErrTooMany) {
		t.Errorf("got %v", err)
	}
}

// tooMany is a store in which every answer is too large.
type tooMany struct{ *querytest.Store }

func (s *tooMany) View(_ context.Context, f func(store.Reader) error) error { return f(s) }

func (s *tooMany) Query(context.Context, *store.Query) ([]store.Row, error) {
	return nil, store.ErrTooMany
}
