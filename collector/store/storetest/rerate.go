package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
)

// flat is a card with one price for everything.
func flat(price money.Amount) *rating.Card {
	return &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: price}}}
}

// drawCard draws prices for some models, perhaps changing in time, and perhaps
// an overhead that a node's devices share.
func drawCard(t *rapid.T, changes bool) *rating.Card {
	amount := func(what string) money.Amount { return money.Amount(rapid.Int64Range(0, 1e13).Draw(t, what)) }
	c := &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "H100", PerDeviceHour: amount("price")}}}
	if changes && rapid.Bool().Draw(t, "changes") {
		at := Day + attribution.Second(rapid.IntRange(1, 300000).Draw(t, "change"))
		c.Prices[0].To = at
		c.Prices = append(c.Prices, rating.PriceRule{Model: "H100", From: at, PerDeviceHour: amount("later price")})
	}
	if rapid.Bool().Draw(t, "any") {
		c.Prices = append(c.Prices, rating.PriceRule{Model: "*", PerDeviceHour: amount("any price")})
	}
	if rapid.Bool().Draw(t, "overhead") {
		c.Overheads = append(c.Overheads, rating.Overhead{Name: "host", PerNodeHour: 1 + amount("per node")})
	}
	return c
}

var planner = plan.Planner{Decode: Decode}

// plan plans an entry over the ledger as it is.
func (l *ledger) plan(e rerating.Entry) (p *plan.Plan, err error) {
	e.Currency, e.Applied = "USD", time.Unix(1_800_000_000, 5).UTC()
	verr := l.View(context.Background(), func(r store.Reader) error {
		if e.Undoes != 0 {
			p, err = planner.Undo(context.Background(), r, e)
		} else {
			p, err = planner.Rerate(context.Background(), r, e)
		}
		return nil
	})
	return p, errors.Join(err, verr)
}

// apply has the store do what is planned.
func (l *ledger) apply(p *plan.Plan) {
	l.t.Helper()
	l.must(l.Rerate(context.Background(), p.Rerating()))
	var err error
	l.journal, err = l.journal.With(p.Entry)
	l.must(err)
}

func (l *ledger) rerate(from, to attribution.Second, c *rating.Card) *plan.Plan {
	l.t.Helper()
	p, err := l.plan(rerating.Entry{From: from, To: to, Card: c, Reason: "the invoice"})
	l.must(err)
	l.apply(p)
	return p
}

func (l *ledger) undo(id uint32) {
	l.t.Helper()
	p, err := l.plan(rerating.Entry{Undoes: id})
	l.must(err)
	l.apply(p)
}

// rerateAny rerates or undoes something at random. Nothing was dropped.
func (l *ledger) rerateAny(t *rapid.T) {
	if n := l.journal.Next() - 1; n > 0 && rapid.Bool().Draw(t, "undo") {
		id := uint32(rapid.IntRange(1, int(n)).Draw(t, "entry"))
		if l.journal.CanUndo(id) == nil {
			l.undo(id)
		} else if _, err := l.plan(rerating.Entry{Undoes: id}); !errors.Is(err, rerating.ErrUndo) {
			t.Fatalf("undoing %d: %v", id, err)
		}
		return
	}
	second := rapid.OneOf(rapid.Map(rapid.SampledFrom(times), func(s attribution.Second) int { return int(s) }), rapid.IntRange(0, 300000))
	a, b := second.Draw(t, "from"), second.Draw(t, "to")
	e := rerating.Entry{From: Day + attribution.Second(min(a, b)), To: Day + attribution.Second(max(a, b)) + 1, Card: drawCard(t, true)}
	p, err := l.plan(e)
	if errors.Is(err, plan.ErrNothing) {
		return
	}
	l.must(err)
	if note := p.Note(); note != "" {
		t.Fatal("not exact, though nothing was dropped: ", note)
	}
	l.apply(p)
}

