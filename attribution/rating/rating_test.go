package rating_test

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

const full = `
currency: USD
policy: dominant
prices:
  - model: "*"
    per_device_hour: "0.5"
  - model: NVIDIA H100*
    capacity_type: spot
    node_labels: {zone: eu-1a}
    from: 2026-01-01T00:00:00Z
    to: 2027-01-01T01:00:00+01:00
    per_device_hour: 2.50
overheads:
  - name: cpu and memory
    per_node_hour: 0.40
    per_device_hour: 1
  - name: power
    node_labels: {zone: eu-1a}
    power: {watts: 700, per_kwh: 0.12, pue: 1.3}
`

func TestParseReadsEverything(t *testing.T) {
	zone := attribution.Labels{{Key: "zone", Value: "eu-1a"}}
	want := &rating.Card{
		Currency: "USD", Policy: "dominant",
		Prices: []rating.PriceRule{
			{Model: "*", PerDeviceHour: 500_000_000},
			{Model: "NVIDIA H100*", CapacityType: "spot", NodeLabels: zone, From: 1_767_225_600, To: 1_798_761_600, PerDeviceHour: 2_500_000_000},
		},
		Overheads: []rating.Overhead{
			{Name: "cpu and memory", PerNodeHour: 400_000_000, PerDeviceHour: money.Unit},
			{Name: "power", NodeLabels: zone, PerDeviceHour: 109_200_000},
		},
	}
	got, err := rating.Parse([]byte(full))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	got.Revision = 12
	again, err := rating.Parse(rating.Format(got))
	if err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("formatted:\n%s\nread back: %+v, %v", rating.Format(got), again, err)
	}
}

func TestPowerIsRoundedDownOnce(t *testing.T) {
	for text, want := range map[string]money.Amount{
		"{watts: 700, per_kwh: 0.12, pue: 1.3}":                  109_200_000,
		"{watts: 0.7, per_kwh: 0.000000001}":                     0,
		"{watts: 1999, per_kwh: 0.000000001}":                    1,
		"{watts: 333.333333333, per_kwh: 0.333333333, pue: 1.1}": 122_222_222,
		"{watts: 0, per_kwh: 3}":                                 0,
	} {
		c, err := rating.Parse([]byte("currency: USD\nprices: [{model: x, per_device_hour: 0}]\noverheads: [{name: power, power: " + text + "}]"))
		if err != nil || c.Overheads[0].PerDeviceHour != want {
			t.Errorf("%s: %+v, %v, want %d", text, c, err, want)
		}
	}
}

