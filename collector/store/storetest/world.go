package storetest

import (
	"fmt"
	"slices"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
)

// Day is the midnight at which the tests' time begins.
const Day attribution.Second = 1_767_225_600 // 2026-01-01T00:00:00Z

// machine is a node with all that may occur on it.
type machine struct {
	key     attribution.ChunkKey
	devices []attribution.Device
	owners  []attribution.Owner
}

var methods = []string{"sm/device", "sm/process", "memory/replicas"}

var measures = []attribution.Measure{attribution.Success, attribution.TokensOutput, attribution.FailurePrefix + "timeout"}

// names are few, so that facts meet, and some are awkward.
var names = []string{"", "a", "b", "a*b", `100%_\`, "né\x00'x"}

func drawLabels(t *rapid.T) attribution.Labels {
	return attribution.MakeLabels(rapid.MapOfN(rapid.SampledFrom([]string{"app", "team", "x/y"}), rapid.SampledFrom(names), 0, 2).Draw(t, "labels"))
}

func drawMachine(t *rapid.T, i int) machine {
	name := rapid.SampledFrom(names)
	m := machine{key: attribution.ChunkKey{Cluster: name.Draw(t, "cluster"), Node: fmt.Sprint("node-", i)}}
	m.key.Boot[0] = byte(i)
	for j := range rapid.IntRange(1, 2).Draw(t, "devices") {
		m.devices = append(m.devices, attribution.Device{
			ID: fmt.Sprintf("GPU-%d-%d", i, j), Cluster: m.key.Cluster, Node: m.key.Node,
			Model:   rapid.SampledFrom([]string{"", "H100", "A100"}).Draw(t, "device model"),
			Sensors: attribution.Sensors(rapid.IntRange(0, 3).Draw(t, "sensors")), Labels: drawLabels(t),
		})
	}
	m.owners = []attribution.Owner{{}, {Kind: attribution.UnknownProcess, Cluster: m.key.Cluster, Node: m.key.Node, PID: 7, Command: "miner"}}
	for j := range rapid.IntRange(1, 3).Draw(t, "owners") {
		m.owners = append(m.owners, attribution.Owner{
			Kind: attribution.Container, Cluster: m.key.Cluster, Node: m.key.Node,
			Namespace: name.Draw(t, "namespace"), Pod: fmt.Sprint("pod-", j), PodUID: fmt.Sprint(i, j), Container: name.Draw(t, "container"),
			ControllerKind: "Deployment", Controller: name.Draw(t, "controller"), Labels: drawLabels(t),
		})
	}
	return m
}

// times of interest lie beside the boundaries of minutes, hours and days.
var times = []attribution.Second{0, 10, 50, 60, 110, 3590, 3600, 3660, 7190, 7200, 43200, 86390, 86400, 86410, 90000, 172790, 172800, 259200}

// DrawWorld makes the chunks of a few nodes over a few days, few enough to be
// looked at one by one, in no particular order.
func DrawWorld(t *rapid.T) []*attribution.Chunk {
	var out []*attribution.Chunk
	for i := range rapid.IntRange(1, 3).Draw(t, "nodes") {
		m := drawMachine(t, i)
		for _, at := range rapid.SliceOfNDistinct(rapid.SampledFrom(times), 1, 8, rapid.ID).Draw(t, "times") {
			key := m.key
			offset := rapid.IntRange(0, 4).Draw(t, "offset")
			key.Sequence = Day + at + attribution.Second(offset)
			out = append(out, m.drawChunk(t, key, rapid.IntRange(1, 4).Draw(t, "seconds")))
		}
	}
	order := rapid.Permutation(out).Draw(t, "order")
	return order
}

func (m *machine) drawChunk(t *rapid.T, key attribution.ChunkKey, seconds int) *attribution.Chunk {
	f := &facts{m: m}
	var windows []attribution.DeviceWindow
	for d := range m.devices {
		for s := range seconds {
			w := attribution.DeviceWindow{
				Device: uint32(d), Method: uint16(rapid.IntRange(0, len(methods)-1).Draw(t, "method")),
				Second: key.Sequence + attribution.Second(s), Energy: rapid.Int64Range(0, 1<<40).Draw(t, "energy"),
			}
			if rev := rapid.Uint32Range(0, 2).Draw(t, "revision"); rev > 0 {
				w.Price = attribution.Price{PerHour: money.Amount(rapid.Int64Range(0, 1e13).Draw(t, "price")), Revision: rev}
			}
			w.Slices = m.drawSlices(t)
			windows = append(windows, w)
		}
	}
	var tallies []attribution.Tally
	for range rapid.IntRange(0, 3).Draw(t, "tallies") {
		f.subjects = append(f.subjects, attribution.Subject{
			Owner: uint32(rapid.IntRange(0, len(m.owners)-1).Draw(t, "subject")),
			Model: rapid.SampledFrom(names[:3]).Draw(t, "model"), Tenant: rapid.SampledFrom(names).Draw(t, "tenant"), Tier: rapid.SampledFrom(names[:3]).Draw(t, "tier"),
		})
		tallies = append(tallies, attribution.Tally{
			Second: key.Sequence + attribution.Second(rapid.IntRange(0, seconds-1).Draw(t, "at")), Subject: uint32(len(f.subjects) - 1),
			Measure: uint16(rapid.IntRange(0, len(measures)-1).Draw(t, "measure")), Value: rapid.Int64Range(0, 1<<40).Draw(t, "value"),
		})
	}
	return attribution.BuildChunk(key, seconds, f, windows, tallies)
}

// drawSlices cuts a second at random.
func (m *machine) drawSlices(t *rapid.T) []attribution.Slice {
	cuts := rapid.SliceOfN(rapid.Int64Range(0, attribution.WindowNanos), 0, 3).Draw(t, "cuts")
	slices.Sort(cuts)
	var out []attribution.Slice
	from := int64(0)
	for _, to := range append(cuts, attribution.WindowNanos) {
		time := to - from
		from = to
		out = append(out, attribution.Slice{
			Owner: uint32(rapid.IntRange(0, len(m.owners)-1).Draw(t, "owner")), Basis: rapid.SampledFrom(attribution.Bases[:]).Draw(t, "basis"),
			Time: time, SMActive: rapid.Int64Range(0, time).Draw(t, "sm"), Memory: rapid.Int64Range(0, 1<<44).Draw(t, "memory"),
		})
	}
	return out
}

// facts resolves a machine's numbering.
type facts struct {
	m        *machine
	subjects []attribution.Subject
}

func (f *facts) Device(i uint32) *attribution.Device   { return &f.m.devices[i] }
func (f *facts) Owner(i uint32) *attribution.Owner     { return &f.m.owners[i] }
func (f *facts) Method(i uint16) string                { return methods[i] }
func (f *facts) Subject(i uint32) *attribution.Subject { return &f.subjects[i] }
func (f *facts) Measure(i uint16) attribution.Measure  { return measures[i] }

// Steady is the chunk of a node's tenth of a minute: two devices, each used in
// part by one pod and held idle by another, at 3.6 units an hour.
func Steady(node int, at attribution.Second) *attribution.Chunk {
	m := &machine{key: attribution.ChunkKey{Cluster: "steady", Node: fmt.Sprint("node-", node), Sequence: at.ChunkStart()}}
	m.key.Boot[0] = byte(node)
	m.owners = []attribution.Owner{{}}
	for i := range 2 {
		m.devices = append(m.devices, attribution.Device{
			ID: fmt.Sprintf("GPU-%d-%d", node, i), Cluster: m.key.Cluster, Node: m.key.Node, Model: "H100", Sensors: attribution.SensorEnergy | attribution.SensorMemory,
		})
		m.owners = append(m.owners, attribution.Owner{
			Kind: attribution.Container, Cluster: m.key.Cluster, Node: m.key.Node, Namespace: "ml", Pod: fmt.Sprintf("pod-%d-%d", node, i), Container: "main",
			ControllerKind: "Deployment", Controller: fmt.Sprint("app-", i), Labels: attribution.MakeLabels(map[string]string{"team": fmt.Sprint("team-", i)}),
		})
	}
	f := &facts{m: m, subjects: []attribution.Subject{{Owner: 1, Model: "llama"}}}
	var windows []attribution.DeviceWindow
	var tallies []attribution.Tally
	for s := range attribution.Second(attribution.ChunkSeconds) {
		at := m.key.Sequence + s
		for d := range m.devices {
			windows = append(windows, attribution.DeviceWindow{
				Device: uint32(d), Second: at, Energy: 300_000_001, Price: attribution.Price{PerHour: 3_600_000_000, Revision: 1},
				Slices: []attribution.Slice{
					{Owner: 1, Basis: attribution.Used, Time: 300_000_000, SMActive: 250_000_000, Memory: 1 << 33},
					{Owner: 2, Basis: attribution.Reserved, Time: 700_000_000},
				},
			})
		}
		tallies = append(tallies, attribution.Tally{Second: at, Value: int64(attribution.One)})
	}
	return attribution.BuildChunk(m.key, attribution.ChunkSeconds, f, windows, tallies)
}

// Minute is the six chunks of a node's steady minute.
func Minute(node int, at attribution.Second) []*attribution.Chunk {
	var out []*attribution.Chunk
	for i := range attribution.Second(6) {
		out = append(out, Steady(node, at+i*attribution.ChunkSeconds))
	}
	return out
}
