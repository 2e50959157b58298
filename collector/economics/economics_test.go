package economics_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
)

func engine(chunks []*attribution.Chunk, open ...*attribution.Chunk) *query.Engine {
	s := querytest.NewStore(chunks...)
	s.Map = mapping.Default().Compile()
	return query.New(query.Config{
		Store: s, Overlay: &querytest.Open{Items: open}, Mapping: func() store.Mapping { return s.Map },
	})
}

func line(r *economics.Row) string {
	var keys []string
	for _, k := range r.Keys {
		if k.Missing {
			keys = append(keys, "—")
		} else {
			keys = append(keys, k.Value)
		}
	}
	f := r.Figures(nil)
	inferences, in, out := r.Served.Counter(attribution.Success), r.Served.Counter(attribution.TokensInput), r.Served.Counter(attribution.TokensOutput)
	return fmt.Sprintf("%s: alloc %v used %v free %v+%v inf %q tok %q/%q per1k %s/%s per1M %s/%s cov %s (%s)",
		strings.Join(keys, " "), &r.Allocation().Cost, &r.Used.Cost, &r.Unallocated.Cost, &r.Unattributed.Cost,
		inferences.Inferences(), in.Tokens(), out.Tokens(),
		f.Per1k.Allocation, f.Per1k.Usage, f.Per1MTokens.Allocation, f.Per1MTokens.Usage, f.Coverage, f.Reason)
}

func lines(ans *economics.Answer) string {
	var out []string
	for i := range ans.Rows {
		out = append(out, line(&ans.Rows[i].Row))
	}
	return strings.Join(append(out, "total"+line(&ans.Total)), "\n")
}

func TestUnitCosts(t *testing.T) {
	const total = `total: alloc 812499999 used 332341650 free 20833333+0 inf "1719.99996" tok "130500"/"13200" per1k 0.472383731335/0.193221894028 per1M 5.654140563674/2.312746346555 cov 0.743589743684 (partly unpriced: 29.01 % of the device time has no price and is not in the cost)`
	e := engine(querytest.NewWorld().Chunks(0, 600))
	for _, c := range []struct {
		req  economics.Request
		want string
	}{
		// llama's cost is split over its two models by tokens, 131,700 to
		// 12,000. The unallocated cost is nobody's. chat-1 is measured: none.
		{economics.Request{}, `llama-70b: alloc 381871954 used 96610407 free 0+0 inf "159.99996" tok "119700"/"12000" per1k 2.386700309175/0.603815194704 per1M 2.899559255885/0.733564214123 cov 1.00 ()
—: alloc 208333333 used 208333333 free 20833333+0 inf "" tok ""/"" per1k / per1M / cov 0.00 (not measured)
rank-1: alloc 187500000 used 18595139 free 0+0 inf "1200" tok ""/"" per1k 0.15625/0.015495949167 per1M / cov 1.00 (tokens not measured)
llama-8b: alloc 34794712 used 8802771 free 0+0 inf "360" tok "10800"/"1200" per1k 0.096651977778/0.024452141667 per1M 2.899559333333/0.73356425 cov 1.00 ()
chat-1: alloc 0 used 0 free 0+0 inf "0" tok ""/"" per1k / per1M / cov  (no inferences; tokens not measured; unpriced)
` + total},
		{economics.Request{GroupBy: []string{"team"}}, `search: alloc 416666666 used 105413178 free 0+0 inf "519.99996" tok "130500"/"13200" per1k 0.801282111637/0.202717665594 per1M 2.899559262352/0.733564217119 cov 1.00 (partly unpriced: 44.35 % of the device time has no price and is not in the cost)
—: alloc 208333333 used 208333333 free 20833333+0 inf "" tok ""/"" per1k / per1M / cov 0.00 (not measured)
ads: alloc 187500000 used 18595139 free 0+0 inf "1200" tok ""/"" per1k 0.15625/0.015495949167 per1M / cov 1.00 (tokens not measured)
` + total},
		{economics.Request{GroupBy: []string{"pod"}, Filters: []string{"tier=gold"}}, `llama-0: alloc 381871954 used 96610407 free 0+0 inf "159.99996" tok "119700"/"12000" per1k 2.386700309175/0.603815194704 per1M 2.899559255885/0.733564214123 cov 1.00 ()
total: alloc 381871954 used 96610407 free 0+0 inf "159.99996" tok "119700"/"12000" per1k 2.386700309175/0.603815194704 per1M 2.899559255885/0.733564214123 cov 1.00 ()`},
	} {
		ans, err := economics.UnitCosts(t.Context(), e, &c.req)
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(ans); got != c.want {
			t.Errorf("%+v: got\n%s\nwant\n%s", c.req, got, c.want)
		}
	}
}

// The published trace of a generative-image fleet at 2.50 an hour.
func TestTraceFigures(t *testing.T) {
	var r economics.Row
	r.Reserved.Cost.SetInt64(4_397_193_749_977 - 320_976_263_888)
	r.Reserved.Time.SetInt64(6_331_959_000_000_000 - 462_205_820_000_000)
	r.Used.Cost.SetInt64(320_976_263_888)
	r.Used.Time.SetInt64(462_205_820_000_000)
	r.Served = economics.Served{attribution.Success: big.NewInt(74_117_385_000)}
	f := r.Figures(nil)
	if f.Per1k.Allocation != "59.327427026426" || !strings.HasPrefix(f.Per1k.Usage, "4.3306") {
		t.Errorf("per 1k: %v", f.Per1k)
	}
}

