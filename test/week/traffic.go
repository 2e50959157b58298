package week

import (
	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// ChatModel is what the chat replicas serve, as they name it.
const ChatModel = "meta-llama/Llama-3.1-70B-Instruct"

// tally is what was served in a minute, events in whole ones.
type tally struct {
	success, timeout, abort         int64
	input, cached, output, aborted  int64
	fast, slow                      int64 // of the successes: within 1.024 s, within 4.096 s
	queue, running, cache, observed int64 // times seconds, thousandths
}

func (x *tally) values(tokens bool) []sampler.Value {
	one := int64(attribution.One)
	vs := []sampler.Value{
		{Measure: attribution.Success, Value: x.success * one},
		{Measure: attribution.FailurePrefix + "abort", Value: x.abort * one},
		{Measure: attribution.FailurePrefix + "timeout", Value: x.timeout * one},
	}
	if tokens {
		vs = append(vs,
			sampler.Value{Measure: attribution.TokensInput, Value: x.input}, sampler.Value{Measure: attribution.TokensCached, Value: x.cached},
			sampler.Value{Measure: attribution.TokensOutput, Value: x.output}, sampler.Value{Measure: attribution.TokensAborted, Value: x.aborted})
	}
	if x.fast+x.slow > 0 {
		vs = append(vs,
			sampler.Value{Measure: attribution.BucketMeasure(attribution.LatencyPrefix, 40), Value: x.fast * one},
			sampler.Value{Measure: attribution.BucketMeasure(attribution.LatencyPrefix, 48), Value: x.slow * one})
	}
	if x.observed > 0 {
		vs = append(vs,
			sampler.Value{Measure: attribution.Queue, Value: x.queue * one / 1000}, sampler.Value{Measure: attribution.Running, Value: x.running * one / 1000},
			sampler.Value{Measure: attribution.KVCache, Value: x.cache * one / 1000}, sampler.Value{Measure: attribution.Observed, Value: x.observed * one / 1000})
	}
	return vs
}

// Tenants are the gateway's customers with their part of every ten requests
// that it saw; of a replica's 11 requests a minute and unit of load, one came
// past the gateway.
var Tenants = []struct {
	Name string
	Part int64
}{{"acme", 5}, {"globex", 3}, {"initech", 2}}

// traffic is what was served, minute by minute.
func traffic() []sampler.Event {
	var es []sampler.Event
	at := func(m int64) int64 { return Start.Nanos() + (m+1)*minute }
	add := func(t int64, o *attribution.Owner, model, tenant string, values []sampler.Value) {
		if t >= End.Nanos() {
			t = End.Nanos() - 1
		}
		es = append(es, sampler.Event{Kind: sampler.Tallied, Time: t, Node: o.Node, Tally: &sampler.Tally{
			Owner: o, Model: model, Tenant: tenant, Seconds: 60, Values: values,
		}})
	}
	backend := &attribution.Owner{
		Kind: attribution.Gateway, Cluster: "prod", Node: "litellm",
		ControllerKind: "Backend", Controller: "http://llama-chat.search.svc.cluster.local:8000/v1",
	}
	replicas := []*attribution.Owner{chat(0), chat(1)}
	ads := ranker()
	for m := range int64(7*1440 - 1) {
		l := load(m)
		for _, o := range replicas {
			x := served(11 * l)
			x.queue, x.running, x.cache, x.observed = 60*l*20, 60*l*400, 60*l*10, 60_000
			x.fast, x.slow = x.success*9/10, x.success-x.success*9/10
			add(at(m), o, ChatModel, "", x.values(true))
		}
		for _, c := range Tenants {
			x := served(2 * l * c.Part)
			if c.Name == "initech" { // its client gives up and asks again
				x.abort, x.success = x.abort+l/4, x.success-l/4
			}
			add(at(m), backend, ChatModel, c.Name, x.values(true))
		}
		x := tally{success: 100 * l, timeout: l / 10, fast: 100 * l}
		add(at(m), ads, "rank-v3", "", x.values(false))
	}
	one := int64(attribution.One)
	for i, s := range spells() {
		if i != 2 && i != 3 {
			continue
		}
		for t := s.from + 4*3600; t < s.to; t += 4 * 3600 { // a checkpoint every four hours
			es = append(es, sampler.Event{Kind: sampler.Tallied, Time: t.Nanos(), Node: s.owner.Node, Tally: &sampler.Tally{
				Owner: s.owner, Seconds: 1, Values: []sampler.Value{{Measure: attribution.Checkpoint, Value: one}},
			}})
		}
	}
	return es
}

// served is what becomes of so many requests: one in 50 times out, one in 40 is
// given up.
func served(requests int64) tally {
	x := tally{timeout: requests / 50, abort: requests / 40}
	x.success = requests - x.timeout - x.abort
	x.input, x.output, x.aborted = 900*requests, 250*x.success, 900*(x.timeout+x.abort)
	x.cached = x.input / 3
	return x
}
