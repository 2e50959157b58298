package economics_test

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/query"
)

// row costs so many nano units for 10 s, half of it used, and served values by
// measure.
func row(cost int64, served map[attribution.Measure]int64) *economics.Row {
	var r economics.Row
	r.Used.Cost.SetInt64(cost / 2)
	r.Reserved.Cost.SetInt64(cost - cost/2)
	r.Used.Time.SetInt64(5e9)
	r.Reserved.Time.SetInt64(5e9)
	r.Served = economics.Served{}
	for m, v := range served {
		r.Served[m] = big.NewInt(v)
	}
	return &r
}

func terms(t interface{ Fatal(...any) }, ms int64, weights ...string) *economics.Terms {
	weights = append(weights, "", "", "")
	x, err := economics.ParseTerms(ms, weights[0], weights[1], weights[2])
	if err != nil {
		t.Fatal(err)
	}
	return x
}

type counts = map[attribution.Measure]int64

// 8 units of money for 4M input tokens, 2M of them cached, and 1M output: at 1,
// 0.1 and 4 they weigh 2 + 0.2 + 4 = 6.2 million input tokens.
func TestTokenTypes(t *testing.T) {
	all := counts{attribution.TokensInput: 4e6, attribution.TokensCached: 2e6, attribution.TokensOutput: 1e6}
	f := row(8e9, all).Figures(nil)
	for _, c := range []struct{ got, want string }{
		{f.Per1MInput.Allocation, "1.290322580645"},
		{f.Per1MCached.Allocation, "0.129032258065"},
		{f.Per1MOutput.Allocation, "5.161290322581"},
		{f.Per1MOutput.Usage, "2.58064516129"},
		{f.Per1MTokens.Allocation, "1.60"},
		{f.Reasons["token types"], ""},
	} {
		if c.got != c.want {
			t.Errorf("%s, want %s", c.got, c.want)
		}
	}
	f = row(8e9, all).Figures(terms(t, 0, "2", "0", "0.5"))
	if f.Per1MInput.Allocation != "3.555555555556" || f.Per1MCached.Allocation != "0.00" || f.Per1MOutput.Allocation != "0.888888888889" {
		t.Errorf("with other weights: %+v", f)
	}
}

// Tokens of each type times their unit cost are the cost.
func TestLaw1TokenTypesSumToTheCost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.Int64Range(0, 1e9).Draw(t, "input")
		c := counts{
			attribution.TokensInput: in, attribution.TokensCached: rapid.Int64Range(0, in).Draw(t, "cached"),
			attribution.TokensOutput: rapid.Int64Range(1, 1e9).Draw(t, "output"),
		}
		weight := rapid.SampledFrom([]string{"0.1", "1", "3.75", "12"})
		cost := rapid.Int64Range(1, 1e15).Draw(t, "cost")
		f := row(cost, c).Figures(terms(t, 0, weight.Draw(t, "wi"), weight.Draw(t, "wc"), weight.Draw(t, "wo")))
		sum := new(big.Rat)
		for _, x := range []struct {
			unit   string
			tokens int64
		}{
			{f.Per1MInput.Allocation, in - c[attribution.TokensCached]},
			{f.Per1MCached.Allocation, c[attribution.TokensCached]},
			{f.Per1MOutput.Allocation, c[attribution.TokensOutput]},
		} {
			if (x.unit == "") != (x.tokens == 0) {
				t.Fatalf("%d tokens cost %q per million", x.tokens, x.unit)
			}
			if u, ok := new(big.Rat).SetString(x.unit); ok {
				sum.Add(sum, u.Mul(u, big.NewRat(x.tokens, 1e6)))
			}
		}
		// Each unit cost is rounded by at most half of 10⁻¹².
		off := sum.Sub(sum, big.NewRat(cost, 1e9))
		if off.Abs(off).Cmp(big.NewRat(2*in+2*c[attribution.TokensOutput]+2, 1e18)) > 0 {
			t.Fatalf("off by %s", off.FloatString(18))
		}
	})
}

