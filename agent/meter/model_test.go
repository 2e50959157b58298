package meter

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// fact is a record by names, with the second that was unsealed first when it
// was said.
type fact struct {
	kind      kind
	device    int // description
	owner     int // 0 is nobody
	from, to  int64
	a, b      int64
	processSM bool
	said      attribution.Second
	lane      int
}

const (
	modelSeconds = 8
	modelIDs     = 3
	modelOwners  = 4
)

// modelDevice is one of two descriptions of one of the devices.
func modelDevice(i int) *attribution.Device {
	d := testDevice(fmt.Sprintf("G%d", i%modelIDs))
	if i >= modelIDs {
		d.Model = "anew"
	}
	return d
}

func modelOwner(i int) *attribution.Owner {
	o := testOwner(fmt.Sprintf("o%d", i))
	if i == 1 {
		o.Kind = attribution.UnknownProcess
	}
	return o
}

// model is the meter made simple: it keeps every fact and works out each
// segment of each window from all of them.
type model struct{ facts []fact }

// effective is when a change takes effect, given when it was said.
func (f *fact) effective() int64 { return max(f.from, f.said.Nanos()) }

// now is what is so on a device at time t.
func (m *model) now(id int, t int64) (device *attribution.Device, holdings map[int]int64) {
	var cs []fact
	for _, f := range m.facts {
		if f.kind.control() && f.device%modelIDs == id && f.effective() <= t {
			cs = append(cs, f)
		}
	}
	slices.SortStableFunc(cs, func(a, b fact) int {
		n := cmp.Or(cmp.Compare(a.effective(), b.effective()), cmp.Compare(a.from, b.from), cmp.Compare(a.kind, b.kind), cmp.Compare(a.a, b.a))
		if n == 0 && a.kind == added {
			return attribution.CompareDevices(modelDevice(a.device), modelDevice(b.device))
		}
		return n
	})
	holdings = map[int]int64{}
	for _, c := range cs {
		switch c.kind {
		case added:
			device = modelDevice(c.device)
		case removed:
			device = nil
			clear(holdings)
		case held:
			holdings[c.owner] = c.a
		default:
			delete(holdings, c.owner)
		}
	}
	return device, holdings
}

// part is what of a total spread over a fact's interval lies in [from, to), as
// far as it was not sealed when the fact was said.
func (f *fact) part(total, from, to int64) int64 {
	from = max(from, f.said.Nanos())
	return max(0, apportion.Until(total, f.from, f.to, to)-apportion.Until(total, f.from, f.to, from))
}

func (m *model) chunk(t fataler, second attribution.Second) *attribution.Chunk {
	r := &attribution.Roster{Owners: []attribution.Owner{{}}, Methods: []string{"", "sm", "sm/device", "sm/memory", "sm/process", "sm/replicas"}}
	for i := 1; i <= modelOwners; i++ {
		r.Owners = append(r.Owners, *modelOwner(i))
	}
	var windows []attribution.DeviceWindow
	for id := range modelIDs {
		if w, device := m.window(id, second, r); device != nil {
			w.Device = uint32(len(r.Devices))
			r.Devices = append(r.Devices, *device)
			windows = append(windows, w)
		}
	}
	c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: second}, 1, r.Facts(), windows, nil)
	if err := c.Check(); err != nil {
		t.Fatalf("the model is wrong: %v", err)
	}
	return c
}