func TestBadCardsSayWhereAndWhy(t *testing.T) {
	price := func(s string) string {
		return "currency: USD\nprices:\n  - {model: a, per_device_hour: 1}\n  - " + s + "\n"
	}
	over := func(s string) string { return price("{model: b, per_device_hour: 1}") + "overheads:\n  - " + s + "\n" }
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", "one YAML document"},
		{"two documents", "currency: USD\n---\ncurrency: EUR\n", "more than one document"},
		{"a list", "- a\n", "line 1"},
		{"not YAML", "currency: [\n", "line 1"},
		{"unknown key", price("{model: b, per_device_hour: 1, price: 3}"), "line 4: unknown field \"price\" (known are"},
		{"unknown key on top", "currency: USD\nowner: me\nprices: []\n", "line 2: unknown field \"owner\""},
		{"key twice", price("model: b\n    per_device_hour: 1\n    model: c"), "line 6"},
		{"label twice", price("{model: b, per_device_hour: 1, node_labels: {a: x, a: y}}"), "line 4"},
		{"wrong type of list", "currency: USD\nprices: 3\n", "line 2"},
		{"wrong type of text", price("{model: true, per_device_hour: 1}"), "line 4: want text"},
		{"number for text", price("{model: 100, per_device_hour: 1}"), "line 4: want text"},
		{"wrong type of number", price("{model: b, per_device_hour: true}"), "line 4: want a number"},
		{"list for a number", price("{model: b, per_device_hour: [1]}"), "line 4: want a number"},
		{"number for a label", price("{model: b, per_device_hour: 1, node_labels: {a: 1}}"), "line 4: want text"},
		{"exponent", price("{model: b, per_device_hour: 1e3}"), "line 4: prices[1].per_device_hour: "},
		{"hexadecimal", price("{model: b, per_device_hour: 0x10}"), "line 4: prices[1].per_device_hour: "},
		{"separator", price("{model: b, per_device_hour: 1_000}"), "line 4: prices[1].per_device_hour: "},
		{"not a number", price("{model: b, per_device_hour: .nan}"), "line 4"},
		{"ten decimals", price("{model: b, per_device_hour: 0.1234567891}"), "nine decimals"},
		{"negative", price("{model: b, per_device_hour: -1}"), "line 4: prices[1].per_device_hour: -1.00 is out of range"},
		{"too much", price("{model: b, per_device_hour: 10000000.01}"), "out of range"},
		{"no price", price("{model: b}"), "line 4: prices[1].per_device_hour: is missing"},
		{"no model", price("{per_device_hour: 1}"), "line 4: prices[1].model: is missing"},
		{"odd model", price("{model: \"b\\n\", per_device_hour: 1}"), "not printable ASCII"},
		{"long model", price("{model: " + strings.Repeat("b", 300) + ", per_device_hour: 1}"), "300 bytes"},
		{"from after to", price("{model: b, per_device_hour: 1, from: 2026-01-02T00:00:00Z, to: 2026-01-02T00:00:00Z}"), "line 4: prices[1].to: "},
		{"a date", price("{model: b, per_device_hour: 1, from: 2026-01-02}"), "write it like 2026-01-01T00:00:00Z"},
		{"half a second", price("{model: b, per_device_hour: 1, from: 2026-01-02T00:00:00.5Z}"), "whole seconds"},
		{"before 1970", price("{model: b, per_device_hour: 1, from: 1969-01-02T00:00:00Z}"), "out of range"},
		{"at 1970", price("{model: b, per_device_hour: 1, from: 1970-01-01T00:00:00Z}"), "leave it away"},
		{"overlap", price("{model: a, per_device_hour: 2}"), "line 3: prices[0] and line 4: prices[1]: both match some device equally well"},
		{"no prices", "currency: USD\nprices: []\n", "line 2: prices: there are none"},
		{"no currency", "prices: [{model: a, per_device_hour: 1}]\n", "currency"},
		{"small currency", "currency: usd\nprices: [{model: a, per_device_hour: 1}]\n", "line 1: currency: \"usd\""},
		{"unknown policy", "currency: USD\npolicy: fair\nprices: [{model: a, per_device_hour: 1}]\n", "line 2: policy: \"fair\""},
		{"odd revision", "revision: 1.5\ncurrency: USD\nprices: [{model: a, per_device_hour: 1}]\n", "line 1: revision: "},
		{"overhead without name", over("{per_node_hour: 1}"), "line 6: overheads[0].name: is missing"},
		{"overhead of nothing", over("{name: x}"), "line 6: overheads[0]: adds nothing"},
		{"overhead, negative", over("{name: x, per_node_hour: -1}"), "line 6: overheads[0].per_node_hour: "},
		{"overhead twice", over("{name: x, per_node_hour: 1}\n  - {name: x, per_node_hour: 2}"), "added twice"},
		{"power twice", over("{name: x, per_device_hour: 1, power: {watts: 1, per_kwh: 1}}"), "another way"},
		{"power without price", over("{name: x, power: {watts: 1}}"), "want watts and per_kwh"},
		{"power below", over("{name: x, power: {watts: -1, per_kwh: 1}}"), "impossible"},
		{"power out of nothing", over("{name: x, power: {watts: 1, per_kwh: 1, pue: 0.9}}"), "a pue of at least 1"},
		{"power, unknown key", over("{name: x, power: {watt: 1, per_kwh: 1}}"), "line 6: unknown field \"watt\""},
		{"huge power", over("{name: x, power: {watts: 9000000000, per_kwh: 9000000000}}"), "at most"},
		{"many brackets", "currency: USD\nprices: " + strings.Repeat("[", 1<<19), "line 2: is nested too deeply"},
		{"many dashes", strings.Repeat("- ", 1<<18), "line 1: is nested too deeply"},
		{"tag that does not fit", "currency: USD\nprices: !0 000\n", "line 2: tags, anchors and aliases are not allowed"},
		{"alias", "currency: &a USD\npolicy: *a\n", "line 1: tags, anchors and aliases"},
		{"too long", strings.Repeat("#\n", rating.MaxBytes), "at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := rating.Parse([]byte(tc.text))
			if err == nil || c != nil || !strings.HasPrefix(err.Error(), "rate card: ") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v\nwant %q", c, err, tc.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("currency: EUR\nprices:\n- &a {model: \"?\", per_device_hour: 0}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<10 {
			return // the parser's own speed is not at issue
		}
		c, err := rating.Parse(b)
		if err != nil {
			return
		}
		again, err := rating.Parse(rating.Format(c))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v\n%s\n%+v, %v", c, rating.Format(c), again, err)
		}
	})
}

