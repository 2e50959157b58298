package scan_test

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/scan"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

func show(rows []store.Row) (out []string) {
	for i := range rows {
		r := &rows[i]
		out = append(out, fmt.Sprintf("%d %+v %s %s %s %s %s %s %s %v %v", r.Time, r.Keys, r.Basis, &r.DeviceTime, &r.SMActive, &r.Memory, &r.Energy,
			&r.Cost, &r.Unpriced, r.HasMemory, r.HasEnergy))
	}
	return out
}

func TestLaw2EveryGroupingSumsToEveryWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		world := storetest.DrawWorld(t)
		want := new(big.Int)
		for _, c := range world {
			want.Add(want, big.NewInt(int64(len(c.Windows))*attribution.WindowNanos))
		}
		by := rapid.SampledFrom([]store.Dimension{store.Node, store.Pod, store.Team, store.Model, store.Method, store.Basis, store.Counted, store.Kind, store.Run, store.Tenant, store.Revision, "label:app"}).Draw(t, "by")
		q := &store.Query{From: 0, To: 2 * storetest.Day, Step: rapid.Int64Range(0, 100_000).Draw(t, "step"), GroupBy: []store.Dimension{by}}
		s := scan.New(q, scan.Env{})
		for _, c := range world {
			s.Chunk(c)
		}
		got := new(big.Int)
		for _, r := range s.Rows() {
			got.Add(got, &r.DeviceTime)
		}
		if got.Cmp(want) != 0 {
			t.Fatalf("by %s: %s ns, want %s", by, got, want)
		}
	})
}

func TestPartsAddUpToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		world := storetest.DrawWorld(t)
		q := &store.Query{From: storetest.Day, To: storetest.Day + 400_000, Step: 3600, GroupBy: []store.Dimension{store.Pod, store.DeviceModel}}
		whole := scan.New(q, scan.Env{})
		parts := [3]*scan.Scan{scan.New(q, scan.Env{}), scan.New(q, scan.Env{}), scan.New(q, scan.Env{})}
		cut := storetest.Day + attribution.Second(rapid.IntRange(0, 300_000).Draw(t, "cut"))
		for _, c := range world {
			whole.Chunk(c)
			parts[0].Part(c, q.From, cut)
			parts[rapid.IntRange(0, 2).Draw(t, "part")].Part(c, cut, q.To)
		}
		got := fmt.Sprint(show(scan.MergeRows(parts[0].Rows(), parts[1].Rows(), parts[2].Rows())),
			scan.MergeTallies(parts[0].Tallies(), parts[1].Tallies(), parts[2].Tallies()))
		if want := fmt.Sprint(show(whole.Rows()), whole.Tallies()); got != want {
			t.Fatalf("got %s\nwant %s", got, want)
		}
	})
}

// world is a chunk in which everything is told apart by what it is worth.
func world() *attribution.Chunk {
	owners := []attribution.Owner{
		{},
		{
			Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: "p", Container: "main", ControllerKind: "Job", Controller: "train",
			Labels: attribution.Labels{{Key: "empty", Value: ""}, {Key: "team", Value: "red"}},
		},
		{Kind: attribution.UnknownProcess, Cluster: "c", Node: "n", PID: 7, Command: "miner"},
	}
	return &attribution.Chunk{
		Key: attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: 0}, Seconds: 1,
		Roster: &attribution.Roster{
			Devices: []attribution.Device{{ID: "GPU-1", Cluster: "c", Node: "n", Model: "H100", Sensors: attribution.SensorEnergy}},
			Owners:  owners, Methods: []string{"sm"},
			Subjects: []attribution.Subject{{Owner: 1, Tenant: "x"}, {Owner: 1, Model: "llama", Tier: "gold"}},
			Measures: []attribution.Measure{attribution.Success},
		},
		Windows: []attribution.DeviceWindow{{Price: attribution.Price{PerHour: 3600e9, Revision: 1}, Slices: []attribution.Slice{
			{Owner: 0, Basis: attribution.Unallocated, Time: 1e8, Cost: 1e8},
			{Owner: 1, Basis: attribution.Used, Time: 3e8, Cost: 3e8},
			{Owner: 2, Basis: attribution.Unattributed, Time: 6e8, Cost: 6e8},
		}}},
		Tallies: []attribution.Tally{{Subject: 0, Value: 1}, {Subject: 1, Value: 10}},
	}
}