// law6Rerated lets a ledger grow, roll, and be rated anew at random, and
// compares it with one whose chunks came at those prices.
func law6Rerated(t *testing.T, d Driver) {
	rounds(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := open(t, d, d.New(t))
		defer l.Close() //nolint:errcheck // the cleanup tells
		l.t = rt
		left := DrawWorld(rt)
		for len(left) > 0 || rapid.Bool().Draw(rt, "more") {
			if len(left) > 0 {
				left = l.step(rt, left)
			} else {
				l.must(l.Roll(context.Background(), Day+attribution.Second(rapid.IntRange(-3600, 400000).Draw(rt, "through"))))
			}
			if rapid.Bool().Draw(rt, "rerate") {
				l.rerateAny(rt)
			}
			if l.agree(drawQuery(rt)) {
				rt.Fatal("too fine, though nothing was dropped")
			}
		}
		l.view(func(r store.Reader) error {
			same(rt, "rows", l.dumpRows(), l.wantRows(r.Rolled(rollup.Hour), r.Rolled(rollup.Day)), show)
			j, err := r.Journal(context.Background())
			same(rt, "journal", showJournal(j), showJournal(l.journal), show)
			return err
		})
	})
}

func showJournal(j *rerating.Journal) (out []string) {
	for _, e := range j.Entries() {
		body, err := e.Marshal()
		out = append(out, fmt.Sprint(e.ID, e.Applied, string(body), j.UndoneBy(e.ID), err))
	}
	return out
}

// law6Undone rates anew in two layers, with rolls, late chunks and retention in
// between, and takes both back.
func law6Undone(t *testing.T, d Driver) {
	const keep = 2 * 3600
	for name, between := range map[string]func(*ledger){
		"nothing happens": func(*ledger) {},
		"a roll":          func(l *ledger) { l.must(l.Roll(t.Context(), Day+86400)) },
		"late chunks":     func(l *ledger) { l.commit(Minute(7, Day+3600)...) },
		"seconds and minutes are dropped": func(l *ledger) {
			l.must(l.Roll(t.Context(), Day+86400))
			l.must(l.Retain(t.Context(), store.Retention{Second: time.Hour, Minute: keep * time.Second}, Day+4*3600))
		},
		"minutes are dropped before seconds": func(l *ledger) {
			l.must(l.Roll(t.Context(), Day+86400))
			l.must(l.Retain(t.Context(), store.Retention{Minute: keep * time.Second}, Day+4*3600))
		},
		"all but days are dropped": func(l *ledger) {
			l.commit(Minute(9, Day+3*86400)...)
			l.must(l.Roll(t.Context(), Day+3*86400))
			l.must(l.Retain(t.Context(), store.Retention{Second: time.Hour, Minute: time.Hour, Hour: time.Hour}, Day+3*86400))
		},
	} {
		t.Run(name, func(t *testing.T) {
			build := func(rerate bool) *ledger {
				l := open(t, d, d.New(t))
				for i := range attribution.Second(4) {
					l.commit(append(Minute(0, Day+i*3600), Minute(1, Day+i*3600)...)...)
				}
				if rerate {
					l.rerate(Day+7, Day+3*3600+25, flat(7*money.Unit))
					l.rerate(Day+3600, Day+4*3600, flat(11))
				}
				between(l)
				if rerate {
					if err := l.Rerate(t.Context(), &store.Rerating{Entry: rerating.Entry{ID: 3, From: Day, To: Day + 1, Undoes: 1}}); !errors.Is(err, store.ErrBadBatch) {
						t.Errorf("the lower layer was undone before the upper: %v", err)
					}
					l.undo(2)
					l.undo(1)
					l.view(func(r store.Reader) error {
						return r.Transfers(t.Context(), rollup.Day, 0, Day*2, func(x *store.TransferRow) error {
							return fmt.Errorf("%+v is still moved", *x)
						})
					})
				}
				return l
			}
			same(t, "rows", build(true).dumpRows(), build(false).dumpRows(), show)
		})
	}
}

