package opencost

import (
	"encoding/json"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// set is an answered set of allocations.
type set struct {
	window
	begin, end attribution.Second // of the window, what the ledger has
	items      []*item
}

// money writes nano units as a decimal number, exactly.
func money(nano *big.Int) string {
	whole, rest := new(big.Int).QuoRem(new(big.Int).Abs(nano), big.NewInt(1_000_000_000), new(big.Int))
	out := whole.String()
	if rest.Sign() != 0 {
		digits := rest.String()
		out += "." + strings.TrimRight(strings.Repeat("0", 9-len(digits))+digits, "0")
	}
	if nano.Sign() < 0 {
		return "-" + out
	}
	return out
}

// quotient writes a ÷ b, rounded at twelve decimals; null where b is 0.
func quotient(a, b *big.Int) string {
	if b.Sign() == 0 {
		return "null"
	}
	text := new(big.Rat).SetFrac(a, b).FloatString(12)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

func text(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: opencost: a string can't be written: " + err.Error())
	}
	return string(b)
}

// object writes the fields of a JSON object.
type object struct{ b []byte }

// raw adds a field whose value is JSON already.
func (o *object) raw(name, value string) {
	sep := byte(',')
	if len(o.b) == 0 {
		sep = '{'
	}
	o.b = append(o.b, sep, '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
	o.b = append(o.b, value...)
}

func (o *object) text(name, value string) {
	if value != "" {
		o.raw(name, text(value))
	}
}

func (o *object) close() string {
	if len(o.b) == 0 {
		return "{}"
	}
	return string(append(o.b, '}'))
}

// zero are what OpenCost tells of resources that have no cost of their own
// here: a rate card's overheads are part of the price of device time.
const zero = `"cpuCores":0,"cpuCoreRequestAverage":0,"cpuCoreLimitAverage":0,"cpuCoreUsageAverage":0,"cpuCoreHours":0,"cpuCost":0,` +
	`"cpuCostAdjustment":0,"cpuCostIdle":0,"cpuEfficiency":0,` +
	`"networkTransferBytes":0,"networkReceiveBytes":0,"networkCost":0,"networkCrossZoneCost":0,"networkCrossRegionCost":0,` +
	`"networkInternetCost":0,"networkCostAdjustment":0,"loadBalancerCost":0,"loadBalancerCostAdjustment":0,` +
	`"pvBytes":0,"pvByteHours":0,"pvCost":0,"pvs":null,"pvCostAdjustment":0,` +
	`"ramBytes":0,"ramByteRequestAverage":0,"ramByteLimitAverage":0,"ramByteUsageAverage":0,"ramByteHours":0,"ramCost":0,` +
	`"ramCostAdjustment":0,"ramCostIdle":0,"ramEfficiency":0,"lbAllocations":null,"externalCost":0`

var hourNanos = big.NewInt(hour * attribution.WindowNanos)

// json is an allocation of a set.
func (it *item) json(p *plan, s *set) string {
	var o object
	o.raw("name", text(it.name))
	o.raw("properties", it.properties(p))
	o.raw("window", s.json())
	o.raw("start", text(rfc3339(s.begin)))
	o.raw("end", text(rfc3339(s.end)))
	seconds := big.NewInt(int64(s.end - s.begin))
	nanos := new(big.Int).Mul(seconds, big.NewInt(attribution.WindowNanos))
	o.raw("minutes", quotient(seconds, big.NewInt(minute)))
	o.raw("gpuCount", quotient(&it.time, nanos))
	o.raw("gpuHours", quotient(&it.time, hourNanos))
	o.raw("gpuCost", money(new(big.Int).Add(&it.cost, &it.idle)))
	o.raw("gpuCostAdjustment", "0")
	o.raw("gpuCostIdle", money(&it.idle))
	o.raw("gpuEfficiency", quotient(&it.used, &it.observed))
	o.raw("gpuAllocation", it.device(p, nanos))
	o.raw("unpricedGpuHours", quotient(&it.unpriced, hourNanos))
	o.raw("sharedCost", money(&it.shared))
	o.raw("totalCost", money(it.total()))
	o.raw("totalEfficiency", quotient(&it.usedCost, &it.observedCost))
	o.b = append(o.b, ',')
	o.b = append(o.b, zero...)
	return o.close()
}

// common is a fact that all of the allocation has, "" where they differ.
func (it *item) common(p *plan, d store.Dimension) string {
	for i, have := range p.dims {
		if have == d && !it.differs[i] {
			return it.keys[i].Value
		}
	}
	return ""
}

func (it *item) properties(p *plan) string {
	var o, labels object
	for _, f := range fields {
		switch f.part {
		case whole, kindOnly:
		case nameOnly:
			f.name = "controller"
		default:
			continue
		}
		if v, ok := f.value(store.Key{Value: it.common(p, f.dim)}); ok {
			o.text(f.name, v)
		}
	}
	for i, d := range p.dims {
		if key, ok := d.Label(); ok && !it.differs[i] && !it.keys[i].Missing {
			// A label's key is anything in a hostile roster.
			name := text(key)
			labels.raw(name[1:len(name)-1], text(it.keys[i].Value))
		}
	}
	if len(labels.b) > 0 {
		o.raw("labels", labels.close())
	}
	return o.close()
}

// device is gpuAllocation: null where allocations are coarser than pods.
func (it *item) device(p *plan, nanos *big.Int) string {
	if !slices.Contains(p.dims, store.DeviceID) {
		return "null"
	}
	shared := "false"
	if it.crowded {
		shared = "true"
	}
	var o object
	o.raw("gpuDevice", `""`)
	o.raw("gpuModel", text(it.common(p, store.DeviceModel)))
	o.raw("gpuUUID", text(it.common(p, store.DeviceID)))
	o.raw("isGPUShared", shared)
	o.raw("gpuUsageAverage", quotient(&it.used, nanos))
	o.raw("gpuRequestAverage", quotient(&it.time, nanos))
	return o.close()
}

func (w window) json() string {
	return `{"start":"` + rfc3339(w.from) + `","end":"` + rfc3339(w.to) + `"}`
}
