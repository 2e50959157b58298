package query_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/store"
)

// scopedFixture has some of its chunks stored and some open.
func scopedFixture(t testing.TB, scope *query.Scope) *query.Engine {
	t.Helper()
	chunks := querytest.NewWorld().Chunks(0, 600)
	cut := len(chunks) / 2
	s := querytest.NewStore(chunks[:cut]...)
	s.Map = mapping.Default().Compile()
	return query.New(query.Config{
		Store: s, Overlay: overlay(chunks[cut:]), Mapping: func() store.Mapping { return s.Map },
		Scope: func(context.Context) (query.Scope, error) { return *scope, nil },
	})
}

type overlay []*attribution.Chunk

func (o overlay) Since(_ uint64, from, to attribution.Second, f func(store.Pending)) error {
	for _, c := range o {
		if c.Key.Sequence < to && c.End() > from {
			f(store.Decoded(c))
		}
	}
	return nil
}

func sees(ls []query.Limit, keys []store.Key) bool {
	in := func(values []string, k store.Key) bool {
		return len(values) == 0 || !k.Missing && slices.Contains(values, k.Value)
	}
	return slices.ContainsFunc(ls, func(l query.Limit) bool {
		return in(l.Clusters, keys[0]) && in(l.Namespaces, keys[1]) && in(l.Teams, keys[2])
	})
}

// A scoped report is the rows of the whole one that lie in any of the limits,
// each once however the limits overlap, and nothing of the others.
func TestScopeIsTheRowsWithinIt(t *testing.T) {
	scope := query.Everything()
	e := scopedFixture(t, &scope)
	ask := &query.Request{GroupBy: []string{"cluster", "namespace", "team", "device"}}
	whole, err := e.Report(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	var names [3][]string
	for i := range names {
		names[i] = []string{"nowhere"}
		for j := range whole.Rows {
			if k := whole.Rows[j].Keys[i]; !k.Missing && k.Value != "" && !slices.Contains(names[i], k.Value) {
				names[i] = append(names[i], k.Value)
			}
		}
		if i > 0 && len(names[i]) < 3 {
			t.Fatalf("%v are too few to tell scopes apart", names[i])
		}
	}
	some := func(i int) *rapid.Generator[[]string] { return rapid.SliceOfN(rapid.SampledFrom(names[i]), 0, 3) }
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) query.Limit {
			return query.Limit{Clusters: some(0).Draw(t, "clusters"), Namespaces: some(1).Draw(t, "namespaces"), Teams: some(2).Draw(t, "teams")}
		}), 0, 4).Draw(t, "limits")
		var err error
		if scope, err = query.NewScope(limits...); err != nil {
			t.Fatal(err)
		}
		got, err := e.Report(context.Background(), ask)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range whole.Rows {
			if sees(limits, whole.Rows[i].Keys) {
				want = append(want, line(&whole.Rows[i]))
			}
		}
		var have []string
		for i := range got.Rows {
			have = append(have, line(&got.Rows[i]))
		}
		if !slices.Equal(want, have) {
			t.Fatalf("%+v:\nwant %q\ngot  %q", limits, want, have)
		}
	})
}

// The asker's own filters only make a scope less: neither an alternative value
// nor a negation leads out of it.
func TestFiltersDoNotLeadOutOfScope(t *testing.T) {
	scope := query.Everything()
	e := scopedFixture(t, &scope)
	by := &query.Request{GroupBy: []string{"namespace"}}
	whole, err := e.Report(t.Context(), by)
	if err != nil {
		t.Fatal(err)
	}
	var namespaces []string
	for i := range whole.Rows {
		if k := whole.Rows[i].Keys[0]; !k.Missing {
			namespaces = append(namespaces, k.Value)
		}
	}
	mine, other := namespaces[0], namespaces[1]
	if scope, err = query.NewScope(query.Limit{Namespaces: []string{mine}}); err != nil {
		t.Fatal(err)
	}
	for _, filters := range [][]string{
		nil,
		{"namespace=" + other},
		{"namespace=" + other, "namespace=" + mine},
		{"namespace=*"},
		{"namespace="},
		{"namespace!=" + mine},
		{"pod=*", "node=*", "kind!=container"},
		{"basis=unallocated"},
	} {
		for _, group := range []string{"namespace", "label:app", "pod", "device", "model", "team", "kind", "node"} {
			rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{group, "controller", "container"}, Filters: filters, Limit: 1, Lines: true})
			if err != nil {
				t.Fatal(err)
			}
			check, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"namespace"}, Filters: filters})
			if err != nil {
				t.Fatal(err)
			}
			for i := range check.Rows {
				if check.Rows[i].Keys[0].Value != mine {
					t.Errorf("%q: sees %q", filters, check.Rows[i].Keys[0].Value)
				}
			}
			if rep.Total.Sum.DeviceTime.Cmp(&check.Total.Sum.DeviceTime) != 0 {
				t.Errorf("%q by %s: %v, by namespace %v", filters, group, &rep.Total.Sum.DeviceTime, &check.Total.Sum.DeviceTime)
			}
		}
	}
}

