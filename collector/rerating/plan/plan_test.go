package plan_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

const start = querytest.Start

func decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	var m pb.Roster
	if err := proto.Unmarshal(r.Body, &m); err != nil {
		return nil, err
	}
	roster, err := wire.DecodeRoster(&m)
	if err != nil {
		return nil, err
	}
	return wire.DecodeChunk(&pb.Chunk{
		Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds),
		RosterId: c.RosterID[:], Body: c.Body, Digest: c.Digest,
	}, c.Key.Cluster, c.Key.Node, roster)
}

// ledger has seconds from its third minute on, and minutes before.
func ledger(cs ...*attribution.Chunk) *querytest.Store {
	s := querytest.NewStore(cs...)
	s.KeptFrom = start + 120
	return s
}

func card(perHour money.Amount, rules ...rating.PriceRule) *rating.Card {
	return &rating.Card{Currency: "USD", Policy: "sm", Prices: append(rules, rating.PriceRule{Model: "*", PerDeviceHour: perHour})}
}

func rerate(t *testing.T, pl plan.Planner, s store.Reader, from, to attribution.Second, c *rating.Card) (*plan.Plan, error) {
	t.Helper()
	pl.Decode = decode
	return pl.Rerate(t.Context(), s, rerating.Entry{From: from, To: to, Card: c, Currency: "USD"})
}

