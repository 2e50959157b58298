package verify_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/verify"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"
)

func decode(c *store.Chunk, r *store.Roster) (*attribution.Chunk, error) {
	var m pb.Roster
	if err := proto.Unmarshal(r.Body, &m); err != nil {
		return nil, err
	}
	roster, err := wire.DecodeRoster(&m)
	if err != nil {
		return nil, err
	}
	return wire.DecodeChunk(&pb.Chunk{
		Boot: c.Key.Boot[:], Sequence: int64(c.Key.Sequence), Seconds: uint32(c.Seconds),
		RosterId: c.RosterID[:], Body: c.Body, Digest: c.Digest,
	}, c.Key.Cluster, c.Key.Node, roster)
}

// batch is one commit, with a fault in its rows where damage says so.
func batch(t *testing.T, number uint64, cs []*attribution.Chunk, damage func(*rollup.Row)) *store.Batch {
	t.Helper()
	f := rollup.NewFold()
	b := &store.Batch{Number: number}
	rosters := map[rollup.Fingerprint]bool{}
	for _, c := range cs {
		if err := f.Add(c, rollup.FactsOf(c.Roster)); err != nil {
			t.Fatal(err)
		}
		e := querytest.Encode(c)
		b.Chunks = append(b.Chunks, e.Chunk)
		if !rosters[e.Roster.ID] {
			rosters[e.Roster.ID] = true
			b.Rosters = append(b.Rosters, e.Roster)
		}
	}
	b.Rows, b.Tallies, b.Owners, b.Devices = f.Rows(), f.Tallies(), f.Owners(), f.Devices()
	if damage != nil {
		damage(&b.Rows[len(b.Rows)/2])
	}
	return b
}

func open(t *testing.T, damage func(*rollup.Row)) store.Store {
	t.Helper()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Decode: decode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.SetMapping(t.Context(), mapping.Default().Compile()); err != nil {
		t.Fatal(err)
	}
	w := querytest.NewWorld()
	commit := func(b *store.Batch) {
		t.Helper()
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	commit(batch(t, 1, w.Chunks(0, 300), nil))
	commit(batch(t, 2, w.Chunks(400, 1000), nil))
	if err := s.Roll(t.Context(), start+3600); err != nil {
		t.Fatal(err)
	}
	commit(batch(t, 3, w.Chunks(300, 400), damage)) // late: its hour has been rolled
	return s
}

// A real store is sound, and answers as the one in memory does.
func TestDuckDB(t *testing.T) {
	s := open(t, nil)
	p, err := verify.New(verify.Config{Store: s}).Run(t.Context(), 0, 0, nil)
	if err != nil || p.Broken != nil || p.Chunks != 200 || p.Windows != 3000 || len(p.Unchecked) != 0 {
		t.Errorf("%+v, broken %v, %v", p, p.Broken, err)
	}
	memory := querytest.NewStore(querytest.NewWorld().Chunks(0, 1000)...)
	memory.Map = mapping.Default().Compile()
	var figures [2][]string
	for i, s := range []store.Store{s, memory} {
		e := query.New(query.Config{Store: s})
		for _, by := range [][]string{{"model"}, {"team", "tier"}, {"pod"}} {
			ans, err := economics.UnitCosts(t.Context(), e, &economics.Request{GroupBy: by})
			if err != nil {
				t.Fatal(err)
			}
			for j := range ans.Rows {
				r := &ans.Rows[j].Row
				f := r.Figures(nil)
				figures[i] = append(figures[i], strings.Join([]string{
					r.Keys[0].Value, r.Allocation().Cost.String(), r.Allocation().Time.String(), f.Per1k.Allocation, f.Per1MTokens.Usage, f.Reason,
				}, " "))
			}
		}
	}
	if a, b := strings.Join(figures[0], "\n"), strings.Join(figures[1], "\n"); a != b {
		t.Errorf("DuckDB says\n%s\nmemory says\n%s", a, b)
	}
}

func TestDuckDBDamaged(t *testing.T) {
	s := open(t, func(r *rollup.Row) { r.Cost++ })
	p, err := verify.New(verify.Config{Store: s}).Run(t.Context(), 0, 0, nil)
	if err != nil || p.Broken == nil || p.Broken.Law != 1 || !strings.Contains(p.Broken.Reason, "cost") {
		t.Errorf("%+v, %v", p, err)
	}
}
