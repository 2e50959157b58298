package rollup_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/rollup"
)

type key struct {
	bucket attribution.Second
	series rollup.Series
}

type tallyKey struct {
	bucket attribution.Second
	series rollup.TallySeries
}

type state struct {
	rows    map[key]rollup.Sums
	tallies map[tallyKey]int64
}

func stateOf(folds ...*rollup.Fold) state {
	s := state{make(map[key]rollup.Sums), make(map[tallyKey]int64)}
	for _, f := range folds {
		for _, r := range f.Rows() {
			k := key{r.Bucket, r.Series}
			h := s.rows[k]
			s.rows[k] = rollup.Sums{Time: h.Time + r.Time, SMActive: h.SMActive + r.SMActive, Memory: h.Memory + r.Memory, Energy: h.Energy + r.Energy, Cost: h.Cost + r.Cost}
		}
		for _, r := range f.Tallies() {
			s.tallies[tallyKey{r.Bucket, r.Series}] += r.Value
		}
	}
	return s
}

func (s state) equal(o state) bool {
	return maps.Equal(s.rows, o.rows) && maps.Equal(s.tallies, o.tallies)
}

// dumb adds up slice by slice.
func dumb(cs []*attribution.Chunk) state {
	s := state{make(map[key]rollup.Sums), make(map[tallyKey]int64)}
	for _, c := range cs {
		for _, w := range c.Windows {
			for _, x := range w.Slices {
				k := key{rollup.Minute.Start(w.Second), rollup.Series{
					Device: c.Roster.Devices[w.Device].Fingerprint(), Owner: c.Roster.Owners[x.Owner].Fingerprint(),
					Basis: x.Basis, Method: c.Roster.Methods[w.Method], Revision: w.Price.Revision,
				}}
				h := s.rows[k]
				s.rows[k] = rollup.Sums{Time: h.Time + x.Time, SMActive: h.SMActive + x.SMActive, Memory: h.Memory + x.Memory, Energy: h.Energy + x.Energy, Cost: h.Cost + int64(x.Cost)}
			}
		}
		maps.DeleteFunc(s.rows, func(_ key, x rollup.Sums) bool { return x == rollup.Sums{} }) // nothing is no row
		for _, t := range c.Tallies {
			x := c.Roster.Subjects[t.Subject]
			s.tallies[tallyKey{rollup.Minute.Start(t.Second), rollup.TallySeries{
				Owner: c.Roster.Owners[x.Owner].Fingerprint(), Model: x.Model, Tenant: x.Tenant, Tier: x.Tier, Measure: c.Roster.Measures[t.Measure],
			}}] += t.Value
		}
	}
	return s
}

// drawChunk draws a chunk whose windows differ in everything that a series is
// made of.
func drawChunk(rt *rapid.T, sequence attribution.Second) *attribution.Chunk {
	facts := &attribution.Roster{Methods: []string{"a", "b"}, Measures: []attribution.Measure{"success", "tokens/input"}}
	owners := rapid.SampledFrom([]int{1, 3, 50}).Draw(rt, "owners")
	for i := range 3 {
		facts.Devices = append(facts.Devices, attribution.Device{ID: fmt.Sprintf("GPU-%d", i), Node: "n"})
	}
	facts.Owners = append(facts.Owners, attribution.Owner{})
	for i := range owners {
		facts.Owners = append(facts.Owners, attribution.Owner{Kind: attribution.Container, Node: "n", Pod: fmt.Sprint(i)})
	}
	facts.Subjects = []attribution.Subject{{Owner: 1, Model: "m"}, {Owner: 1, Model: "m", Tier: "gold"}}
	n := rapid.IntRange(1, 10).Draw(rt, "seconds")
	var ws []attribution.DeviceWindow
	var ts []attribution.Tally
	for s := range n {
		second := sequence + attribution.Second(s)
		for d := range 3 {
			w := attribution.DeviceWindow{
				Device: uint32(d), Second: second, Method: uint16(rapid.IntRange(0, 1).Draw(rt, "method")),
				Energy: int64(rapid.IntRange(0, 1e9).Draw(rt, "energy")),
				Price:  attribution.Price{PerHour: money.Unit, Revision: uint32(rapid.IntRange(1, 2).Draw(rt, "revision"))},
			}
			left := attribution.WindowNanos
			for o := range owners {
				t := left / int64(rapid.IntRange(1, 4).Draw(rt, "part"))
				left -= t
				w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(o + 1), Basis: attribution.Used, Time: t, SMActive: t / 2, Memory: int64(o)})
			}
			w.Slices = append(w.Slices, attribution.Slice{Basis: attribution.Unallocated, Time: left})
			ws = append(ws, w)
		}
		for x := range 2 {
			for m := range 2 {
				if rapid.Bool().Draw(rt, "counted") {
					ts = append(ts, attribution.Tally{Second: second, Subject: uint32(x), Measure: uint16(m), Value: int64(rapid.IntRange(0, 9).Draw(rt, "value"))})
				}
			}
		}
	}
	return attribution.BuildChunk(attribution.ChunkKey{Node: "n", Sequence: sequence}, n, facts.Facts(), ws, ts)
}

