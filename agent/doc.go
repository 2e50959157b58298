// Package agent runs on a node: it meters the node's GPUs and sends what it has
// sealed to the collector.
//
// # The model
//
// A node is a pipeline:
//
//	events ─▶ feed ─▶ meter ─▶ chunker ─▶ spool ─▶ uplink
//
// One goroutine, the sealer, moves time through it; the spool's fsync and the
// uplink's stream have goroutines of their own. A process runs one pipeline for
// its own node, or many for the nodes of a recording or simulation. What
// drives them is one of two:
//
//   - A [player] reads a script ahead of its own, virtual time: by the script's
//     horizon, so that everything that can touch a window has been fed before
//     the window is sealed. Virtual time passes as fast as possible, or at a
//     speed. The script and its boot ids are deterministic, so a restarted
//     player reads it again, seals up to where the spool is without handing
//     anything out, and goes on with the very same chunks.
//   - A live source happens now. Its timeline is a [Clock]; window w is sealed
//     when the clock has reached w + 2 s, one second after the window's end,
//     since drivers report late.
//
// # Continuity of a live node (law 3)
//
// With each ten seconds the spool keeps who held which device, and where the
// clock stood. After a restart in the same life of the machine, the time from
// the first unsealed second on is sealed as unobserved and billed to those
// holders. After a reboot, that begins when the machine came up: while it was
// down there was nothing to bill. What lies more than limits.max_gap back is
// not billed. A new node begins with the next whole second.
//
// # Degradation
//
//   - No rate card has ever come: a player as fast as possible waits, for its
//     chunks could not be repeated with prices; anything that runs in real time
//     waits limits.rate_card_wait, then goes on unpriced and says so.
//   - The collector is away: everything is kept in the spool.
//   - The spool is full, or its disk fails: a player waits; it asks the
//     collector to commit the minutes that it holds, and its nodes to free what
//     has been acknowledged. A live node lets the newest windows go, says so
//     and counts them; once there is space again, that time is sealed as
//     unobserved and billed to those who held the devices when it began.
//   - The machine is too slow: windows are sealed late, never left out.
//   - The source hangs or fails: the time is unobserved (see its package).
package agent
