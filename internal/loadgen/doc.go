// Package loadgen plays a fleet of agents against a collector, to see what it
// bears.
//
// # What is real, and what is not
//
// Every agent has its own node, devices, pods, boot, stream and chain, and speaks
// the protocol of package proto/gpuledger/v1 as a real one does: Hello, rosters,
// each second as it is sealed, the digests of the chunks that they make, chunks in
// full where they are asked for or while it catches up. It waits where the
// collector says so (Pace). What it sends keeps all laws, and differs from agent to
// agent and from second to second, so that `gpuledger verify` has something to
// check.
//
// There is no GPU, meter or spool behind it. A node's seconds are a function of
// the seed, the node and the second ([Fleet]): an agent keeps no data, and what a
// collector asks for again, or did not acknowledge before the stream ended, is
// made again. So 10,000 agents fit into one process.
//
// # What is measured
//
// Sent and acknowledged slices, bytes, how long after the sending of a chunk its
// acknowledgement came (by design up to a minute: a collector commits whole
// minutes), and freshness: how long after the end of a second it was seen in the
// collector's status, which is asked each fifth of a second; the time between two
// answers is in the figure. Of a large fleet it is a sample: what
// asking costs the collector would count as the load's.
//
// At the end the ledger is asked for the device time of every node. It must hold
// every acknowledged nanosecond, and none that was not sent.
//
// # Bounds
//
// Time: [Options.For], [Options.Settle]. Memory: an agent holds what it has not
// been acknowledged as 64 bytes a chunk, at most [maxUnacked]; from then on it
// waits and counts the seconds that it could not make (Stats.Skipped). Hostile
// agents ([Options.Hostile]) are each one of the kinds in hostile.go.
package loadgen