// Devices are those that the scope's owners ran on, with what these had of
// them, and at the price that everybody sees.
func TestScopedDevices(t *testing.T) {
	scope := query.Everything()
	e := scopedFixture(t, &scope)
	priced := func(ds []attribution.Device, out []attribution.Price) {
		for i := range out {
			out[i] = attribution.Price{Revision: 1, PerHour: money.Amount(60 / len(ds))}
		}
	}
	whole, err := e.Devices(t.Context(), &query.DevicesRequest{Prices: priced})
	if err != nil {
		t.Fatal(err)
	}
	rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"namespace", "device"}})
	if err != nil {
		t.Fatal(err)
	}
	var mine string
	for i := range rep.Rows {
		if k := rep.Rows[i].Keys[0]; !k.Missing {
			mine = k.Value
		}
	}
	want := map[string]string{}
	for i := range rep.Rows {
		if r := &rep.Rows[i]; r.Keys[0].Value == mine {
			want[r.Keys[1].Value] = r.Sum.DeviceTime.String()
		}
	}
	if scope, err = query.NewScope(query.Limit{Namespaces: []string{mine}}); err != nil {
		t.Fatal(err)
	}
	got, err := e.Devices(t.Context(), &query.DevicesRequest{Prices: priced})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || len(got) >= len(whole) {
		t.Fatalf("%d devices, want %d of %d", len(got), len(want), len(whole))
	}
	for i := range got {
		d := &got[i]
		if d.Sum.DeviceTime.String() != want[d.Device.ID] {
			t.Errorf("%s: %v ns, want %s", d.Device.ID, &d.Sum.DeviceTime, want[d.Device.ID])
		}
		at := slices.IndexFunc(whole, func(w query.Device) bool { return w.Device.ID == d.Device.ID && w.Device.Node == d.Device.Node })
		if whole[at].Price != d.Price {
			t.Errorf("%s: price %v, others see %v", d.Device.ID, d.Price, whole[at].Price)
		}
	}
}

func TestBadScopes(t *testing.T) {
	for _, l := range []query.Limit{{Teams: []string{"*"}}, {Namespaces: []string{"a*"}}, {Clusters: []string{""}}} {
		if _, err := query.NewScope(l); !errors.Is(err, query.ErrScope) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	var many []query.Limit
	for i := range 80 {
		many = append(many, query.Limit{Teams: []string{fmt.Sprint("t", i)}, Namespaces: []string{fmt.Sprint("n", i)}})
	}
	if _, err := query.NewScope(many...); !errors.Is(err, query.ErrScope) {
		t.Errorf("80 mixed limits: %v", err)
	}
	for i := range many {
		many[i].Namespaces = nil
	}
	if _, err := query.NewScope(many...); err != nil {
		t.Errorf("80 teams: %v", err)
	}
	var none query.Scope
	e := scopedFixture(t, &none)
	rep, err := e.Report(t.Context(), &query.Request{})
	if err != nil || rep.Total.Sum.DeviceTime.Sign() != 0 || len(rep.Rows) != 0 {
		t.Errorf("no scope sees %+v (%v)", rep, err)
	}
}

// Who may ask nothing is told nothing but that.
func TestNoScopeIsAnError(t *testing.T) {
	refused := errors.New("who are you?")
	e := query.New(query.Config{
		Store: querytest.NewStore(querytest.NewWorld().Chunks(0, 60)...),
		Scope: func(context.Context) (query.Scope, error) { return query.Scope{}, refused },
	})
	if _, err := e.Report(t.Context(), &query.Request{}); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := e.Devices(t.Context(), &query.DevicesRequest{}); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := e.CompareRules(t.Context(), &query.CompareRequest{Rules: mapping.Default()}); !errors.Is(err, refused) {
		t.Error(err)
	}
}
