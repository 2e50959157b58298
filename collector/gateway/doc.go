// Package gateway reads what the gateways before models tell of their
// customers: LiteLLM, Envoy AI Gateway, llm-d's endpoint picker, or any other
// by a rule file. Servers of models know no customers; a gateway does, and says
// which model, and often which backend, served whom.
//
// # The way of a count
//
//	gateway's replicas ─▶ serving.Reading ─▶ Tracker ─▶ book ─▶ state file ─▶ ledger
//	     every interval                    differences  chunk      fsync      Accept
//
// What a gateway tells becomes tallies of owners of kind [attribution.Gateway]:
// one per backend, of the pseudo node "gateway/" + name. They own no device
// time. Which containers a backend is, package join says when a question is
// asked.
//
// # Exactly once
//
// A chunk is written to the gateway's state file, together with the baselines
// that it was counted from, before the ledger hears of it, and stays there until
// it is durable. After a crash the file is all that is needed: the ledger is
// given the file's chunks again (those that it has are duplicates), and counting
// goes on from the file's baselines, so that what the gateway served meanwhile
// lands in the first second after. A file that is lost, damaged or older than
// the ledger's own record begins a new life (another boot, new baselines): then
// what was served in between is not counted, but never is anything twice.
//
// # Seconds
//
// The counts of a round are tallies of its last second. Its chunks cover the
// seconds since the round before, so that a gateway's record is one run of
// seconds for as long as it answers, as a node's is. Where the clock is put
// back, the run goes on a second a round until the clock has caught up; where it
// is put back by more than the ledger takes chunks ahead of it, another run
// begins, and what is served in seconds that are taken is owed until one is
// free.
//
// # Processes
//
// Counts belong to a process: one that begins anew counts from 0. Where the page
// tells when the process began, each process is followed for itself, also where
// several answer in turn behind one address. That is exact, but late, and what
// a process counts after it was last seen is lost with it; so an address whose
// processes alternate is warned of.
//
// # Bounds
//
// Everything that a gateway says is hostile: pages are bounded in bytes, series
// and time, and names (tenants, tiers, models, backends, reasons) in number and
// length. What is beyond is not dropped: it is counted under the name "(other)"
// (law 2). A gateway that is slow, away or mad holds up nothing but itself.
package gateway
