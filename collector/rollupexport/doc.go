// Package rollupexport shows the ledger's sums as metrics: what each team,
// model and class costs, holds and serves, over the whole fleet, for Prometheus
// to scrape, by OTLP, and by Prometheus remote write.
//
// # The model
//
// The counters are no counts of their own. They are the ledger's answer to one
// question: how much is stored of the time since the epoch? So they are the same
// whichever collector is asked, they go on over a restart, and what comes late
// (law 5) is in them as soon as it is durable. Only what is stored counts; what
// is still open could yet be sealed otherwise, and counters only grow.
//
// The epoch is Monday, 00:00 UTC. Where rules were applied, or a stretch of the
// past priced anew, later than that, it is the first whole minute after, for
// what was counted till then would move between series: all counters begin
// again at zero together, with a new created timestamp. That is a counter reset
// to whoever reads them, and never a step back. (An owner that served one model
// and then serves a second one moves its cost, too; the epoch then begins anew
// in this process alone.) Time before the epoch that arrives after it is in
// reports, not in counters: bills are made of reports.
//
// # Metrics
//
// By the dimensions asked for (default cluster, team, model, class; "" where
// there is no value), and basis:
//
//	gpuledger_rollup_cost_usd_total              cost; absent where nothing was priced
//	gpuledger_rollup_gpu_seconds_total           device time
//	gpuledger_rollup_gpu_unpriced_seconds_total  its part without a price, where there is one
//
// By the dimensions alone, where it is measured (law 9: absent is not 0):
//
//	gpuledger_rollup_inferences_total            by outcome: success, failure
//	gpuledger_rollup_tokens_total                by type: input, cached, output, aborted
//	gpuledger_rollup_inferences_within_total     successes within each target
//
// Their names differ from those of the agents (gpuledger_cost_usd_total), which
// tell the same money by pod: a sum over both would count it twice. The usd is
// the rate card's currency. Cached tokens are part of the input; aborted ones
// were processed for requests that did not succeed. What gateways count is left
// out: servers count the same requests. An owner that serves several models has
// its cost without a model here; `gpuledger inferences` splits it.
//
// # Limits (law 8)
//
// There is one question per MinInterval at most, whoever asks. Beyond MaxGroups
// further groups are summed under the value __other__ in every dimension; a
// group that has its own series keeps it until the epoch ends.
package rollupexport
