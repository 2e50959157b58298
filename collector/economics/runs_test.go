package economics_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/economics"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
)

// yard is a world of trainings: pods that hold devices and finish checkpoints.
type yard struct {
	querytest.World
	ws map[attribution.Second][]attribution.DeviceWindow
	ts map[attribution.Second][]attribution.Tally
}

func newYard() *yard {
	return &yard{
		World: querytest.World{Methods: []string{"sm/device"}, Measures: []attribution.Measure{attribution.Checkpoint}},
		ws:    map[attribution.Second][]attribution.DeviceWindow{}, ts: map[attribution.Second][]attribution.Tally{},
	}
}

// pod adds a pod of a job ("": of none) that holds a device over [from, to),
// half of it used. Seconds count from the world's start.
func (y *yard) pod(job, name, uid string, from, to int, checkpoints ...int) {
	o := uint32(len(y.Owners))
	p := attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "lab", Pod: name, PodUID: uid, Container: "main"}
	if job != "" {
		p.ControllerKind, p.Controller = "Job", job
		p.Labels = attribution.MakeLabels(map[string]string{"team": "science"})
	}
	y.Owners = append(y.Owners, p)
	y.Devices = append(y.Devices, attribution.Device{ID: fmt.Sprintf("GPU-%d", o), Cluster: "c", Node: "n", Model: "m"})
	y.Subjects = append(y.Subjects, attribution.Subject{Owner: o})
	for s := querytest.Start + attribution.Second(from); s < querytest.Start+attribution.Second(to); s++ {
		const half = attribution.WindowNanos / 2
		y.ws[s] = append(y.ws[s], attribution.DeviceWindow{Device: o, Second: s, Price: price, Slices: []attribution.Slice{
			{Owner: o, Basis: attribution.Used, Time: half}, {Owner: o, Basis: attribution.Reserved, Time: half},
		}})
	}
	for _, at := range checkpoints {
		y.count(o, at, one)
	}
}

func (y *yard) count(owner uint32, at int, v int64) {
	s := querytest.Start + attribution.Second(at)
	y.ts[s] = append(y.ts[s], attribution.Tally{Second: s, Subject: owner, Value: v})
}

func (y *yard) chunks(t interface{ Fatal(...any) }) []*attribution.Chunk {
	var out []*attribution.Chunk
	for _, s := range slices.Sorted(maps.Keys(y.ws)) {
		c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}, Sequence: s}, 1, &y.World, y.ws[s], y.ts[s])
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func runs(t interface{ Fatal(...any) }, cs []*attribution.Chunk, req *economics.RunsRequest) *economics.RunsAnswer {
	ans, err := economics.Runs(context.Background(), engine(cs), req)
	if err != nil {
		t.Fatal(err)
	}
	return ans
}

func runLine(r *economics.Run) string {
	lost := "unknown"
	if r.Lost != nil {
		lost = new(big.Rat).SetFrac(&r.Lost.Time, big.NewInt(1e9)).RatString() + " s"
	}
	return fmt.Sprintf("%s %s of %s/%s: %v nano, %d pods, %d restarts, +%d to +%d, lost %s (%s)", r.Run, r.Name, r.Namespace, r.Team,
		&r.Allocation().Cost, r.Pods, r.Restarts, r.First-querytest.Start, r.Last-querytest.Start, lost, r.Reason)
}