// law6Sums rates what is kept as sums only.
func law6Sums(t *testing.T, d Driver) {
	rounds(t)
	rapid.Check(t, func(rt *rapid.T) {
		l := open(t, d, d.New(t))
		defer l.Close() //nolint:errcheck // the cleanup tells
		l.t = rt
		l.commit(DrawWorld(rt)...)
		ctx := context.Background()
		now := Day + attribution.Second(rapid.IntRange(0, 400000).Draw(rt, "now"))
		l.must(l.Roll(ctx, now))
		l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 6 * time.Hour, Hour: 24 * time.Hour}, now))
		before := l.dumpRows()
		from := Day + 86400*attribution.Second(rapid.IntRange(-1, 2).Draw(rt, "from"))
		to := from + 86400*attribution.Second(rapid.IntRange(1, 3).Draw(rt, "days"))
		p, err := l.plan(rerating.Entry{From: from, To: to, Card: drawCard(rt, false)})
		if errors.Is(err, plan.ErrNothing) {
			return
		}
		l.must(err)
		l.apply(p)
		by := func(ds ...store.Dimension) (got, want []store.Row) {
			q := &store.Query{From: Day - 1e6, To: Day + 1e6, Step: 86400, GroupBy: ds}
			l.view(func(r store.Reader) error {
				var err error
				got, err = r.Query(ctx, q)
				return err
			})
			return got, l.scan(q).Rows()
		}
		// Bases differ within a device: sum them up.
		costs := func(rows []store.Row) map[string]*big.Int {
			out := make(map[string]*big.Int)
			for i := range rows {
				k := fmt.Sprint(rows[i].Time, rows[i].Keys)
				if out[k] == nil {
					out[k] = new(big.Int)
				}
				out[k].Add(out[k], &rows[i].Cost)
			}
			return out
		}
		got, want := by(store.DeviceID)
		for k, w := range costs(want) {
			if g := costs(got)[k]; g == nil || g.Cmp(w) != 0 {
				rt.Fatalf("device %s costs %v, want %s", k, g, w)
			}
		}
		got, want = by(store.DeviceID, store.Pod, store.Method)
		if len(got) != len(want) {
			rt.Fatalf("%d rows, want %d", len(got), len(want))
		}
		for i := range got {
			off := new(big.Int).Sub(&got[i].Cost, &want[i].Cost)
			if got[i].DeviceTime.Cmp(&want[i].DeviceTime) != 0 || got[i].Unpriced.Cmp(&want[i].Unpriced) != 0 || off.CmpAbs(big.NewInt(2*86400)) > 0 {
				rt.Fatalf("row %d\n got %s\nwant %s", i, showRow(got[i]), showRow(want[i]))
			}
		}
		l.undo(1)
		same(rt, "undone", l.dumpRows(), before, show)
	})
}

func law6Atomic(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	ctx := t.Context()
	l.commit(append(Minute(0, Day), Minute(0, Day+3600)...)...)
	l.must(l.Roll(ctx, Day+3600))
	before := l.dump()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for name, c := range map[string]struct {
		ctx   context.Context
		spoil func(*store.Rerating)
		want  error
	}{
		"a number that does not follow":   {ctx, func(r *store.Rerating) { r.Entry.ID = 2 }, store.ErrBadBatch},
		"no range":                        {ctx, func(r *store.Rerating) { r.Entry.To = r.Entry.From }, store.ErrBadBatch},
		"neither card nor undone":         {ctx, func(r *store.Rerating) { r.Entry.Card = nil }, store.ErrBadBatch},
		"undoes what is not there":        {ctx, func(r *store.Rerating) { r.Entry.Card, r.Entry.Undoes, r.Transfers = nil, 1, nil }, store.ErrBadBatch},
		"more time than there is":         {ctx, func(r *store.Rerating) { r.Transfers[len(r.Transfers)-1].Sums.Time++ }, store.ErrBadBatch},
		"less than nothing":               {ctx, func(r *store.Rerating) { r.Transfers[1].CostAfter = -1 }, store.ErrBadBatch},
		"a bucket of another time":        {ctx, func(r *store.Rerating) { r.Transfers[1].Bucket += 86400 }, store.ErrBadBatch},
		"a bucket that is no minute":      {ctx, func(r *store.Rerating) { r.Transfers[1].Bucket++ }, store.ErrBadBatch},
		"a transfer of another entry":     {ctx, func(r *store.Rerating) { r.Transfers[1].Entry = 2 }, store.ErrBadBatch},
		"a transfer to where it was":      {ctx, func(r *store.Rerating) { r.Transfers[1].To = r.Transfers[1].Series.Revision }, store.ErrBadBatch},
		"a device that nobody has":        {ctx, func(r *store.Rerating) { r.Transfers[1].Series.Device[3]++ }, store.ErrBadBatch},
		"a caller who has gone":           {cancelled, func(*store.Rerating) {}, context.Canceled},
		"a resolution that there is none": {ctx, func(r *store.Rerating) { r.Transfers[1].Resolution = 7 }, store.ErrBadBatch},
	} {
		p, err := l.plan(rerating.Entry{From: Day, To: Day + 7200, Card: flat(money.Unit)})
		l.must(err)
		r := p.Rerating()
		c.spoil(r)
		if err := l.Rerate(c.ctx, r); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		same(t, name, l.dump(), before, show)
	}
	if p := l.rerate(Day, Day+7200, flat(money.Unit)); p.Moved != 2*2*2 || p.MovedTime.Int64() != 2*perMinute {
		t.Errorf("%d sums of %s ns moved", p.Moved, &p.MovedTime)
	}
	l.agree(&store.Query{From: Day, To: Day + 7200, GroupBy: []store.Dimension{store.Pod, store.Revision}})
}