func TestDimensions(t *testing.T) {
	env := scan.Env{
		Map: func(o *attribution.Owner) store.Mapped {
			if o.Pod == "" {
				return store.Mapped{}
			}
			return store.Mapped{Team: "blue", BudgetOwner: "lab", Environment: "prod", Class: "batch", Tier: "silver", Run: "r1"}
		},
	}
	known := scan.Served{}
	known.Chunk(world())
	env.Served = known.Of
	const none = "{ true}"
	for by, want := range map[store.Dimension][2]string{
		store.Cluster:     {"{c false} 300 {c false} 100 {c false} 600", "{c false} 11"},
		store.DeviceID:    {"{GPU-1 false} 300 {GPU-1 false} 100 {GPU-1 false} 600", none + " 11"},
		store.DeviceModel: {"{H100 false} 300 {H100 false} 100 {H100 false} 600", none + " 11"},
		store.Namespace:   {"{ns false} 300 " + none + " 100 " + none + " 600", "{ns false} 11"},
		store.Controller:  {"{Job/train false} 300 " + none + " 100 " + none + " 600", "{Job/train false} 11"},
		store.Team:        {"{blue false} 300 " + none + " 100 " + none + " 600", "{blue false} 11"},
		store.Model:       {"{llama false} 300 " + none + " 100 " + none + " 600", "{llama false} 11"},
		store.Tier:        {"{silver false} 300 " + none + " 100 " + none + " 600", "{gold false} 10 {silver false} 1"},
		store.BudgetOwner: {"{lab false} 300 " + none + " 100 " + none + " 600", "{lab false} 11"},
		store.Environment: {"{prod false} 300 " + none + " 100 " + none + " 600", "{prod false} 11"},
		store.Run:         {"{r1 false} 300 " + none + " 100 " + none + " 600", "{r1 false} 11"},
		store.Tenant:      {none + " 300 " + none + " 100 " + none + " 600", "{x false} 1 " + none + " 10"},
		store.OwnTier:     {none + " 300 " + none + " 100 " + none + " 600", "{gold false} 10 " + none + " 1"},
		store.Kind:        {"{container false} 300 {nobody false} 100 {unknown-process false} 600", "{container false} 11"},
		store.Revision:    {"{1 false} 300 {1 false} 100 {1 false} 600", none + " 11"},
		store.Basis:       {"{unallocated false} 100 {unattributed false} 600 {used false} 300", none + " 11"},
		store.Method:      {"{sm false} 300 {sm false} 100 {sm false} 600", none + " 11"},
		store.Counted:     {"{false false} 100 {false false} 600 {true false} 300", "{true false} 11"},
		store.Mixed:       {"{false false} 100 {false false} 600 {true false} 300", "{true false} 11"},
		"label:team":      {"{red false} 300 " + none + " 100 " + none + " 600", "{red false} 11"},
		"label:empty":     {"{ false} 300 " + none + " 100 " + none + " 600", "{ false} 11"},
		"label:absent":    {none + " 300 " + none + " 100 " + none + " 600", none + " 11"},
	} {
		s := scan.New(&store.Query{From: 0, To: 1, GroupBy: []store.Dimension{by}}, env)
		s.Chunk(world())
		var got [2]string
		for _, r := range s.Rows() {
			got[0] += fmt.Sprint(" ", r.Keys[0], " ", r.DeviceTime.Int64()/1e6)
		}
		for _, r := range s.Tallies() {
			got[1] += fmt.Sprint(" ", r.Keys[0], " ", &r.Value)
		}
		if want = [2]string{" " + want[0], " " + want[1]}; got != want {
			t.Errorf("by %s: got %q, want %q", by, got, want)
		}
	}
}

func TestLaw8AScanSaysThatItIsFull(t *testing.T) {
	by := []store.Dimension{store.Basis, store.Namespace}
	all := scan.New(&store.Query{From: 0, To: 1, GroupBy: by}, scan.Env{})
	all.Chunk(world())
	n := len(all.Rows())
	if err := all.Full(); err != nil || n < 2 {
		t.Fatalf("%d rows: %v", n, err)
	}
	for most, want := range map[int]error{n: nil, n - 1: store.ErrTooMany} {
		s := scan.New(&store.Query{From: 0, To: 1, GroupBy: by, MaxRows: most}, scan.Env{})
		s.Chunk(world())
		if err := s.Full(); !errors.Is(err, want) {
			t.Errorf("%d rows of %d: %v, want %v", n, most, err, want)
		}
	}
}

func TestSumsBeyond64Bits(t *testing.T) {
	c := world()
	q := &store.Query{From: 0, To: 1, GroupBy: []store.Dimension{store.Basis}}
	s := scan.New(q, scan.Env{})
	want := new(big.Int)
	for range 5 {
		c.Windows[0].Slices[0].Memory = math.MaxInt64
		s.Chunk(c)
		want.Add(want, big.NewInt(math.MaxInt64))
	}
	if got := &s.Rows()[0].Memory; got.Cmp(want) != 0 {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestServedKnowsOneModelFromSeveral(t *testing.T) {
	f := world().Roster.Owners[1].Fingerprint()
	known := scan.Served{}
	if got := known.Of(f); got != (store.Served{}) {
		t.Errorf("nothing is known, and is %+v", got)
	}
	c := world()
	known.Chunk(c)
	if got := known.Of(f); got != (store.Served{Counted: true, Mixed: true, Model: "llama"}) {
		t.Errorf("got %+v", got)
	}
	c.Roster.Subjects[1].Model = "qwen"
	known.Chunk(c)
	if got := known.Of(f); got != (store.Served{Counted: true, Several: true, Mixed: true}) {
		t.Errorf("got %+v", got)
	}
	if _, ok := known[rollup.Fingerprint{}]; ok {
		t.Error("an owner without tallies is known")
	}
}