func TestRuns(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*yard)
		want string
	}{
		{
			"one pod", func(y *yard) { y.pod("train", "a", "1", 0, 10, 3, 7) },
			`lab/train Job/train of lab/science: 10000000000 nano, 1 pods, 0 restarts, +0 to +9, lost 0 s ()`,
		},
		{"a pod that went on under its name", func(y *yard) {
			y.pod("train", "a", "1", 0, 10, 3, 7)
			y.pod("train", "a", "2", 12, 20)
		}, `lab/train Job/train of lab/science: 18000000000 nano, 2 pods, 1 restarts, +0 to +19, lost 2 s ()`},
		{"nothing was reported", func(y *yard) {
			y.pod("train", "a", "1", 0, 10)
			y.pod("train", "a", "2", 12, 20)
		}, `lab/train Job/train of lab/science: 18000000000 nano, 2 pods, 1 restarts, +0 to +19, lost unknown (no checkpoints were reported)`},
		{"none was finished: all is lost", func(y *yard) {
			y.pod("train", "a", "1", 0, 10)
			y.count(0, 1, 0)
			y.pod("train", "b", "2", 10, 20)
		}, `lab/train Job/train of lab/science: 20000000000 nano, 2 pods, 1 restarts, +0 to +19, lost 10 s ()`},
		{"ranks are held to the checkpoints of the first", func(y *yard) {
			y.pod("train", "rank-0", "1", 0, 10, 5)
			y.pod("train", "rank-1", "2", 0, 8)
			y.pod("train", "rank-0", "3", 11, 20, 15)
			y.pod("train", "rank-1", "4", 11, 20)
		}, `lab/train Job/train of lab/science: 36000000000 nano, 4 pods, 2 restarts, +0 to +19, lost 6 s ()`},
		{"two runs, and what is none", func(y *yard) {
			y.pod("train", "a", "1", 0, 3)
			y.pod("tune", "b", "2", 0, 4)
			y.pod("", "c", "3", 0, 5)
		}, `lab/tune Job/tune of lab/science: 4000000000 nano, 1 pods, 0 restarts, +0 to +3, lost unknown (no checkpoints were reported)
lab/train Job/train of lab/science: 3000000000 nano, 1 pods, 0 restarts, +0 to +2, lost unknown (no checkpoints were reported)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := newYard()
			c.make(y)
			ans := runs(t, y.chunks(t), &economics.RunsRequest{})
			var got []string
			for i := range ans.Rows {
				got = append(got, runLine(&ans.Rows[i]))
			}
			if strings.Join(got, "\n") != c.want {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), c.want)
			}
		})
	}
}

// A run of which only counts are in the range has no first second, and does not
// make one up for the total.
func TestRunsWithoutTime(t *testing.T) {
	y := newYard()
	y.pod("train", "a", "1", 5, 10, 7)
	y.pod("tune", "b", "2", 0, 0, 6)
	ans := runs(t, y.chunks(t), &economics.RunsRequest{})
	if first := ans.Total.First - querytest.Start; first != 5 || ans.Total.Pods != 1 {
		t.Errorf("%d pods from +%d on, want one from +5", ans.Total.Pods, first)
	}
	if r := &ans.Rows[1]; r.Namespace != "lab" || r.Name != "Job/tune" || r.First != 0 || r.Reason != "no device time" {
		t.Errorf("got %s of %s from %d on (%s)", r.Name, r.Namespace, r.First, r.Reason)
	}
}

// Where seconds are too many to read, times are to the minute, and so is what
// is lost.
func TestRunsToTheMinute(t *testing.T) {
	y := newYard()
	y.pod("train", "a", "1", 0, 300, 70)
	y.pod("train", "b", "2", 400, 420)
	ans := runs(t, y.chunks(t), &economics.RunsRequest{From: querytest.Start, To: querytest.Start + day})
	const want = "lab/train Job/train of lab/science: 320000000000 nano, 2 pods, 1 restarts, +0 to +419, lost 180 s (times are to the minute)"
	if got := runLine(&ans.Rows[0]); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRunsRefuse(t *testing.T) {
	for _, c := range []struct {
		req  economics.RunsRequest
		want string
	}{
		{economics.RunsRequest{Limit: -1}, "limit -1"},
		{economics.RunsRequest{Filters: []string{"tenant=acme"}}, "runs have no tenant"},
		{economics.RunsRequest{Filters: []string{"device=x"}}, "can't be told apart by device"},
	} {
		if _, err := economics.Runs(t.Context(), engine(nil), &c.req); !errors.Is(err, query.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.req, err)
		}
	}
	if ans, err := economics.Runs(t.Context(), engine(nil), &economics.RunsRequest{}); err != nil || len(ans.Rows) != 0 {
		t.Errorf("of nothing: %+v, %v", ans, err)
	}
}

// Runs and what belongs to none make the allocation basis, whatever the pods
// and the range; what is lost is a part of its run; and a limit leaves out
// rows, not sums.
func TestLaw1RunsConserve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		y := newYard()
		for i := range rapid.IntRange(1, 6).Draw(t, "pods") {
			from := rapid.IntRange(0, 130).Draw(t, "from")
			to := from + rapid.IntRange(1, 30).Draw(t, "seconds")
			var checkpoints []int
			for range rapid.IntRange(0, 2).Draw(t, "checkpoints") {
				if at := rapid.IntRange(from, to-1).Draw(t, "at"); len(checkpoints) == 0 || checkpoints[0] != at {
					checkpoints = append(checkpoints, at)
				}
			}
			y.pod(rapid.SampledFrom([]string{"", "train", "tune"}).Draw(t, "job"), fmt.Sprint("p", i%2), fmt.Sprint(i), from, to, checkpoints...)
		}
		cs := y.chunks(t)
		from := querytest.Start + attribution.Second(rapid.IntRange(0, 60).Draw(t, "cut"))
		to := querytest.Start + attribution.Second(rapid.SampledFrom([]int{200, 300, 2 * day}).Draw(t, "to"))
		ans := runs(t, cs, &economics.RunsRequest{From: from, To: to, Limit: rapid.IntRange(0, 1).Draw(t, "limit")})
		plain, err := economics.UnitCosts(context.Background(), engine(cs), &economics.Request{GroupBy: []string{"team"}, From: from, To: to})
		if err != nil {
			t.Fatal(err)
		}
		total := ans.Total.Allocation()
		sum, bill := new(big.Int).Add(&total.Cost, &ans.Outside.Cost), plain.Total.Allocation()
		if sum.Cmp(&bill.Cost) != 0 || new(big.Int).Add(&total.Time, &ans.Outside.Time).Cmp(&bill.Time) != 0 {
			t.Fatalf("runs and the rest cost %v, the bill says %v", sum, &bill.Cost)
		}
		for i := range ans.Rows {
			r := &ans.Rows[i]
			if a := r.Allocation(); r.Lost != nil && (r.Lost.Cost.Cmp(&a.Cost) > 0 || r.Restarts >= r.Pods) {
				t.Fatalf("%s: lost %v", runLine(r), &r.Lost.Cost)
			}
		}
	})
}
