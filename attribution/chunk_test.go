package attribution_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
)

// world is what a chunk is built from, in some numbering of its facts.
type world struct {
	key     attribution.ChunkKey
	seconds int
	facts   attribution.Roster // not canonical: a registry
	windows []attribution.DeviceWindow
	tallies []attribution.Tally
}

func (w *world) clone() *world {
	c := *w
	c.windows = cloneWindows(w.windows)
	c.tallies = slices.Clone(w.tallies)
	return &c
}

func cloneWindows(ws []attribution.DeviceWindow) []attribution.DeviceWindow {
	ws = slices.Clone(ws)
	for i := range ws {
		ws[i].Slices = slices.Clone(ws[i].Slices)
	}
	return ws
}

// build builds the chunk and leaves the world as it is.
func (w *world) build() *attribution.Chunk {
	c := w.clone()
	return attribution.BuildChunk(c.key, c.seconds, c.facts.Facts(), c.windows, c.tallies)
}

// genWorld draws a node with up to four devices and the owners 0 (nobody) to
// 9, of which 7 to 9 are unknown processes, as genSegments has them.
func genWorld(t *rapid.T) *world {
	w := &world{key: attribution.ChunkKey{Cluster: "c", Node: "n", Boot: attribution.Boot{1}}}
	start := attribution.Second(rapid.Int64Range(-1e6, 8e8).Draw(t, "ten") * attribution.ChunkSeconds)
	skip := rapid.IntRange(0, 9).Draw(t, "skip")
	w.key.Sequence = start + attribution.Second(skip)
	w.seconds = rapid.IntRange(1, 10-skip).Draw(t, "seconds")
	w.facts = genFacts(t)
	for d := range w.facts.Devices {
		for s := range w.seconds {
			if rapid.IntRange(0, 4).Draw(t, "gap") == 0 {
				continue
			}
			splitter := attribution.Splitter{Policy: genPolicy(t)}
			ss, method := splitter.Split(genSegments(t), nil)
			m := slices.Index(w.facts.Methods, method)
			if m < 0 {
				m = len(w.facts.Methods)
				w.facts.Methods = append(w.facts.Methods, method)
			}
			w.windows = append(w.windows, attribution.DeviceWindow{
				Device: uint32(d), Method: uint16(m), Second: w.key.Sequence + attribution.Second(s), Price: genPrice(t),
				Energy: rapid.Int64Range(0, attribution.MaxPerSecond).Draw(t, "energy"), Slices: ss,
			})
		}
	}
	for range rapid.IntRange(0, 12).Draw(t, "tallies") {
		w.tallies = append(w.tallies, attribution.Tally{
			Second:  w.key.Sequence + attribution.Second(rapid.IntRange(0, w.seconds-1).Draw(t, "tally second")),
			Subject: uint32(rapid.IntRange(0, len(w.facts.Subjects)-1).Draw(t, "subject")),
			Measure: uint16(rapid.IntRange(0, len(w.facts.Measures)-1).Draw(t, "measure")),
			Value:   rapid.Int64Range(0, 1e9).Draw(t, "value"),
		})
	}
	return w
}

func genFacts(t *rapid.T) attribution.Roster {
	r := attribution.Roster{Owners: make([]attribution.Owner, 1)}
	for i := range rapid.IntRange(0, 4).Draw(t, "devices") {
		r.Devices = append(r.Devices, attribution.Device{
			ID: fmt.Sprintf("GPU-%d", 7-i), Cluster: "c", Node: "n",
			Model:  rapid.SampledFrom([]string{"A", "B"}).Draw(t, "model"),
			Labels: genLabels(t), Sensors: attribution.SensorEnergy,
		})
	}
	for i := 1; i <= 9; i++ {
		o := attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Labels: genLabels(t)}
		if i >= 7 {
			o.Kind, o.PID = attribution.UnknownProcess, uint32(100-i)
		} else {
			o.Pod = fmt.Sprintf("pod-%d", 9-i)
		}
		r.Owners = append(r.Owners, o)
	}
	for i := range 3 {
		r.Subjects = append(r.Subjects, attribution.Subject{Owner: uint32(3 - i), Model: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "served")})
	}
	r.Measures = []attribution.Measure{attribution.TokensOutput, attribution.Success, attribution.LatencyPrefix + "3"}
	return r
}

