package rating

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// HoursPerYear is the 8,760 hours that amortisation tables count; a leap day
// is not billed.
const HoursPerYear = 365 * 24

// OnPrem is a node that its user owns: what it cost, and what it takes to run.
// Numbers are decimal text, exact to nine decimals; "" is none, and 0.
type OnPrem struct {
	Currency   string // ISO 4217
	Model      string // glob over the device model that the prices are for
	NodeLabels attribution.Labels
	GPUs       int // of the node

	// The node is paid for over its life: (Capex − Residual) ÷ (Life years ×
	// 8,760 h) ÷ GPUs a device-hour. HostCapex, the part of Capex that is not
	// the GPUs (CPU, RAM, chassis), becomes a line of its own.
	Capex, HostCapex, Residual string
	Life                       string // years

	// Power is watts a GPU and watts of the rest of the node, as measured or
	// as rated, at PerKWh, times PUE ("": 1).
	GPUWatts, HostWatts, PerKWh, PUE string

	// Per node and month (730 h), each a line of its own.
	Storage, Network, Space, Staff string
	// PlatformFee is a surcharge on everything above, in percent.
	PlatformFee string
}

// monthHours are those of a month: a twelfth of a year.
const monthHours = HoursPerYear / 12

// Card is the rate card that comes to the costs given. Every line is rounded
// down to a nano unit once. Errors are *Invalid and name the field.
func (o *OnPrem) Card() (*Card, error) {
	if o.GPUs < 1 || o.GPUs > 1024 {
		return nil, invalid("gpus", "%d: want the number of GPUs of the node, 1 to 1024", o.GPUs)
	}
	n, err := o.numbers()
	if err != nil {
		return nil, err
	}
	hours := new(big.Rat).Mul(n["life"], big.NewRat(HoursPerYear, 1))
	perGPU := func(x *big.Rat) *big.Rat { return new(big.Rat).Quo(x, big.NewRat(int64(o.GPUs), 1)) }
	gpus := new(big.Rat).Sub(n["capex"], n["host_capex"])
	// What the node is worth in the end is taken off in proportion.
	kept := big.NewRat(1, 1)
	if n["capex"].Sign() > 0 {
		kept.Sub(kept, new(big.Rat).Quo(n["residual"], n["capex"]))
	}
	amortised := func(x *big.Rat) *big.Rat { return new(big.Rat).Quo(new(big.Rat).Mul(x, kept), hours) }
	energy := func(watts *big.Rat) *big.Rat {
		x := new(big.Rat).Mul(watts, n["per_kwh"])
		return x.Mul(x, new(big.Rat).Quo(n["pue"], big.NewRat(1000, 1)))
	}
	monthly := func(x *big.Rat) *big.Rat { return new(big.Rat).Quo(x, big.NewRat(monthHours, 1)) }

	type line struct {
		name      string
		perDevice bool
		perHour   *big.Rat
	}
	lines := []line{
		{"host", false, amortised(n["host_capex"])},
		{"power", true, energy(n["gpu_watts"])},
		{"host power", false, energy(n["host_watts"])},
		{"storage", false, monthly(n["storage"])},
		{"network", false, monthly(n["network"])},
		{"space", false, monthly(n["space"])},
		{"staff", false, monthly(n["staff"])},
	}
	price := perGPU(amortised(gpus))
	node := new(big.Rat).Mul(price, big.NewRat(int64(o.GPUs), 1)) // all that a node-hour costs
	for _, l := range lines {
		x := l.perHour
		if l.perDevice {
			x = new(big.Rat).Mul(x, big.NewRat(int64(o.GPUs), 1))
		}
		node.Add(node, x)
	}
	lines = append(lines, line{"platform fee", false, new(big.Rat).Mul(node, new(big.Rat).Quo(n["platform_fee"], big.NewRat(100, 1)))})

	card := &Card{Currency: o.Currency, Policy: attribution.PolicySM.Name}
	amount, err := nanos("capex", price)
	if err != nil {
		return nil, err
	}
	card.Prices = []PriceRule{{Model: o.Model, NodeLabels: o.NodeLabels, PerDeviceHour: amount}}
	for _, l := range lines {
		amount, err := nanos(l.name, l.perHour)
		if err != nil {
			return nil, err
		}
		if amount == 0 {
			continue
		}
		add := Overhead{Name: l.name, NodeLabels: o.NodeLabels}
		if l.perDevice {
			add.PerDeviceHour = amount
		} else {
			add.PerNodeHour = amount
		}
		card.Overheads = append(card.Overheads, add)
	}
	return card, Validate(card)
}

