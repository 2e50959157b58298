package query_test

import (
	"context"
	"fmt"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/store"
)

// lineCard is how the world's 2.50 an hour came about: until its second 400 the
// node cost 1.00, afterwards the room as well.
func lineCard(_ context.Context, revision uint32) (*rating.Card, error) {
	if revision != 1 {
		return nil, store.ErrNotFound
	}
	return &rating.Card{
		Revision: 1, Currency: "USD", Policy: "sm",
		Prices: []rating.PriceRule{
			{Model: "NVIDIA H100", To: querytest.Start + 400, PerDeviceHour: 2 * money.Unit},
			{Model: "NVIDIA H100", From: querytest.Start + 400, PerDeviceHour: money.Unit},
		},
		Overheads: []rating.Overhead{
			{Name: "host", PerNodeHour: money.Unit},
			{Name: "room", From: querytest.Start + 400, PerDeviceHour: money.Unit},
		},
	}, nil
}

func linesOf(ls []query.Line) string {
	out := ""
	for i := range ls {
		out += fmt.Sprintf("%s %v ", ls[i].Name, &ls[i].Cost)
	}
	return out
}

func TestReportLines(t *testing.T) {
	s := querytest.NewStore(querytest.NewWorld().Chunks(0, 600)...)
	e := query.New(query.Config{Store: s, Card: lineCard})
	rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"node"}, Step: 300, Lines: true})
	if err != nil {
		t.Fatal(err)
	}
	// Two GPUs at 2.50 an hour for 300 s: 2.00 + 0.50, and from 400 on 1.00 +
	// 0.50 + 1.00. n2 has no price, and so no lines.
	want := []string{
		"gpu 333333333 host 83333333 ", "",
		"gpu 222222222 host 83333334 room 111111110 ", "",
	}
	for i := range rep.Rows {
		if got := linesOf(rep.Rows[i].Lines); got != want[i] {
			t.Errorf("row %d: %s, want %s (of %v)", i, got, want[i], &rep.Rows[i].Sum.Cost)
		}
	}
	if rep, err = query.New(query.Config{Store: s}).Report(t.Context(), &query.Request{Lines: true}); err != nil {
		t.Fatal(err)
	}
	if got := linesOf(rep.Total.Lines); got != fmt.Sprintf("(unknown) %v ", &rep.Total.Sum.Cost) {
		t.Errorf("without a card: %s", got)
	}
}

// Cost that was rated again is itemised by the card that it was rated by, in
// what is stored as in what is open; the rest by its own.
func TestReportLinesOfRerated(t *testing.T) {
	all := querytest.NewWorld().Chunks(0, 600)
	s := querytest.NewStore(all[:100]...)
	again := &rating.Card{
		Currency: "USD", Policy: "sm",
		Prices:    []rating.PriceRule{{Model: "NVIDIA H100", PerDeviceHour: 3 * money.Unit}},
		Overheads: []rating.Overhead{{Name: "lease", PerDeviceHour: money.Unit}},
	}
	if err := s.Rerate(t.Context(), &store.Rerating{Entry: rerating.Entry{ID: 1, From: querytest.Start, To: querytest.Start + 600, Card: again}}); err != nil {
		t.Fatal(err)
	}
	e := query.New(query.Config{Store: s, Overlay: &querytest.Open{Items: all[100:]}, Card: lineCard})
	rep, err := e.Report(t.Context(), &query.Request{GroupBy: []string{"node"}, Lines: true})
	if err != nil {
		t.Fatal(err)
	}
	// Two GPUs for 600 s at 4.00 an hour, each rounded down.
	if got := linesOf(rep.Rows[0].Lines); got != "gpu 999999999 lease 333333333 " {
		t.Errorf("got %s of %v", got, &rep.Rows[0].Sum.Cost)
	}
}

// Whatever is asked, the lines of every row sum to its cost, and the rows' to
// the total's; asking for lines changes no other figure.
func TestLaw1LinesSumToTheCost(t *testing.T) {
	all := querytest.NewWorld().Chunks(200, 700)
	dims := []string{"node", "device", "team", "namespace", "pod", "basis", "revision", "cluster", "label:app"}
	rapid.Check(t, func(t *rapid.T) {
		at := rapid.IntRange(0, len(all)).Draw(t, "stored")
		e := query.New(query.Config{Store: querytest.NewStore(all[:at]...), Overlay: &querytest.Open{Items: all[at:]}, Card: lineCard})
		req := query.Request{
			GroupBy: rapid.SliceOfNDistinct(rapid.SampledFrom(dims), 0, 3, rapid.ID).Draw(t, "group by"),
			Step:    rapid.SampledFrom([]int64{0, 7, 60, 90, 3600}).Draw(t, "step"),
			Limit:   rapid.IntRange(0, 3).Draw(t, "limit"),
		}
		if rapid.Bool().Draw(t, "part") {
			req.From = querytest.Start + attribution.Second(rapid.IntRange(150, 500).Draw(t, "from"))
			req.To = req.From + attribution.Second(rapid.IntRange(1, 300).Draw(t, "seconds"))
		}
		plain, err := e.Report(context.Background(), &req)
		if err != nil {
			t.Fatal(err)
		}
		req.Lines = true
		rep, err := e.Report(context.Background(), &req)
		if err != nil {
			t.Fatal(err)
		}
		if len(plain.Rows) != len(rep.Rows) {
			t.Fatalf("%d rows with lines, %d without", len(rep.Rows), len(plain.Rows))
		}
		total := new(big.Int)
		for i := range rep.Rows {
			sum := new(big.Int)
			for j := range rep.Rows[i].Lines {
				sum.Add(sum, &rep.Rows[i].Lines[j].Cost)
			}
			if sum.Cmp(&plain.Rows[i].Sum.Cost) != 0 {
				t.Fatalf("row %d costs %v and its lines sum to %v", i, &plain.Rows[i].Sum.Cost, sum)
			}
			total.Add(total, sum)
		}
		for j := range rep.Total.Lines {
			total.Sub(total, &rep.Total.Lines[j].Cost)
		}
		if total.Sign() != 0 {
			t.Fatalf("the total's lines are off by %v", total)
		}
	})
}