func TestWaste(t *testing.T) {
	f := row(1e9+1, counts{
		attribution.Success: 7 * one, "failure/oom": 1 * one, "failure/timeout": 2 * one,
		attribution.TokensInput: 60, attribution.TokensOutput: 40, attribution.TokensAborted: 25,
	}).Figures(nil)
	if f.ErrorRate != "0.30" || f.FailedCost.Int64() != 300_000_000 || f.AbortedCost.Int64() != 250_000_000 {
		t.Errorf("%s, %v, %v", f.ErrorRate, f.FailedCost, f.AbortedCost)
	}
	var got []string
	for _, x := range f.ByReason {
		got = append(got, fmt.Sprint(x.Reason, " ", x.Count.Inferences(), " ", x.Cost))
	}
	if s := strings.Join(got, ", "); s != "oom 1 100000000, timeout 2 200000000" {
		t.Error(s)
	}
	if f.PerSuccess.Allocation != "0.142857143" || f.PerSuccess.Usage != "0.071428571429" {
		t.Errorf("%+v", f.PerSuccess)
	}
}

// Reasons of failures share the failed cost exactly.
func TestLaw1WasteByReason(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := counts{attribution.Success: rapid.Int64Range(0, 1e12).Draw(t, "successes")}
		for _, reason := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"abort", "oom", "timeout"}), 1, 3, rapid.ID).Draw(t, "reasons") {
			c[attribution.FailurePrefix+attribution.Measure(reason)] = rapid.Int64Range(0, 1e9).Draw(t, reason)
		}
		cost := rapid.Int64Range(0, 1e18).Draw(t, "cost")
		f := row(cost, c).Figures(nil)
		if f.FailedCost == nil {
			return
		}
		sum := new(big.Int)
		for _, x := range f.ByReason {
			sum.Add(sum, x.Cost)
		}
		if sum.Cmp(f.FailedCost) != 0 || sum.Cmp(big.NewInt(cost)) > 0 {
			t.Fatalf("reasons sum to %v of %v", sum, f.FailedCost)
		}
	})
}

func TestLatency(t *testing.T) {
	h := attribution.NewHistogram()
	at := func(seconds float64) attribution.Measure {
		return attribution.BucketMeasure(attribution.LatencyPrefix, h.Bucket(int64(seconds*1e9)))
	}
	served := counts{attribution.Success: 100 * one, at(0.5): 50 * one, at(2): 44 * one, at(2.5): 5 * one, at(30): 1 * one, at(100): 0}
	f := row(1e9, served).Figures(terms(t, 2000))
	// A server's bucket of up to 2 s is all within a target of 2 s.
	if got := fmt.Sprint(f.P50, " ", f.P95, " ", f.P99, " ", f.Good, " ", f.PerGood.Allocation); got != "512 2896.309375 2896.309375 94 0.010638297872" {
		t.Error(got)
	}
	if x := terms(t, 2000).LatencyTarget(); x != "2048" {
		t.Errorf("the target is applied as %s", x)
	}
	if f := row(1e9, served).Figures(nil); f.Good != "" || f.PerGood.Allocation != "" {
		t.Errorf("good without a target: %+v", f)
	}
	served[attribution.Success] = 200 * one
	if f := row(1e9, served).Figures(terms(t, 2000)); f.Reasons["latency"] != "latency measured of 50.00 % of the inferences" || f.Good != "94" {
		t.Errorf("%q good, %s", f.Good, f.Reasons["latency"])
	}
	beyond := counts{attribution.Success: one, attribution.BucketMeasure(attribution.LatencyPrefix, attribution.Buckets-1): one}
	if f := row(1e9, beyond).Figures(terms(t, 2000)); f.P50 != "" || f.Reasons["latency"] != "some took longer than any bucket" || f.Good != "0" {
		t.Errorf("%+v", f)
	}
}

// However a histogram is spread over rows, the quantile of their sum is the
// upper bound of the bucket in which it is reached.
func TestQuantilesAreUpperBounds(t *testing.T) {
	h := attribution.NewHistogram()
	rapid.Check(t, func(t *rapid.T) {
		var ns []int64
		c := counts{}
		for range rapid.IntRange(1, 50).Draw(t, "requests") {
			x := rapid.Int64Range(0, 100e9).Draw(t, "ns")
			ns = append(ns, x)
			c[attribution.BucketMeasure(attribution.LatencyPrefix, h.Bucket(x))] += one
			c[attribution.Success] += one
		}
		p95, ok := new(big.Rat).SetString(row(1, c).Figures(nil).P95)
		if !ok {
			t.Fatal("no p95")
		}
		within := 0
		for _, x := range ns {
			if big.NewRat(x, 1e6).Cmp(p95) <= 0 {
				within++
			}
		}
		if within*100 < 95*len(ns) {
			t.Fatalf("%d of %d are within %v ms", within, len(ns), p95)
		}
	})
}

