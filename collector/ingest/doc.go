// Package ingest takes in what agents send and makes it durable.
//
// # The way of a chunk
//
//	stream ─▶ decode, check ─▶ pending group ─▶ ready ─▶ commit ─▶ ack
//	            reject            (node, minute)           │
//	                                                       ▼
//	                                          store.Batch, one transaction
//
// Every node has one stream, and a newer one ends the older. What a stream
// sends is decoded, checked against the laws and folded into minute rows on
// the stream's own goroutine, so the work is as parallel as the streams are.
// Chunks of one node and minute form a group. A group waits until the node has
// sent a chunk that reaches past its minute, until it is old, until the agent
// asks for it (Flush), or until memory is short. Then the single writer
// goroutine commits all ready groups in one batch, and only after that are the
// chunks acknowledged (law 4). Waiting until the minute is full makes one row
// of what would be six; it costs nothing but memory, because the agents keep
// what is not acknowledged. Chunks that the collector makes itself, of what
// gateways tell, come in by [Server.Accept] and go the same way.
//
// Seconds come live too, each told by the one before. They wait as they came, and
// are decoded when a question asks for them or when their chunk closes, which then
// is made of them and held against its digest.
//
// # Exactly once
//
// A node's seconds are known as ranges: those in the store, read at the start,
// and those accepted since. A chunk whose seconds are all there, from the same
// boot, is a duplicate: it changes nothing and is acknowledged when they are
// durable. A chunk that overlaps them otherwise, or under another boot, is a
// conflict and rejected. How late a chunk comes makes no difference (law 5).
//
// # Several collectors
//
// Where others write to the same store ([store.Shared]), what it has of a node is
// read again with every hello: what another has stored is a duplicate here, and
// acknowledged. When a stream ends, what is accepted of its node and not with the
// writer is let go of: it was not acknowledged, and the agent sends it again, to
// whomever. A stream that is stuck while its agent has moved on does no harm: it
// accepts nothing more, and what it has accepted the store takes once.
//
// # Reratings
//
// Rows are summed as the journal of reratings says, late chunks too (law 5). The
// journal changes between two commits only: what is pending then is summed anew
// by the commit that stores it. Chunks themselves are kept, and yielded, as they
// came.
//
// # What queries see
//
// [Server.Since] yields what is accepted and not in a given commit of the store:
// pending, being committed, or committed since; and the live seconds that no
// chunk holds yet. Together with that commit's view of the store, every second
// of a node is there exactly once, whatever moves at that moment.
//
// # Bounds
//
// Pending chunks are bounded in number and bytes ([Limits]). At the bound what is ready
// is committed at once, and where nothing is, the minutes that are nearest to whole:
// each part of a minute costs as many rows as the whole. Meanwhile streams are not
// read, and their agents are told to send nothing, or gRPC's flow control makes them
// wait; they have it all on disk.
// What waits is what came: a chunk is made once there is room for it. A store that fails has the
// same effect: nothing is acknowledged, nothing is lost, and the writer tries
// again.
//
// What is short is shared out. Room goes to the waiting node that has least
// pending, and ready groups are committed in an order that is fair by bytes: a
// node that floods waits behind those that do not. Live seconds and rosters are
// bounded over all streams; at the bound those that hold more than an equal
// share drop their oldest, and the others nothing ([pool]). Rosters are kept packed,
// and decoded while anything has them ([roster]). Agents that bring a
// backlog take turns with it ([turns]), and where live seconds come late, which
// they do when the processor is short, agents are asked to do without for a while
// ([pause]): so what was sent and not read is little. What an agent may send, by all of
// them, is one state ([pacing]). A stream whose agent
// does not read its acks holds up itself alone, and is ended after a minute.
package ingest
