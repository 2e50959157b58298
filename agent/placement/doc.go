// Package placement chooses the collector that a node streams to.
//
// # The model
//
// Every node prefers the collectors in an order of its own, by rendezvous
// hashing of its name (package internal/rendezvous), so that nodes spread evenly
// and agents need not be told who goes where. A [Node] goes to the first
// collector of its order that has not just failed it:
//
//   - A collector that can't be reached, refuses, or ends the stream with an
//     error (stopping, overloaded) is passed over for a while: at first for some
//     15 s, twice as long each time, up to 10 minutes, jittered. The uplink's own
//     backoff lies between two attempts, whomever they go to. A stream that
//     lasted 10 minutes clears the record.
//   - Where all have failed, the one whose time is up first is next: a node never
//     stops trying.
//   - A node that is not with its first choice looks out for a better one, some
//     twice a minute: one that it prefers and whose time is up is connected to,
//     and only when that works the stream moves. One that is reachable and then
//     refuses costs one move each time, ever more rarely.
//   - Only a better collector moves a stream that works. That the one it is with
//     is not on the list any more does not: lists are cut short, and empty, more
//     often than collectors go without ending their streams.
//
// # Where collectors are
//
// Either a list, each entry a collector under its own name; or one host name
// that stands for one collector or for many: where it has several addresses of
// one family (a headless Service), each is a collector. The name is looked up
// before each connection and every minute. A look-up that fails leaves what was
// known.
package placement
