package rating_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
)

// A node of 8 GPUs: 350,400 over 4 years of 8,760 h is 10 an hour, of it 2 for
// the host; 700 W at 0.10 and a PUE of 1.5 is 0.105 an hour and GPU.
func TestOnPremByHand(t *testing.T) {
	o := rating.OnPrem{
		Currency: "EUR", Model: "NVIDIA H100*", GPUs: 8, Capex: "350,400", HostCapex: "70080", Life: "4",
		GPUWatts: "700", HostWatts: "2000", PerKWh: "0.10", PUE: "1.5", Storage: "73", Network: "36.50", PlatformFee: "10",
	}
	card, err := o.Card()
	if err != nil {
		t.Fatal(err)
	}
	const want = `currency: EUR
policy: sm
prices:
  - model: "NVIDIA H100*"
    per_device_hour: 1.00
overheads:
  - name: "host"
    per_node_hour: 2.00
  - name: "power"
    per_device_hour: 0.105
  - name: "host power"
    per_node_hour: 0.30
  - name: "storage"
    per_node_hour: 0.10
  - name: "network"
    per_node_hour: 0.05
  - name: "platform fee"
    per_node_hour: 1.129
`
	if got := string(rating.Format(card)); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	o.Residual = "35040" // a tenth of everything that was bought
	if card, err = o.Card(); err != nil || card.Prices[0].PerDeviceHour != 9*money.Unit/10 || card.Overheads[0].PerNodeHour != 18*money.Unit/10 {
		t.Errorf("with a residual value: %v, %v", card, err)
	}
}

// A whole life at the card's prices is what the node cost, but for the rounding
// of a nano unit an hour and GPU.
func TestLaw1ALifeOfHoursPaysForTheNode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capex := rapid.Int64Range(1, 5_000_000).Draw(t, "capex")
		host := rapid.Int64Range(0, capex).Draw(t, "host")
		residual := rapid.Int64Range(0, capex).Draw(t, "residual")
		years := rapid.Int64Range(1, 10).Draw(t, "years")
		gpus := rapid.Int64Range(1, 16).Draw(t, "gpus")
		text := func(n int64) string { return big.NewInt(n).String() }
		o := rating.OnPrem{Currency: "USD", Model: "*", GPUs: int(gpus), Capex: text(capex), HostCapex: text(host), Residual: text(residual), Life: text(years)}
		card, err := o.Card()
		if err != nil {
			t.Fatal(err)
		}
		hour := int64(card.Prices[0].PerDeviceHour) * gpus
		for _, x := range card.Overheads {
			hour += int64(x.PerNodeHour) + gpus*int64(x.PerDeviceHour)
		}
		hours := years * rating.HoursPerYear
		left := (capex-residual)*int64(money.Unit) - hour*hours
		if left < 0 || left > (gpus+1)*hours {
			t.Fatalf("%d hours at %d pay for all but %d nano units of %d", hours, hour, left, capex-residual)
		}
	})
}

func TestOnPremRefuses(t *testing.T) {
	good := rating.OnPrem{Currency: "USD", Model: "*", GPUs: 8, Capex: "100", Life: "4"}
	for want, spoil := range map[string]func(*rating.OnPrem){
		"gpus: 0: want the number":                     func(o *rating.OnPrem) { o.GPUs = 0 },
		"capex: is missing":                            func(o *rating.OnPrem) { o.Capex = "" },
		"life: is missing":                             func(o *rating.OnPrem) { o.Life = "" },
		"life: 0 years":                                func(o *rating.OnPrem) { o.Life = "0" },
		"host_capex: is more than all of capex":        func(o *rating.OnPrem) { o.HostCapex = "101" },
		"residual: is more than capex":                 func(o *rating.OnPrem) { o.Residual = "101" },
		"pue: 0.9 is impossible":                       func(o *rating.OnPrem) { o.PUE = "0.9" },
		"per_kwh: is missing":                          func(o *rating.OnPrem) { o.GPUWatts = "700" },
		"storage: ":                                    func(o *rating.OnPrem) { o.Storage = "lots" },
		"staff: -1 is negative":                        func(o *rating.OnPrem) { o.Staff = "-1" },
		"currency: \"\" is not an ISO 4217":            func(o *rating.OnPrem) { o.Currency = "" },
		"comes to 10273972.602739726 an hour: at most": func(o *rating.OnPrem) { o.Capex, o.GPUs, o.Life = "9000000000", 1, "0.1" },
	} {
		o := good
		spoil(&o)
		_, err := o.Card()
		var bad *rating.Invalid
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && !errors.As(err, &bad) {
			t.Errorf("%v is no *Invalid", err)
		}
	}
}