func TestValidateBounds(t *testing.T) {
	for name, spoil := range map[string]func(c *rating.Card){
		"many prices":    func(c *rating.Card) { c.Prices = make([]rating.PriceRule, rating.MaxPrices+1) },
		"many overheads": func(c *rating.Card) { c.Overheads = make([]rating.Overhead, rating.MaxOverheads+1) },
		"many labels":    func(c *rating.Card) { c.Prices[0].NodeLabels = make(attribution.Labels, rating.MaxLabels+1) },
		"label order":    func(c *rating.Card) { c.Prices[0].NodeLabels = attribution.Labels{{Key: "b"}, {Key: "a"}} },
		"long label": func(c *rating.Card) {
			c.Prices[0].NodeLabels = attribution.Labels{{Key: "b", Value: strings.Repeat("x", 300)}}
		},
		"overheads beyond what a chunk can say": func(c *rating.Card) {
			for i := range 6 {
				c.Overheads = append(c.Overheads, rating.Overhead{Name: fmt.Sprint(i), PerNodeHour: rating.MaxAmount, PerDeviceHour: rating.MaxAmount})
			}
		},
		"late":      func(c *rating.Card) { c.Prices[0].To = rating.MaxTime + 1 },
		"no policy": func(c *rating.Card) { c.Policy = "" },
	} {
		c, err := rating.Parse([]byte(full))
		if err != nil {
			t.Fatal(err)
		}
		spoil(c)
		var invalid *rating.Invalid
		if err := rating.Validate(c); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// genGlob draws patterns over a tiny alphabet, so that they often meet.
func genGlob(t *rapid.T, label string) string {
	return rapid.StringOfN(rapid.SampledFrom([]rune("ab*?")), 1, 6, -1).Draw(t, label)
}

// Two globs overlap just where some name matches both; path.Match is the other
// opinion on what matches.
func TestOverlapIsExact(t *testing.T) {
	var names []string
	for n := range 9 {
		for x := range 1 << n {
			name := make([]byte, n)
			for i := range name {
				name[i] = "ab"[x>>i&1]
			}
			names = append(names, string(name))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := genGlob(t, "a"), genGlob(t, "b")
		meet := false
		for _, n := range names {
			x, _ := path.Match(a, n)
			y, _ := path.Match(b, n)
			if x != matches(a, n) || y != matches(b, n) {
				t.Fatalf("%q or %q on %q", a, b, n)
			}
			meet = meet || (x && y)
		}
		// The shortest name that both match is no longer than both together.
		if got := rating.GlobsMeet(a, b); got != meet && (meet || len(a)+len(b) <= 8) {
			t.Fatalf("%q and %q meet: %v", a, b, got)
		}
		if rating.GlobsMeet(a, b) != rating.GlobsMeet(b, a) {
			t.Fatalf("%q and %q: not both ways", a, b)
		}
	})
}

func matches(glob, model string) bool {
	out := make([]attribution.Price, 1)
	rater(&rating.Card{Prices: []rating.PriceRule{{Model: glob}}}).Prices([]attribution.Device{{ID: "GPU-1", Model: model}}, 0, out)
	return out[0].Known()
}

// rater fills in what a card needs besides.
func rater(c *rating.Card) *rating.Rater {
	c.Revision, c.Currency, c.Policy = 3, "USD", "sm"
	r, err := rating.NewRater(c)
	if err != nil {
		panic(err)
	}
	return r
}

func prices(r *rating.Rater, s attribution.Second, ds ...attribution.Device) []attribution.Price {
	out := make([]attribution.Price, len(ds))
	r.Prices(ds, s, out)
	return out
}

func TestTheMostSpecificRuleCounts(t *testing.T) {
	zone := attribution.Labels{{Key: "pool", Value: "x"}, {Key: "zone", Value: "a"}}
	// From the least specific to the most.
	rules := []rating.PriceRule{
		{Model: "*"},
		{Model: "*", NodeLabels: zone[:1]},
		{Model: "*", NodeLabels: zone},
		{Model: "*", CapacityType: "spot"},
		{Model: "*", CapacityType: "spot", NodeLabels: zone},
		{Model: "NVIDIA*"},
		{Model: "NVIDIA H?00"},
		{Model: "NVIDIA H10?", NodeLabels: zone},
		{Model: "NVIDIA H100"},
		{Model: "NVIDIA H100", NodeLabels: zone[1:]},
		{Model: "NVIDIA H100", CapacityType: "spot"},
		{Model: "NVIDIA H100", CapacityType: "spot", NodeLabels: zone},
	}
	d := attribution.Device{ID: "GPU-1", Model: "NVIDIA H100", CapacityType: "spot", Labels: zone}
	for n := 1; n <= len(rules); n++ {
		c := &rating.Card{Prices: slices.Clone(rules[:n])}
		for i := range c.Prices {
			c.Prices[i].PerDeviceHour = money.Amount(i)
		}
		rand.New(rand.NewPCG(uint64(n), 0)).Shuffle(n, func(i, j int) { c.Prices[i], c.Prices[j] = c.Prices[j], c.Prices[i] })
		if got := prices(rater(c), 5, d)[0]; got != (attribution.Price{PerHour: money.Amount(n - 1), Revision: 3}) {
			t.Errorf("of %d rules: %+v", n, got)
		}
	}
}

func TestPricesByHand(t *testing.T) {
	gpu := func(id string) attribution.Device { return attribution.Device{ID: id, Model: "H100"} }
	cut := func(id string, remainder bool) attribution.Device {
		return attribution.Device{ID: id, Model: "H100", Remainder: remainder}
	}
	mig := func(id, parent string, c, m int32) attribution.Device {
		return attribution.Device{ID: id, Parent: parent, Model: "H100 MIG", Share: attribution.MIGShare{Compute: c, ComputeOf: 7, Memory: m, MemoryOf: 8}}
	}
	r := rater(&rating.Card{
		Prices: []rating.PriceRule{{Model: "H100", PerDeviceHour: 1000}, {Model: "H200", PerDeviceHour: 5, From: 10, To: 20}, {Model: "L4"}},
		Overheads: []rating.Overhead{
			{Name: "node", PerNodeHour: 10},
			{Name: "device", PerDeviceHour: 100, From: 100},
			{Name: "zone", PerDeviceHour: 7777, NodeLabels: attribution.Labels{{Key: "zone", Value: "a"}}},
		},
	})
	const unpriced = -1
	for _, tc := range []struct {
		name string
		at   attribution.Second
		ds   []attribution.Device
		want []money.Amount
	}{
		{"alone", 0, []attribution.Device{gpu("a")}, []money.Amount{1010}},
		{"later, dearer", 100, []attribution.Device{gpu("a")}, []money.Amount{1110}},
		{"three share the node's overhead, the odd unit by ID", 0, []attribution.Device{gpu("c"), gpu("a"), gpu("b")}, []money.Amount{1003, 1004, 1003}},
		{"no such model", 0, []attribution.Device{{ID: "x", Model: "A100"}}, []money.Amount{unpriced}},
		{"before its time", 9, []attribution.Device{{ID: "x", Model: "H200"}}, []money.Amount{unpriced}},
		{"in its time", 19, []attribution.Device{{ID: "x", Model: "H200"}}, []money.Amount{15}},
		{"after its time", 20, []attribution.Device{{ID: "x", Model: "H200"}}, []money.Amount{unpriced}},
		{"free but for overhead", 0, []attribution.Device{{ID: "x", Model: "L4"}}, []money.Amount{10}},
		{
			"cut: 1010 · (1/7 + 1/8)/2 and the rest", 0,
			[]attribution.Device{cut("a", true), mig("m1", "a", 1, 1), mig("m2", "a", 3, 4)},
			[]money.Amount{1010 - 135 - 468, 135, 468},
		},
		{
			"a cut GPU has the node overhead of one", 0,
			[]attribution.Device{mig("m1", "a", 1, 1), gpu("b"), cut("a", true)},
			[]money.Amount{134, 1005, 1005 - 134},
		},
		{"its parent is unpriced", 9, []attribution.Device{{ID: "a", Model: "H200", Remainder: true}, mig("m", "a", 1, 1)}, []money.Amount{unpriced, unpriced}},
		{"its parent is not listed", 0, []attribution.Device{{ID: "m", Parent: "a", Model: "H100", Share: attribution.MIGShare{Compute: 1, ComputeOf: 2, Memory: 1, MemoryOf: 2}}}, []money.Amount{505}},
		{"shares not known", 0, []attribution.Device{cut("a", true), {ID: "m", Parent: "a"}}, []money.Amount{1010, unpriced}},
		{"shares beyond the whole", 0, []attribution.Device{cut("a", true), mig("m", "a", 8, 8)}, []money.Amount{1010, unpriced}},
		{"overlapping instances", 0, []attribution.Device{cut("a", true), mig("m", "a", 7, 8), mig("n", "a", 1, 8)}, []money.Amount{0, 1010, 577}},
	} {
		got := prices(r, tc.at, tc.ds...)
		for i, p := range got {
			want := attribution.Price{PerHour: tc.want[i], Revision: 3}
			if tc.want[i] == unpriced {
				want = attribution.Price{}
			}
			if p != want {
				t.Errorf("%s: %s costs %d nano under %d, want %+v", tc.name, tc.ds[i].ID, p.PerHour, p.Revision, want)
			}
		}
	}
}

// A GPU costs the same cut and whole: its instances and the rest of it sum to
// its price, each at its own share, whatever its neighbours and the order.
func TestLaw1ACutGPUCostsAsMuchAsAWholeOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		card := &rating.Card{Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: money.Amount(rapid.Int64Range(0, int64(rating.MaxAmount)).Draw(t, "price"))}}}
		for i := range rapid.IntRange(0, 3).Draw(t, "overheads") {
			card.Overheads = append(card.Overheads, rating.Overhead{
				Name:          fmt.Sprint(i),
				PerNodeHour:   money.Amount(rapid.Int64Range(0, int64(rating.MaxAmount)).Draw(t, "node")),
				PerDeviceHour: money.Amount(rapid.Int64Range(0, int64(rating.MaxAmount)).Draw(t, "device")),
			})
		}
		r := rater(card)
		var whole, cut []attribution.Device
		of := map[string]string{}
		for g := range rapid.IntRange(1, 4).Draw(t, "GPUs") {
			id := fmt.Sprintf("GPU-%d", g)
			d := attribution.Device{ID: id, Model: "m"}
			whole = append(whole, d)
			d.Remainder = true
			cut = append(cut, d)
			of[id] = id
			compute, memory := int32(7), int32(8)
			for i := range rapid.IntRange(0, 7).Draw(t, "instances") {
				s := attribution.MIGShare{
					Compute: rapid.Int32Range(0, compute).Draw(t, "compute"), ComputeOf: 7,
					Memory: rapid.Int32Range(0, memory).Draw(t, "memory"), MemoryOf: 8,
				}
				compute, memory = compute-s.Compute, memory-s.Memory
				m := attribution.Device{ID: fmt.Sprintf("MIG-%d-%d", g, i), Parent: id, Model: "m MIG", Share: s}
				cut = append(cut, m)
				of[m.ID] = id
			}
		}
		want := map[string]money.Amount{}
		for i, p := range prices(r, 7, whole...) {
			want[whole[i].ID] = p.PerHour
		}
		cut = rapid.Permutation(cut).Draw(t, "order")
		sum := map[string]money.Amount{}
		for i, p := range prices(r, 7, cut...) {
			d := &cut[i]
			parent := want[of[d.ID]]
			if !p.Known() || p.PerHour < 0 || p.PerHour > parent {
				t.Fatalf("%s costs %d of %d", d.ID, p.PerHour, parent)
			}
			if !d.Remainder {
				exact := new(big.Rat).Mul(big.NewRat(int64(parent), 2), new(big.Rat).Add(big.NewRat(int64(d.Share.Compute), 7), big.NewRat(int64(d.Share.Memory), 8)))
				if floor := new(big.Int).Div(exact.Num(), exact.Denom()); floor.Int64() != int64(p.PerHour) {
					t.Fatalf("%s costs %d, want %s", d.ID, p.PerHour, floor)
				}
			}
			sum[of[d.ID]] += p.PerHour
		}
		if !reflect.DeepEqual(sum, want) {
			t.Fatalf("cut %v, whole %v", sum, want)
		}
	})
}

