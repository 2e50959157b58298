package verify_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const start = querytest.Start

func ledger() *querytest.Store { return querytest.NewStore(querytest.NewWorld().Chunks(0, 300)...) }

func run(t *testing.T, s *querytest.Store) *verify.Progress {
	t.Helper()
	p, err := verify.New(verify.Config{Store: s, Workers: 3}).Run(t.Context(), 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSoundLedger(t *testing.T) {
	s := ledger()
	p := run(t, s)
	rows := 0
	for _, res := range []rollup.Resolution{rollup.Minute, rollup.Hour, rollup.Day} {
		rows += len(s.Facts[res]) + len(s.Counts[res])
	}
	if p.Broken != nil || !p.Done || p.Chunks != 60 || p.ChunksTotal != 60 || p.Windows != 900 || p.Rows != int64(rows) {
		t.Errorf("got %+v (broken: %v), want %d rows", p, p.Broken, rows)
	}
	if p.Slices < 2*300+300+600 || len(p.Unchecked) != 0 {
		t.Errorf("%d slices, unchecked %q", p.Slices, p.Unchecked)
	}
}

func TestNothingStored(t *testing.T) {
	if p := run(t, querytest.NewStore()); p.Broken != nil || !p.Done || p.Chunks != 0 {
		t.Errorf("got %+v", p)
	}
}

// first finds a row to damage.
func first(s *querytest.Store, res rollup.Resolution, basis attribution.Basis) *store.FactRow {
	i := slices.IndexFunc(s.Facts[res], func(r store.FactRow) bool { return r.Basis == basis })
	return &s.Facts[res][i]
}

func drop[T any](xs *[]T, i int) { *xs = slices.Delete(slices.Clone(*xs), i, i+1) }

func TestEachPlantedBreakIsFound(t *testing.T) {
	w := querytest.NewWorld()
	for _, c := range []struct {
		name  string
		plant func(*querytest.Store)
		law   int
		want  string
	}{
		{"a minute row's cost", func(s *querytest.Store) { first(s, rollup.Minute, attribution.Used).Sums.Cost++ }, 1, "the row's cost (nano) is"},
		{"a minute row's time", func(s *querytest.Store) { first(s, rollup.Minute, attribution.Reserved).Sums.Time-- }, 1, "the row's device time (ns) is"},
		{"a minute row's energy", func(s *querytest.Store) { first(s, rollup.Minute, attribution.Used).Sums.Energy++ }, 2, "the row's energy (µJ) is"},
		{"a minute row's owner", func(s *querytest.Store) {
			first(s, rollup.Minute, attribution.Used).Owner = &w.Owners[querytest.Trainer]
		}, 4, "nothing that it is the sum of"},
		{"a minute row is gone", func(s *querytest.Store) {
			facts := s.Facts[rollup.Minute]
			drop(&facts, 3)
			s.Facts[rollup.Minute] = facts
		}, 1, "its device times sum to"},
		{"a device's minute is gone", func(s *querytest.Store) {
			s.Facts[rollup.Minute] = slices.DeleteFunc(s.Facts[rollup.Minute], func(r store.FactRow) bool { return r.Device.ID == "GPU-c" && r.Bucket == start+60 })
		}, 2, "but the row is missing"},
		{"a minute row twice", func(s *querytest.Store) {
			s.Facts[rollup.Minute] = append(s.Facts[rollup.Minute], s.Facts[rollup.Minute][0])
		}, 4, "nothing that it is the sum of"},
		{"a minute row beyond the data", func(s *querytest.Store) {
			r := s.Facts[rollup.Minute][0]
			r.Bucket = start + 3600
			s.Facts[rollup.Minute] = append(s.Facts[rollup.Minute], r)
		}, 4, "no second of this minute is on record"},
		{"an hour row's time", func(s *querytest.Store) { first(s, rollup.Hour, attribution.Used).Sums.Time++ }, 1, "hour 2023-11-15T00:00:00Z owner search/llama-0/main basis used"},
		{"an hour row is gone", func(s *querytest.Store) { facts := s.Facts[rollup.Hour]; drop(&facts, 2); s.Facts[rollup.Hour] = facts }, 2, "the row is missing"},
		{"a day row's cost", func(s *querytest.Store) { first(s, rollup.Day, attribution.Reserved).Sums.Cost -= 7 }, 1, "day 2023-11-15T00:00:00Z"},
		{"a day row is gone", func(s *querytest.Store) { s.Facts[rollup.Day] = nil }, 2, "the row is missing"},
		{"hours before they are rolled", func(s *querytest.Store) { s.RolledTo[rollup.Hour] = start }, 4, "has not been rolled yet"},
		{"a minute tally", func(s *querytest.Store) { s.Counts[rollup.Minute][1].Value++ }, 2, "the row counts"},
		{"a minute tally is gone", func(s *querytest.Store) { s.Counts[rollup.Minute] = s.Counts[rollup.Minute][1:] }, 2, "but the row is missing"},
		{"an hour tally", func(s *querytest.Store) { s.Counts[rollup.Hour][0].Value-- }, 2, "the row counts"},
		{"a day tally too many", func(s *querytest.Store) { s.Counts[rollup.Day] = append(s.Counts[rollup.Day], s.Counts[rollup.Day][0]) }, 4, "nothing that it is the sum of"},
		{"a chunk is gone", func(s *querytest.Store) { drop(&s.Encoded, 4) }, 4, `node "n1" second 2023-11-15T00:00:40Z: it is on record as stored, but no chunk holds it`},
		{"the first chunk is gone", func(s *querytest.Store) { drop(&s.Encoded, 0) }, 4, "no chunk holds it"},
		{"a chunk twice", func(s *querytest.Store) { s.Encoded = slices.Insert(s.Encoded, 4, s.Encoded[4]) }, 3, "is in two chunks of the node"},
		{"a chunk that is not on record", func(s *querytest.Store) {
			s.Encoded = append(s.Encoded, querytest.Encode(w.Chunk("n2", start+600, 10)))
		}, 4, "is not on record as stored"},
		{"a chunk beyond what is on record", func(s *querytest.Store) { s.Runs[0].To -= 5 }, 4, "a chunk holds it, but it is not on record"},
		{"a chunk of another boot", func(s *querytest.Store) { s.Runs[1].Boot[3] = 9 }, 4, "is of another boot"},
		{"ranges that overlap", func(s *querytest.Store) {
			r := s.Runs[0]
			r.From += 100
			s.Runs = slices.Insert(s.Runs, 1, r)
		}, 3, "seconds are on record twice"},
		{"a byte of a body", func(s *querytest.Store) { s.Encoded[7].Chunk.Body[20] ^= 1 }, 4, "chunk"},
		{"a byte of a digest", func(s *querytest.Store) { s.Encoded[7].Chunk.Digest[0] ^= 1 }, 4, "digest"},
		{"another chunk's body", func(s *querytest.Store) { s.Encoded[7].Chunk.Body = s.Encoded[8].Chunk.Body }, 4, "digest"},
		{"a roster that is another's", func(s *querytest.Store) { s.Encoded[0].Roster.Body = s.Encoded[59].Roster.Body }, 4, "but its content is"},
		{"a roster that is no roster", func(s *querytest.Store) { s.Encoded[0].Roster.Body = []byte{0xff} }, 4, "can't be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := ledger()
			c.plant(s)
			p := run(t, s)
			if p.Broken == nil {
				t.Fatalf("not found: %+v", p)
			}
			if !errors.Is(p.Broken, attribution.ErrBroken) || p.Broken.Law != c.law || !strings.Contains(p.Broken.Error(), c.want) {
				t.Errorf("got %v\nwant law %d, %q", p.Broken, c.law, c.want)
			}
			if !p.Done {
				t.Error("the end is not said")
			}
		})
	}
}

// A row whose chunks are gone can still not be anything.
func TestDroppedSecondsAreSaid(t *testing.T) {
	s := ledger()
	s.Encoded = slices.DeleteFunc(s.Encoded, func(e querytest.Encoded) bool { return e.Chunk.Key.Sequence < start+130 })
	v := verify.New(verify.Config{
		Store:     s,
		Retention: func() store.Retention { return store.Retention{Second: 170 * time.Second} },
		Now:       func() attribution.Second { return start + 300 },
	})
	p, err := v.Run(t.Context(), 0, 0, nil)
	if err != nil || p.Broken != nil || p.Chunks != 34 {
		t.Fatalf("%+v, %v", p, err)
	}
	if len(p.Unchecked) != 1 || !strings.HasPrefix(p.Unchecked[0], "260 seconds of 2 node(s) before 2023-11-15T00:02:10Z: retention keeps only their sums") {
		t.Errorf("unchecked: %q", p.Unchecked)
	}
	first(s, rollup.Minute, attribution.Used).Sums.Time++
	if p, err = v.Run(t.Context(), 0, 0, nil); err != nil || p.Broken == nil || p.Broken.Law != 1 || !strings.Contains(p.Broken.Reason, "no whole number of seconds") {
		t.Errorf("%+v, %v", p, err)
	}
	first(s, rollup.Minute, attribution.Used).Sums.Time += 1e9 - 1
	if p, err = v.Run(t.Context(), 0, 0, nil); err != nil || p.Broken == nil || !strings.Contains(p.Broken.Reason, "only 60 seconds are on record") {
		t.Errorf("%+v, %v", p, err)
	}
}

// Where minutes are gone, hours are checked against days alone.
func TestDroppedMinutesAreSaid(t *testing.T) {
	s := ledger()
	s.Encoded, s.Facts[rollup.Minute], s.Counts[rollup.Minute] = nil, nil, nil
	v := verify.New(verify.Config{
		Store:     s,
		Retention: func() store.Retention { return store.Retention{Second: time.Hour, Minute: 2 * time.Hour} },
		Now:       func() attribution.Second { return start + 86400 },
	})
	p, err := v.Run(t.Context(), 0, 0, nil)
	if err != nil || p.Broken != nil || p.Rows == 0 || len(p.Unchecked) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	first(s, rollup.Hour, attribution.Used).Sums.Memory++
	if p, err = v.Run(t.Context(), 0, 0, nil); err != nil || p.Broken == nil || p.Broken.Law != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestLaw3GapsAreNoted(t *testing.T) {
	w := querytest.NewWorld()
	p := run(t, querytest.NewStore(append(w.Chunks(0, 30), w.Chunk("n1", start+95, 5), w.Chunk("n1", start+100, 10))...))
	if p.Broken != nil || p.Chunks != 8 {
		t.Fatalf("%+v, broken %v", p, p.Broken)
	}
	if len(p.Unchecked) != 1 || !strings.HasPrefix(p.Unchecked[0], `node "n1": nothing on record from 2023-11-15T00:00:30Z to 2023-11-15T00:01:35Z`) {
		t.Errorf("unchecked: %q", p.Unchecked)
	}
	// A gateway's node has no agent, and cannot be down.
	gateway := func(at attribution.Second) *attribution.Chunk {
		key := attribution.ChunkKey{Cluster: "c", Node: "gateway/edge", Boot: attribution.Boot{1}, Sequence: at}
		return attribution.BuildChunk(key, 1, new(attribution.Roster).Facts(), nil, nil)
	}
	p = run(t, querytest.NewStore(gateway(start), gateway(start+95)))
	if p.Broken != nil || len(p.Unchecked) != 1 || !strings.Contains(p.Unchecked[0], "the gateway did not answer") {
		t.Errorf("a gateway's gap: %q, broken %v", p.Unchecked, p.Broken)
	}
}

// Part of the ledger: whole minutes, and nothing of the rest.
func TestRange(t *testing.T) {
	s := ledger()
	v := verify.New(verify.Config{Store: s})
	first(s, rollup.Minute, attribution.Used).Sums.Cost++ // at start
	p, err := v.Run(t.Context(), start+70, start+170, nil)
	if err != nil || p.Broken != nil || p.Chunks != 24 {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, r := range [][2]attribution.Second{{10, 5}, {-10, 5}, {10, 10}} {
		if _, err := v.Run(t.Context(), r[0], r[1], nil); err == nil || !strings.Contains(err.Error(), "from before to") {
			t.Errorf("%v: %v", r, err)
		}
	}
}

func TestProgressAndCancel(t *testing.T) {
	s := ledger()
	var seen []verify.Progress
	v := verify.New(verify.Config{Store: s})
	p, err := v.Run(t.Context(), 0, 0, func(p *verify.Progress) error {
		seen = append(seen, *p)
		return nil
	})
	if err != nil || len(seen) == 0 {
		t.Fatalf("%v, %d reports", err, len(seen))
	}
	if last := seen[len(seen)-1]; last.Chunks != p.Chunks || last.Done || last.ChunksTotal != 60 {
		t.Errorf("last report %+v", last)
	}
	stop := errors.New("the asker is gone")
	if _, err := v.Run(t.Context(), 0, 0, func(*verify.Progress) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Run(ctx, 0, 0, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
