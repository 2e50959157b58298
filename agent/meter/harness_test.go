package meter

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
)

const ns = attribution.WindowNanos

// start is the first second of the tests.
const start attribution.Second = 1_700_000_000

// at is a time in seconds after start.
func at(seconds float64) int64 { return start.Nanos() + int64(seconds*1e9) }

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func testOwner(name string) *attribution.Owner {
	return &attribution.Owner{
		Kind: attribution.Container, Cluster: "c", Node: "n", Namespace: "ns", Pod: name, Container: "main",
		Labels: attribution.Labels{{Key: "app", Value: name}},
	}
}

func testDevice(id string) *attribution.Device {
	return &attribution.Device{ID: id, Cluster: "c", Node: "n", Model: "H100", MemoryBytes: 80 << 30}
}

// chunkOf is a sealed second as the chunk that would be built of it, checked
// by the laws.
func chunkOf(t fataler, s *Sealed) *attribution.Chunk {
	t.Helper()
	windows := append([]attribution.DeviceWindow(nil), s.Windows...)
	for i := range windows {
		windows[i].Slices = slices.Clone(windows[i].Slices)
	}
	key := attribution.ChunkKey{Cluster: "c", Node: "n", Sequence: s.Second}
	c := attribution.BuildChunk(key, 1, s.Facts, windows, append([]attribution.Tally(nil), s.Tallies...))
	if err := c.Check(); err != nil {
		t.Fatalf("second %d: %v", s.Second-start, err)
	}
	return c
}

// into collects chunks by second after start.
func into(t fataler, out map[attribution.Second]*attribution.Chunk) func(*Sealed) error {
	return func(s *Sealed) error {
		t.Helper()
		if out[s.Second-start] != nil {
			t.Fatalf("second %d is there twice", s.Second-start)
		}
		out[s.Second-start] = chunkOf(t, s)
		return nil
	}
}

func same(t fataler, what string, got, want map[attribution.Second]*attribution.Chunk) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d seconds, want %d", what, len(got), len(want))
	}
	for s, w := range want {
		if !reflect.DeepEqual(got[s], w) {
			t.Fatalf("%s: second %d\n got %s\nwant %s", what, s, show(got[s]), show(w))
		}
	}
}

// show lists a chunk's slices and tallies for people.
func show(c *attribution.Chunk) string {
	if c == nil {
		return "nothing"
	}
	out := ""
	for i := range c.Windows {
		w := &c.Windows[i]
		d := &c.Roster.Devices[w.Device]
		out += fmt.Sprintf("\n%s(%s) %s energy=%d:", d.ID, d.Model, c.Roster.Methods[w.Method], w.Energy)
		for _, s := range w.Slices {
			name := c.Roster.Owners[s.Owner].Pod
			if name == "" {
				name = c.Roster.Owners[s.Owner].Kind.String()
			}
			out += fmt.Sprintf(" [%s %s %d sm=%d mem=%d]", name, s.Basis, s.Time, s.SMActive, s.Memory)
		}
	}
	for _, ta := range c.Tallies {
		s := &c.Roster.Subjects[ta.Subject]
		out += fmt.Sprintf("\n%s %s %s=%d", c.Roster.Owners[s.Owner].Pod, s.Model, c.Roster.Measures[ta.Measure], ta.Value)
	}
	return out
}

// rig is a meter with one lane and its things by name.
type rig struct {
	t testing.TB
	*Meter
	lane *Lane
	out  map[attribution.Second]*attribution.Chunk
}

func newRig(t testing.TB, opt Options) *rig {
	if opt.From == 0 {
		opt.From = start
	}
	m := New(opt)
	l, err := m.Lane()
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, Meter: m, lane: l, out: map[attribution.Second]*attribution.Chunk{}}
}

func (r *rig) dev(id string) DeviceHandle {
	h, err := r.Device(testDevice(id))
	if err != nil {
		r.t.Fatal(err)
	}
	return h
}

func (r *rig) own(name string) OwnerHandle { return r.Owner(testOwner(name)) }

func (r *rig) record(rs ...Record) {
	for _, x := range rs {
		if !r.lane.Record(x) {
			r.t.Fatalf("lost %+v", x)
		}
	}
}

// seal seals up to a second after start.
func (r *rig) seal(through attribution.Second) {
	r.t.Helper()
	if err := r.Seal(start+through, into(r.t, r.out)); err != nil {
		r.t.Fatal(err)
	}
}

// expect compares what a second was cut into with a line per window and tally.
func (r *rig) expect(second attribution.Second, want string) {
	r.t.Helper()
	if got := show(r.out[second]); got != want {
		r.t.Errorf("second %d:\n got %s\nwant %s", second, got, want)
	}
}
