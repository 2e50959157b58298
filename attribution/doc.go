// Package attribution is the pure core of gpuledger: the words, the laws, and
// the arithmetic that splits one second of one GPU among those who answer for
// it. It does no I/O, reads no clock, and uses no float for money or time.
//
// # The model
//
// A [Device] (a GPU, or a MIG instance of one) is what is priced. An [Owner] (a
// container of a pod, a host process, or nobody) is who answers for device
// time. A [Holding] says that an owner has been given a device. A [Sample] is
// one reading of a device's counters. From samples and holdings, [Split] cuts
// each window, one wall-clock second of one device, into slices:
//
//	(device, window, owner, basis) → device time, SM-active time,
//	                                 memory byte-seconds, energy, cost
//
// A [Tally] is what an owner served: inferences and tokens. A [Chunk] holds the
// slices and tallies of one node within one wall-clock ten seconds. It is the
// unit of storing, acknowledging and de-duplicating, and never changes once it
// is closed.
//
// # The laws
//
//  1. Conservation. The device times of a window's slices sum to exactly
//     1,000,000,000 ns and their costs to exactly the price of that second.
//  2. Partition. Every nanosecond has one owner and one basis; nothing is
//     dropped, clamped or rounded away.
//  3. Continuity. After a restart the agent continues at the last sealed
//     window: no second twice, none missing while the node was up.
//  4. Exactly once. A chunk is a deterministic function of its windows, keyed
//     (node, boot, sequence): storing it again changes nothing.
//  5. Late is normal. A chunk may arrive a week late and lands in its own time.
//  6. Time is primary, money derived. The same times under the same prices
//     give the same cost, whoever computes it.
//  7. Labels are facts, teams are rules. Raw labels are stored; teams are
//     mapped from them when a question is asked.
//  8. Bounded. Every buffer has a limit, and says what happens at it.
//  9. Zero is not unknown. "None", "not measured" and 0 are three answers.
//
// Units are fixed throughout: time in nanoseconds, memory in byte-seconds,
// energy in microjoules, money in nano units of the ledger's currency
// (package money), counted events in millionths ([Count]).
package attribution
