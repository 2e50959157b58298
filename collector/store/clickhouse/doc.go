// Package clickhouse keeps the ledger on ClickHouse servers: one, or a cluster
// of shards and replicas. It is a [store.Store] that several collectors write to
// at once, a [store.Shared]. It speaks the HTTP interface, in RowBinary.
//
// # No transactions
//
// ClickHouse has none, so a write is made whole by what readers look at. Each
// opened store is a session with a number that nobody else has; its writes are
// numbered from 1. Every row has its session and the write's number, and the last
// thing a write does is to add an entry to the log: this session's writes are
// there up to this number. A [store.Reader] reads the log once, and then sees
// exactly the rows of the writes that it found there, whatever happens meanwhile:
// nothing is changed in place, and rows are dropped only when retention has long
// hidden them. A write that fails ends its session. Its rows have a number that
// the log never comes to, and are never seen; the next attempt is another
// session's. Where the answer to a log's entry was lost, the next write waits until
// it is there or can never be. So nothing depends on a repeated INSERT being
// recognised: where a shard was asked again, rows are looked at.
//
// # Several collectors
//
// A collector's sessions have its name in common: its lane. Law 4 needs no
// coordination here either. Before it writes rows, a collector claims the chunks
// that it is about to store, in the table span, and then looks who else has. Of
// two that claim one chunk, the later to look sees the other: it writes the
// chunk's rows under a source of their own and notes its rival in the table
// contested. A reader, who knows which of the two writes are in its log, counts
// one of them. Everything else, which is nearly all, is written as summed over
// the whole batch.
//
// A lane folds its own rows into hours and days, so that rolling needs no
// agreement. What a lane has not folded, such as that of a collector which is no
// more, a query takes from the finer rows.
//
// Documents and reratings are rare. Who puts one writes it, and looks who else does
// before the log has it; of two, at least one sees the other and gives way. So do
// a rerating and chunks of its time: who commits sees the rerating and tries again
// later, and the rerating waits for chunks that were claimed before, and is refused
// where there are others than it was planned of. Nobody waits for ever, for a write
// has a lifetime: the servers leave its entry out of the log when that is over.
//
// Claims of past days become ranges, in the table covered, and are dropped, and
// with them what was noted of contests and failures that nobody will look into again.
//
// # Money
//
// Sums over rows are Decimal(38): sum(Int64) wraps around silently. Rows are
// never changed by reratings: transfers are kept beside them, and a query adds
// those of the entries in force.
//
// # Rules
//
// What rules say of owners is this collector's own and changes at once, so that
// servers group by the fingerprints of facts, and keys, filters and rules are
// worked out here.
package clickhouse