// Any grouping and order of chunks into folds, and of folds into one, gives the
// sums that adding slice by slice gives.
func TestLaw4FoldIsAssociative(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var cs []*attribution.Chunk
		for i := range rapid.IntRange(1, 9).Draw(rt, "chunks") {
			cs = append(cs, drawChunk(rt, attribution.Second(1200+10*i)))
		}
		want := dumb(cs)
		folds := make([]*rollup.Fold, rapid.IntRange(1, 4).Draw(rt, "folds"))
		for i := range folds {
			folds[i] = rollup.NewFold()
		}
		for _, i := range rapid.Permutation(indexes(len(cs))).Draw(rt, "order") {
			f := folds[rapid.IntRange(0, len(folds)-1).Draw(rt, "fold")]
			if err := f.Add(cs[i], rollup.FactsOf(cs[i].Roster)); err != nil {
				rt.Fatal(err)
			}
		}
		if !stateOf(folds...).equal(want) {
			rt.Fatal("folds side by side have other sums")
		}
		for len(folds) > 1 {
			i := rapid.IntRange(1, len(folds)-1).Draw(rt, "merged")
			if err := folds[i-1].Merge(folds[i]); err != nil {
				rt.Fatal(err)
			}
			folds = append(folds[:i], folds[i+1:]...)
		}
		if got := stateOf(folds...); !got.equal(want) || len(got.rows) != len(folds[0].Rows()) {
			rt.Fatal("merged folds have other sums, or a series twice")
		}
		for _, r := range folds[0].Rows() {
			if folds[0].Owners()[r.Series.Owner] == nil || folds[0].Devices()[r.Series.Device] == nil {
				rt.Fatal("a row's facts are missing")
			}
		}
	})
}

// What is known is not copied, and a roster of which all is known is not made again.
func TestCopyFactsOfWhatIsNotKnown(t *testing.T) {
	r := &attribution.Roster{Methods: []string{"a"}, Devices: []attribution.Device{{ID: "GPU-0", Node: "n"}}, Owners: []attribution.Owner{{}}}
	for i := range 2 {
		r.Owners = append(r.Owners, attribution.Owner{Kind: attribution.Container, Node: "n", Pod: fmt.Sprint(i)})
	}
	made := 0
	c := attribution.BuildChunk(attribution.ChunkKey{Node: "n", Sequence: 1200}, 1, r.Facts(), []attribution.DeviceWindow{{Second: 1200, Slices: []attribution.Slice{
		{Basis: attribution.Used, Owner: 1, Time: 1}, {Basis: attribution.Used, Owner: 2, Time: 1}, {Basis: attribution.Unallocated, Time: attribution.WindowNanos - 2},
	}}}, nil)
	fold := rollup.NewFold()
	err := fold.Add(c, rollup.FactsAgain(c.Roster, func() *attribution.Roster {
		made++
		return c.Roster
	}))
	if err != nil {
		t.Fatal(err)
	}
	all := known{}
	for i := range c.Roster.Owners {
		all[c.Roster.Owners[i].Fingerprint()] = true
	}
	one := c.Roster.Owners[1].Fingerprint()
	but := maps.Clone(all)
	delete(but, one)
	for _, x := range []struct {
		what            string
		known           rollup.Known
		owners, devices int
		made            int
	}{
		{"nobody knows anything", nil, 3, 1, 1},
		{"nothing is known", known{}, 3, 1, 1},
		{"all owners are known", all, 0, 1, 1},
		{"all but one owner are known", but, 1, 1, 1},
		{"all is known", everything{}, 0, 0, 0},
	} {
		made = 0
		owners, devices := make(map[rollup.Fingerprint]*attribution.Owner), make(map[rollup.Fingerprint]*attribution.Device)
		fold.CopyFacts(owners, devices, x.known)
		if len(owners) != x.owners || len(devices) != x.devices || made != x.made {
			t.Errorf("%s: %d owners, %d devices, the roster made %d times; want %d, %d, %d", x.what, len(owners), len(devices), made, x.owners, x.devices, x.made)
		}
		for f, o := range owners {
			if o.Fingerprint() != f {
				t.Errorf("%s: %v is under %s", x.what, o, f)
			}
		}
	}
}

