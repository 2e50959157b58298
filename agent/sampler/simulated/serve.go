package simulated

import (
	"strconv"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const latencies = 96 // buckets with a ready name

// measures are the latency buckets' names.
var measures = func() (m [latencies]attribution.Measure) {
	for i := range m {
		m[i] = attribution.LatencyPrefix + attribution.Measure(strconv.Itoa(i))
	}
	return m
}()

// serve turns a server's SM time of this tick into requests, and tallies them
// for the second before the tick, by customer. Time that makes no whole request
// is kept for the next.
func (s *Script) serve(d *device, x *seat) {
	a := x.app
	x.spare += x.active
	requests := x.spare / a.request
	x.spare -= requests * a.request
	total, before := int64(0), int64(0)
	for _, c := range a.customers {
		total += c.weight
	}
	// Whom a second's requests go to starts at another place each second, so
	// that few requests come to all customers in turn.
	turn := below(total, x.seed^2, uint64(s.tick))
	for i := range a.customers {
		c := &a.customers[i]
		n := ((before+c.weight)*requests+turn)/total - (before*requests+turn)/total
		before += c.weight
		s.tally(d, x, c, n)
	}
}

// tally adds the tally of n requests of one customer. A measured none is 0.
func (s *Script) tally(d *device, x *seat, c *customer, n int64) {
	a := x.app
	first := len(s.values)
	put := func(m attribution.Measure, v int64) { s.values = append(s.values, sampler.Value{Measure: m, Value: v}) }
	r := draw(x.seed^3, uint64(s.tick))
	failed, reason := failures(n, x.demand, r)
	done := n - failed
	put(attribution.Success, done*int64(attribution.One))
	if failed > 0 {
		put(reason, failed*int64(attribution.One))
	}
	truth := s.truth.served[a.model]
	if truth == nil {
		truth = &served{}
		s.truth.served[a.model] = truth
	}
	truth.Success += attribution.Count(done) * attribution.One
	truth.Failures += attribution.Count(failed) * attribution.One
	if a.input > 0 {
		in, out := vary(done*a.input, r>>8), vary(done*a.output, r>>16)
		hit := vary(done*a.cached, r>>24)
		put(attribution.TokensInput, in)
		put(attribution.TokensCached, min(hit, in))
		put(attribution.TokensOutput, out)
		truth.Input, truth.Cached, truth.Output = truth.Input+in, truth.Cached+min(hit, in), truth.Output+out
	}
	if done > 0 {
		// Most take as long as the load makes it, some a bit more.
		slow := a.latency + x.demand/250 + int64(r>>32%3)
		if usual := done * 3 / 4; usual > 0 {
			put(measures[min(slow, latencies-2)], usual*int64(attribution.One))
		}
		put(measures[min(slow+2, latencies-1)], (done-done*3/4)*int64(attribution.One))
	}
	put(attribution.Queue, max(0, x.demand-800)*int64(attribution.One)/50)
	s.tallies = append(s.tallies, sampler.Tally{
		Owner: x.pod.owner, Model: a.model, Tenant: c.tenant, Tier: c.tier, Seconds: 1,
		Values: s.values[first:len(s.values):len(s.values)],
	})
	s.events = append(s.events, sampler.Event{
		Kind: sampler.Tallied, Time: s.now(), Node: d.facts.Node, Tally: &s.tallies[len(s.tallies)-1],
	})
}

// failures is how many of n requests fail, and why: few, unless a device is
// full.
func failures(n, demand int64, r uint64) (int64, attribution.Measure) {
	most, reason := n/50, attribution.Measure("failure/client-abort")
	switch {
	case demand >= whole:
		most, reason = n/5+1, "failure/timeout"
	case r%211 == 0:
		most, reason = 1, "failure/out-of-memory"
	case r%37 == 0:
		most = 1
	}
	return min(n, most), reason
}

// vary is v give or take a fifth.
func vary(v int64, r uint64) int64 { return v + v*(int64(r%401)-200)/whole }
