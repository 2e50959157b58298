// Package archive carries whole ledgers: into a file ([Write]), out of it
// ([Restore]), from one store into another ([Migrate]). And it says whether two
// ledgers are the same ([Compare]), which each of them ends with.
//
// # What is carried
//
// All that a [store.Reader] tells: ranges, rosters, chunks, rows and tallies of
// minutes, hours and days, what reratings have moved, and every revision of
// every document. Not what is derived from it by settings (mappings) or by the
// store itself (ids, the number of its commits). A ledger that drops days
// forgets with them what owners served then; a copy knows what the kept days
// tell.
//
// The ledger is read in one view, as of one commit, while it goes on to be
// written. Documents, which only grow, are read after it: a rate card that was
// applied meanwhile is in the copy, a rerating is not.
//
// # The file
//
//	"gpuledger backup 1\n"   what it is, and the version of all that follows
//	frame*                   a header, then blocks, then a trailer
//
//	frame = length of the payload, 4 bytes, big endian
//	        kind of the frame, 1 byte
//	        CRC-32C of the frame's place in the file (8 bytes), kind and payload, 4 bytes
//	        payload: zstd of a message of backup.proto
//
// A block holds things of one kind with all facts that they need, so that memory
// is bounded by a block on either side, however large the ledger is. The trailer
// has the SHA-256 of all bytes before it, and the [Summary] of the ledger as it
// was read. [Check] therefore finds a file that was cut off or altered by
// accident anywhere, and says where; and a restored ledger is held against what
// the original one was, not against what was understood of the file. Whoever
// alters a file on purpose can make its hashes anew: keep a file's SHA-256
// elsewhere where that matters, and let gpuledger verify recompute the laws,
// chains included.
package archive
