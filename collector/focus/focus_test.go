package focus_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/focus"
	"github.com/gpuledger/gpuledger/collector/focus/validate"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
)

const start = querytest.Start

// cards are rate cards by revision.
type cards map[uint32]*rating.Card

func (c cards) RateCard(_ context.Context, revision uint32) (*rating.Card, error) {
	if card, ok := c[revision]; ok {
		return card, nil
	}
	return nil, store.ErrNotFound
}

func card(revision uint32, perHour money.Amount) *rating.Card {
	return &rating.Card{Revision: revision, Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "NVIDIA H100", PerDeviceHour: perHour}}}
}

func engine(chunks ...*attribution.Chunk) *query.Engine {
	s := querytest.NewStore(chunks...)
	s.Map = mapping.Default().Compile()
	return query.New(query.Config{Store: s, Mapping: func() store.Mapping { return s.Map }})
}

// export writes a range both ways and checks both files.
func export(t rapid.TB, e *query.Engine, c focus.Cards, req *focus.Request) (csvFile, parquetFile []byte, sum *focus.Summary) {
	t.Helper()
	if req.Names.Currency == "" {
		req.Names.Currency = "USD"
	}
	var a, b bytes.Buffer
	for _, x := range []struct {
		w   focus.Writer
		out *bytes.Buffer
	}{{focus.NewCSV(&a), &a}, {focus.NewParquet(&b), &b}} {
		var err error
		if sum, err = focus.Export(context.Background(), e, c, req, x.w); err != nil {
			t.Fatal(err)
		}
		if err := x.w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, check := range map[string]func() (*validate.Report, error){
		"csv":     func() (*validate.Report, error) { return validate.CSV(bytes.NewReader(a.Bytes())) },
		"parquet": func() (*validate.Report, error) { return validate.Parquet(bytes.NewReader(b.Bytes()), int64(b.Len())) },
	} {
		rep, err := check()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, f := range rep.Findings {
			t.Errorf("%s: %v", name, f)
		}
		if rep.Rows != sum.Rows || len(rep.Unchecked) != 0 {
			t.Errorf("%s: %d rows, want %d; %v", name, rep.Rows, sum.Rows, rep.Unchecked)
		}
		if got, want := rep.Cost, focus.NewDecimal(&sum.Cost, 9).String(); got != want {
			t.Errorf("%s: the validator adds up %s, the export %s", name, got, want)
		}
	}
	return a.Bytes(), b.Bytes(), sum
}

// table is a CSV file by column.
func table(t rapid.TB, file []byte) []map[string]string {
	t.Helper()
	records, err := csv.NewReader(bytes.NewReader(file)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var rows []map[string]string
	for _, r := range records[1:] {
		row := map[string]string{}
		for i, name := range records[0] {
			row[name] = r[i]
		}
		rows = append(rows, row)
	}
	return rows
}

func decimal(t rapid.TB, s string) *big.Rat {
	t.Helper()
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is not a number", s)
	}
	return r
}

// sums adds up a column by another.
func sums(t rapid.TB, rows []map[string]string, by, column string) map[string]*big.Rat {
	t.Helper()
	out := map[string]*big.Rat{}
	for _, r := range rows {
		if out[r[by]] == nil {
			out[r[by]] = new(big.Rat)
		}
		out[r[by]].Add(out[r[by]], decimal(t, r[column]))
	}
	return out
}

func TestSmallFleet(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 600)...)
	file, _, sum := export(t, e, cards{1: card(1, 5*money.Unit/2)}, &focus.Request{Step: focus.Hourly})
	rows := table(t, file)
	var got []string
	for _, r := range rows {
		got = append(got, strings.Join([]string{
			r["ResourceId"], r["x_Portion"], r["AllocatedResourceId"], r["ConsumedQuantity"], r["PricingQuantity"],
			r["ListUnitPrice"], r["ListCost"], r["EffectiveCost"], r["AllocatedMethodDetails"],
		}, " "))
	}
	want := []string{
		`GPU-a owned team=search 600 0.166666666667 2.5 0.4166666666675 0.416666666 {"Elements":[{"AllocatedRatio":1,"UsageUnit":"GPU-Seconds","UsageQuantity":600}]}`,
		`GPU-b owned team=ads 270 0.075 2.5 0.1875 0.1875 {"Elements":[{"AllocatedRatio":0.45000000072,"UsageUnit":"GPU-Seconds","UsageQuantity":270}]}`,
		`GPU-b unallocated  30 0.008333333333 2.5 0.0208333333325 0.020833333 {"Elements":[{"AllocatedRatio":0.04999999928,"UsageUnit":"GPU-Seconds","UsageQuantity":30}]}`,
		`GPU-b unmapped  300 0.083333333334 2.5 0.208333333335 0.208333333 {"Elements":[{"AllocatedRatio":0.5,"UsageUnit":"GPU-Seconds","UsageQuantity":300}]}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if sum.Origins != 2 || sum.Averaged != 0 || sum.Priced.Int64() != 1200e9 || sum.Unpriced.Int64() != 600e9 {
		t.Errorf("%d charges, %d averaged, %v ns priced, %v not", sum.Origins, sum.Averaged, &sum.Priced, &sum.Unpriced)
	}
}

// What has no price is not in the file, where its cost would have to be 0.
func TestLaw9UnpricedTimeIsCountedNotCharged(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 600)...)
	file, _, sum := export(t, e, cards{}, &focus.Request{})
	for _, r := range table(t, file) {
		if r["ResourceId"] == "GPU-c" {
			t.Errorf("unpriced time has a row: %v", r)
		}
		if r["x_UnitPriceSource"] != "average" {
			t.Errorf("the price is from the %s, but there is no card", r["x_UnitPriceSource"])
		}
	}
	if sum.Unpriced.Int64() != 600e9 || sum.Averaged != 2 {
		t.Errorf("%v ns without a price, %d averages", &sum.Unpriced, sum.Averaged)
	}
}

// A file that is not split holds the origin charges, and nothing of a split.
func TestUnsplit(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 600)...)
	file, _, sum := export(t, e, cards{1: card(1, 5*money.Unit/2)}, &focus.Request{AllocateBy: []string{focus.Unsplit}})
	if sum.Rows != 2 || sum.Origins != 2 {
		t.Errorf("%d rows of %d charges", sum.Rows, sum.Origins)
	}
	for _, r := range table(t, file) {
		for name, v := range r {
			if v != "" && (strings.HasPrefix(name, "Allocated") || strings.HasPrefix(name, "x_Origin") || name == "x_Portion") {
				t.Errorf("%s is %q in a charge that is whole", name, v)
			}
		}
	}
}

// Who does not issue the invoice bills nothing; the effective cost stays.
func TestBilledCost(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 600)...)
	for issuer, billed := range map[string]bool{"": true, "gpuledger": true, "Big Cloud": false} {
		file, _, _ := export(t, e, cards{}, &focus.Request{Names: focus.Names{InvoiceIssuer: issuer}})
		for _, r := range table(t, file) {
			want := "0"
			if billed {
				want = r["EffectiveCost"]
			}
			if r["BilledCost"] != want || r["EffectiveCost"] == "0" {
				t.Errorf("issuer %q: billed %s, effective %s", issuer, r["BilledCost"], r["EffectiveCost"])
			}
		}
	}
}

// A card that does not explain the cost is not believed, one that changes
// within the period is asked again.
func TestUnitPrice(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 600)...)
	later := card(1, 3*money.Unit)
	later.Prices[0].To = start + 18
	later.Prices = append(later.Prices, rating.PriceRule{Model: "NVIDIA H100", From: start + 18, PerDeviceHour: 5 * money.Unit / 2})
	for name, c := range map[string]struct {
		cards         cards
		price, source string
	}{
		"the card":         {cards{1: card(1, 5*money.Unit/2)}, "2.5", "rate-card"},
		"a change":         {cards{1: later}, "2.5", "rate-card"},
		"another price":    {cards{1: card(1, 3*money.Unit)}, "2.5", "average"},
		"another revision": {cards{2: card(2, 5*money.Unit/2)}, "2.5", "average"},
	} {
		file, _, _ := export(t, e, c.cards, &focus.Request{From: start, To: start + 36, Step: focus.Hourly})
		for _, r := range table(t, file) {
			if r["ListUnitPrice"] != c.price || r["x_UnitPriceSource"] != c.source {
				t.Errorf("%s: %s by %s, want %s by %s", name, r["ListUnitPrice"], r["x_UnitPriceSource"], c.price, c.source)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 60)...)
	for _, c := range []struct {
		req  focus.Request
		want string
	}{
		{focus.Request{Step: 60}, "hours (3600) or days (86400)"},
		{focus.Request{AllocateBy: []string{"teem"}}, "did you mean team?"},
		{focus.Request{AllocateBy: []string{"node"}}, "can't be split by node"},
		{focus.Request{AllocateBy: []string{"team", "basis"}}, "can't be split by basis"},
		{focus.Request{AllocateBy: []string{"team", "team"}}, "twice"},
		{focus.Request{From: 9, To: 3}, "from must be before to"},
		{focus.Request{From: 1, To: 1 + 400*86400, Step: 3600}, "at most 8784"},
		{focus.Request{Names: focus.Names{Provider: strings.Repeat("x", 300)}}, "the provider has 300 bytes"},
	} {
		var b bytes.Buffer
		if _, err := focus.Export(t.Context(), e, cards{}, &c.req, focus.NewCSV(&b)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.req, err, c.want)
		}
	}
}

func TestNothingStored(t *testing.T) {
	if _, _, sum := export(t, engine(), cards{}, &focus.Request{}); sum.Rows != 0 {
		t.Errorf("%d rows of nothing", sum.Rows)
	}
}

// world draws chunks of a few devices over two days: prices that divide badly,
// revisions, unpriced time, owners with strange names, all bases.
func world(t *rapid.T) []*attribution.Chunk {
	name := rapid.OneOf(rapid.StringMatching(`[a-z]{1,3}`), rapid.SampledFrom([]string{`a,team=b`, `"`, "=1+1", "é", " ", "NULL", "a\r\nb", `\`}))
	r := &attribution.Roster{Methods: []string{"sm/device", "sm/process"}}
	for i := range rapid.IntRange(1, 3).Draw(t, "devices") {
		d := attribution.Device{ID: fmt.Sprintf("GPU-%d", i), Cluster: "c", Node: "n", Model: "NVIDIA H100", CapacityType: rapid.SampledFrom([]string{"", "spot", "reserved"}).Draw(t, "capacity")}
		if rapid.Bool().Draw(t, "placed") {
			d.Labels = attribution.MakeLabels(map[string]string{"topology.kubernetes.io/region": "eu-1", "topology.kubernetes.io/zone": "eu-1a", "pod/app": "x"})
		}
		if rapid.Bool().Draw(t, "energy") {
			d.Sensors = attribution.SensorEnergy
		}
		r.Devices = append(r.Devices, d)
	}
	r.Owners = []attribution.Owner{{}, {Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: 7, Command: "miner"}}
	for i := range rapid.IntRange(1, 4).Draw(t, "owners") {
		labels := map[string]string{}
		if rapid.Bool().Draw(t, "labelled") {
			labels["team"], labels["app"] = name.Draw(t, "team"), rapid.SampledFrom([]string{"", "chat", "x"}).Draw(t, "app")
		}
		r.Owners = append(r.Owners, attribution.Owner{
			Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: name.Draw(t, "namespace"), Pod: fmt.Sprint("p", i), PodUID: fmt.Sprint(i),
			Container: "main", Labels: attribution.MakeLabels(labels),
		})
	}
	var cs []*attribution.Chunk
	tens := rapid.SliceOfNDistinct(rapid.IntRange(0, 2*8640-1), 1, 6, rapid.ID).Draw(t, "tens")
	slices.Sort(tens)
	for _, ten := range tens {
		n := rapid.IntRange(1, 10).Draw(t, "seconds")
		from := start + attribution.Second(10*ten)
		var ws []attribution.DeviceWindow
		for d := range r.Devices {
			for s := range n {
				ws = append(ws, drawWindow(t, r, uint32(d), from+attribution.Second(s)))
			}
		}
		c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: from}, n, r.Facts(), ws, nil)
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		cs = append(cs, c)
	}
	return cs
}

