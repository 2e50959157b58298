package servingtest

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
)

// aborted is the reason of requests whose clients left.
const aborted = "abort"

// kind is a program: how its page looks, and what can be known by it.
type kind struct {
	name, path string
	page       func(p *page, l *life)
	// reasons are what it calls why requests fail, and ledger what we call it,
	// where that is not the same.
	reasons []string
	ledger  map[string]string
	// What its page tells of a request.
	model, tenant, backend bool
	input, output, cached  bool
	failedInput            bool // counts input tokens of requests that fail
	untoldAborts           bool // a client that leaves is no failure
	abortedTokens          bool
	received               bool      // success is what was received, failures too
	latency, first         []float64 // bounds of histograms
	unit                   time.Duration
	shards                 int // engines, GPUs or workers that count apart
}

// subject is whose a request's counts are, as far as the page tells.
func (k *kind) subject(r Request) serving.Subject {
	var s serving.Subject
	if k.model {
		s.Model = r.Model
	}
	if k.tenant {
		s.Tenant = r.Tenant
	}
	if k.backend {
		s.Backend = r.Backend
	}
	return s
}

// who is what series are kept apart by.
type who struct {
	model, tenant, backend string
	shard                  int
}

// tally is one series' worth of everything.
type tally struct {
	who
	received, success, running, waiting  int64
	input, output, cached                int64
	finishedInput, inputAborted, biggest int64
	failures                             map[string]int64
	latencies, firsts                    []time.Duration
}

// life is a program from its start to its end.
type life struct {
	kind    *kind
	began   time.Time
	tallies map[who]*tally
	next    int               // shard
	open    map[Request][]int // the shards of requests in flight
}

func newLife(k *kind, began time.Time) *life {
	return &life{kind: k, began: began, tallies: make(map[who]*tally), open: make(map[Request][]int)}
}

func (l *life) at(r Request, shard int) *tally {
	s := l.kind.subject(r) // series are not kept apart by what is not told
	w := who{s.Model, s.Tenant, s.Backend, shard}
	if l.tallies[w] == nil {
		l.tallies[w] = &tally{who: w, failures: make(map[string]int64)}
	}
	return l.tallies[w]
}

func (l *life) tally(r Request) *tally { return l.at(r, 0) }

func (l *life) begin(r Request) {
	shard := l.next % max(1, l.kind.shards)
	l.next++
	l.open[r] = append(l.open[r], shard)
	t := l.at(r, shard)
	t.received++
	t.running++
	if l.kind.failedInput {
		t.input += r.Input
		t.cached += r.Cached
	}
}

func (l *life) end(r Request, reason string) {
	if len(l.open[r]) == 0 {
		return // it was lost in a restart
	}
	t := l.at(r, l.open[r][0])
	l.open[r] = l.open[r][1:]
	t.running--
	switch {
	case reason == "":
		t.success++
		if !l.kind.failedInput {
			t.input += r.Input
			t.cached += r.Cached
		}
		t.output += r.Output
		t.latencies = append(t.latencies, r.Latency)
		t.firsts = append(t.firsts, r.FirstToken)
		t.finish(r)
	case reason == aborted && l.kind.untoldAborts:
		t.inputAborted += r.Input
	default:
		t.failures[reason]++
		t.finish(r)
	}
}

func (t *tally) finish(r Request) {
	t.finishedInput += r.Input
	t.biggest = max(t.biggest, r.Input)
}

// sorted are the tallies in the page's order.
func (l *life) sorted() []*tally {
	out := make([]*tally, 0, len(l.tallies))
	for _, t := range l.tallies {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *tally) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.tenant, b.tenant),
			cmp.Compare(a.backend, b.backend), cmp.Compare(a.shard, b.shard))
	})
	return out
}

func (l *life) page() string {
	p := &page{}
	l.kind.page(p, l)
	return p.String()
}

// truth is what the page should be read as.
func (l *life) truth() Counts {
	out := make(Counts)
	k := l.kind
	layout := attribution.NewHistogram()
	for _, t := range l.sorted() {
		of := k.subject(Request{Model: t.model, Tenant: t.tenant, Backend: t.backend})
		add := func(on bool, m attribution.Measure, v int64) {
			if on && v != 0 {
				out[Pair{of, m}] += v
			}
		}
		one := int64(attribution.One)
		if k.received {
			add(true, attribution.Success, t.received*one)
		} else {
			add(true, attribution.Success, t.success*one)
		}
		for reason, n := range t.failures {
			add(slices.Contains(k.reasons, reason), attribution.FailurePrefix+attribution.Measure(k.ledgerReason(reason)), n*one)
		}
		add(k.input, attribution.TokensInput, t.input)
		add(k.output, attribution.TokensOutput, t.output)
		add(k.cached, attribution.TokensCached, t.cached)
		add(k.abortedTokens, attribution.TokensAborted, t.inputAborted)
		for prefix, h := range map[attribution.Measure]struct {
			bounds []float64
			values []time.Duration
		}{attribution.LatencyPrefix: {k.latency, t.latencies}, attribution.FirstTokenPrefix: {k.first, t.firsts}} {
			for _, d := range h.values {
				add(h.bounds != nil, attribution.BucketMeasure(prefix, k.bucket(layout, h.bounds, d)), one)
			}
		}
	}
	return out
}

func (k *kind) ledgerReason(reason string) string {
	if name, ok := k.ledger[reason]; ok {
		return name
	}
	return reason
}

// bucket is the ledger's bucket for a duration that the program has put into
// one of its own.
func (k *kind) bucket(layout *attribution.Histogram, bounds []float64, d time.Duration) int {
	for _, b := range bounds {
		if float64(d) <= b*float64(k.unit) {
			return layout.Bucket(int64(math.Ceil(b * float64(k.unit))))
		}
	}
	return attribution.Buckets - 1
}