func TestLoad(t *testing.T) {
	f := row(1, counts{attribution.Queue: 25 * one, attribution.KVCache: 4 * one, attribution.Observed: 10 * one}).Figures(nil)
	if f.QueueMean != "2.50" || f.KVCacheMean != "0.40" || f.RunningMean != "" || f.Reasons["load"] != "running not measured" {
		t.Errorf("%+v", f)
	}
}

// Each figure that is not there has its reason, and none of them is another's.
func TestLaw9ReasonsByTopic(t *testing.T) {
	const success, in, out, cached = attribution.Success, attribution.TokensInput, attribution.TokensOutput, attribution.TokensCached
	for _, c := range []struct {
		served       counts
		topic, want  string
		figure       func(*economics.Figures) string
		otherwiseFor counts // with these, the figure is there
	}{
		{counts{success: one}, "failures", "failures not measured", func(f *economics.Figures) string { return f.ErrorRate }, counts{success: one, "failure/x": 0}},
		{counts{"failure/x": 0}, "failures", "inferences not measured", func(f *economics.Figures) string { return f.ErrorRate }, counts{success: 0, "failure/x": one}},
		{counts{success: 0, "failure/x": 0}, "failures", "no requests", func(f *economics.Figures) string { return f.ErrorRate }, counts{success: 1, "failure/x": 0}},
		{counts{success: one}, "latency", "latency not measured", func(f *economics.Figures) string { return f.P95 }, counts{success: one, "latency/3": one}},
		{counts{success: 0, "latency/3": 0}, "latency", "no inferences", func(f *economics.Figures) string { return f.P95 }, counts{"latency/3": one}},
		{counts{in: 5, out: 5}, "token types", "cached tokens not measured", func(f *economics.Figures) string { return f.Per1MCached.Allocation }, counts{in: 5, out: 5, cached: 1}},
		{counts{in: 5, out: 5, cached: 0}, "token types", "no cached tokens", func(f *economics.Figures) string { return f.Per1MCached.Allocation }, counts{in: 5, out: 5, cached: 5}},
		{counts{in: 5, out: 0, cached: 9}, "token types", "more cached tokens than input tokens were counted; no input tokens that were not cached; no output tokens", func(f *economics.Figures) string { return f.Per1MInput.Allocation }, counts{in: 5, out: 0, cached: 4}},
		{counts{in: 5}, "token types", "tokens not measured", func(f *economics.Figures) string { return f.Per1MInput.Allocation }, counts{in: 5, out: 0}},
		{counts{in: 5, out: 5}, "aborted tokens", "aborted tokens not measured", func(f *economics.Figures) string { return fmt.Sprint(f.AbortedCost) }, counts{in: 5, out: 5, attribution.TokensAborted: 0}},
		{counts{}, "first token", "time to the first token not measured", func(f *economics.Figures) string { return f.FirstTokenP95 }, counts{"first-token/2": one}},
	} {
		f := row(1e9, c.served).Figures(nil)
		if got := c.figure(&f); (got != "" && got != "<nil>") || f.Reasons[c.topic] != c.want {
			t.Errorf("%v: %q, because %q, want %q", c.served, got, f.Reasons[c.topic], c.want)
		}
		f = row(1e9, c.otherwiseFor).Figures(nil)
		if got := c.figure(&f); got == "" || got == "<nil>" {
			t.Errorf("%v: no %s figure: %q", c.otherwiseFor, c.topic, f.Reasons[c.topic])
		}
	}
}

func TestTermsRefuse(t *testing.T) {
	for _, c := range []struct {
		ms      int64
		weights [3]string
		want    string
	}{
		{-1, [3]string{}, "latency target -1 ms"},
		{1 << 60, [3]string{}, "latency target"},
		{0, [3]string{"-1", "", ""}, `the weight of input tokens is "-1"`},
		{0, [3]string{"", "1e9", ""}, `the weight of cached tokens`},
		{0, [3]string{"", "", "1/3"}, `the weight of output tokens`},
		{0, [3]string{"", "", "."}, `the weight of output tokens`},
		{0, [3]string{"", "", strings.Repeat("9", 400)}, `the weight of output tokens`},
		{0, [3]string{"0", "0", "0.0"}, "all weights"},
	} {
		if _, err := economics.ParseTerms(c.ms, c.weights[0], c.weights[1], c.weights[2]); !errors.Is(err, query.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
