// Package peers lets a question to one collector see what the others have open.
//
// # The model
//
// Collectors that share a store see each other's data once it is stored. What is
// younger, the chunks of the running minute and the live seconds, is in the
// memory of whichever collector a node streams to. [Server] tells that to others
// as it came, and [Peers] asks for it, for package query: which asks the others
// first, takes its view of the store then, and leaves out what the view has.
// Hence an answer that is a little old does no harm: what was open in it is
// stored by now, or still open.
//
//   - Each peer is asked for everything at most every 300 ms, whoever asks here,
//     and is waited for at most [Options.Timeout]. Only what was not there the
//     last time is decoded, to be checked: it is kept as it came.
//   - A peer that does not answer is named in the status: until it does, what it
//     said last counts, for a minute, and the newest seconds of its nodes are
//     missing. They are late, never wrong. For a while it is then asked without
//     anybody waiting for it: 2 s, twice as long each time, up to 30 s.
//   - An answer is bounded in bytes and chunks; what goes beyond is missing in
//     the same way.
//
// Who the others are is a list, or what a host name stands for: each of its
// addresses. A collector that finds itself there knows itself by its instance, a
// random number of its start, and leaves itself out.
package peers
