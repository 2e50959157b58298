package admit_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/admit"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

const day = storetest.Day

// most is the most that a minute of a device may sum up to.
const most = rollup.MaxSecond * int64(rollup.Minute)

func TestBatch(t *testing.T) {
	good := func() *store.Batch {
		b := storetest.Batch(8, storetest.Minute(0, day)...)
		b.Rows[0].Sums = rollup.Sums{Time: most, SMActive: most, Memory: most, Energy: most, Cost: most}
		b.Tallies = append(b.Tallies, rollup.TallyRow{Bucket: -60, Value: most})
		b.Chunks[0].Previous = make([]byte, attribution.LinkSize)
		return b
	}
	if err := admit.Batch(good(), 7); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*store.Batch){
		"number is 9 and follows 7":  func(b *store.Batch) { b.Number = 9 },
		"number is 7 and follows 7":  func(b *store.Batch) { b.Number = 7 },
		"of 0 seconds":               func(b *store.Batch) { b.Chunks[1].Seconds = 0 },
		"of 11 seconds":              func(b *store.Batch) { b.Chunks[1].Seconds = attribution.ChunkSeconds + 1 },
		"chunk 9000000001 of":        func(b *store.Batch) { b.Chunks[1].Key.Sequence = attribution.MaxSecond + 1 },
		"chunk -9000000001 of":       func(b *store.Batch) { b.Chunks[1].Key.Sequence = -attribution.MaxSecond - 1 },
		"before it has 3 bytes":      func(b *store.Batch) { b.Chunks[1].Previous = []byte("abc") },
		"sums of minute 1767225601 ": func(b *store.Batch) { b.Rows[1].Bucket = day + 1 },
		"sums of minute 9000000060 ": func(b *store.Batch) { b.Rows[1].Bucket = attribution.MaxSecond + 60 },
		"Time:-1 ":                   func(b *store.Batch) { b.Rows[1].Time = -1 },
		"SMActive:-1 ":               func(b *store.Batch) { b.Rows[1].SMActive = -1 },
		"Memory:-1 ":                 func(b *store.Batch) { b.Rows[1].Memory = -1 },
		"Energy:-1 ":                 func(b *store.Batch) { b.Rows[1].Energy = -1 },
		"Cost:9223372036854775807":   func(b *store.Batch) { b.Rows[1].Cost = math.MaxInt64 },
		"is impossible: -1":          func(b *store.Batch) { b.Tallies[0].Value = -1 },
		"tally  of minute -59 ":      func(b *store.Batch) { b.Tallies[len(b.Tallies)-1].Bucket = -59 },
	} {
		b := good()
		spoil(b)
		if err := admit.Batch(b, 7); !errors.Is(err, store.ErrBadBatch) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestLaw4NoSecondTwiceInABatch holds the order of chunks, and what it refuses,
// against looking at every second.
func TestLaw4NoSecondTwiceInABatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var chunks []store.Chunk
		type second struct {
			cluster, node string
			at            attribution.Second
		}
		seen := make(map[second]bool)
		twice := false
		name := rapid.SampledFrom([]string{"", "a", "b"})
		for range rapid.IntRange(0, 6).Draw(t, "chunks") {
			ch := store.Chunk{
				Key:     attribution.ChunkKey{Cluster: name.Draw(t, "cluster"), Node: name.Draw(t, "node"), Sequence: day + attribution.Second(rapid.IntRange(0, 60).Draw(t, "sequence"))},
				Seconds: rapid.IntRange(1, attribution.ChunkSeconds).Draw(t, "seconds"),
			}
			chunks = append(chunks, ch)
			for i := range ch.Seconds {
				s := second{ch.Key.Cluster, ch.Key.Node, ch.Key.Sequence + attribution.Second(i)}
				twice = twice || seen[s]
				seen[s] = true
			}
		}
		order, err := admit.InOrder(chunks)
		if errors.Is(err, store.ErrDuplicate) != twice || err != nil && !twice {
			t.Fatalf("twice: %t, %v", twice, err)
		}
		if twice {
			return
		}
		if len(order) != len(chunks) || !slices.IsSortedFunc(order, func(a, b *store.Chunk) int {
			return slices.Compare([]string{a.Key.Cluster, a.Key.Node, fmt.Sprint(a.Key.Sequence)}, []string{b.Key.Cluster, b.Key.Node, fmt.Sprint(b.Key.Sequence)})
		}) {
			t.Fatalf("%+v", order)
		}
		for i := range chunks {
			if !slices.Contains(order, &chunks[i]) {
				t.Fatal("one is missing")
			}
		}
	})
}

func TestRated(t *testing.T) {
	if err := admit.Rated(&store.Batch{Journal: 2}, 2); err != nil {
		t.Error(err)
	}
	for _, n := range []uint32{1, 3} {
		if err := admit.Rated(&store.Batch{Journal: 2}, n); !errors.Is(err, store.ErrOutdated) {
			t.Error(err)
		}
	}
}