func (m *model) window(id int, second attribution.Second, r *attribution.Roster) (w attribution.DeviceWindow, device *attribution.Device) {
	edges := []int64{second.Nanos(), (second + 1).Nanos()}
	for _, f := range m.facts {
		if f.device%modelIDs != id || f.kind == use || f.said > second {
			continue
		}
		for _, e := range []int64{f.from, f.to} {
			if e > edges[0] && e < edges[1] {
				edges = append(edges, e)
			}
		}
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	var segs []attribution.Segment
	for i := 1; i < len(edges); i++ {
		d, holdings := m.now(id, edges[i-1])
		if device == nil {
			device = d
		}
		g := attribution.Segment{Length: edges[i] - edges[i-1]}
		if d != nil {
			g = m.segment(id, edges[i-1], edges[i], holdings)
			for _, f := range m.facts {
				if f.kind == activity && f.device%modelIDs == id && f.from <= edges[i-1] && f.to >= edges[i] {
					w.Energy += f.part(f.b, edges[i-1], edges[i])
				}
			}
		}
		segs = append(segs, g)
	}
	if device == nil {
		return w, nil
	}
	for i := range segs {
		segs[i].MemoryBytes = device.MemoryBytes
	}
	var method string
	splitter := attribution.Splitter{Policy: attribution.PolicySM}
	w.Slices, method = splitter.Split(segs, nil)
	w.Second, w.Method = second, uint16(slices.Index(r.Methods, method))
	return w, device
}

func (m *model) segment(id int, from, to int64, holdings map[int]int64) attribution.Segment {
	g := attribution.Segment{Length: to - from, ProcessSM: true}
	for owner := 1; owner <= modelOwners; owner++ {
		if holdings[owner] > 0 {
			g.Holdings = append(g.Holdings, attribution.Holding{Owner: uint32(owner), Replicas: holdings[owner]})
		}
	}
	for owner := range modelOwners + 1 {
		u := attribution.Use{Owner: uint32(owner), Kind: attribution.UnknownProcess}
		if owner > 0 {
			u.Kind = modelOwner(owner).Kind
		}
		for _, f := range m.facts {
			if f.kind == use && f.device%modelIDs == id && f.owner == owner {
				u.SMActive += f.part(f.a, from, to)
				u.Memory += f.part(f.b, from, to)
			}
		}
		u.SMActive = min(u.SMActive, g.Length)
		if u.SMActive > 0 || u.Memory > 0 {
			g.Uses = append(g.Uses, u)
		}
	}
	for _, f := range m.facts {
		if f.kind == activity && f.device%modelIDs == id && f.from <= from && f.to >= to && f.said.Nanos() <= from {
			g.Observed = true
			g.ProcessSM = g.ProcessSM && f.processSM
			g.SMActive += f.part(f.a, from, to)
		}
	}
	g.SMActive = min(g.SMActive, g.Length)
	// Canonical order, as CompareOwners has it: containers come before
	// unknown processes.
	byOwner := func(a, b uint32) int {
		if a == 0 || b == 0 {
			return cmp.Compare(a, b)
		}
		return attribution.CompareOwners(modelOwner(int(a)), modelOwner(int(b)))
	}
	slices.SortFunc(g.Holdings, func(a, b attribution.Holding) int { return byOwner(a.Owner, b.Owner) })
	slices.SortFunc(g.Uses, func(a, b attribution.Use) int { return byOwner(a.Owner, b.Owner) })
	return g
}

func (f *fact) record(ds []DeviceHandle, os []OwnerHandle) Record {
	d, o := ds[f.device], os[f.owner]
	switch f.kind {
	case added:
		return Added(d, f.from)
	case removed:
		return Removed(d, f.from)
	case held:
		return Hold(d, o, f.a, f.from)
	case released:
		return Release(d, o, f.from)
	case activity:
		return Activity(d, f.from, f.to, f.a, f.b, f.processSM)
	default:
		return Use(d, o, f.from, f.to, f.a, f.b)
	}
}

// drawFacts makes up what is said, in the order of saying. Times are coarse,
// so that they often coincide; two changes that one lane makes to a device at
// one instant are left to TestOneInstant.
func drawFacts(t *rapid.T, late bool) []fact {
	time := rapid.Custom(func(t *rapid.T) int64 {
		return start.Nanos() + rapid.Int64Range(0, modelSeconds*8).Draw(t, "eighth")*ns/8 + rapid.SampledFrom([]int64{0, 0, 1, 333}).Draw(t, "ns")
	})
	type instant struct {
		lane, id int
		at       int64
	}
	changed := map[instant]bool{}
	one := rapid.Custom(func(t *rapid.T) fact {
		f := fact{
			kind:   rapid.SampledFrom([]kind{removed, added, added, released, held, held, activity, activity, activity, use, use, use}).Draw(t, "kind"),
			device: rapid.IntRange(0, 2*modelIDs-1).Draw(t, "device"),
			from:   time.Draw(t, "from"),
			said:   start,
			lane:   rapid.IntRange(0, 3).Draw(t, "lane"),
		}
		f.to = f.from
		if late {
			f.said += attribution.Second(rapid.IntRange(0, modelSeconds-1).Draw(t, "said"))
		}
		switch f.kind {
		case held, released:
			f.owner = rapid.IntRange(1, modelOwners).Draw(t, "owner")
			if f.kind == held {
				f.a = rapid.Int64Range(1, 3).Draw(t, "replicas")
			}
		case activity, use:
			f.to += rapid.SampledFrom([]int64{ns / 8, ns / 2, ns, 3*ns + 1, 5 * ns}).Draw(t, "length")
			f.a = rapid.Int64Range(0, f.to-f.from).Draw(t, "sm")
			f.b = rapid.Int64Range(0, 1000).Draw(t, "b")
			f.processSM = f.kind == activity && rapid.Bool().Draw(t, "process sm")
			if f.kind == use {
				f.owner = rapid.IntRange(0, modelOwners).Draw(t, "owner")
			}
		default:
		}
		return f
	})
	facts := rapid.SliceOfN(one, 1, 40).Draw(t, "facts")
	facts = slices.DeleteFunc(facts, func(f fact) bool {
		at := instant{f.lane, f.device % modelIDs, f.from}
		again := f.kind.control() && changed[at]
		changed[at] = true
		return again
	})
	slices.SortStableFunc(facts, func(a, b fact) int { return cmp.Compare(a.said, b.said) })
	return facts
}

// play says the facts to a meter, each when its time to be said has come.
func play(t *rapid.T, facts []fact, opt Options, skip attribution.Second) map[attribution.Second]*attribution.Chunk {
	m := New(opt)
	m.SkipTo(skip)
	var lanes []*Lane
	for range 4 {
		l, err := m.Lane()
		if err != nil {
			t.Fatal(err)
		}
		lanes = append(lanes, l)
	}
	var ds []DeviceHandle
	for i := range 2 * modelIDs {
		d, err := m.Device(modelDevice(i))
		if err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	os := []OwnerHandle{{}}
	for i := 1; i <= modelOwners; i++ {
		os = append(os, m.Owner(modelOwner(i)))
	}
	out := map[attribution.Second]*attribution.Chunk{}
	for s := start; s < start+modelSeconds+8; s++ {
		for _, f := range facts {
			if f.said == s && !lanes[f.lane].Record(f.record(ds, os)) {
				t.Fatal("lost")
			}
		}
		if err := m.Seal(s, into(t, out)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// Windows are exactly what a model says that works each out from all facts.
func TestLaw2WindowsAreAsTheModelHasThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model{drawFacts(t, rapid.Bool().Draw(t, "late"))}
		got := play(t, m.facts, Options{From: start}, 0)
		want := map[attribution.Second]*attribution.Chunk{}
		for s := range attribution.Second(modelSeconds + 8) {
			want[s] = m.chunk(t, start+s)
		}
		same(t, "model", got, want)
	})
}

// The same facts in another order, through other lanes, under other numbers,
// make the same chunks.
func TestLaw4OrderOfArrivalDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := drawFacts(t, false)
		want := play(t, facts, Options{From: start}, 0)
		shuffled := rapid.Permutation(facts).Draw(t, "order")
		turn := rapid.IntRange(0, 3).Draw(t, "turn")
		for i := range shuffled {
			shuffled[i].lane = (shuffled[i].lane + turn) % 4
		}
		same(t, "shuffled", play(t, shuffled, Options{From: start}, 0), want)
	})
}

// What follows skipped windows is what would have followed them.
func TestLaw3SkippingLeavesTheRestAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		facts := drawFacts(t, true)
		skip := attribution.Second(rapid.IntRange(0, modelSeconds+4).Draw(t, "skip"))
		want := play(t, facts, Options{From: start}, 0)
		for s := range skip {
			delete(want, s)
		}
		same(t, "skipped", play(t, facts, Options{From: start}, start+skip), want)
	})
}