func genLabels(t *rapid.T) attribution.Labels {
	return attribution.MakeLabels(rapid.MapOfN(rapid.SampledFrom([]string{"a", "b"}), rapid.SampledFrom([]string{"", "1"}), 0, 2).Draw(t, "labels"))
}

// renumber is the same world in another numbering and order.
func (w *world) renumber(r *rand.Rand) *world {
	v := w.clone()
	devices, owners := r.Perm(len(w.facts.Devices)), r.Perm(len(w.facts.Owners))
	methods, subjects, measures := r.Perm(len(w.facts.Methods)), r.Perm(len(w.facts.Subjects)), r.Perm(len(w.facts.Measures))
	v.facts = attribution.Roster{
		Devices: permuted(w.facts.Devices, devices), Owners: permuted(w.facts.Owners, owners), Methods: permuted(w.facts.Methods, methods),
		Subjects: permuted(w.facts.Subjects, subjects), Measures: permuted(w.facts.Measures, measures),
	}
	for i := range v.facts.Subjects {
		v.facts.Subjects[i].Owner = uint32(owners[v.facts.Subjects[i].Owner])
	}
	for i := range v.windows {
		x := &v.windows[i]
		x.Device, x.Method = uint32(devices[x.Device]), uint16(methods[x.Method])
		for j := range x.Slices {
			x.Slices[j].Owner = uint32(owners[x.Slices[j].Owner])
		}
		r.Shuffle(len(x.Slices), func(a, b int) { x.Slices[a], x.Slices[b] = x.Slices[b], x.Slices[a] })
	}
	for i := range v.tallies {
		x := &v.tallies[i]
		x.Subject, x.Measure = uint32(subjects[x.Subject]), uint16(measures[x.Measure])
	}
	r.Shuffle(len(v.windows), func(a, b int) { v.windows[a], v.windows[b] = v.windows[b], v.windows[a] })
	r.Shuffle(len(v.tallies), func(a, b int) { v.tallies[a], v.tallies[b] = v.tallies[b], v.tallies[a] })
	return v
}

// permuted puts xs[i] at place to[i].
func permuted[T any](xs []T, to []int) []T {
	out := make([]T, len(xs))
	for i, x := range xs {
		out[to[i]] = x
	}
	return out
}

func mustPass(t *rapid.T, c *attribution.Chunk) {
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestLaw4ChunksDoNotDependOnNumberingOrOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := genWorld(t)
		want := w.build()
		mustPass(t, want)
		got := w.renumber(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))).build()
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

func TestLaw4AChunkJoinedFromItsPartsIsTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := genWorld(t)
		want := w.build()
		var parts, again []*attribution.Chunk
		for s := range w.seconds {
			part := &world{key: w.key, seconds: 1, facts: w.facts}
			part.key.Sequence += attribution.Second(s)
			part.windows = slices.DeleteFunc(cloneWindows(w.windows), func(x attribution.DeviceWindow) bool { return x.Second != part.key.Sequence })
			part.tallies = slices.DeleteFunc(slices.Clone(w.tallies), func(x attribution.Tally) bool { return x.Second != part.key.Sequence })
			c := part.build()
			mustPass(t, c)
			parts, again = append(parts, c), append(again, part.build())
		}
		if rapid.Bool().Draw(t, "backwards") {
			slices.Reverse(parts)
			slices.Reverse(again)
		}
		got := attribution.Join(w.key, w.seconds, parts)
		if len(want.Windows) == 0 {
			want.Windows = got.Windows // no windows, whether nil or empty
		}
		if len(want.Tallies) == 0 {
			want.Tallies = got.Tallies
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		if !reflect.DeepEqual(parts, again) {
			t.Fatal("Join changed its parts")
		}
	})
}