// price is the hourly price of a revision.
func price(revision uint32) attribution.Price {
	return attribution.Price{Revision: revision, PerHour: [...]money.Amount{0, 2_500_000_000, 710_000_001, 0}[revision]}
}

func drawWindow(t *rapid.T, r *attribution.Roster, device uint32, s attribution.Second) attribution.DeviceWindow {
	w := attribution.DeviceWindow{Device: device, Second: s, Method: uint16(rapid.IntRange(0, 1).Draw(t, "method"))}
	if revision := rapid.Uint32Range(0, 3).Draw(t, "revision"); revision > 0 {
		w.Price = price(revision)
	}
	if r.Devices[device].Sensors&attribution.SensorEnergy != 0 {
		w.Energy = rapid.Int64Range(0, 1e9).Draw(t, "energy")
	}
	left := attribution.WindowNanos
	for o := 2; o < len(r.Owners) && left > 0; o++ {
		n := left / int64(rapid.IntRange(1, 4).Draw(t, "part"))
		left -= n
		used := n / int64(rapid.IntRange(1, 3).Draw(t, "used"))
		w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(o), Basis: attribution.Used, Time: used, SMActive: used})
		if n > used {
			w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(o), Basis: rapid.SampledFrom([]attribution.Basis{attribution.Reserved, attribution.Unobserved}).Draw(t, "rest"), Time: n - used})
		}
	}
	if left > 0 {
		x := attribution.Slice{Owner: 0, Basis: attribution.Unallocated, Time: left}
		if rapid.Bool().Draw(t, "unattributed") {
			x = attribution.Slice{Owner: 1, Basis: attribution.Unattributed, Time: left}
		}
		w.Slices = append([]attribution.Slice{x}, w.Slices...)
	}
	return w
}