// numbers reads and checks all fields.
func (o *OnPrem) numbers() (map[string]*big.Rat, error) {
	out := map[string]*big.Rat{}
	for _, f := range []struct{ name, text, missing string }{
		{"capex", o.Capex, "say what the node cost"},
		{"life", o.Life, "say over how many years the node is paid for, such as 4"},
		{"host_capex", o.HostCapex, "0"},
		{"residual", o.Residual, "0"},
		{"gpu_watts", o.GPUWatts, "0"},
		{"host_watts", o.HostWatts, "0"},
		{"per_kwh", o.PerKWh, "0"},
		{"pue", o.PUE, "1"},
		{"storage", o.Storage, "0"},
		{"network", o.Network, "0"},
		{"space", o.Space, "0"},
		{"staff", o.Staff, "0"},
		{"platform_fee", o.PlatformFee, "0"},
	} {
		if f.text == "" && len(f.missing) > 1 {
			return nil, invalid(f.name, "is missing: %s", f.missing)
		}
		text := f.text
		if text == "" {
			text = f.missing
		}
		a, err := money.Parse(strings.ReplaceAll(text, ",", ""))
		if err != nil {
			return nil, invalid(f.name, "%v", err)
		}
		if a < 0 {
			return nil, invalid(f.name, "%s is negative", text)
		}
		out[f.name] = new(big.Rat).SetFrac64(int64(a), int64(money.Unit))
	}
	switch {
	case out["life"].Sign() == 0:
		return nil, invalid("life", "0 years: say over how many years the node is paid for, such as 4")
	case out["host_capex"].Cmp(out["capex"]) > 0:
		return nil, invalid("host_capex", "is more than all of capex, which includes it")
	case out["residual"].Cmp(out["capex"]) > 0:
		return nil, invalid("residual", "is more than capex: the node would be worth more in the end than it cost")
	case out["pue"].Cmp(big.NewRat(1, 1)) < 0:
		return nil, invalid("pue", "%s is impossible: want at least 1", o.PUE)
	case (out["gpu_watts"].Sign() > 0 || out["host_watts"].Sign() > 0) && o.PerKWh == "":
		return nil, invalid("per_kwh", "is missing: say what a kilowatt-hour costs")
	}
	return out, nil
}

// nanos rounds down to a nano unit.
func nanos(name string, x *big.Rat) (money.Amount, error) {
	n := new(big.Int).Mul(x.Num(), big.NewInt(int64(money.Unit)))
	n.Quo(n, x.Denom())
	if !n.IsInt64() || money.Amount(n.Int64()) > MaxAmount {
		return 0, invalid(name, "comes to %s an hour: at most %s is allowed", money.Text(n), MaxAmount)
	}
	return money.Amount(n.Int64()), nil
}

// String tells the sum that the calculation is, for whoever reads the card.
func (o *OnPrem) String() string {
	parts := []string{fmt.Sprintf("capex %s over %s years of %d h", o.Capex, o.Life, HoursPerYear), fmt.Sprintf("%d GPUs", o.GPUs)}
	for _, p := range []struct{ format, value string }{
		{"of capex %s for the host", o.HostCapex},
		{"residual value %s", o.Residual},
		{"%s W a GPU", o.GPUWatts},
		{"%s W for the host", o.HostWatts},
		{"%s per kWh", o.PerKWh},
		{"PUE %s", o.PUE},
		{"storage %s a month", o.Storage},
		{"network %s a month", o.Network},
		{"space %s a month", o.Space},
		{"staff %s a month", o.Staff},
		{"platform fee %s %%", o.PlatformFee},
	} {
		if p.value != "" {
			parts = append(parts, fmt.Sprintf(p.format, p.value))
		}
	}
	return strings.Join(parts, ", ")
}
