// Package duckdb keeps the ledger in one DuckDB file on one machine. It is a
// [store.Store].
//
// # Tables
//
// A star schema. The facts are rows of integers, (bucket, series, sums), in
// one table per resolution: minute, hour, day; tallies likewise. A series is
// (device, owner, basis, method, revision of the rate card), and devices,
// owners and methods are dimensions, each row named by a small dense id. What
// rules say of an owner is in owner_map, which SetMapping rewrites; what an
// owner served is in served. Chunks are kept as they came, rosters once each,
// compressed.
//
// SM activity is stored as its gap to device time where the basis is used,
// because there they are mostly the same, and as itself elsewhere, where it
// is mostly 0: either way the column compresses to almost nothing.
//
// # One writer
//
// All writes go through one connection, each in one transaction that also
// moves the commit number or a watermark in the table state. A [store.Reader]
// is a transaction too: DuckDB gives it a snapshot. Which seconds are stored
// is also kept in memory, as runs of seconds per node: about 100 bytes for
// each run, of which a node has one per gap in its record. Ids of dimensions
// are kept in memory only for what was lately used.
//
// # Failures
//
// A write that fails leaves nothing: the transaction is rolled back, and where
// DuckDB has given up on the database itself (a full disk in the wrong moment)
// the file is closed and opened again, which is also how it recovers from a
// crash. Whether a commit that failed in its last step is durable is read from
// the file, never guessed. A file that cannot be read is never written to: it is
// left alone, or, where the options say so, renamed and a new one begun.
package duckdb