// Groups sum to the total, and every total is what a report says, whatever is
// grouped by and wherever the chunks are.
func TestLaw2SplitsConserve(t *testing.T) {
	all := querytest.NewWorld().Chunks(200, 340)
	whole, err := engine(all).Report(t.Context(), &query.Request{})
	if err != nil {
		t.Fatal(err)
	}
	dims := []string{"model", "tier", "team", "class", "namespace", "pod", "node", "label:app", "counted"}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(all)).Draw(t, "stored")
		req := economics.Request{GroupBy: rapid.SliceOfNDistinct(rapid.SampledFrom(dims), 1, 4, rapid.ID).Draw(t, "group by")}
		ans, err := economics.UnitCosts(context.Background(), engine(all[:at], all[at:]...), &req)
		if err != nil {
			t.Fatal(err)
		}
		var cost, time big.Int
		for i := range ans.Rows {
			r := &ans.Rows[i].Row
			for _, c := range []*economics.Costs{r.Allocation(), &r.Unallocated, &r.Unattributed} {
				cost.Add(&cost, &c.Cost)
				time.Add(&time, &c.Time)
			}
		}
		if cost.Cmp(&whole.Total.Sum.Cost) != 0 || time.Cmp(&whole.Total.Sum.DeviceTime) != 0 {
			t.Fatalf("rows sum to %v nano, %v ns; the report to %v, %v", &cost, &time, &whole.Total.Sum.Cost, &whole.Total.Sum.DeviceTime)
		}
	})
}

// None, not measured and 0 are three answers.
func TestLaw9ThreeAnswers(t *testing.T) {
	row := func(f func(*economics.Row)) economics.Figures {
		var r economics.Row
		r.Used.Cost.SetInt64(5)
		r.Used.Time.SetInt64(10)
		r.Served = economics.Served{}
		f(&r)
		return r.Figures(nil)
	}
	const success = attribution.Success
	measured := func(r *economics.Row, m attribution.Measure, v int64) { r.Served[m] = big.NewInt(v) }
	for _, c := range []struct {
		got    economics.Figures
		reason string
		per1k  string
	}{
		{row(func(*economics.Row) {}), "not measured", ""},
		{row(func(r *economics.Row) { measured(r, success, 0) }), "no inferences; tokens not measured", ""},
		{row(func(r *economics.Row) {
			measured(r, success, 5_000_000)
			r.Used.Cost.SetInt64(0)
		}), "tokens not measured", "0.00"}, // free, and priced as such
		{row(func(r *economics.Row) {
			measured(r, success, 5_000_000)
			r.Used.Cost.SetInt64(0)
			r.Used.Unpriced.SetInt64(10)
		}), "tokens not measured; unpriced", ""},
		{row(func(r *economics.Row) {
			measured(r, success, 5_000_000)
			measured(r, attribution.TokensInput, 0)
			measured(r, attribution.TokensOutput, 0)
			r.Used.Unpriced.SetInt64(5)
		}), "no tokens; partly unpriced: 50.00 % of the device time has no price and is not in the cost", "0.000001"},
	} {
		if c.got.Reason != c.reason || c.got.Per1k.Allocation != c.per1k {
			t.Errorf("%q %q, want %q %q", c.got.Reason, c.got.Per1k.Allocation, c.reason, c.per1k)
		}
	}
}

func TestInvalidRequests(t *testing.T) {
	e := engine(nil)
	for _, c := range []struct {
		req  economics.Request
		want string
	}{
		{economics.Request{GroupBy: []string{"device"}}, "can't be told apart by device"},
		{economics.Request{Filters: []string{"basis=used"}}, "can't be told apart by basis"},
		{economics.Request{GroupBy: []string{"modell"}}, "did you mean model?"},
		{economics.Request{From: 10, To: 5}, "from must be before to"},
	} {
		_, err := economics.UnitCosts(t.Context(), e, &c.req)
		if !errors.Is(err, query.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.req, err, c.want)
		}
	}
}

func TestNothingStored(t *testing.T) {
	ans, err := economics.UnitCosts(t.Context(), engine(nil), &economics.Request{})
	if err != nil || len(ans.Rows) != 0 {
		t.Errorf("got %+v, %v", ans, err)
	}
	if f := ans.Total.Figures(nil); f.Reason != "not measured; no device time" || f.Coverage != "" {
		t.Errorf("got %+v", f)
	}
}

func TestDecimal(t *testing.T) {
	for _, c := range []struct {
		num, den int64
		digits   int
		want     string
	}{
		{1, 3, 4, "0.3333"},
		{1, 8, 2, "0.12"},
		{3, 8, 2, "0.38"},
		{-1, 3, 3, "-0.333"},
		{-1, 1_000_000, 3, "0.00"},
		{7, 1, 12, "7.00"},
		{1, 2_000_000_000_000, 12, "0.00"},
		{3, 2_000_000_000_000, 12, "0.000000000002"},
	} {
		if got := economics.Decimal(big.NewRat(c.num, c.den), c.digits); got != c.want {
			t.Errorf("%d/%d at %d: %s, want %s", c.num, c.den, c.digits, got, c.want)
		}
	}
}

var _ store.Store = (*querytest.Store)(nil)
