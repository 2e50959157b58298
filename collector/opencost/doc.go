// Package opencost answers OpenCost's allocation API from the ledger, so that
// what reads OpenCost (kubectl-cost, its tests, dashboards) reads gpuledger:
//
//	GET /allocation, /allocation/compute   sets of allocations
//	GET /allocation/summary                the same, as {"step", "sets"}
//
// The paths are also there below /model, where Kubecost has them.
//
// # The model
//
// A window is cut into sets of time, and a set into allocations by what the
// asker aggregates: a [Handler] asks the query engine once per set, within one
// consistent state of the ledger, and brings the rows into OpenCost's names:
//
//   - used, reserved and unobserved time is the owner's, as on the bill;
//   - unattributed time, and that of processes outside pods, lies where it is
//     known to lie (cluster, node), and under __unallocated__ by everything
//     that it has no value for, as an owner without the label does;
//   - unallocated time is __idle__: shown, shared, or left out as asked.
//
// # Conservation
//
// Money is integers up to the last step, where a nano unit is printed with its
// nine decimals. Idle and shared costs are split by largest remainder. With
// __idle__ (shown or shared) the total costs of a set sum to the ledger's cost
// of the same time, to the nano unit, for any aggregate. A filter keeps parts,
// and __idle__ is kept by its own facts, cluster and node. Where idle has
// nobody to be shared over it stays __idle__.
//
// # Limits (law 8)
//
// Parameters, filters, sets and items are bounded; what exceeds a limit is
// refused and told, never cut off silently. So is a parameter that would change
// the numbers and that the ledger cannot follow.
package opencost
