package rating_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

func TestLinesOfAPrice(t *testing.T) {
	card := &rating.Card{
		Revision: 1, Currency: "USD", Policy: "sm",
		Prices: []rating.PriceRule{{Model: "H100", PerDeviceHour: 3 * money.Unit}},
		Overheads: []rating.Overhead{
			{Name: "host", PerNodeHour: 1 * money.Unit},
			{Name: "power", PerDeviceHour: money.Unit / 10},
			{Name: "rack", To: 100, PerDeviceHour: money.Unit / 100},
			{Name: "rack", From: 100, PerDeviceHour: money.Unit / 50},
		},
	}
	r, err := rating.NewRater(card)
	if err != nil {
		t.Fatal(err)
	}
	half := attribution.MIGShare{Compute: 3, ComputeOf: 7, Memory: 4, MemoryOf: 8}
	devices := []attribution.Device{
		{ID: "a", Model: "H100"},
		{ID: "b", Model: "H100", Remainder: true},
		{ID: "m", Model: "H100", Parent: "b", Share: half},
		{ID: "c", Model: "T4"},
	}
	const want = `[{gpu 3.00} {host 0.333333334} {power 0.10} {rack 0.02}]
[{gpu 1.607142857} {host 0.178571428} {power 0.053571429} {rack 0.010714286}]
[{gpu 1.392857143} {host 0.154761905} {power 0.046428571} {rack 0.009285714}]
[]
`
	got := ""
	for _, ls := range r.Lines(devices, 200) {
		got += fmt.Sprintln(ls)
	}
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// The lines of a price sum to it, of wholes, instances and remainders alike.
func TestLaw1LinesSumToThePrice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Custom(func(t *rapid.T) money.Amount {
			return money.Amount(rapid.OneOf(rapid.Int64Range(0, 9), rapid.Int64Range(0, int64(rating.MaxAmount))).Draw(t, "amount"))
		})
		card := &rating.Card{Revision: 7, Currency: "EUR", Policy: "sm", Prices: []rating.PriceRule{{Model: "H*", PerDeviceHour: amount.Draw(t, "price")}}}
		for i := range rapid.IntRange(0, 4).Draw(t, "overheads") {
			card.Overheads = append(card.Overheads, rating.Overhead{
				Name: fmt.Sprint("line ", i), PerNodeHour: amount.Draw(t, "node"), PerDeviceHour: amount.Draw(t, "device"),
			})
		}
		r, err := rating.NewRater(card)
		if err != nil {
			t.Fatal(err)
		}
		var devices []attribution.Device
		for g := range rapid.IntRange(1, 4).Draw(t, "GPUs") {
			whole := attribution.Device{ID: fmt.Sprint("gpu-", g), Model: rapid.SampledFrom([]string{"H100", "H100", "other"}).Draw(t, "model")}
			n := rapid.IntRange(0, 3).Draw(t, "instances")
			whole.Remainder = n > 0
			for i := range n {
				devices = append(devices, attribution.Device{
					ID: fmt.Sprint("mig-", g, i), Model: whole.Model, Parent: whole.ID,
					Share: attribution.MIGShare{Compute: rapid.Int32Range(0, 2).Draw(t, "compute"), ComputeOf: 7, Memory: rapid.Int32Range(0, 2).Draw(t, "memory"), MemoryOf: 8},
				})
			}
			devices = append(devices, whole)
		}
		prices := make([]attribution.Price, len(devices))
		r.Prices(devices, 5, prices)
		for i, ls := range r.Lines(devices, 5) {
			var sum money.Amount
			seen := map[string]bool{}
			for _, l := range ls {
				if l.PerHour < 0 || seen[l.Name] {
					t.Fatalf("device %s has the line %v, of %v", devices[i].ID, l, ls)
				}
				seen[l.Name] = true
				sum += l.PerHour
			}
			if sum != prices[i].PerHour || prices[i].Known() != (len(ls) > 0) {
				t.Fatalf("device %s costs %v and its lines %v come to %v", devices[i].ID, prices[i], ls, sum)
			}
		}
	})
}
