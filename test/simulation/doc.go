// Package simulation runs whole agents and collectors in one process, in a
// bubble of virtual time, and does to them by a seed what production does:
// networks are cut, fall silent, delay and repeat; processes and machines die
// and come back; disks forget, fill up, fail and rot; clocks are stepped;
// stores fail before and after a commit took effect, or take their time; rate
// cards change and the past is rated again. When it is over everything is
// healed, agents and collectors get the time to finish, and what the ledger
// then holds is compared with a model.
//
// # What is real
//
// The agent from its source on (meter, chunker, spool, uplink), and the
// collector's ingest with rollup, queries, reratings and verification. What is
// not: the source, a script that tells what happens on a device in each second;
// the disk (package memfs); the network, which carries encoded messages in
// memory; the store, package memory, but for the seeds that run on DuckDB.
//
// # The model
//
// The model knows the script, when machines were up, and what was done to them.
// Of each second of each device it says who had how many nanoseconds, and by
// which rate card; or, where a fault allows for more than one outcome, which
// ones are allowed:
//
//   - A second that the source saw from end to end is what the script says.
//   - A second in which nobody looked while the machine was up is unobserved and
//     belongs to who held the device when looking stopped.
//   - Around a crash the last seconds may be either, since what was not synced
//     may be lost: three seconds on a healthy disk, more on a failing one or in
//     the first seconds of an agent's life. After a power cut they may be gone.
//     None of that holds for what an agent has sent live: that is durable before.
//   - A second whose record was damaged on disk before it was acknowledged may
//     be gone, and only such a one. One of the journal that can't be read since its
//     roster was damaged, while no agent ran, is as one that a crash has lost.
//   - Of one life of a machine no second is there unless all before it are, but
//     for those that damage has cost, or that nobody has to make up for.
//   - While the machine was off there is nothing.
//
// # Seeds
//
// All that happens is drawn from the seed: the world, the script, the faults and
// their times, delays, what a crash leaves, jitter and boot ids. A run's trace
// is a hash over what was done and what was stored, when. Virtual time makes
// computation instantaneous, so that only what happens at the very same
// nanosecond can happen in another order; most runs of a seed are the same to
// the last chunk, but Go's own chances (select, maps) can make one another.
package simulation