func TestWhatCannotBePlanned(t *testing.T) {
	s := ledger(querytest.NewWorld().Chunks(0, 300)...)
	split := func(at attribution.Second) *rating.Card {
		return card(1, rating.PriceRule{Model: "NVIDIA H100", To: at, PerDeviceHour: 5}, rating.PriceRule{Model: "NVIDIA H100", From: at, PerDeviceHour: 6})
	}
	for want, c := range map[string]struct {
		pl       plan.Planner
		from, to attribution.Second
		card     *rating.Card
		is       error
	}{
		"the range is cut at 2023-11-15T00:00:30Z, and of that time only whole minutes are kept: cut it at 2023-11-15T00:00:00Z or 2023-11-15T00:01:00Z": {
			plan.Planner{}, start + 30, start + 300, card(1), store.ErrTooFine,
		},
		"the range is cut at 2023-11-15T00:01:59Z": {plan.Planner{}, start, start + 119, card(1), store.ErrTooFine},
		`device GPU-a of node "n1" has another price from 2023-11-15T00:01:30Z on, and of that time only whole minutes are kept: let the price change at 2023-11-15T00:01:00Z or 2023-11-15T00:02:00Z`: {
			plan.Planner{}, start, start + 300, split(start + 90), store.ErrTooFine,
		},
		"rerate a shorter range, then the next (more than 7 sums change)": {plan.Planner{MaxTransfers: 7}, start + 120, start + 300, card(1), plan.ErrTooLarge},
		"(more than 4 sums change)":                                       {plan.Planner{MaxTransfers: 4}, start, start + 60, card(1), plan.ErrTooLarge},
		"nothing is stored in this range":                                 {plan.Planner{}, start + 9000, start + 9001, card(1), plan.ErrNothing},
		"bad rerating: it covers":                                         {plan.Planner{}, start, start, card(1), rerating.ErrInvalid},
	} {
		if _, err := rerate(t, c.pl, s, c.from, c.to, c.card); !errors.Is(err, c.is) || !strings.Contains(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	// Where seconds are kept, edges and prices are where they like; before the
	// first second stored there is nothing to cut.
	for _, c := range []struct {
		from, to attribution.Second
		card     *rating.Card
	}{{start + 121, start + 299, split(start + 133)}, {start - 7, start + 150, split(start + 60)}, {start + 60, start + 1000, card(0)}} {
		if _, err := rerate(t, plan.Planner{}, s, c.from, c.to, c.card); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A plan from minutes has each device's exact cost, moves all its time, and
// says how exact it is.
func TestLaw1DevicesArePlannedExactlyFromMinutes(t *testing.T) {
	w := querytest.NewWorld()
	s := ledger(w.Chunks(0, 300)...)
	c := card(7_000_000_001)
	c.Overheads = []rating.Overhead{{Name: "host", PerNodeHour: 1_000_000_001}}
	coarse, err := rerate(t, plan.Planner{}, s, start, start+300, c)
	if err != nil {
		t.Fatal(err)
	}
	s.KeptFrom = start
	exact, err := rerate(t, plan.Planner{}, s, start, start+300, c)
	if err != nil {
		t.Fatal(err)
	}
	if exact.Note() != "" || !strings.Contains(coarse.Note(), "only whole minutes are kept: what a device costs in each is exact") || strings.Contains(coarse.Note(), "not there all the time") {
		t.Errorf("notes %q and %q", exact.Note(), coarse.Note())
	}
	type bucket struct {
		device rollup.Fingerprint
		at     attribution.Second
	}
	sums := func(p *plan.Plan) map[bucket][2]int64 {
		out := map[bucket][2]int64{}
		for _, x := range p.Transfers {
			k := bucket{x.Series.Device, x.Bucket}
			out[k] = [2]int64{out[k][0] + x.Sums.Time, out[k][1] + x.CostAfter}
		}
		return out
	}
	want, got := sums(exact), sums(coarse)
	if len(want) != 15 || len(got) != len(want) {
		t.Fatalf("%d and %d buckets", len(got), len(want))
	}
	for k, x := range want {
		if got[k] != x {
			t.Errorf("minute %d: time and cost %v, want %v", k.at-start, got[k], x)
		}
	}
	for id, o := range exact.Owners {
		off := new(big.Int).Sub(&o.After, &coarse.Owners[id].After)
		if off.CmpAbs(big.NewInt(2*120)) > 0 || o.Time.Cmp(&coarse.Owners[id].Time) != 0 || o.Before.Cmp(&coarse.Owners[id].Before) != 0 {
			t.Errorf("owner %s: %s nano units apart", o.Owner.Pod, off)
		}
	}
	if exact.Total.After.Cmp(&coarse.Total.After) != 0 {
		t.Errorf("totals %s and %s", &exact.Total.After, &coarse.Total.After)
	}
}

// Which seconds a device was there that came and went is no longer known: the
// note says so, and the cost is that of as many seconds.
func TestDevicesThatWereThereInPart(t *testing.T) {
	w := querytest.NewWorld()
	cs := w.Chunks(0, 60)
	for _, c := range cs[:2] { // GPU-b comes with the 20th second
		kept := c.Windows[:0]
		for _, x := range c.Windows {
			if c.Roster.Devices[x.Device].ID != "GPU-b" {
				kept = append(kept, x)
			}
		}
		c.Windows = kept
	}
	p, err := rerate(t, plan.Planner{}, ledger(cs...), start, start+60, card(3_600_000_001))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.Note(), "In 1 of 3 such sums of a device it was not there all the time that its node was") {
		t.Errorf("note %q", p.Note())
	}
	var time, cost int64
	for _, x := range p.Rerating().Transfers {
		if p.Rerating().Devices[x.Series.Device].ID == "GPU-b" {
			time, cost = time+x.Sums.Time, cost+x.CostAfter
		}
	}
	if time != 40*attribution.WindowNanos || cost != 40_000_000 {
		t.Errorf("%d ns cost %d", time, cost)
	}
}

// A device whose facts change within a minute costs what each of them says for
// as long.
func TestFactsThatChangeWithinABucket(t *testing.T) {
	spot := querytest.NewWorld()
	for i := range spot.Devices {
		spot.Devices[i].CapacityType = "spot"
	}
	cs := append(querytest.NewWorld().Chunks(0, 30), spot.Chunks(30, 60)...)
	c := card(3_600_000_000, rating.PriceRule{Model: "*", CapacityType: "spot", PerDeviceHour: 1_800_000_000})
	p, err := rerate(t, plan.Planner{}, ledger(cs...), start, start+60, c)
	if err != nil {
		t.Fatal(err)
	}
	costs := map[string]int64{}
	for _, x := range p.Transfers {
		d := p.Rerating().Devices[x.Series.Device]
		costs[d.ID+" "+d.CapacityType] += x.CostAfter
	}
	for _, id := range []string{"GPU-a", "GPU-b", "GPU-c"} {
		plain := costs[id+" on-demand"] + costs[id+" "]
		if plain != 30_000_000 || costs[id+" spot"] != 15_000_000 {
			t.Errorf("%s: %v", id, costs)
		}
	}
}

func TestAPlanKnowsWhetherItIsOfThisState(t *testing.T) {
	w := querytest.NewWorld()
	s := ledger(w.Chunks(0, 60)...)
	fresh := func(p *plan.Plan) bool {
		t.Helper()
		ok, err := p.Fresh(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	planned := func() *plan.Plan {
		t.Helper()
		p, err := rerate(t, plan.Planner{}, s, start, start+60, card(1))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := planned()
	s.Add(w.Chunks(600, 660)...)
	if !fresh(p) {
		t.Error("what comes beside the range does not matter")
	}
	c := w.Chunk("n1", start+50, 10)
	c.Key.Node, c.Key.Cluster = "n3", "west"
	c.Roster = &attribution.Roster{Methods: c.Roster.Methods}
	c.Windows, c.Tallies = nil, nil
	s.Add(c)
	if fresh(p) {
		t.Error("a late chunk in the range was not noticed")
	}
	p = planned()
	s.KeptFrom += 60
	if fresh(p) {
		t.Error("dropped seconds were not noticed")
	}
	p = planned()
	if err := s.Rerate(t.Context(), p.Rerating()); err != nil {
		t.Fatal(err)
	}
	if fresh(p) {
		t.Error("another rerating was not noticed")
	}
}
