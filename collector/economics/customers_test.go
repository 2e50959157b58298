package economics_test

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
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

const (
	day = 86400
	one = int64(attribution.One)
)

// town is a world in which gateways stand before some servers. GPU-i is held by
// owner i, half of it used.
type town struct {
	querytest.World
	ticks []tick
}

// tick is what happened in one second of a node: who held a device (0: nobody
// did), and what was counted.
type tick struct {
	at      attribution.Second
	holders []uint32
	counts  []attribution.Tally
}

// The town's owners. The gateways' backends come last.
const (
	llama0 = iota
	llama1
	other
	aware
	trainer
	byService
	byAddress
	untold
)

func newTown() *town {
	w := &town{World: querytest.World{Methods: []string{"sm/device"}, Measures: []attribution.Measure{
		attribution.Success, attribution.TokensInput, attribution.TokensOutput, "failure/error",
	}}}
	pod := func(name, controller string) attribution.Owner {
		return attribution.Owner{
			Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "prod", Pod: name, PodUID: "uid-" + name, Container: "main",
			ControllerKind: "Deployment", Controller: controller, Labels: attribution.MakeLabels(map[string]string{"team": controller}),
		}
	}
	gateway := func(backend string) attribution.Owner {
		return attribution.Owner{Kind: attribution.Gateway, Cluster: "c", Node: "gateway/edge", ControllerKind: "Backend", Controller: backend}
	}
	w.Owners = []attribution.Owner{
		pod("llama-0", "llama"), pod("llama-1", "llama"), pod("other-0", "other"), pod("aware-0", "aware"), pod("train-0", "train"),
		gateway("http://llama.prod.svc:8000/v1"), gateway("http://10.0.0.7:8000"),
		{Kind: attribution.Gateway, Cluster: "c", Node: "gateway/edge"},
	}
	for i := range uint32(byService) {
		w.Devices = append(w.Devices, attribution.Device{ID: fmt.Sprintf("GPU-%d", i), Cluster: "c", Node: "n", Model: "m"})
	}
	return w
}

// subject numbers a subject.
func (w *town) subject(owner uint32, model, tenant, tier string) uint32 {
	s := attribution.Subject{Owner: owner, Model: model, Tenant: tenant, Tier: tier}
	i := slices.Index(w.Subjects, s)
	if i < 0 {
		i = len(w.Subjects)
		w.Subjects = append(w.Subjects, s)
	}
	return uint32(i)
}

// count adds what was counted in a second.
func (w *town) count(at attribution.Second, subject uint32, values ...int64) {
	t := w.tick(at)
	for m, v := range values {
		if v >= 0 {
			t.counts = append(t.counts, attribution.Tally{Second: at, Subject: subject, Measure: uint16(m), Value: v})
		}
	}
}

func (w *town) hold(at attribution.Second, owners ...uint32) {
	t := w.tick(at)
	t.holders = append(t.holders, owners...)
	slices.Sort(t.holders)
	t.holders = slices.Compact(t.holders)
}

func (w *town) tick(at attribution.Second) *tick {
	for i := range w.ticks {
		if w.ticks[i].at == at {
			return &w.ticks[i]
		}
	}
	w.ticks = append(w.ticks, tick{at: at})
	return &w.ticks[len(w.ticks)-1]
}

// price costs 3,600,000,001 nano units an hour on each device, so that seconds
// are not all alike.
var price = attribution.Price{PerHour: 3_600_000_000_001, Revision: 1}

