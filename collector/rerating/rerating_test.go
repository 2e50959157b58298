package rerating_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

func flat(price money.Amount) *rating.Card {
	return &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: price}}}
}

// journal makes one of entries, whose numbers it fills in.
func journal(t *testing.T, es ...rerating.Entry) *rerating.Journal {
	t.Helper()
	var j *rerating.Journal
	for _, e := range es {
		e.ID = j.Next()
		if e.To == 0 {
			e.To = 1
		}
		var err error
		if j, err = j.With(e); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

const day = storetest.Day

// Every second has the price of the newest entry in force over it, a chunk is
// never changed, and what comes out keeps the laws.
func TestLaw6TheNewestEntryInForcePrices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var j *rerating.Journal
		type layer struct {
			from, to attribution.Second
			price    money.Amount
			id       uint32
		}
		var layers []layer // in force
		for range rapid.IntRange(0, 6).Draw(t, "entries") {
			e := rerating.Entry{ID: j.Next(), From: day, To: day + 1}
			if n := len(layers); n > 0 && rapid.Bool().Draw(t, "undo") {
				k := rapid.IntRange(0, n-1).Draw(t, "which")
				if e.Undoes = layers[k].id; j.CanUndo(e.Undoes) != nil {
					continue
				}
				layers = append(layers[:k:k], layers[k+1:]...)
			} else {
				e.From = day + attribution.Second(rapid.IntRange(-3, 10).Draw(t, "from"))
				e.To = e.From + attribution.Second(rapid.IntRange(1, 9).Draw(t, "seconds"))
				price := money.Amount(rapid.Int64Range(0, 1e12).Draw(t, "price"))
				e.Card = flat(price)
				layers = append(layers, layer{e.From, e.To, price, e.ID})
			}
			var err error
			if j, err = j.With(e); err != nil {
				t.Fatal(err)
			}
		}
		c := storetest.Steady(0, day)
		got := j.Rate(c)
		if !reflect.DeepEqual(c, storetest.Steady(0, day)) {
			t.Fatal("the chunk was changed")
		}
		if err := got.Check(); err != nil {
			t.Fatal(err)
		}
		touched := false
		for i := range got.Windows {
			w := &got.Windows[i]
			want := attribution.Price{PerHour: 3_600_000_000, Revision: 1}
			for _, l := range layers {
				if w.Second >= l.from && w.Second < l.to {
					want, touched = attribution.Price{PerHour: l.price, Revision: rerating.Revision(l.id)}, true
				}
			}
			if w.Price != want {
				t.Fatalf("second %d costs %v, want %v", w.Second-day, w.Price, want)
			}
		}
		if touched == (got == c) {
			t.Fatalf("touched %v, and the same chunk %v", touched, got == c)
		}
		// The steps lead from the one to the other.
		facts, last := rollup.FactsOf(c.Roster), c
		var ts rerating.Transfers
		j.Steps(c, func(id uint32, before, after *attribution.Chunk) {
			if before != last {
				t.Fatal("a step does not go on where the last ended")
			}
			ts.Add(id, before, after, facts)
			last = after
		})
		if !reflect.DeepEqual(last, got) {
			t.Fatal("the steps lead elsewhere")
		}
		if moved := balance(ts.List()); moved != cost(got)-cost(c) {
			t.Fatalf("transfers make %d, the chunk %d", moved, cost(got)-cost(c))
		}
	})
}

func balance(ts []rerating.Transfer) (sum int64) {
	for i := range ts {
		sum += ts[i].CostAfter - ts[i].Sums.Cost
	}
	return sum
}

func cost(c *attribution.Chunk) (sum int64) {
	for i := range c.Windows {
		for _, s := range c.Windows[i].Slices {
			sum += int64(s.Cost)
		}
	}
	return sum
}

// A device without a price by the new card is unpriced, not free (law 9), and
// gets its price back.
func TestLaw9UnpricedByTheNewCard(t *testing.T) {
	card := flat(1)
	card.Prices[0].Model = "another"
	j := journal(t, rerating.Entry{From: day, To: day + 10, Card: card})
	c := storetest.Steady(0, day)
	got := j.Rate(c)
	if got.Windows[0].Price.Known() || cost(got) != 0 {
		t.Errorf("price %v", got.Windows[0].Price)
	}
	var ts rerating.Transfers
	j.Steps(c, func(id uint32, before, after *attribution.Chunk) { ts.Add(id, before, after, rollup.FactsOf(c.Roster)) })
	for _, x := range ts.List() {
		if x.To != 0 || x.Series.Revision != 1 {
			t.Errorf("%+v", x)
		}
	}
	j, err := j.With(rerating.Entry{ID: 2, From: day, To: day + 10, Undoes: 1})
	if err != nil || j.Rate(c) != c {
		t.Errorf("undone, %v", err)
	}
}

