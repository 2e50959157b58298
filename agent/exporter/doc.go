// Package exporter keeps running totals of what the node's sealed seconds say,
// for whoever scrapes or collects metrics. It is a view of the ledger, not the
// ledger: it starts at zero with the agent, while chunks and their sums are
// kept for good.
//
// # The model
//
// The sealer hands each priced second to [Exporter.Add], which adds its integers
// (ns, nano units, µJ, byte-seconds) to one [Series] per (device, owner, basis),
// one [Device] per device, and one [Tally] per (owner, model, tier, measure), and
// publishes an immutable [Snapshot]. Package prom and package otlp are two views
// of the same snapshot; the conversion to floating point happens in them, once
// per value.
//
// Laws that hold of every snapshot, in integers:
//
//   - Conservation (1): the times of all series sum to one second for every
//     window added, and the costs to those of the windows, for as long as no
//     series has left. At a limit series merge, so nothing is lost but names.
//   - Zero is not unknown (9): an unpriced window adds to Unpriced and never to
//     a cost of 0, and a series has a cost only once something was priced; what
//     a device has no sensor for, and what was not observed, is not there.
//
// # Owners
//
// What is exported of an owner is an [Owner]: its pod, its controller, the
// allowed pod labels. Process ids are left out, so processes of one command are
// one owner; the commands are bounded by MaxProcesses, and the rest is called
// [Other]. Tenants are left out too: their number is the customers', not ours;
// the ledger has them. Texts are made valid UTF-8 of at most [MaxText] bytes
// before anything is compared, so that two owners that look the same are one.
//
// # Limits (law 8)
//
// Beyond MaxSeries entries a new combination is added to the owner [Overflow],
// and a new device to the device [Overflow]; both are counted.
//
// # Life of a series
//
// A series begins, at zero, with the first second of its owner there, its Since.
// It leaves when it got no time for Linger (ten minutes: Prometheus looks back
// for five, so nobody scrapes more rarely, and ten are two scrapes of even such
// a one), but not before every [View] in use has exported it after its last
// change, unless LingerLimit has passed. An owner that comes back after that
// begins at zero again with a new Since, which is what a restart of the agent
// looks like as well: a counter reset, told by its created timestamp.
//
// # Currencies
//
// The ledger counts in the currency of the rate card, which chunks don't carry:
// [Exporter.SetRateCard] tells it, per revision, before the first second is
// priced by that revision. Money of two currencies is never added: should a
// card come in another one, all costs begin again at zero under its name.
package exporter