// chunks is a chunk for each second and node.
func (w *town) chunks(t interface{ Fatal(...any) }) []*attribution.Chunk {
	var out []*attribution.Chunk
	slices.SortFunc(w.ticks, func(a, b tick) int { return int(a.at - b.at) })
	for _, k := range w.ticks {
		for _, node := range []string{"n", "gateway/edge"} {
			var ws []attribution.DeviceWindow
			var ts []attribution.Tally
			for _, c := range k.counts {
				if w.Owners[w.Subjects[c.Subject].Owner].Node == node {
					ts = append(ts, c)
				}
			}
			if node == "n" {
				for _, o := range k.holders {
					const half = attribution.WindowNanos / 2
					ws = append(ws, attribution.DeviceWindow{Device: o, Second: k.at, Price: price, Slices: []attribution.Slice{
						{Owner: o, Basis: attribution.Used, Time: half}, {Owner: o, Basis: attribution.Reserved, Time: half},
					}})
				}
			}
			if len(ws)+len(ts) == 0 {
				continue
			}
			c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: node, Boot: attribution.Boot{1}, Sequence: k.at}, 1, &w.World, ws, ts)
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
			out = append(out, c)
		}
	}
	return out
}

func customers(ans *economics.Answer) string {
	var out []string
	for i := range ans.Rows {
		r := &ans.Rows[i].Row
		var keys []string
		for _, k := range r.Keys {
			if k.Missing {
				k.Value = "—"
			}
			keys = append(keys, k.Value)
		}
		inferences, tokens := r.Served.Counter(attribution.Success), r.Served.Tokens()
		out = append(out, fmt.Sprintf("%s: %v, %q requests, %q tokens, %s", strings.Join(keys, " "), &r.Allocation().Cost, inferences.Inferences(), tokens.Tokens(), r.Customers))
	}
	return strings.Join(out, "\n")
}

func ask(t interface{ Fatal(...any) }, cs []*attribution.Chunk, req *economics.Request) *economics.Answer {
	ans, err := economics.UnitCosts(context.Background(), engine(cs), req)
	if err != nil {
		t.Fatal(err)
	}
	return ans
}