// The node's overhead is handed out to the last unit.
func TestLaw1OverheadOfANodeIsConserved(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := money.Amount(rapid.Int64Range(0, int64(rating.MaxAmount)).Draw(t, "overhead"))
		r := rater(&rating.Card{Prices: []rating.PriceRule{{Model: "*"}}, Overheads: []rating.Overhead{{Name: "x", PerNodeHour: total}}})
		ds := make([]attribution.Device, rapid.IntRange(1, 16).Draw(t, "devices"))
		for i := range ds {
			ds[i].ID = fmt.Sprintf("GPU-%02d", i)
		}
		var sum money.Amount
		for i, p := range prices(r, 0, ds...) {
			if lo := total / money.Amount(len(ds)); p.PerHour < lo || p.PerHour > lo+1 {
				t.Fatalf("device %d pays %d of %d", i, p.PerHour, total)
			}
			sum += p.PerHour
		}
		if sum != total {
			t.Fatalf("%d of %d", sum, total)
		}
	})
}

// Between two changes, prices stay.
func TestLaw6PricesStayUntilNextChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var card rating.Card
		cuts := rapid.SliceOfNDistinct(rapid.Int64Range(1, 60), 2, 5, rapid.ID[int64]).Draw(t, "cuts")
		slices.Sort(cuts)
		for i := range len(cuts) - 1 {
			card.Prices = append(card.Prices, rating.PriceRule{Model: "*", From: attribution.Second(cuts[i]), To: attribution.Second(cuts[i+1]), PerDeviceHour: money.Amount(i)})
		}
		card.Overheads = []rating.Overhead{{Name: "x", From: attribution.Second(rapid.Int64Range(0, 60).Draw(t, "overhead")), PerDeviceHour: 100}}
		r := rater(&card)
		d := attribution.Device{ID: "GPU-1", Model: "m"}
		for s := attribution.Second(-5); s < 70; s++ {
			next := r.NextChange(s)
			if next <= s {
				t.Fatalf("after %d comes %d", s, next)
			}
			for u := s; u < min(next, 80); u++ {
				if a, b := prices(r, s, d)[0], prices(r, u, d)[0]; a != b {
					t.Fatalf("%+v at %d, %+v at %d, next change at %d", a, s, b, u, next)
				}
			}
		}
		if r.NextChange(60) != rating.Never {
			t.Fatal("changes for ever")
		}
	})
}

func TestLaw9ACardWithoutRevisionPricesNothing(t *testing.T) {
	c, err := rating.Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rating.NewRater(c); err == nil {
		t.Error("prices under revision 0 would pass for unknown")
	}
	c.Revision = 1
	r, err := rating.NewRater(c)
	if err != nil || r.Policy().Name != "dominant" || r.Card() != c {
		t.Errorf("%v", err)
	}
}
