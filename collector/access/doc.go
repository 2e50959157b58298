// Package access decides who may ask the collector what, and writes down who
// changed what.
//
// A question passes three gates, the same over gRPC and HTTP:
//
//  1. Who asks? A [Guard] takes a bearer token (of a file of static tokens, or
//     a JWT of an OpenID Connect issuer) or a verified client certificate, and
//     makes a [Caller] of it: a name and grants. Whoever shows nothing that it
//     knows is refused, and is not told why; the log is.
//  2. May the caller ask this? One table ([Methods], [Routes]) has a [Rule] for
//     every method and every route. What is not in it is refused to everybody.
//  3. What of it may the caller see? A grant is a role over all of the ledger,
//     or over some clusters, namespaces and teams. Questions are answered
//     within the union of the caller's grants: package query lays it over all
//     that it reads (a [query.Scope]), so that no way of grouping or filtering
//     leads out of it. What cannot be narrowed is refused to callers who have
//     no grant without limits ([Whole]).
//
// Namespaces and clusters are facts; teams are what the rules in force say of
// owners (law 7): who may change labels or rules may change what a team is.
//
// Within the collector a caller travels in the context ([CallerOf]). The JSON
// API calls the gRPC service in memory: a [Passage] hands the caller over by a
// key that is used once and never leaves the process. No header and no metadata
// from outside names a caller.
//
// [Log] is the audit log: documents of the ledger, each holding the hash of the
// one before, written before the change that it tells of.
package access
