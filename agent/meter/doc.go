// Package meter turns what producers saw into sealed windows.
//
// # The model
//
// A producer is a goroutine that sees something: a device's sampler, a watcher
// of holdings, a scraper of inference counters. Each has a [Lane] of its own: a
// ring that it alone writes and the sealer alone reads. Recording takes no
// lock, waits for nobody and allocates nothing. A [Record] says that
//
//   - a device was active over an interval ([Activity]),
//   - an owner used a device over an interval ([Use]),
//   - an owner holds a device from a time on, or no longer ([Hold], [Release]),
//   - a device exists from a time on, or no longer ([Added], [Removed]),
//   - something was served over an interval ([Tallied]).
//
// One goroutine, the sealer, calls [Meter.Seal]. It drains every lane, cuts the
// seconds that have come into windows, one a second for every device that
// existed in it, and hands each second out once as a [Sealed].
//
// # The rules of a window
//
//  1. A window is cut into segments where coverage by activity or the holdings
//     change, to the nanosecond. An interval that reaches over several segments
//     or windows is spread by apportion.Until, so that its parts sum to it.
//  2. Time that no activity covers is unobserved and billed to the holders.
//     Activities that overlap add up, to at most the time they cover.
//  3. Before a device exists within its first window, and after it is gone
//     within its last, time is unobserved and held by nobody: a window is always
//     a whole second. A device that leaves and comes back within a second has
//     one window for it, under the description that it had first.
//  4. At one instant, removals come before additions, and releases before
//     holdings; but what one lane says at one instant counts in the order it
//     was said. Between lanes the order of arrival does not matter, nor do the
//     numbers that owners have: the result depends on the facts alone.
//
// # Late and early
//
// A holding that comes after its time was sealed takes effect from the first
// unsealed window. Of an interval only the part over unsealed time counts; the
// rest is counted as late ([Stats]) and discarded, for its time is on record as
// unobserved already. Tallies have no time that could be on record: a late one
// is moved to the unsealed windows, never discarded.
//
// Intervals may lie in the future, as scripts are read ahead. As many as
// [Options] allows are kept as they are; beyond that they are joined with the
// newest of their kind: sums are kept, and only where exactly within the joined
// interval it happened is forgotten.
//
// # Limits
//
// A lane that is full keeps what comes in a small table, joined with the newest
// entry of the same key, until it is drained ([Lane.Record] has the rule).
// Owners, subjects and devices are interned by content and numbered for slices;
// a number is given to another only when its last appearance lies more than
// [KeepSeconds] sealed seconds back. Whatever a limit refuses is counted in
// [Stats], and the time concerned still has its one owner and basis: the use of
// an owner who was refused is unattributed.
package meter