func TestRerating(t *testing.T) {
	card := &rating.Card{Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: 1}}}
	first := rerating.Entry{ID: 1, From: day, To: day + 3600, Card: card}
	var none *rerating.Journal
	journal, err := none.With(first)
	if err != nil {
		t.Fatal(err)
	}
	next := rerating.Entry{ID: 2, From: day, To: day + 3600, Card: card}
	undo := rerating.Entry{ID: 2, From: day, To: day + 3600, Undoes: 1}
	for name, c := range map[string]struct {
		entry rerating.Entry
		moves []uint32 // by entry
		ok    bool
	}{
		"the next":             {next, []uint32{2, 2}, true},
		"one that undoes":      {undo, nil, true},
		"not the next":         {first, nil, false},
		"undone, moves":        {undo, []uint32{2}, false},
		"moves of another one": {next, []uint32{2, 1}, false},
	} {
		r := &store.Rerating{Entry: c.entry}
		for _, id := range c.moves {
			r.Transfers = append(r.Transfers, rerating.Transfer{Entry: id})
		}
		body, err := admit.Rerating(r, journal)
		if !c.ok {
			if !errors.Is(err, store.ErrBadBatch) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, err := journal.Append(time.Unix(0, 0), body); err != nil {
			t.Errorf("%s: its document: %v", name, err)
		}
	}
}

func TestTransfers(t *testing.T) {
	good := rerating.Transfer{Entry: 1, Resolution: rollup.Hour, Bucket: day, To: 1, Sums: rollup.Sums{Time: 1}}
	if err := admit.Transfers([]rerating.Transfer{good, good}); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*rerating.Transfer){
		"seconds":       func(x *rerating.Transfer) { x.Resolution = store.Seconds },
		"time":          func(x *rerating.Transfer) { x.Sums.Time = -1 },
		"SM activity":   func(x *rerating.Transfer) { x.Sums.SMActive = -1 },
		"memory":        func(x *rerating.Transfer) { x.Sums.Memory = -1 },
		"energy":        func(x *rerating.Transfer) { x.Sums.Energy = -1 },
		"cost":          func(x *rerating.Transfer) { x.Sums.Cost = -1 },
		"cost after":    func(x *rerating.Transfer) { x.CostAfter = -1 },
		"half a bucket": func(x *rerating.Transfer) { x.Bucket += 60 },
		"no calendar":   func(x *rerating.Transfer) { x.Bucket = rollup.Hour.Start(attribution.MaxSecond + 7200) },
		"to itself":     func(x *rerating.Transfer) { x.To = x.Series.Revision },
	} {
		bad := good
		spoil(&bad)
		if err := admit.Transfers([]rerating.Transfer{good, bad}); !errors.Is(err, store.ErrBadBatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWholeBucket(t *testing.T) {
	for _, c := range []struct {
		r    rollup.Resolution
		at   attribution.Second
		want bool
	}{
		{rollup.Minute, day + 60, true},
		{rollup.Minute, -60, true},
		{rollup.Minute, day + 1, false},
		{rollup.Hour, day + 3600, true},
		{rollup.Hour, day + 60, false},
		{rollup.Day, day, true},
		{rollup.Day, -86400, true},
		{rollup.Day, day + 3600, false},
		{store.Seconds, day, false},
		{7 * rollup.Day, 0, false},
		{0, 0, false},
		{rollup.Minute, attribution.MaxSecond, true},
		{rollup.Minute, attribution.MaxSecond + 60, false},
	} {
		if got := admit.WholeBucket(c.r, c.at); got != c.want {
			t.Errorf("%d of %d s: %t", c.at, c.r, got)
		}
	}
}

func TestRetention(t *testing.T) {
	if err := admit.Retention(store.DefaultRetention); err != nil {
		t.Error(err)
	}
	for _, r := range []store.Retention{{Second: -1}, {Minute: -1}, {Hour: -1}, {Day: -1}} {
		if err := admit.Retention(r); err == nil {
			t.Errorf("%+v", r)
		}
	}
}

func TestTexts(t *testing.T) {
	if err := admit.Text("node", "a", "né\x00'x", ""); err != nil {
		t.Error(err)
	}
	bad := "\xff"
	if err := admit.Text("node", "a", bad); !errors.Is(err, store.ErrBadBatch) || !strings.Contains(err.Error(), `a node has text that is not UTF-8: "\xff"`) {
		t.Error(err)
	}
	if err := errors.Join(admit.Owner(&attribution.Owner{Pod: "p"}), admit.Device(&attribution.Device{ID: "d"})); err != nil {
		t.Error(err)
	}
	for i, o := range []attribution.Owner{
		{Cluster: bad},
		{Node: bad},
		{Namespace: bad},
		{Pod: bad},
		{PodUID: bad},
		{Container: bad},
		{ControllerKind: bad},
		{Controller: bad},
		{Command: bad},
		{Labels: attribution.Labels{{Key: bad}}},
		{Labels: attribution.Labels{{Key: "a"}, {Value: bad}}},
	} {
		if err := admit.Owner(&o); !errors.Is(err, store.ErrBadBatch) {
			t.Errorf("owner %d: %v", i, err)
		}
	}
	for i, d := range []attribution.Device{
		{ID: bad}, {Cluster: bad}, {Node: bad}, {Model: bad}, {CapacityType: bad}, {Parent: bad}, {Profile: bad}, {Labels: attribution.Labels{{Value: bad}}},
	} {
		if err := admit.Device(&d); !errors.Is(err, store.ErrBadBatch) {
			t.Errorf("device %d: %v", i, err)
		}
	}
}
