package fleet

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/internal/rendezvous"
)

// seen is how often each second of each node is in an answer, in windows of its
// two devices, and the answer's missing collectors.
func (w *world) seen(e *query.Engine, from, to attribution.Second) (map[string]map[attribution.Second]int64, []string, error) {
	out := map[string]map[attribution.Second]int64{}
	var missing []string
	err := e.Snapshot(w.t.Context(), from, to, func(ctx context.Context, s *query.Snapshot) error {
		missing = s.Missing
		rows, err := s.Query(ctx, &store.Query{From: from, To: to, Step: 1, GroupBy: []store.Dimension{store.Node}})
		for i := range rows {
			n := rows[i].Keys[0].Value
			if out[n] == nil {
				out[n] = map[attribution.Second]int64{}
			}
			out[n][rows[i].Time] += rows[i].DeviceTime.Int64()
		}
		return err
	})
	return out, missing, err
}

// wantNoneTwice fails where an answer has a second of a node otherwise than not
// at all or once, or lacks one that was stored before it was asked.
func (w *world) wantNoneTwice(e *query.Engine, to attribution.Second) {
	w.t.Helper()
	stored := w.ledger.Chunks()
	seen, _, err := w.seen(e, w.start, to)
	if err != nil {
		w.t.Fatal(err)
	}
	for n, seconds := range seen {
		for s, time := range seconds {
			if time != 2*attribution.WindowNanos {
				w.t.Fatalf("second %d of %s is there with %d ns of device time", s-w.start, n, time)
			}
		}
	}
	for _, c := range stored {
		for s := c.Key.Sequence; s < min(c.End(), to); s++ {
			if seen[c.Key.Node][s] == 0 {
				w.t.Fatalf("second %d of %s is stored and not in the answer", s-w.start, c.Key.Node)
			}
		}
	}
}

// wantAckedStored fails where something is acknowledged and not stored.
func (w *world) wantAckedStored() {
	w.t.Helper()
	stored := map[attribution.ChunkKey]bool{}
	for _, c := range w.ledger.Chunks() {
		stored[c.Key] = true
	}
	for _, n := range w.nodes {
		acked := n.spool.Stats().Acked
		for _, c := range n.made {
			if c.Key.Sequence <= acked && !stored[c.Key] {
				w.t.Fatalf("chunk %d of %s is acknowledged and not stored", c.Key.Sequence-w.start, n.name)
			}
		}
	}
}

// wantExactly fails unless the ledger holds what the nodes made, once, and its
// sums are theirs.
func (w *world) wantExactly() {
	w.t.Helper()
	var made []*attribution.Chunk
	for _, n := range w.nodes {
		made = append(made, n.made...)
	}
	stored := w.ledger.Chunks()
	if len(stored) != len(made) {
		w.t.Fatalf("%d chunks are stored: want %d", len(stored), len(made))
	}
	seconds := map[string]map[attribution.Second]bool{}
	var have, want rollup.Sums
	sum := func(to *rollup.Sums, c *attribution.Chunk) {
		for _, x := range c.Windows {
			for _, s := range x.Slices {
				to.Time += s.Time
				to.Cost += int64(s.Cost)
				to.Energy += s.Energy
			}
		}
	}
	for _, c := range stored {
		sum(&have, c)
		for s := c.Key.Sequence; s < c.End(); s++ {
			if seconds[c.Key.Node] == nil {
				seconds[c.Key.Node] = map[attribution.Second]bool{}
			}
			if seconds[c.Key.Node][s] {
				w.t.Fatalf("second %d of %s is stored twice", s, c.Key.Node)
			}
			seconds[c.Key.Node][s] = true
		}
	}
	for _, c := range made {
		sum(&want, c)
		if !seconds[c.Key.Node][c.Key.Sequence] {
			w.t.Fatalf("chunk %v is not stored", c.Key)
		}
	}
	if have != want || have.Time != int64(len(made))*2*attribution.ChunkSeconds*attribution.WindowNanos {
		w.t.Fatalf("the ledger's sums are %+v: want %+v", have, want)
	}
}

func (w *world) drain() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Hour)
	defer cancel()
	for _, n := range w.nodes {
		if err := n.uplink.Drain(ctx); err != nil {
			w.t.Fatalf("%s: %v; %+v", n.name, err, n.uplink.Status())
		}
	}
}

// anyone is the engine of a collector that runs.
func (w *world) anyone() *query.Engine {
	for _, i := range w.rng.Perm(len(w.addresses)) {
		if r := w.machines[w.addresses[i]].running(); r != nil {
			return r.engine
		}
	}
	return nil
}

// chaos does something to some collector, or undoes it.
func (w *world) chaos() string {
	m := w.machines[w.addresses[w.rng.IntN(len(w.addresses))]]
	if m.running() == nil {
		m.thaw()
		m.start()
		return m.address + " is started"
	}
	switch w.rng.IntN(6) {
	case 0, 1:
		m.kill()
		return m.address + " is killed"
	case 2:
		m.drain()
		return m.address + " is stopped"
	case 3:
		m.freeze()
		return m.address + " can't be reached"
	case 4:
		m.stalled.Store(!m.stalled.Load())
		return m.address + " has a store that changes between failing and working"
	}
	m.thaw()
	return m.address + " can be reached"
}

