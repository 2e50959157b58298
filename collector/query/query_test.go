package query_test

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
)

const start = querytest.Start

func fixture(t testing.TB) (*query.Engine, *querytest.Store) {
	t.Helper()
	s := querytest.NewStore(querytest.NewWorld().Chunks(0, 600)...)
	s.Map = mapping.Default().Compile()
	return query.New(query.Config{Store: s, Mapping: func() store.Mapping { return s.Map }}), s
}

func line(r *query.Row) string {
	var keys []string
	for _, k := range r.Keys {
		if k.Missing {
			keys = append(keys, "—")
		} else {
			keys = append(keys, fmt.Sprintf("%q", k.Value))
		}
	}
	if r.Other {
		keys = []string{"other"}
	}
	s := fmt.Sprintf("+%d %s: %s s", r.Time-start, strings.Join(keys, " "), seconds(&r.Sum.DeviceTime))
	if r.Sum.Priced() {
		s += fmt.Sprintf(" cost %v", &r.Sum.Cost)
	}
	for i := range r.ByBasis {
		s += fmt.Sprintf(" %v=%s", r.ByBasis[i].Basis, seconds(&r.ByBasis[i].DeviceTime))
	}
	return s
}

func seconds(ns *big.Int) string {
	return new(big.Rat).SetFrac(ns, big.NewInt(1_000_000_000)).FloatString(3)
}

func lines(rep *query.Report) string {
	var out []string
	for i := range rep.Rows {
		out = append(out, line(&rep.Rows[i]))
	}
	return strings.Join(out, "\n")
}

func TestReport(t *testing.T) {
	e, _ := fixture(t)
	for _, c := range []struct {
		name string
		req  query.Request
		want string
	}{
		{"total", query.Request{}, `+0 : 1800.000 s cost 833333332 used=478.572 reserved=1159.633 unallocated=30.000 unattributed=121.795 unobserved=10.000`},
		{"by team", query.Request{GroupBy: []string{"team"}}, `
			+0 "search": 1078.205 s cost 416666666 used=151.795 reserved=926.410
			+0 —: 451.795 s cost 229166666 used=300.000 unallocated=30.000 unattributed=121.795
			+0 "ads": 270.000 s cost 187500000 used=26.777 reserved=233.223 unobserved=10.000`},
		{"limit", query.Request{GroupBy: []string{"namespace"}, Limit: 1, Step: 300}, `
			+0 "search": 539.103 s cost 208333333 used=75.897 reserved=463.206
			+0 other: 360.897 s cost 208333333 used=26.777 reserved=233.223 unallocated=30.000 unattributed=60.897 unobserved=10.000
			+300 "search": 539.102 s cost 208333333 used=75.898 reserved=463.204
			+300 other: 360.898 s cost 208333333 used=300.000 unattributed=60.898`},
		{"an empty label is not a missing one", query.Request{GroupBy: []string{"label:app"}, Filters: []string{"node=n1"}, To: start + 100}, `
			+0 "": 100.000 s cost 69444444 used=10.295 reserved=89.705
			+0 "chat": 100.000 s cost 69444444 used=25.295 reserved=74.705`},
		{"steps begin at whole multiples", query.Request{From: start + 595, To: start + 600, Step: 4, GroupBy: []string{"basis"}, Filters: []string{"device=GPU-b"}}, `
			+595 "used": 1.000 s cost 694444 used=1.000
			+596 "used": 4.000 s cost 2777778 used=4.000`},
		{"excluded values", query.Request{GroupBy: []string{"pod"}, Filters: []string{"pod!=llama-0", "pod!=train*", "cluster=east", "cluster=west"}}, `
			+0 "ranker-0": 270.000 s cost 187500000 used=26.777 reserved=233.223 unobserved=10.000
			+0 —: 151.795 s cost 20833333 unallocated=30.000 unattributed=121.795
			+0 "idler-0": 478.205 s reserved=478.205`},
		{"missing facts match the empty value", query.Request{GroupBy: []string{"team"}, Filters: []string{"team="}}, `
			+0 —: 451.795 s cost 229166666 used=300.000 unallocated=30.000 unattributed=121.795`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.req.To != 0 && c.req.From == 0 {
				c.req.From = start
			}
			rep, err := e.Report(t.Context(), &c.req)
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(rep); got != trim(c.want) {
				t.Errorf("got\n%s\nwant\n%s", got, trim(c.want))
			}
		})
	}
}

