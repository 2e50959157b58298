// Package admit is what a store refuses before it writes anything, whatever
// database it writes to: what [store.Store] says can never be stored.
//
// A ledger is added up for years, in integers, and is never repaired: what is
// wrong in it once is wrong in every sum over it. Much of this holds by how
// batches are made, and none of it is believed. Four things are checked:
//
//   - what a batch or an entry of the journal follows: [Batch], [Rated] and
//     [Rerating];
//   - that sums are ones that a minute can have, of whole buckets, so that adding
//     them up cannot overflow before package rollup says so: [Batch] and
//     [Transfers];
//   - that a batch has no second of a node twice: [InOrder];
//   - that texts are UTF-8, which databases count on: [Text], [Owner] and
//     [Device].
//
// What depends on what is stored (duplicates, facts that are there already) is the
// store's to check. Errors wrap [store.ErrBadBatch] where nothing else is said.
package admit