func TestLaw4EqualFactsUnderTwoNumbersAreOne(t *testing.T) {
	pod := attribution.Owner{Kind: attribution.Container, Cluster: "c", Node: "n", Pod: "p"}
	gpu := attribution.Device{ID: "GPU-1", Cluster: "c", Node: "n"}
	facts := attribution.Roster{
		Devices: []attribution.Device{gpu, gpu}, Owners: []attribution.Owner{{}, pod, pod}, Methods: []string{"sm", "sm"},
		Subjects: []attribution.Subject{{Owner: 1, Model: "m"}, {Owner: 2, Model: "m"}}, Measures: []attribution.Measure{"success", "success"},
	}
	c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: 20}, 2, facts.Facts(), []attribution.DeviceWindow{
		{Device: 1, Method: 1, Second: 21, Slices: []attribution.Slice{
			{Owner: 2, Basis: attribution.Used, Time: 4e8, SMActive: 3, Memory: 5}, {Owner: 1, Basis: attribution.Used, Time: 6e8, SMActive: 4, Memory: 6},
		}},
		{Device: 0, Method: 0, Second: 20, Slices: []attribution.Slice{{Owner: 1, Basis: attribution.Reserved, Time: 1e9}}},
	}, []attribution.Tally{{Second: 20, Subject: 0, Measure: 1, Value: 2}, {Second: 20, Subject: 1, Measure: 0, Value: 3}})
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	want := &attribution.Roster{
		Devices: facts.Devices[:1], Owners: []attribution.Owner{pod}, Methods: []string{"sm"},
		Subjects: []attribution.Subject{{Owner: 0, Model: "m"}}, Measures: []attribution.Measure{"success"},
	}
	if !reflect.DeepEqual(c.Roster, want) {
		t.Errorf("roster %+v, want %+v", c.Roster, want)
	}
	if got := c.Windows[1].Slices; len(got) != 1 || got[0].Time != 1e9 || got[0].SMActive != 7 || got[0].Memory != 11 {
		t.Errorf("slices %+v", got)
	}
	if len(c.Tallies) != 1 || c.Tallies[0].Value != 5 {
		t.Errorf("tallies %+v", c.Tallies)
	}
}

func TestLaw6RatingAgainChangesMoneyOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genWorld(t).build()
		was := cloneWindows(c.Windows)
		other := make([]attribution.Price, len(c.Windows))
		for i := range c.Windows {
			other[i] = genPrice(t)
			c.Windows[i].Price = other[i]
			attribution.Rate(&c.Windows[i])
		}
		mustPass(t, c)
		for i, w := range c.Windows {
			for j, s := range w.Slices {
				o := was[i].Slices[j]
				o.Cost = s.Cost
				if s != o {
					t.Fatalf("rating made %+v of %+v", s, was[i].Slices[j])
				}
			}
			c.Windows[i].Price = was[i].Price
			attribution.Rate(&c.Windows[i])
		}
		if !reflect.DeepEqual(c.Windows, was) {
			t.Fatalf("rated back under the old prices: %+v, was %+v", c.Windows, was)
		}
	})
}

func TestLaw9UnpricedIsNotFree(t *testing.T) {
	free, unpriced := tiny(), tiny()
	for _, c := range []*attribution.Chunk{free, unpriced} {
		for i := range c.Windows {
			c.Windows[i].Price = attribution.Price{}
			if c == free {
				c.Windows[i].Price.Revision = 3
			}
			attribution.Rate(&c.Windows[i])
		}
		if err := c.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if free.Windows[0].Slices[0].Cost != 0 || !free.Windows[0].Price.Known() || unpriced.Windows[0].Price.Known() {
		t.Error("free and unpriced can't be told apart")
	}
}

func TestLaw9ATallyOfZeroIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := genWorld(t)
		w.tallies = []attribution.Tally{{Second: w.key.Sequence, Subject: 1, Measure: 2}}
		c := w.build()
		if len(c.Tallies) != 1 || c.Tallies[0].Value != 0 {
			t.Fatalf("measured none, kept %+v", c.Tallies)
		}
		w.tallies = nil
		if c := w.build(); len(c.Tallies) != 0 {
			t.Fatalf("measured nothing, kept %+v", c.Tallies)
		}
	})
}

func TestLaw9AnEmptyLabelIsNotAMissingOne(t *testing.T) {
	ls := attribution.MakeLabels(map[string]string{"b": "", "a": "1"})
	if v, ok := ls.Get("b"); v != "" || !ok {
		t.Errorf("b: %q, %v", v, ok)
	}
	if v, ok := ls.Get("c"); v != "" || ok {
		t.Errorf("c: %q, %v", v, ok)
	}
}