// law6Kept rates by seconds what has no minutes or hours any more.
func law6Kept(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	ctx := t.Context()
	l.commit(append(Minute(0, Day), Minute(0, Day+3600)...)...)
	l.commit(Minute(0, Day+2*86400)...)
	l.must(l.Roll(ctx, Day+2*86400))
	l.must(l.Retain(ctx, store.Retention{Minute: time.Hour, Hour: 2 * time.Hour}, Day+2*86400))
	before := l.dumpRows()
	by := &store.Query{From: Day, To: Day + 86400, GroupBy: []store.Dimension{store.Pod, store.Revision}}
	if p := l.rerate(Day, Day+86400, flat(2*money.Unit)); p.Moved != 8 || p.Note() != "" {
		t.Errorf("%d sums moved; %s", p.Moved, p.Note())
	}
	l.agree(by)
	l.commit(Minute(1, Day+600)...)
	l.agree(by)
	l.must(l.Retain(ctx, store.Retention{}, 0))
	l.agree(by)
	l.undo(1)
	l.agree(by)
	if len(l.dumpRows()) <= len(before) {
		t.Error("the late rows are gone")
	}
}

// law6Journal refuses what is rated by another journal than the ledger's.
func law6Journal(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	l.commit(Minute(0, Day)...)
	was := l.journal
	l.rerate(Day, Day+86400, flat(2*money.Unit))
	before := l.dump()
	if err := l.Commit(t.Context(), Rated(was, l.commits+1, Minute(1, Day)...)); !errors.Is(err, store.ErrOutdated) {
		t.Errorf("rated by the journal before: %v", err)
	}
	same(t, "refused", l.dump(), before, show)
	l.commit(Minute(1, Day)...)
	l.agree(&store.Query{From: Day, To: Day + 86400, GroupBy: []store.Dimension{store.Pod, store.Revision}})
}

// law5Rerated has chunks arrive for times that were rated anew, once and twice,
// and takes the upper layer back when their seconds are gone.
func law5Rerated(t *testing.T, d Driver) {
	l := open(t, d, d.New(t))
	ctx := t.Context()
	l.commit(Minute(0, Day)...)
	l.commit(Minute(0, Day+86400)...)
	l.rerate(Day, Day+86400, flat(2*money.Unit))
	l.rerate(Day+30, Day+60, flat(5*money.Unit))
	l.must(l.Roll(ctx, Day+86400))
	l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 2 * time.Hour}, Day+86400))
	for i := range 2 {
		l.commit(append(Minute(1+i, Day), Minute(1+i, Day+600)...)...)
		l.agree(&store.Query{From: Day, To: Day + 3600, GroupBy: []store.Dimension{store.Pod, store.Revision}})
		l.must(l.Roll(ctx, Day+86400))
		l.must(l.Retain(ctx, store.Retention{Second: time.Hour, Minute: 2 * time.Hour}, Day+86400))
		l.agree(&store.Query{From: Day, To: Day + 3600, GroupBy: []store.Dimension{store.Pod, store.Revision}})
	}
	for _, id := range []uint32{2, 1} {
		l.undo(id)
		l.agree(&store.Query{From: Day, To: Day + 3600, GroupBy: []store.Dimension{store.Pod, store.Revision}})
		l.agree(&store.Query{From: Day, To: Day + 2*86400, Step: 86400})
	}
}
