// Package rating turns a rate card into prices: which device-hour costs how
// much, at which second. It is pure: no I/O, no clock, no floats.
//
// # The card
//
// A [Card] is one revision of the prices, in one currency. A [PriceRule] says
// what a device-hour costs for the devices that it selects by model, capacity
// type, node labels and time. Of the rules that match a device, the most
// specific counts, in this order:
//
//  1. an exact model before a glob;
//  2. of globs, the one with more literal characters;
//  3. a rule with a capacity type before one without;
//  4. the rule with more node labels.
//
// Two rules that are equally specific and can both match one device at one
// time are an error ([Validate]): a price never depends on the order of lines.
// A device that no rule matches is unpriced, which is not the same as free; a
// rule with a price of 0 makes it free.
//
// An [Overhead] is what a device-hour costs beyond the GPU: CPU, RAM, storage,
// network, power. Every overhead that matches is added. Its amount per node is
// divided over the node's whole GPUs. Unpriced devices stay unpriced.
//
// # MIG
//
// A GPU that is cut is priced as the whole that it is. An instance costs
//
//	⌊price of the whole · mean of its compute and memory shares⌋
//
// whatever its neighbours do, and the uncut rest costs what remains. The rules
// select wholes: an instance is priced by its parent's facts where the parent
// (the remainder device) is on the node's list, and by its own otherwise.
package rating

import (
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// Card is one revision of the rate card. It is not changed once in use.
type Card struct {
	// Revision is assigned by the ledger, from 1; 0 is a card not yet applied.
	Revision uint32
	Currency string // ISO 4217: three capital letters
	// Policy names how "used" is decided: sm, dominant or memory.
	Policy    string
	Prices    []PriceRule
	Overheads []Overhead
}

// PriceRule is the price of a device-hour for the devices that it selects.
type PriceRule struct {
	// Model is a glob over the device model: * is any run of characters, ?
	// any one; everything else stands for itself, case included.
	Model        string
	CapacityType string             // "" matches any
	NodeLabels   attribution.Labels // all must match
	// The rule holds in [From, To), Unix seconds; 0 is unbounded.
	From, To      attribution.Second
	PerDeviceHour money.Amount
}

// Overhead is added to the price of every device-hour that it selects.
type Overhead struct {
	Name       string
	NodeLabels attribution.Labels // all must match
	From, To   attribution.Second // as in PriceRule
	// PerNodeHour is divided over the node's whole GPUs.
	PerNodeHour money.Amount
	// PerDeviceHour is for a whole GPU.
	PerDeviceHour money.Amount
}

func (r *PriceRule) matches(d *attribution.Device, s attribution.Second) bool {
	return within(r.From, r.To, s) &&
		(r.CapacityType == "" || r.CapacityType == d.CapacityType) &&
		hasLabels(d.Labels, r.NodeLabels) &&
		matchGlob(r.Model, d.Model)
}

func (o *Overhead) matches(d *attribution.Device, s attribution.Second) bool {
	return within(o.From, o.To, s) && hasLabels(d.Labels, o.NodeLabels)
}

func within(from, to, s attribution.Second) bool {
	return (from == 0 || s >= from) && (to == 0 || s < to)
}

func hasLabels(have, want attribution.Labels) bool {
	for _, l := range want {
		if v, ok := have.Get(l.Key); !ok || v != l.Value {
			return false
		}
	}
	return true
}
