package storetest

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

var dimensions = []store.Dimension{
	store.Cluster, store.Node, store.DeviceID, store.DeviceModel, store.Namespace, store.Controller, store.Pod, store.Container,
	store.Team, store.BudgetOwner, store.Environment, store.Model, store.Class, store.Tier, store.Run, store.Tenant, store.Kind,
	store.OwnerID, store.OwnTier, store.Basis, store.Method, store.Revision, store.Counted, store.Mixed, "label:app", "label:x/y", "label:none",
}

// rules are as good as any: they answer from labels and names.
func rules(salt string) store.Mapping {
	return func(o *attribution.Owner) (m store.Mapped) {
		team, _ := o.Labels.Get("team")
		if o.Pod == "pod-1" {
			m.Model = "m" + salt
		}
		m.Team, m.Class, m.Tier = team+salt, o.Container, o.Namespace
		m.BudgetOwner, m.Environment, m.Run = o.Controller+salt, o.Namespace+salt, o.PodUID
		return m
	}
}

func drawQuery(t *rapid.T) *store.Query {
	second := rapid.OneOf(
		rapid.Map(rapid.SampledFrom(times), func(s attribution.Second) attribution.Second { return Day + s }),
		rapid.Map(rapid.IntRange(-7200, 300000), func(s int) attribution.Second { return Day + attribution.Second(s) }),
		rapid.Map(rapid.IntRange(-1, 3), func(d int) attribution.Second { return Day + attribution.Second(d)*86400 }),
	)
	a, b := second.Draw(t, "from"), second.Draw(t, "to")
	if a > b {
		a, b = b, a
	}
	q := &store.Query{From: a, To: b + 1, Step: rapid.SampledFrom([]int64{0, 0, 7, 60, 90, 600, 3600, 5400, 7200, 86400, 604800}).Draw(t, "step")}
	if rapid.Bool().Draw(t, "open end") {
		q.To = b + 86400
	}
	q.GroupBy = rapid.SliceOfNDistinct(rapid.SampledFrom(dimensions), 0, 3, rapid.ID).Draw(t, "group by")
	for range rapid.IntRange(0, 2).Draw(t, "filters") {
		q.Filters = append(q.Filters, store.Filter{
			Dimension: rapid.SampledFrom(dimensions).Draw(t, "dimension"), Negate: rapid.Bool().Draw(t, "negate"),
			Values: rapid.SliceOfN(rapid.SampledFrom([]string{"", "*", "a", "b", "a*", "*b", `100%_\`, "1*", "used", "H*", "true", "node-0", "2", "con*", "nobody", "né\x00'x", "n*'*"}), 1, 2).Draw(t, "values"),
		})
	}
	if rapid.Bool().Draw(t, "measures") {
		q.Measures = rapid.SliceOfN(rapid.SampledFrom([]attribution.Measure{
			attribution.Success, attribution.TokensInput, attribution.FailurePrefix, "tokens/", attribution.LatencyPrefix, "queue", "nothing", "succ",
		}), 1, 3).Draw(t, "asked")
	}
	return q
}

// step is something that happens to a ledger.
func (l *ledger) step(t *rapid.T, left []*attribution.Chunk) []*attribution.Chunk {
	ctx := context.Background()
	switch rapid.SampledFrom([]string{"commit", "commit", "commit", "roll", "map"}).Draw(t, "step") {
	case "commit":
		n := min(len(left), rapid.IntRange(1, 4).Draw(t, "chunks"))
		l.commit(left[:n]...)
		return left[n:]
	case "roll":
		l.must(l.Roll(ctx, Day+attribution.Second(rapid.IntRange(-3600, 400000).Draw(t, "through"))))
	case "map":
		l.mapping = rules(rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "rules"))
		l.must(l.SetMapping(ctx, l.mapping))
	}
	return left
}

// anyQuery lets a ledger grow and roll at random and asks it at random.
func anyQuery(t *testing.T, d Driver) {
	rounds(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := open(t, d, d.New(t))
		defer l.Close() //nolint:errcheck // the cleanup tells
		l.t = rt
		left := DrawWorld(rt)
		for len(left) > 0 {
			left = l.step(rt, left)
			for range 2 {
				if l.agree(drawQuery(rt)) {
					rt.Fatal("too fine, though nothing was dropped")
				}
			}
		}
		var hours, days attribution.Second
		l.view(func(r store.Reader) error {
			hours, days = r.Rolled(rollup.Hour), r.Rolled(rollup.Day)
			return nil
		})
		same(rt, "rows", l.dumpRows(), l.wantRows(hours, days), show)
		l.ownersComeBack()
	})
}

// ownersComeBack fails unless the facts of every owner can be read, of those
// that left nothing but a place on a roster perhaps.
func (l *ledger) ownersComeBack() {
	l.t.Helper()
	want := map[rollup.Fingerprint]*attribution.Owner{}
	for _, c := range l.chunks {
		for k := range fold(rollup.Day, []*attribution.Chunk{c}) {
			want[k.series.Owner] = nil
		}
		for i := range c.Roster.Owners {
			o := &c.Roster.Owners[i]
			if _, ok := want[o.Fingerprint()]; ok {
				want[o.Fingerprint()] = o
			}
		}
	}
	ask := append(slices.Collect(maps.Keys(want)), rollup.Fingerprint{1, 2, 3})
	l.view(func(r store.Reader) error {
		got, err := r.Owners(context.Background(), ask)
		if err == nil && len(got) != len(want) {
			l.t.Fatalf("%d owners come back, want %d", len(got), len(want))
		}
		for f, o := range want {
			if err == nil && (got[f] == nil || attribution.CompareOwners(got[f], o) != 0) {
				l.t.Fatalf("owner %s is %+v, want %+v", f, got[f], o)
			}
		}
		return err
	})
}

// rolling asks the same before, between and after rolls and retention.
func rolling(t *testing.T, d Driver) {
	rounds(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := open(t, d, d.New(t))
		defer l.Close() //nolint:errcheck // the cleanup tells
		l.t = rt
		world := DrawWorld(rt)
		l.commit(world...)
		ctx := context.Background()
		for range 3 {
			now := Day + attribution.Second(rapid.IntRange(0, 400000).Draw(rt, "now"))
			l.must(l.Roll(ctx, now))
			l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 6 * time.Hour, Hour: 24 * time.Hour}, now))
			for range 3 {
				l.agree(drawQuery(rt)) // or too fine
			}
		}
		// Everything, and whole days that are rolled, is never too fine.
		if l.agree(&store.Query{From: Day - 1e6, To: Day + 1e6, GroupBy: []store.Dimension{store.Pod}}) ||
			l.agree(&store.Query{From: Day - 1e6, To: Day + 1e6, Step: 86400 * 7}) {
			rt.Fatal("the whole is too fine")
		}
		l.view(func(r store.Reader) error {
			if end := r.Rolled(rollup.Day); end > Day && l.agreeIn(r, &store.Query{From: Day, To: end, Step: 86400, GroupBy: []store.Dimension{store.DeviceID}}) {
				rt.Fatal("rolled days are too fine")
			}
			return nil
		})
	})
}

func law2(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	var seconds int64
	for i := range attribution.Second(3) {
		l.commit(append(Minute(0, Day+i*3600), Minute(1, Day+i*3600)...)...)
		seconds += 2 * 2 * 60
	}
	l.must(l.Roll(t.Context(), Day+2*3600))
	want := new(big.Int).Mul(big.NewInt(seconds), big.NewInt(attribution.WindowNanos))
	for _, by := range dimensions {
		for _, step := range []int64{0, 1, 60, 90, 3600} {
			q := &store.Query{From: Day, To: Day + 86400, Step: step, GroupBy: []store.Dimension{by}}
			l.agree(q)
			l.view(func(r store.Reader) error {
				rows, err := r.Query(t.Context(), q)
				sum := new(big.Int)
				for i := range rows {
					sum.Add(sum, &rows[i].DeviceTime)
				}
				if sum.Cmp(want) != 0 {
					t.Errorf("by %s in steps of %d: %s ns, want %s", by, step, sum, want)
				}
				return err
			})
		}
	}
}

func law5(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	const week = 7 * 86400
	ctx := t.Context()
	l.commit(Minute(0, Day)...)
	l.commit(Minute(0, Day+week)...)
	l.must(l.Roll(ctx, Day+week))
	// Node 1 was away, and what it sends is older than anything but days.
	l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 24 * time.Hour, Hour: 48 * time.Hour}, Day+week))
	for i := range attribution.Second(3) {
		l.commit(Minute(1, Day+i*60)...)
		l.commit(Minute(1, Day+86400*5+i*60)...)
	}
	check := func() {
		t.Helper()
		for _, q := range []*store.Query{
			{From: Day, To: Day + 86400, GroupBy: []store.Dimension{store.Node}},
			{From: Day, To: Day + 2*week, Step: 86400, GroupBy: []store.Dimension{store.Pod, store.Model}},
			{From: Day + 86400*5, To: Day + 86400*6, Step: 3600, GroupBy: []store.Dimension{store.Node}},
		} {
			if l.agree(q) {
				t.Errorf("%+v is too fine", *q)
			}
		}
	}
	check()
	l.must(l.Roll(ctx, Day+week+60))
	check()
	l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 24 * time.Hour, Hour: 48 * time.Hour}, Day+week))
	check()
}

func law6(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	first, second := Steady(0, Day), Steady(0, Day+10)
	for i := range second.Windows {
		second.Windows[i].Price = attribution.Price{PerHour: 7_200_000_000, Revision: 2}
		attribution.Rate(&second.Windows[i])
	}
	l.commit(first, second)
	var rows []string
	l.view(func(r store.Reader) error {
		return r.Rows(t.Context(), rollup.Minute, Day, Day+60, func(x *store.FactRow) error {
			if x.Basis == attribution.Used && x.Device.ID == "GPU-0-0" {
				rows = append(rows, fmt.Sprint(x.Revision, x.Sums.Time, x.Sums.Cost))
			}
			return nil
		})
	})
	want := []string{"1 3000000000 3000000", "2 3000000000 6000000"}
	same(t, "rows", rows, want, show)
}

func law7(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	q := &store.Query{From: Day, To: Day + 86400, GroupBy: []store.Dimension{
		store.Team, store.BudgetOwner, store.Environment, store.Model, store.Class, store.Tier, store.Run,
	}}
	odd := &store.Query{From: Day + 3, To: Day + 77, GroupBy: q.GroupBy}
	for i, salt := range []string{"", "-a", "-b"} {
		l.commit(Minute(i, Day+attribution.Second(i)*3600)...)
		l.must(l.Roll(t.Context(), Day+attribution.Second(i)*3600))
		l.mapping = rules(salt)
		l.must(l.SetMapping(t.Context(), l.mapping))
		l.agree(q)
		l.agree(odd)
		// Who comes later is mapped too.
		l.commit(Minute(10+i, Day)...)
		l.agree(q)
		l.agree(odd)
	}
}