func TestCustomers(t *testing.T) {
	const start = querytest.Start
	for _, c := range []struct {
		name string
		req  economics.Request
		make func(*town)
		want string
	}{
		{"two replicas behind a service, and a part that no gateway saw", economics.Request{GroupBy: []string{"tenant", "tier"}}, func(w *town) {
			w.hold(start, llama0, llama1, trainer)
			w.count(start, w.subject(llama0, "llama", "", ""), 3*one, 500, 100)
			w.count(start, w.subject(llama1, "llama", "", ""), 1*one, 300, 100)
			w.count(start, w.subject(byService, "llama", "acme", "gold"), 2*one, 400, 100)
			w.count(start, w.subject(byService, "llama", "zeta", ""), 1*one, 200, 50)
		}, `— —: 1500000000, "1" requests, "250" tokens, unseen
acme gold: 1000000000, "2" requests, "500" tokens, gateway
zeta —: 500000000, "1" requests, "250" tokens, gateway`},
		{"by requests", economics.Request{GroupBy: []string{"tenant"}, SplitBy: economics.ByRequests, Filters: []string{"team=llama"}}, func(w *town) {
			w.hold(start, llama0, llama1, trainer)
			w.count(start, w.subject(llama0, "llama", "", ""), 3*one, 500, 100)
			w.count(start, w.subject(llama1, "llama", "", ""), 1*one, 300, 100)
			w.count(start, w.subject(byService, "llama", "acme", "gold"), 3*one, 1, 1)
		}, `acme: 1500000000, "3" requests, "2" tokens, gateway
—: 500000000, "1" requests, "998" tokens, unseen`},
		{"the gateway saw more than the servers", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 1*one, 100, 0)
			w.count(start, w.subject(byService, "llama", "acme", ""), 3*one, 300, 0)
			w.count(start, w.subject(byService, "llama", "zeta", ""), 1*one, 100, 0)
		}, `acme: 750000000, "3" requests, "300" tokens, gateway
zeta: 250000000, "1" requests, "100" tokens, gateway`},
		{"servers without counters", economics.Request{GroupBy: []string{"tenant", "pod"}}, func(w *town) {
			w.hold(start, llama0, llama1)
			w.count(start, w.subject(byService, "llama", "acme", ""), 3*one, 300, 0)
			w.count(start, w.subject(byService, "llama", "zeta", ""), 1*one, 100, 0)
		}, `acme llama-0: 750000000, "1.5" requests, "150" tokens, gateway
acme llama-1: 750000000, "1.5" requests, "150" tokens, gateway
zeta llama-0: 250000000, "0.5" requests, "50" tokens, gateway
zeta llama-1: 250000000, "0.5" requests, "50" tokens, gateway`},
		{"only the model is known: a training of it is not served", economics.Request{GroupBy: []string{"tenant", "pod"}}, func(w *town) {
			w.Owners[trainer].Labels = attribution.MakeLabels(map[string]string{"model": "llama"})
			w.hold(start, llama0, trainer)
			w.count(start, w.subject(llama0, "llama", "", ""), 1*one, 100, 0)
			w.count(start, w.subject(untold, "llama", "acme", ""), 1*one, 100, 0)
		}, `acme llama-0: 1000000000, "1" requests, "100" tokens, gateway
— train-0: 1000000000, "" requests, "" tokens, unseen`},
		{"a server that knows its tenants is believed", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, aware)
			w.count(start, w.subject(aware, "llama", "acme", ""), 1*one, 100, 0)
			w.count(start, w.subject(aware, "llama", "zeta", ""), 1*one, 300, 0)
			w.count(start, w.subject(untold, "llama", "acme", ""), 9*one, 900, 0)
		}, `zeta: 750000000, "1" requests, "300" tokens, server
acme: 250000000, "1" requests, "100" tokens, server`},
		{"without gateways there are no customers", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 1*one, 100, 0)
		}, `—: 1000000000, "1" requests, "100" tokens, unseen`},
		{"a gateway serves nothing itself", economics.Request{GroupBy: []string{"model"}}, func(w *town) {
			w.hold(start, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 1*one, 100, 0)
			w.count(start, w.subject(untold, "bought", "acme", ""), 9*one, 900, 0)
		}, `llama: 1000000000, "1" requests, "100" tokens, `},
		{"servers that count no tokens are compared by requests", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 10*one)
			w.count(start, w.subject(byService, "llama", "acme", ""), 1*one, 100, 0)
		}, `—: 900000000, "9" requests, "" tokens, unseen
acme: 100000000, "1" requests, "100" tokens, gateway`},
		{"one of two gateways counts no tokens", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 4*one, 400, 0)
			w.count(start, w.subject(byService, "llama", "acme", ""), 1*one, 300, 0)
			w.count(start, w.subject(untold, "llama", "zeta", ""), 3*one)
		}, `zeta: 750000000, "3" requests, "" tokens, gateway
acme: 250000000, "1" requests, "300" tokens, gateway
—: 0, "0" requests, "100" tokens, unseen`},
		{"the gateway counts tokens alone", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 10*one)
			w.count(start, w.subject(byService, "llama", "acme", ""), -1, 100, 0)
		}, `acme: 1000000000, "" requests, "100" tokens, gateway`},
		{"days are split apart", economics.Request{GroupBy: []string{"tenant"}}, func(w *town) {
			w.hold(start, llama0)
			w.hold(start+day, llama0)
			w.count(start, w.subject(llama0, "llama", "", ""), 1*one, 100, 0)
			w.count(start, w.subject(byService, "llama", "acme", ""), 1*one, 100, 0)
			w.count(start+day, w.subject(llama0, "llama", "", ""), 1*one, 9900, 0)
		}, `acme: 1000000000, "1" requests, "100" tokens, gateway
—: 1000000000, "1" requests, "9900" tokens, unseen`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTown()
			c.make(w)
			if got := customers(ask(t, w.chunks(t), &c.req)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// A rule for all owners gives a gateway no tier: customers without one of their
// own have that of the server.
func TestCustomersOfRuledOwners(t *testing.T) {
	const start = querytest.Start
	w := newTown()
	w.hold(start, llama0)
	w.count(start, w.subject(llama0, "llama", "", ""), 1*one, 100, 0)
	w.count(start, w.subject(untold, "llama", "acme", ""), 1*one, 100, 0)
	rules, err := mapping.Parse([]byte(`
rules:
  - {target: tier, namespace: prod, value: premium}
  - {target: tier, value: standard}
`))
	if err != nil {
		t.Fatal(err)
	}
	s := querytest.NewStore(w.chunks(t)...)
	s.Map = rules.Compile()
	e := query.New(query.Config{Store: s, Mapping: func() store.Mapping { return s.Map }})
	ans, err := economics.UnitCosts(t.Context(), e, &economics.Request{GroupBy: []string{"tenant", "tier"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := customers(ans), `acme premium: 1000000000, "1" requests, "100" tokens, gateway`; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// anyTown is two days of whatever may happen behind gateways.
func anyTown(t *rapid.T) *town {
	w := newTown()
	models := []string{"llama", "small", ""}
	tenants := []string{"acme", "zeta", ""}
	tiers := []string{"gold", ""}
	value := rapid.Int64Range(-1, 30)
	for range rapid.IntRange(1, 12).Draw(t, "events") {
		at := querytest.Start + attribution.Second(rapid.SampledFrom([]int{0, 1, 7, day, day + 1, 2*day - 1}).Draw(t, "at"))
		o := uint32(rapid.IntRange(0, untold).Draw(t, "owner"))
		if o < byService && rapid.Bool().Draw(t, "holds") {
			w.hold(at, o)
		}
		tenant, tier := "", ""
		if o >= aware && o != trainer {
			tenant, tier = rapid.SampledFrom(tenants).Draw(t, "tenant"), rapid.SampledFrom(tiers).Draw(t, "tier")
		}
		if o != trainer {
			s := w.subject(o, rapid.SampledFrom(models).Draw(t, "model"), tenant, tier)
			if !slices.ContainsFunc(w.tick(at).counts, func(c attribution.Tally) bool { return c.Subject == s }) {
				w.count(at, s, value.Draw(t, "requests")*one/3, value.Draw(t, "input"), value.Draw(t, "output"), value.Draw(t, "failures")*one)
			}
		}
	}
	w.hold(querytest.Start, llama0)
	w.hold(querytest.Start+2*day-1, llama1)
	return w
}

// Whatever gateways tell, cost and time are conserved on every basis, per owner
// and in all; and a split of customers is within a nano unit of its exact share
// for each part that was rounded.
func TestLaw1CustomersConserve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := anyTown(t)
		cs := w.chunks(t)
		by := rapid.SampledFrom([][]string{{"tenant"}, {"tier", "model"}, {"tenant", "pod"}, {"tenant", "tier", "model", "team"}}).Draw(t, "by")
		splitBy := rapid.SampledFrom([]string{economics.ByTokens, economics.ByRequests}).Draw(t, "split by")
		ans := ask(t, cs, &economics.Request{GroupBy: by, SplitBy: splitBy})
		plain := ask(t, cs, &economics.Request{GroupBy: []string{"pod"}})
		var sum economics.Row
		for i := range ans.Rows {
			sum.Used.Cost.Add(&sum.Used.Cost, &ans.Rows[i].Used.Cost)
			sum.Reserved.Cost.Add(&sum.Reserved.Cost, &ans.Rows[i].Reserved.Cost)
			sum.Used.Time.Add(&sum.Used.Time, &ans.Rows[i].Used.Time)
		}
		p := &plain.Total
		if sum.Used.Cost.Cmp(&p.Used.Cost) != 0 || sum.Reserved.Cost.Cmp(&p.Reserved.Cost) != 0 || sum.Used.Time.Cmp(&p.Used.Time) != 0 {
			t.Fatalf("customers sum to %v, %v nano units, %v ns; the bill says %v, %v, %v",
				&sum.Used.Cost, &sum.Reserved.Cost, &sum.Used.Time, &p.Used.Cost, &p.Reserved.Cost, &p.Used.Time)
		}
		if by[0] == "tenant" && len(by) == 1 {
			fair(t, w, ans, splitBy)
		}
	})
}

// fair holds an answer by tenant against shares worked out in fractions, the
// dumb way.
func fair(t interface{ Fatalf(string, ...any) }, w *town, ans *economics.Answer, splitBy string) {
	got, want := map[string]*big.Rat{}, map[string]*big.Rat{}
	for i := range ans.Rows {
		r := &ans.Rows[i]
		k := r.Keys[0].Value
		if r.Keys[0].Missing {
			k = ""
		}
		got[k] = new(big.Rat).SetInt(&r.Allocation().Cost)
	}
	for _, d := range []attribution.Second{querytest.Start, querytest.Start + day} {
		for k, v := range dumb(w, d, splitBy) {
			if want[k] == nil {
				want[k] = new(big.Rat)
			}
			want[k].Add(want[k], v)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		off := new(big.Rat).Set(want[k])
		if got[k] != nil {
			off.Sub(off, got[k])
		}
		if off.Abs(off).Cmp(big.NewRat(200, 1)) > 0 {
			t.Fatalf("%q costs %v, its share is %s", k, got[k], want[k].FloatString(3))
		}
	}
}

// Days add up: the answer over two days is that of one and that of the other,
// row by row.
func TestLaw2DaysAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cs := anyTown(t).chunks(t)
		req := economics.Request{
			GroupBy: rapid.SampledFrom([][]string{{"tenant"}, {"model", "tier"}, {"tenant", "tier", "pod"}}).Draw(t, "by"),
			SplitBy: rapid.SampledFrom([]string{economics.ByTokens, economics.ByRequests}).Draw(t, "split by"),
		}
		if rapid.Bool().Draw(t, "filtered") {
			req.Filters = []string{rapid.SampledFrom([]string{"tenant=acme", "pod=llama-0", "model!=llama"}).Draw(t, "filter")}
		}
		rows := func(from, to int) map[string]*economics.Row {
			r := req
			r.From, r.To = querytest.Start+attribution.Second(from), querytest.Start+attribution.Second(to)
			ans := ask(t, cs, &r)
			out := map[string]*economics.Row{}
			for i := range ans.Rows {
				out[fmt.Sprint(ans.Rows[i].Keys)] = &ans.Rows[i].Row
			}
			return out
		}
		whole, parts := rows(0, 2*day), []map[string]*economics.Row{rows(0, day), rows(day, 2*day)}
		sum := map[string]*big.Int{}
		for _, p := range parts {
			for k, r := range p {
				for _, v := range numbers(k, r) {
					if sum[v.name] == nil {
						sum[v.name] = new(big.Int)
					}
					sum[v.name].Add(sum[v.name], v.value)
				}
			}
		}
		for k, r := range whole {
			for _, v := range numbers(k, r) {
				if have := sum[v.name]; have == nil || have.Cmp(v.value) != 0 {
					t.Fatalf("%s is %v over two days, %v as the sum of each", v.name, v.value, have)
				}
				delete(sum, v.name)
			}
		}
		if len(sum) > 0 {
			t.Fatalf("only single days have %v", sum)
		}
	})
}

type number struct {
	name  string
	value *big.Int
}

func numbers(keys string, r *economics.Row) []number {
	out := []number{
		{keys + " used", &r.Used.Cost}, {keys + " reserved", &r.Reserved.Cost}, {keys + " time", &r.Used.Time}, {keys + " covered", &r.Covered.Cost},
	}
	for m, v := range r.Served {
		out = append(out, number{keys + " " + string(m), v})
	}
	return out
}