// A node's overhead is divided over the devices that it had in the second.
func TestPricesAreThoseOfTheSecondsDevices(t *testing.T) {
	card := flat(0)
	card.Overheads = []rating.Overhead{{Name: "host", PerNodeHour: 3_600_000_000}}
	c := storetest.Steady(0, day)
	// From the sixth second on, the second device is gone.
	kept := c.Windows[:0]
	for _, w := range c.Windows {
		if w.Device == 0 || w.Second < day+5 {
			kept = append(kept, w)
		}
	}
	c.Windows = kept
	got := journal(t, rerating.Entry{From: day, To: day + 10, Card: card}).Rate(c)
	for i := range got.Windows {
		w := &got.Windows[i]
		want := money.Amount(3_600_000_000)
		if w.Second < day+5 {
			want /= 2
		}
		if w.Price.PerHour != want {
			t.Errorf("second %d of device %d: %s", w.Second-day, w.Device, w.Price.PerHour)
		}
	}
}

func TestWhatCannotBeAnEntry(t *testing.T) {
	j := journal(t, rerating.Entry{From: 10, To: 20, Card: flat(1)}, rerating.Entry{From: 19, To: 30, Card: flat(2)}, rerating.Entry{From: 40, To: 50, Card: flat(2)})
	j = journal(t, append(j.Entries(), rerating.Entry{From: 40, To: 50, Undoes: 3})...)
	for want, e := range map[string]rerating.Entry{
		"it has number 4 and follows 4":       {ID: 4, To: 1, Card: flat(1)},
		"it covers 5 to 5":                    {ID: 5, From: 5, To: 5, Card: flat(1)},
		"it covers -1 to 5":                   {ID: 5, From: -1, To: 5, Card: flat(1)},
		"either a rate card or an entry":      {ID: 5, To: 1},
		"bad rerating: rate card":             {ID: 5, To: 1, Card: &rating.Card{}},
		"there is no rerating 9":              {ID: 5, To: 1, Undoes: 9},
		"3 was undone by 4 already":           {ID: 5, To: 1, Undoes: 3},
		"4 undid 3: make that one again with": {ID: 5, To: 1, Undoes: 4},
		"2 lies over 1 and has to be undone":  {ID: 5, To: 1, Undoes: 1},
	} {
		_, err := j.With(e)
		known := errors.Is(err, rerating.ErrInvalid) || errors.Is(err, rerating.ErrUndo)
		if !known || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", e, err, want)
		}
	}
	if err := j.CanUndo(2); err != nil {
		t.Error(err)
	}
	if j.UndoneBy(3) != 4 || j.Rater(3) != nil || j.Rater(2) == nil || j.Covers(40, 50) || !j.Covers(29, 40) {
		t.Error("who is in force")
	}
	if c := j.Card(2); c.Revision != rerating.Revision(2) || j.Card(4) != nil || j.Card(0) != nil {
		t.Errorf("card %+v", c)
	}
	if id, ok := rerating.ID(rerating.Revision(7)); id != 7 || !ok {
		t.Error("a revision tells its entry")
	}
	if _, ok := rerating.ID(7); ok {
		t.Error("a rate card's revision is no entry's")
	}
}

func TestEntriesAreStoredAsTheyAre(t *testing.T) {
	card := flat(2_500_000_001)
	card.Revision = 7
	at := time.Unix(1_800_000_000, 17).UTC()
	for _, e := range []rerating.Entry{
		{ID: 1, From: 10, To: 20, Applied: at, Reason: "an \"invoice\"\n✓", Card: card, Currency: "USD", CostBefore: "1.50", CostAfter: "0.000000001"},
		{ID: 1, From: 10, To: 20, Applied: at, Undoes: 3, Currency: "EUR"},
	} {
		body, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := rerating.Unmarshal(1, at, body)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: got %+v, %v", body, got, err)
		}
	}
}

// Law 8: what is kept for ever is bounded.
func TestLaw8AnEntryIsBounded(t *testing.T) {
	card := flat(1)
	for len(card.Prices) < 10_000 {
		p := card.Prices[0]
		p.Model = fmt.Sprint("model ", len(card.Prices))
		card.Prices = append(card.Prices, p)
	}
	e := rerating.Entry{ID: 1, From: 10, To: 20, Card: card, Currency: "USD"}
	if _, err := e.Marshal(); !errors.Is(err, rerating.ErrInvalid) || !strings.Contains(err.Error(), "may be kept") {
		t.Errorf("got %v", err)
	}
}

func FuzzAppend(f *testing.F) {
	e := rerating.Entry{From: 10, To: 20, Card: flat(1), Currency: "USD"}
	body, err := e.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"from":1,"to":2,"undoes":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var j *rerating.Journal
		j, err := j.Append(time.Unix(0, 0), body)
		if err != nil {
			return
		}
		again, err := j.Entries()[0].Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := rerating.Unmarshal(1, time.Unix(0, 0), again)
		if err != nil || fmt.Sprintf("%+v", *back.Card) != fmt.Sprintf("%+v", *j.Entries()[0].Card) {
			t.Errorf("%s: %v", again, err)
		}
	})
}