// trim takes the indentation off.
func trim(s string) string {
	var out []string
	for l := range strings.Lines(s) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func TestInvalidRequests(t *testing.T) {
	e, s := fixture(t)
	s.KeptFrom = start + 300
	for _, c := range []struct {
		req  query.Request
		is   error
		want string
	}{
		{query.Request{GroupBy: []string{"teams"}}, query.ErrInvalid, `unknown dimension "teams" (did you mean team?): want one of cluster, node, device,`},
		{query.Request{GroupBy: []string{"colour"}}, query.ErrInvalid, `unknown dimension "colour": want one of`},
		{query.Request{GroupBy: []string{"label:"}}, query.ErrInvalid, `names no label: write label:KEY`},
		{query.Request{GroupBy: []string{"team", "team"}}, query.ErrInvalid, `grouping by team twice`},
		{query.Request{GroupBy: strings.Split("abcdefghi", "")}, query.ErrInvalid, `grouping by 9 dimensions: at most 8`},
		{query.Request{GroupBy: []string{strings.Repeat("x", 2000)}}, query.ErrInvalid, `has 2000 bytes`},
		{query.Request{Filters: []string{"team"}}, query.ErrInvalid, `filter "team" has no =: write KEY=VALUE or KEY!=VALUE`},
		{query.Request{Filters: []string{"tema=x"}}, query.ErrInvalid, `filter "tema=x": unknown dimension "tema" (did you mean team?)`},
		{query.Request{Filters: []string{"basis=idle"}}, query.ErrInvalid, `unknown basis "idle": want one of used, reserved`},
		{query.Request{Filters: make([]string, 300)}, query.ErrInvalid, `300 filters: at most 256`},
		{query.Request{From: 20, To: 10}, query.ErrInvalid, `range 20 to 10 is empty: from must be before to`},
		{query.Request{From: 20}, query.ErrInvalid, `range from 20 has no end`},
		{query.Request{From: -5, To: 10}, query.ErrInvalid, `want Unix seconds`},
		{query.Request{Step: -1}, query.ErrInvalid, `step -1: want 1 second or more`},
		{query.Request{From: start, To: start + 100_000, Step: 1}, query.ErrInvalid, `take a step of 10 s or more`},
		{query.Request{GroupBy: []string{"tenant"}}, query.ErrInvalid, `device time has no tenant`},
		{query.Request{Filters: []string{"tenant=acme"}}, query.ErrInvalid, `gpuledger inferences --by tenant`},
		{query.Request{Limit: -1}, query.ErrInvalid, `limit -1`},
		{query.Request{From: start + 61, To: start + 100}, store.ErrTooFine, `ask for 1700006460 to 1700006520, whole minutes`},
		{query.Request{From: start, To: start + 120, Step: 7}, store.ErrTooFine, `seconds for 2 hours, minutes for 14 days, hours for 400 days, days for ever): ask for 1700006400 to 1700006520, whole minutes, with a step of 60 s`},
	} {
		_, err := e.Report(t.Context(), &c.req)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v\nwant %q", c.req, err, c.want)
		}
	}
}

func TestNothingStored(t *testing.T) {
	e := query.New(query.Config{Store: querytest.NewStore()})
	rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"team"}})
	if err != nil || len(rep.Rows) != 0 || rep.From != 0 || rep.To != 0 || rep.Total.Sum.Priced() {
		t.Errorf("an empty ledger answers %+v, %v", rep, err)
	}
}

// Rows of any grouping, step and limit sum to the total, which is the same for
// all of them: what is filtered is a part of it.
func TestLaw2PartitionOfAnswers(t *testing.T) {
	e, _ := fixture(t)
	names := []string{"label:app", "label:team"}
	for _, d := range query.Dimensions() {
		if d != store.Tenant {
			names = append(names, string(d))
		}
	}
	whole, err := e.Report(t.Context(), &query.Request{})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		req := query.Request{
			GroupBy: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, 4, rapid.ID).Draw(t, "group by"),
			Step:    rapid.SampledFrom([]int64{0, 1, 7, 60, 3600}).Draw(t, "step"),
			Limit:   rapid.IntRange(0, 5).Draw(t, "limit"),
		}
		rep, err := e.Report(context.Background(), &req)
		if err != nil {
			t.Fatal(err)
		}
		var time, cost, unpriced, bases big.Int
		for i := range rep.Rows {
			r := &rep.Rows[i]
			time.Add(&time, &r.Sum.DeviceTime)
			cost.Add(&cost, &r.Sum.Cost)
			unpriced.Add(&unpriced, &r.Sum.Unpriced)
			for j := range r.ByBasis {
				bases.Add(&bases, &r.ByBasis[j].Cost)
			}
		}
		want := &whole.Total.Sum
		if time.Cmp(&want.DeviceTime) != 0 || cost.Cmp(&want.Cost) != 0 || bases.Cmp(&want.Cost) != 0 || unpriced.Cmp(&want.Unpriced) != 0 {
			t.Fatalf("rows sum to %v ns, %v (%v by basis), %v ns unpriced; the ledger holds %+v", &time, &cost, &bases, &unpriced, want)
		}
		if rep.Total.Sum.Cost.Cmp(&want.Cost) != 0 {
			t.Fatalf("total %v, want %v", &rep.Total.Sum.Cost, &want.Cost)
		}
	})
}

