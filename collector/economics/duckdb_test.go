package economics_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/proto/wire"

	"google.golang.org/protobuf/proto"
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

// shelf is a town's chunks in DuckDB: most are committed, some of those after
// their hour was rolled, and the rest is open.
type shelf struct {
	t      *testing.T
	store  *duckdb.Store
	number uint64
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: t.TempDir(), Threads: 1, Decode: decode})
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
	return &shelf{t: t, store: s}
}

func (s *shelf) commit(cs []*attribution.Chunk) {
	s.t.Helper()
	if len(cs) == 0 {
		return
	}
	f := rollup.NewFold()
	s.number++
	b := &store.Batch{Number: s.number}
	for _, c := range cs {
		if err := f.Add(c, rollup.FactsOf(c.Roster)); err != nil {
			s.t.Fatal(err)
		}
		e := querytest.Encode(c)
		b.Chunks = append(b.Chunks, e.Chunk)
		if !slices.ContainsFunc(b.Rosters, func(r store.Roster) bool { return r.ID == e.Roster.ID }) {
			b.Rosters = append(b.Rosters, e.Roster)
		}
	}
	b.Rows, b.Tallies, b.Owners, b.Devices = f.Rows(), f.Tallies(), f.Owners(), f.Devices()
	if err := s.store.Commit(s.t.Context(), b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) engine(open []*attribution.Chunk) *query.Engine {
	m := mapping.Default().Compile()
	return query.New(query.Config{Store: s.store, Overlay: &querytest.Open{Items: open}, Mapping: func() store.Mapping { return m }})
}

// What gateways saw is stored, rolled, partly late, partly open and without its
// seconds, in DuckDB: the answer is the one of the chunks in memory, it sums to
// the report, and customers pay their share as worked out the dumb way.
func TestLaw1CustomersInDuckDB(t *testing.T) {
	const start = querytest.Start
	towns := rapid.Custom(anyTown)
	for seed := range 2 {
		w := towns.Example(seed)
		// Two more replicas' worth for certain, of both days and partly unseen.
		for _, at := range []attribution.Second{start, start + day + 1} {
			w.hold(at, llama0, trainer)
			w.count(at+2, w.subject(llama0, "llama", "", ""), 9*one, 900, 90)
			w.count(at+2, w.subject(byService, "llama", "acme", "gold"), 3*one, 300, 31)
			w.count(at+3, w.subject(byService, "llama", "zeta", ""), 2*one, 100, 7)
		}
		all := w.chunks(t)
		s := newShelf(t)
		late, open := len(all)/3, 2*len(all)/3
		s.commit(slices.Concat(all[:late/2], all[late:open]))
		if err := s.store.Roll(t.Context(), start+day); err != nil {
			t.Fatal(err)
		}
		s.commit(all[late/2 : late])
		if err := s.store.Retain(t.Context(), store.Retention{Second: 1e9}, start+day); err != nil {
			t.Fatal(err)
		}
		e := s.engine(all[open:])
		report, err := e.Report(t.Context(), &query.Request{})
		if err != nil {
			t.Fatal(err)
		}
		for _, by := range [][]string{{"tenant"}, {"tenant", "tier"}, {"tier", "model", "pod"}} {
			for _, splitBy := range []string{economics.ByTokens, economics.ByRequests} {
				req := economics.Request{GroupBy: by, SplitBy: splitBy}
				got, err := economics.UnitCosts(t.Context(), e, &req)
				if err != nil {
					t.Fatal(err)
				}
				where := fmt.Sprintf("town %d by %v, %s", seed, by, splitBy)
				want := ask(t, all, &req)
				if a, b := customers(got)+"\n"+lines(got), customers(want)+"\n"+lines(want); a != b {
					t.Errorf("%s: DuckDB says\n%s\nmemory says\n%s", where, a, b)
				}
				sumsTo(t, where, got, report)
				if len(by) == 1 {
					fair(t, w, got, splitBy)
				}
			}
		}
	}
}

func sumsTo(t *testing.T, where string, ans *economics.Answer, report *query.Report) {
	t.Helper()
	var cost, time big.Int
	for i := range ans.Rows {
		r := &ans.Rows[i].Row
		for _, c := range []*economics.Costs{r.Allocation(), &r.Unallocated, &r.Unattributed} {
			cost.Add(&cost, &c.Cost)
			time.Add(&time, &c.Time)
		}
	}
	if sum := &report.Total.Sum; cost.Sign() == 0 || cost.Cmp(&sum.Cost) != 0 || time.Cmp(&sum.DeviceTime) != 0 {
		t.Errorf("%s: rows sum to %v nano, %v ns; the report to %v, %v", where, &cost, &time, &sum.Cost, &sum.DeviceTime)
	}
}