// known is owners.
type known map[rollup.Fingerprint]bool

func (k known) KnowsOwner(f rollup.Fingerprint) bool { return k[f] }
func (known) KnowsDevice(rollup.Fingerprint) bool    { return false }

type everything struct{}

func (everything) KnowsOwner(rollup.Fingerprint) bool  { return true }
func (everything) KnowsDevice(rollup.Fingerprint) bool { return true }

func indexes(n int) []int {
	xs := make([]int, n)
	for i := range xs {
		xs[i] = i
	}
	return xs
}

func TestFoldRefusesWhatOverflows(t *testing.T) {
	chunk := func(energy, memory, tally int64) *attribution.Chunk {
		facts := &attribution.Roster{
			Devices: []attribution.Device{{ID: "GPU", Node: "n"}}, Owners: []attribution.Owner{{}}, Methods: []string{"m"},
			Subjects: []attribution.Subject{{}}, Measures: []attribution.Measure{"success"},
		}
		w := attribution.DeviceWindow{
			Second: 60, Energy: energy,
			Slices: []attribution.Slice{{Basis: attribution.Unallocated, Time: attribution.WindowNanos, Memory: memory}},
		}
		return attribution.BuildChunk(attribution.ChunkKey{Node: "n", Sequence: 60}, 1, facts.Facts(),
			[]attribution.DeviceWindow{w}, []attribution.Tally{{Second: 60, Value: tally}})
	}
	add := func(f *rollup.Fold, c *attribution.Chunk) error { return f.Add(c, rollup.FactsOf(c.Roster)) }
	for name, c := range map[string]*attribution.Chunk{
		"energy": chunk(rollup.MaxSecond+1, 0, 0), "memory": chunk(0, math.MaxInt64, 0), "tally": chunk(0, 0, rollup.MaxSecond+1),
	} {
		f := rollup.NewFold()
		if err := add(f, c); !errors.Is(err, rollup.ErrOverflow) || len(f.Rows()) != 0 {
			t.Errorf("%s: %v, %d rows", name, err, len(f.Rows()))
		}
	}
	most := chunk(rollup.MaxSecond, rollup.MaxSecond, rollup.MaxSecond)
	f := rollup.NewFold()
	for range int64(rollup.Day) {
		if err := add(f, most); err != nil {
			t.Fatalf("a day of the most that is allowed: %v", err)
		}
	}
	before := stateOf(f)
	if err := add(f, most); !errors.Is(err, rollup.ErrOverflow) || !stateOf(f).equal(before) {
		t.Errorf("a second more: %v", err)
	}
	if err := f.Merge(f); !errors.Is(err, rollup.ErrOverflow) || !stateOf(f).equal(before) {
		t.Errorf("twice as much: %v", err)
	}
}

func TestStart(t *testing.T) {
	for _, c := range []struct {
		r        rollup.Resolution
		s, start attribution.Second
	}{{rollup.Minute, 119, 60}, {rollup.Hour, 3600, 3600}, {rollup.Day, 86399, 0}, {rollup.Minute, -1, -60}} {
		if got := c.r.Start(c.s); got != c.start {
			t.Errorf("%d s: start of %d is %d, want %d", c.r, c.s, got, c.start)
		}
	}
}

// The chunk of a node with 8 devices of 4 owners.
func BenchmarkFold(b *testing.B) {
	facts := &attribution.Roster{Owners: []attribution.Owner{{}}, Methods: []string{"sm/process"}}
	for i := range 8 {
		facts.Devices = append(facts.Devices, attribution.Device{ID: fmt.Sprintf("GPU-%d", i), Node: "n"})
	}
	for i := range 32 {
		facts.Owners = append(facts.Owners, attribution.Owner{Kind: attribution.Container, Node: "n", Pod: fmt.Sprint(i)})
	}
	var ws []attribution.DeviceWindow
	for s := range 10 {
		for d := range 8 {
			w := attribution.DeviceWindow{Device: uint32(d), Second: attribution.Second(s), Energy: 300, Price: attribution.Price{PerHour: 1, Revision: 1}}
			for o := range 4 {
				w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(1 + 4*d + o), Basis: attribution.Used, Time: attribution.WindowNanos / 4})
			}
			ws = append(ws, w)
		}
	}
	c := attribution.BuildChunk(attribution.ChunkKey{Node: "n"}, 10, facts.Facts(), ws, nil)
	f := rollup.FactsOf(c.Roster)
	b.ReportAllocs()
	slices := 0
	for b.Loop() {
		fold := rollup.NewFold()
		for range 6 { // a minute
			if err := fold.Add(c, f); err != nil {
				b.Fatal(err)
			}
			slices += 320
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(slices), "ns/slice")
}
