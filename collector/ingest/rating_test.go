package ingest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
)

// What is pending when the journal changes, and what comes after, is stored at
// the new prices, with what to give back should that be undone. Chunks stay as
// they came.
func TestLaw6PendingChunksAreSummedByTheJournalInForce(t *testing.T) {
	t.Run("as it is told", func(t *testing.T) { pendingAreRated(t, true, quick()) })
	// A store may fail to say that a rerating is durable.
	t.Run("as it finds out", func(t *testing.T) { pendingAreRated(t, false, quick()) })
	o := quick()
	o.Limits.DecodedBytes = 1
	t.Run("encoded", func(t *testing.T) { pendingAreRated(t, true, o) })
}

func pendingAreRated(t *testing.T, told bool, o Options) {
	id, boot := nodeID{"c", "n0"}, attribution.Boot{1}
	all := chunksOf(id, boot, base, 5)
	st := newMemStore()
	r := start(t, st, o)
	a := r.connect(id, boot)
	for _, c := range all[:3] {
		a.chunk(c)
	}
	awaitAccepted(t, r, 3)
	var j *rerating.Journal
	for i, price := range []money.Amount{7 * money.Unit, 11 * money.Unit} {
		var err error
		j, err = j.With(rerating.Entry{
			ID: uint32(i + 1), From: base + 5, To: base + 35 + attribution.Second(10*i),
			Card: &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: price}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.s.Do(t.Context(), func(context.Context) error {
		st.mu.Lock()
		st.journal = j
		st.mu.Unlock()
		if told {
			r.s.SetJournal(j)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range all[3:] {
		a.chunk(c)
	}
	a.flush()
	a.awaitAck(all[4])
	r.drain()

	rated := make([]*attribution.Chunk, len(all))
	var before, after int64
	for i, c := range all {
		rated[i] = j.Rate(c)
		before, after = before+cost(c), after+cost(rated[i])
	}
	if before == after {
		t.Fatal("the prices change nothing")
	}
	if got := sumOf(st); got != after {
		t.Errorf("rows cost %d, want %d", got, after)
	}
	moved := int64(0)
	layers := map[string]int64{}
	for _, m := range st.moved {
		moved += m.CostAfter - m.Sums.Cost
		layers[fmt.Sprint(m.Entry, m.Series.Revision, m.To)] += m.Sums.Time
	}
	if moved != after-before {
		t.Errorf("transfers make %d, want %d", moved, after-before)
	}
	if len(layers) == 0 || layers[fmt.Sprint(2, rerating.Revision(1), rerating.Revision(2))] == 0 {
		t.Errorf("layers %v", layers)
	}
}

func cost(c *attribution.Chunk) (sum int64) {
	for i := range c.Windows {
		for _, s := range c.Windows[i].Slices {
			sum += int64(s.Cost)
		}
	}
	return sum
}

func sumOf(m *memStore) (sum int64) {
	for _, s := range m.rows {
		sum += s.Cost
	}
	return sum
}

// wait lets others go on.
func wait(t *testing.T) {
	t.Helper()
	timer := time.NewTimer(time.Millisecond)
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}