// heal has everything work again.
func (w *world) heal() {
	for _, a := range w.addresses {
		m := w.machines[a]
		m.stalled.Store(false)
		m.thaw()
		if m.running() == nil {
			m.start()
		}
	}
}

// seeds is how many worlds are tried: GPULEDGER_FLEET_SEEDS, or a few.
func seeds(t *testing.T) uint64 {
	text := os.Getenv("GPULEDGER_FLEET_SEEDS")
	if text == "" {
		return 3
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("GPULEDGER_FLEET_SEEDS: %v", err)
	}
	return n
}

// Three collectors are killed, stopped, stalled and cut off, and come back, while
// twenty nodes stream: everything is in the ledger once, nothing is acknowledged
// that is not stored, and no answer ever has a second twice.
func TestLaw4CollectorsDieStallAndComeBack(t *testing.T) {
	for seed := range seeds(t) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, seed, 3, 20)
				defer w.stop()
				w.pass(150, func(s attribution.Second) {
					if w.rng.IntN(6) == 0 {
						t.Logf("%d: %s", s-w.start, w.chaos())
					}
					if s%7 == 0 {
						w.wantAckedStored()
						if e := w.anyone(); e != nil {
							w.wantNoneTwice(e, s+1)
						}
					}
				})
				w.heal()
				w.drain()
				w.wantExactly()
				w.wantNoneTwice(w.anyone(), w.now())
				var moves uint64
				for _, n := range w.nodes {
					moves += n.uplink.Status().Moves
				}
				if moves == 0 {
					t.Error("no node ever moved")
				}
			})
		})
	}
}

// Without trouble every node is with its first choice, and a question to any
// collector sees the newest seconds of all nodes, once.
func TestEveryCollectorSeesTheNewestSecond(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 1, 3, 20)
		defer w.stop()
		used := map[string]int{}
		w.pass(95, func(s attribution.Second) {
			synctest.Wait()
			if s < w.start+5 {
				return
			}
			from := max(w.start+2, s-30) // connecting took a moment
			for _, m := range w.machines {
				seen, missing, err := w.seen(m.running().engine, from, s)
				if err != nil || len(missing) > 0 {
					t.Fatal(missing, err)
				}
				for _, n := range w.nodes {
					for x := from; x < s-1; x++ {
						if seen[n.name][x] != 2*attribution.WindowNanos {
							t.Fatalf("%s: at second %d, second %d of %s is there with %d ns", m.address, s-w.start, x-w.start, n.name, seen[n.name][x])
						}
					}
				}
			}
		})
		for _, n := range w.nodes {
			st := n.uplink.Status()
			used[st.Collector]++
			if want := rendezvous.Order("c/"+n.name, w.addresses)[0]; st.Collector != want || st.Moves != 0 {
				t.Errorf("%s streams to %s after %d moves: want %s", n.name, st.Collector, st.Moves, want)
			}
		}
		if len(used) != 3 {
			t.Errorf("nodes per collector: %v", used)
		}
		w.drain()
		w.wantExactly()
	})
}

// A collector that can't be reached costs its nodes' newest seconds until they
// have moved on, and is named; when it can be reached again, with streams that
// nobody uses any more, no answer has anything twice, and the nodes come back.
func TestLaw4StuckStreamDoesNoHarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 2, 3, 12)
		defer w.stop()
		w.pass(65, nil)
		stuck, other := w.machines[w.addresses[0]], w.machines[w.addresses[1]]
		stuck.freeze()
		named := false
		w.pass(60, func(s attribution.Second) {
			w.wantNoneTwice(other.running().engine, s+1)
			_, missing, err := w.seen(other.running().engine, s-20, s)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range missing {
				named = named || m == stuck.address
			}
		})
		if !named {
			t.Error("the collector that can't be reached was never named")
		}
		for _, n := range w.nodes {
			if st := n.uplink.Status(); !st.Connected || st.Collector == stuck.address {
				t.Fatalf("%s has not moved on: %+v", n.name, st)
			}
		}
		// Its own view of things is late, and not wrong; its connections are dead,
		// which it finds out by and by.
		w.wantNoneTwice(stuck.running().engine, w.now())
		stuck.thaw()
		w.pass(5*60, func(s attribution.Second) {
			if s%30 == 0 {
				for _, m := range w.machines {
					w.wantNoneTwice(m.running().engine, s+1)
				}
			}
		})
		for _, n := range w.nodes {
			if st, want := n.uplink.Status(), rendezvous.Order("c/"+n.name, w.addresses)[0]; st.Collector != want {
				t.Errorf("%s streams to %s: want %s", n.name, st.Collector, want)
			}
		}
		w.drain()
		w.wantExactly()
	})
}
