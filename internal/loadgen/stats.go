package loadgen

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Stats is what happened so far.
type Stats struct {
	Connected   int64 `json:"connected"`   // agents, now
	Held        int64 `json:"held"`        // of them, those that wait because the collector said so
	SlicesSent  int64 `json:"slices_sent"` // in live seconds and full chunks
	SlicesAcked int64 `json:"slices_acked"`
	ChunksSent  int64 `json:"chunks_sent"` // announced, or sent in full for the first time
	ChunksAcked int64 `json:"chunks_acked"`
	Bytes       int64 `json:"bytes"` // of messages, before TLS and framing
	Live        int64 `json:"live_seconds"`
	Resends     int64 `json:"resends"` // chunks asked for, or sent again on a new stream
	Rejects     int64 `json:"rejects"`
	Ends        int64 `json:"ends"`            // streams of agents that ended before they should
	Skipped     int64 `json:"skipped_seconds"` // that an agent could not make, because too much was unacknowledged
	Hostile     int64 `json:"hostile"`         // attacks by hostile agents

	// The latencies are 0 where there are no samples.
	AckP50     time.Duration `json:"ack_p50_ns"`
	AckP99     time.Duration `json:"ack_p99_ns"`
	AckSamples int64         `json:"ack_samples"`
	FreshP50   time.Duration `json:"fresh_p50_ns"`
	FreshP99   time.Duration `json:"fresh_p99_ns"`
	FreshOnes  int64         `json:"fresh_samples"`
}

type counters struct {
	connected, held, slicesSent, slicesAcked, chunksSent, chunksAcked, bytes, live atomic.Int64
	resends, rejects, ends, skipped, hostile                                       atomic.Int64
	ack, fresh                                                                     histogram
}

func (c *counters) stats() Stats {
	s := Stats{
		Connected: c.connected.Load(), Held: c.held.Load(), SlicesSent: c.slicesSent.Load(), SlicesAcked: c.slicesAcked.Load(),
		ChunksSent: c.chunksSent.Load(), ChunksAcked: c.chunksAcked.Load(), Bytes: c.bytes.Load(), Live: c.live.Load(),
		Resends: c.resends.Load(), Rejects: c.rejects.Load(), Ends: c.ends.Load(), Skipped: c.skipped.Load(), Hostile: c.hostile.Load(),
	}
	s.AckP50, s.AckSamples = c.ack.quantile(50)
	s.AckP99, _ = c.ack.quantile(99)
	s.FreshP50, s.FreshOnes = c.fresh.quantile(50)
	s.FreshP99, _ = c.fresh.quantile(99)
	return s
}

// histogram counts durations in buckets of an eighth of their octave, from a
// microsecond to a day: quantiles are too high by at most 12.5 %.
type histogram struct {
	buckets [8 * 38]atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	us := uint64(max(d.Microseconds(), 1))
	octave := bits.Len64(us) - 1
	eighth := (us << 3 >> octave) & 7
	h.buckets[min(8*octave+int(eighth), len(h.buckets)-1)].Add(1)
}

// quantile is the upper end of the bucket that so many percent are in or below,
// and how many there are in all.
func (h *histogram) quantile(percent int64) (d time.Duration, samples int64) {
	for i := range h.buckets {
		samples += h.buckets[i].Load()
	}
	if samples == 0 {
		return 0, 0
	}
	seen := int64(0)
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen*100 >= samples*percent {
			us := uint64(i%8+9) << (i / 8) >> 3
			return time.Duration(us) * time.Microsecond, samples
		}
	}
	panic("BUG: a histogram holds less than it does")
}