// However the chunks are spread over the store and what is not stored yet, and
// whether or not the overlay still holds some of the store's, answers are the
// same to the last digit.
func TestOverlayMakesNoDifference(t *testing.T) {
	w := querytest.NewWorld()
	all := w.Chunks(0, 160)
	m := mapping.Default().Compile()
	rapid.Check(t, func(t *rapid.T) {
		var stored, open []*attribution.Chunk
		for _, c := range all {
			if rapid.Bool().Draw(t, "stored") {
				stored = append(stored, c)
			} else {
				open = append(open, c)
			}
		}
		req := query.Request{
			GroupBy: rapid.SampledFrom([][]string{{"team", "basis"}, {"model"}, {"device", "counted"}}).Draw(t, "group by"),
			Step:    rapid.SampledFrom([]int64{0, 60, 50}).Draw(t, "step"),
		}
		answer := func(stored []*attribution.Chunk, overlay query.Overlay) string {
			s := querytest.NewStore(stored...)
			s.Map = m
			e := query.New(query.Config{Store: s, Overlay: overlay, Mapping: func() store.Mapping { return m }})
			rep, err := e.Report(context.Background(), &req)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintln(rep.From, rep.To) + lines(rep)
		}
		if req.GroupBy[0] != "team" && len(stored) > 0 {
			// Model and counted depend on tallies: the store learns of an open
			// chunk's when that is committed.
			stored = append(stored, open...)
			open = nil
		}
		want := answer(all, nil)
		if got := answer(stored, &querytest.Open{Items: open, Stale: rapid.IntRange(0, 2).Draw(t, "stale")}); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if got := answer(all, &querytest.Open{Items: open, Number: 1}); got != want {
			t.Fatalf("with an overlay of what is stored: got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestOverlayTooOldForEver(t *testing.T) {
	e := query.New(query.Config{Store: querytest.NewStore(), Overlay: &querytest.Open{Stale: 100}})
	if _, err := e.Report(t.Context(), &query.Request{}); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("got %v", err)
	}
}

// A corrected rule corrects history: the answer about the past follows the
// rules in force when it is asked.
func TestLaw7RulesCorrectHistory(t *testing.T) {
	e, s := fixture(t)
	ask := func(yaml string) string {
		rules, err := mapping.Parse([]byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		s.Map = rules.Compile()
		rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"team"}, Filters: []string{"namespace=research"}})
		if err != nil {
			t.Fatal(err)
		}
		return lines(rep)
	}
	before := ask("rules: [{target: team, from_label: team}]")
	after := ask("rules: [{target: team, from_label: team}, {target: team, namespace: research, value: science}]")
	if want := `+0 —: 300.000 s cost 208333333 used=300.000`; before != want {
		t.Errorf("before: %s", before)
	}
	if want := `+0 "science": 300.000 s cost 208333333 used=300.000`; after != want {
		t.Errorf("after: %s", after)
	}
}

// What no device could measure is not 0.
func TestLaw9UnmeasuredIsNotZero(t *testing.T) {
	e, _ := fixture(t)
	rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	n1, n2 := &rep.Rows[0].Sum, &rep.Rows[1].Sum
	if !n1.HasEnergy || !n1.HasMemory || !n1.Priced() || n1.Unpriced.Sign() != 0 {
		t.Errorf("n1 measures energy and memory and has a price: %+v", n1)
	}
	if n2.HasEnergy || n2.HasMemory || n2.Priced() || n2.Unpriced.Cmp(&n2.DeviceTime) != 0 {
		t.Errorf("n2 measures neither and is unpriced: %+v", n2)
	}
}

func TestDevices(t *testing.T) {
	_, s := fixture(t)
	open := querytest.NewWorld().Chunk("n2", start+600, 5)
	e := query.New(query.Config{Store: s, Overlay: &querytest.Open{Items: []*attribution.Chunk{open}}})
	ds, err := e.Devices(t.Context(), &query.DevicesRequest{Filters: []string{"device-model=NVIDIA*", "device!=GPU-a"}})
	if err != nil || len(ds) != 2 {
		t.Fatalf("%v, %v", ds, err)
	}
	if d := ds[0]; d.Device.ID != "GPU-b" || d.First != start || d.Last != start+600 || seconds(&d.Used) != "326.777" {
		t.Errorf("GPU-b: %d to %d, used %s", d.First-start, d.Last-start, seconds(&d.Used))
	}
	if d := ds[1]; d.Device.ID != "GPU-c" || d.Last != start+605 || seconds(&d.Sum.DeviceTime) != "605.000" {
		t.Errorf("GPU-c: to %d, %s s", d.Last-start, seconds(&d.Sum.DeviceTime))
	}
	_, err = e.Devices(t.Context(), &query.DevicesRequest{Filters: []string{"team=x"}})
	if !errors.Is(err, query.ErrInvalid) || !strings.Contains(err.Error(), "devices have no team") {
		t.Errorf("got %v", err)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := querytest.NewStore()
		release := make(chan struct{})
		s.Before = func() { <-release }
		e := query.New(query.Config{Store: s, Concurrency: 1, Timeout: time.Minute})
		first := make(chan error)
		go func() {
			_, err := e.Report(t.Context(), &query.Request{})
			first <- err
		}()
		synctest.Wait()
		_, err := e.Report(t.Context(), &query.Request{})
		if !errors.Is(err, query.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the second query: %v", err)
		}
		close(release)
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

func TestFilterGrammar(t *testing.T) {
	fs, err := query.ParseFilters([]string{"team=a", "label:app=x=y", "team=b", "team!=c", "team=a"})
	if err != nil {
		t.Fatal(err)
	}
	want := []store.Filter{
		{Dimension: "team", Values: []string{"a", "b"}},
		{Dimension: "label:app", Values: []string{"x=y"}},
		{Dimension: "team", Values: []string{"c"}, Negate: true},
	}
	if !slices.EqualFunc(fs, want, func(a, b store.Filter) bool {
		return a.Dimension == b.Dimension && a.Negate == b.Negate && slices.Equal(a.Values, b.Values)
	}) {
		t.Errorf("got %+v", fs)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"team=a", "label:x!=*", "=", "!=", "basis=used", "teem"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := query.ParseDimension(s); err != nil && !errors.Is(err, query.ErrInvalid) {
			t.Errorf("dimension %q: %v", s, err)
		}
		fs, err := query.ParseFilters([]string{s})
		if err != nil && !errors.Is(err, query.ErrInvalid) {
			t.Errorf("filter %q: %v", s, err)
		}
		if err == nil && fs[0].Dimension.Check() != nil {
			t.Errorf("filter %q gives a dimension that the store refuses: %+v", s, fs)
		}
	})
}

// Of however many open chunks, one at a time is decoded.
func TestLaw8AQuestionDecodesOneChunkAfterAnother(t *testing.T) {
	const n = 2000
	c := querytest.NewWorld().Chunk("n1", querytest.Start, 10)
	size := int(unsafe.Sizeof(attribution.DeviceWindow{})) * len(c.Windows)
	for i := range c.Windows {
		size += int(unsafe.Sizeof(attribution.Slice{})) * len(c.Windows[i].Slices)
	}
	var items []*attribution.Chunk
	for i := range n {
		again := *c
		again.Key.Node = fmt.Sprint("n", i)
		items = append(items, &again)
	}
	e := query.New(query.Config{Store: querytest.NewStore(), Overlay: &querytest.Open{Items: items}})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	report, err := e.Report(t.Context(), &query.Request{From: querytest.Start, To: querytest.Start + 60})
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if want := n * 10 * 2 * attribution.WindowNanos; report.Total.Sum.DeviceTime.Cmp(big.NewInt(want)) != 0 {
		t.Errorf("%v ns, want %d", &report.Total.Sum.DeviceTime, want)
	}
	if all := n * size; after.TotalAlloc-before.TotalAlloc > uint64(all/2) {
		t.Errorf("a question about %d chunks, %d bytes decoded, took %d", n, all, after.TotalAlloc-before.TotalAlloc)
	}
}
