package economics_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
)

// slow is a town with latencies: a good hour, a slow one, one with failures,
// and one in which nothing was asked.
func slow(t *testing.T) []*attribution.Chunk {
	w := newTown()
	h := attribution.NewHistogram()
	quick, late := len(w.Measures), len(w.Measures)+1
	w.Measures = append(w.Measures,
		attribution.BucketMeasure(attribution.LatencyPrefix, h.Bucket(500e6)), attribution.BucketMeasure(attribution.LatencyPrefix, h.Bucket(9e9)))
	s := w.subject(llama0, "llama", "", "")
	for i, hour := range [][4]int64{{100, 0, 100, 0}, {100, 0, 90, 10}, {98, 2, 98, 0}, {0, 0, 0, 0}} {
		at := querytest.Start + attribution.Second(3600*i)
		w.hold(at, llama0)
		w.count(at, s, hour[0]*one, -1, -1, hour[1]*one)
		for j, m := range []int{quick, late} {
			k := w.tick(at)
			k.counts = append(k.counts, attribution.Tally{Second: at, Subject: s, Measure: uint16(m), Value: hour[2+j] * one})
		}
	}
	w.hold(querytest.Start, trainer)
	return w.chunks(t)
}

func sloLines(ans *economics.SLOAnswer) string {
	var out []string
	for i := range ans.Rows {
		r := &ans.Rows[i]
		out = append(out, fmt.Sprintf("%v: p95 %q %v, errors %q %v, cost %q %v: %v, %d of %d met, %d unknown (%s)", r.Keys,
			r.P95, r.Latency, r.ErrorRate, r.Errors, r.CostPerSuccess, r.Cost, r.Joint, r.Met, r.Judged, r.Unknown, r.Reason))
		for _, x := range r.Intervals {
			out = append(out, fmt.Sprintf(" +%d %q %q %q %v", x.Time-querytest.Start, x.P95, x.ErrorRate, x.CostPerSuccess, x.Joint))
		}
	}
	return strings.Join(out, "\n")
}

func TestSLO(t *testing.T) {
	cs := slow(t)
	for _, c := range []struct {
		ms           int64
		errors, cost string
		req          economics.Request
		want         string
	}{
		{2000, "0.01", "0.02", economics.Request{}, `[{llama false}]: p95 "512" met, errors "0.006666666667" met, cost "0.013422818792" met: met, 1 of 1 met, 0 unknown ()
[{ true}]: p95 "" unknown, errors "" unknown, cost "" unknown: unknown, 0 of 0 met, 1 unknown (latency not measured; failures not measured; inferences not measured)`},
		{2000, "0.01", "0.02", economics.Request{Step: 3600, Filters: []string{"model=llama"}}, `[{llama false}]: p95 "512" met, errors "0.006666666667" met, cost "0.013422818792" met: met, 1 of 3 met, 1 unknown ()
 +0 "512" "0.00" "0.01" met
 +3600 "9741.984686" "0.00" "0.01" missed
 +7200 "512" "0.02" "0.010204081633" missed
 +10800 "" "" "" unknown`},
		{0, "", "0.01342281879", economics.Request{Filters: []string{"model=llama"}}, `[{llama false}]: p95 "512" , errors "0.006666666667" , cost "0.013422818792" missed: missed, 0 of 1 met, 0 unknown ()`},
		{0, "0.1", "", economics.Request{GroupBy: []string{"pod"}, Step: 86400, Filters: []string{"pod=train*"}}, `[{train-0 false}]: p95 "" , errors "" unknown, cost "" : unknown, 0 of 0 met, 1 unknown (failures not measured)
 +0 "" "" "" unknown`},
	} {
		targets, err := economics.ParseTargets(c.ms, c.errors, c.cost)
		if err != nil {
			t.Fatal(err)
		}
		ans, err := economics.SLO(t.Context(), engine(cs), &c.req, targets)
		if err != nil {
			t.Fatal(err)
		}
		if got := sloLines(ans); got != c.want {
			t.Errorf("%+v: got\n%s\nwant\n%s", c.req, got, c.want)
		}
	}
}

func TestTargetsRefuse(t *testing.T) {
	for _, c := range []struct {
		ms           int64
		errors, cost string
		want         string
	}{
		{0, "", "", "there is no target"},
		{-5, "", "", "latency target -5 ms"},
		{0, "1.1", "", `error rate "1.1"`},
		{0, "1%", "", `error rate "1%"`},
		{0, "", "-1", `cost per success "-1"`},
	} {
		if _, err := economics.ParseTargets(c.ms, c.errors, c.cost); !errors.Is(err, query.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	targets, err := economics.ParseTargets(1, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []int64{-1, 100_000} {
		if _, err := economics.SLO(t.Context(), engine(nil), &economics.Request{Step: step}, targets); !errors.Is(err, query.ErrInvalid) {
			t.Errorf("step %d: %v", step, err)
		}
	}
}