// Any world's file is valid, says the same in CSV and Parquet, and sums to
// what a report says, by team and in total, to the nano unit.
func TestLaw1FileIsTheReport(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := engine(world(rt)...)
		c := cards{}
		for revision := uint32(1); revision <= 3; revision++ {
			if rapid.Bool().Draw(rt, "card") {
				c[revision] = card(revision, price(revision).PerHour)
			}
		}
		req := &focus.Request{
			Step:       rapid.SampledFrom([]int64{0, focus.Hourly, focus.Daily}).Draw(rt, "step"),
			AllocateBy: rapid.SampledFrom([][]string{nil, {"team"}, {"namespace"}, {"label:app"}, {"team", "namespace", "label:app"}, {"none"}}).Draw(rt, "by"),
		}
		if rapid.Bool().Draw(rt, "part") {
			req.From = start + attribution.Second(rapid.IntRange(0, 86400).Draw(rt, "from"))
			req.To = req.From + attribution.Second(rapid.IntRange(1, 86400).Draw(rt, "length"))
		}
		file, parquetFile, sum := export(rt, e, c, req)
		rows := table(rt, file)
		sameRows(rt, rows, parquetFile)

		by := []string{"team"}
		if len(req.AllocateBy) == 1 {
			by = req.AllocateBy
		}
		if by[0] == "none" {
			by = nil
		}
		rep, err := e.Report(context.Background(), &query.Request{From: req.From, To: req.To, GroupBy: by})
		if err != nil {
			rt.Fatal(err)
		}
		if rep.Total.Sum.Cost.Cmp(&sum.Cost) != 0 || rep.Total.Sum.Unpriced.Cmp(&sum.Unpriced) != 0 {
			rt.Fatalf("the file has %v (%v ns unpriced), the report %v (%v)", &sum.Cost, &sum.Unpriced, &rep.Total.Sum.Cost, &rep.Total.Sum.Unpriced)
		}
		if len(req.AllocateBy) > 1 || by == nil {
			return
		}
		got := sums(rt, rows, "AllocatedResourceId", "EffectiveCost")
		want := map[string]*big.Rat{}
		for _, r := range rep.Rows {
			id := ""
			if !r.Keys[0].Missing {
				id = by[0] + "=" + strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(strings.ToValidUTF8(r.Keys[0].Value, "\uFFFD"))
				id = strings.ReplaceAll(id, "\r\n", "\n") // as csv.Reader gives it back
			}
			if want[id] == nil {
				want[id] = new(big.Rat)
			}
			want[id].Add(want[id], new(big.Rat).SetFrac(&r.Sum.Cost, big.NewInt(1e9)))
		}
		for id, w := range want {
			if g := got[id]; w.Sign() != 0 && (g == nil || g.Cmp(w) != 0) {
				rt.Fatalf("%q: the file has %v, the report %v", id, g, w)
			}
		}
	})
}
