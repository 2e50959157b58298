package economics

import (
	"math/big"
	"strings"

	"github.com/gpuledger/gpuledger/attribution"
)

// noTarget is the bucket of a latency target that was not asked for.
const noTarget = -1

// histogram counts by bucket. Buckets add up over servers and time, so that
// quantiles of any group are those of all its requests.
type histogram struct {
	buckets [attribution.Buckets]big.Int
	sum     big.Int
}

func (s Served) histogram(prefix attribution.Measure) *histogram {
	var h histogram
	for m, v := range s {
		if i, ok := attribution.BucketOf(m, prefix); ok {
			h.buckets[i].Set(v)
			h.sum.Add(&h.sum, v)
		}
	}
	return &h
}

// quantile is the bucket in which so many percent are reached; false where
// there is none, or it has no bound.
func (h *histogram) quantile(percent int64) (int, bool) {
	if h.sum.Sign() == 0 {
		return 0, false
	}
	want := new(big.Int).Mul(&h.sum, big.NewInt(percent))
	var sum big.Int
	for i := range attribution.Buckets - 1 {
		sum.Add(&sum, &h.buckets[i])
		if new(big.Int).Mul(&sum, big.NewInt(100)).Cmp(want) >= 0 {
			return i, true
		}
	}
	return 0, false
}

// within is how many took no longer than a bucket's bound.
func (h *histogram) within(bucket int) *big.Int {
	sum := new(big.Int)
	for i := range bucket + 1 {
		sum.Add(sum, &h.buckets[i])
	}
	return sum
}

// enough is the share of successes, in percent, that a histogram must know for
// its figures to go without a remark: scrapes catch a request now and then
// between the two counts.
const enough = 99

// latencies are quantiles, and what came within the target.
func (b *builder) latencies() {
	s := b.row.Served
	h := s.histogram(attribution.LatencyPrefix)
	first := s.histogram(attribution.FirstTokenPrefix)
	if i, ok := first.quantile(95); ok {
		b.FirstTokenP95 = b.terms.milliseconds(i)
	} else {
		b.lack(aboutFirstToken, "time to the first token "+notMeasured)
	}
	if h.sum.Sign() == 0 {
		b.lack(aboutLatency, "latency "+notMeasured)
		if c := s.Counter(attribution.Success); c.Measured && c.Value.Sign() == 0 {
			b.lack(aboutLatency, "no inferences")
		}
		return
	}
	for _, q := range []struct {
		percent int64
		to      *string
	}{{50, &b.P50}, {95, &b.P95}, {99, &b.P99}} {
		if i, ok := h.quantile(q.percent); ok {
			*q.to = b.terms.milliseconds(i)
		} else {
			b.lack(aboutLatency, "some took longer than any bucket")
		}
	}
	successes := s.Counter(attribution.Success)
	known := new(big.Int).Mul(&h.sum, big.NewInt(100))
	if known.Cmp(new(big.Int).Mul(&successes.Value, big.NewInt(enough))) < 0 {
		b.lack(aboutLatency, "latency measured of "+Decimal(ratio(&h.sum, &successes.Value, 100), 2)+" % of the inferences")
	}
	if b.terms.target == noTarget {
		return
	}
	good := Counter{Measured: true}
	good.Value.Set(h.within(b.terms.target))
	b.Good = good.Inferences()
	b.PerGood = b.per(&good, perInference)
}

// milliseconds is a bucket's bound as exact decimal text.
func (t *Terms) milliseconds(bucket int) string {
	text := big.NewRat(t.histogram.Bound(bucket), 1_000_000).FloatString(6)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
