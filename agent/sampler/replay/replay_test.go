package replay

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// script is a random recording that keeps the rules.
type script struct {
	header Header
	nodes  []sampler.Node
	events []sampler.Event
}

func genScript(t *rapid.T) script {
	text := rapid.StringMatching(`[a-z"\\/é ]{1,8}`)
	labels := func(name string) attribution.Labels {
		return attribution.MakeLabels(rapid.MapOfN(text, text, 0, 3).Draw(t, name))
	}
	start := rapid.Int64Range(0, 2_000_000_000_000_000_000).Draw(t, "start")
	s := script{
		header: Header{
			Source: text.Draw(t, "source"), Notes: text.Draw(t, "notes"),
			Start: start, MaxInterval: 60 * attribution.WindowNanos,
			Inputs: map[string]string{"a.csv": "00"}, Options: map[string]string{"x": "1"},
		},
		nodes: []sampler.Node{{Cluster: "c", Name: "n0"}, {Name: "n1"}},
	}
	type dev struct {
		facts   *attribution.Device
		holders []*attribution.Owner
		last    *sampler.Sample
		at      int64
	}
	var devices []*dev
	var owners []*attribution.Owner
	for i := range 6 {
		n := s.nodes[i%2]
		o := &attribution.Owner{Cluster: n.Cluster, Node: n.Name, Labels: labels("labels")}
		switch {
		case i == 5:
			o.Kind, o.ControllerKind, o.Controller = attribution.Gateway, "Backend", text.Draw(t, "backend")
		case i < 3:
			o.Kind, o.Namespace, o.Pod, o.PodUID, o.Container = attribution.Container, text.Draw(t, "ns"), fmt.Sprint("pod", i), "uid", "main"
			o.ControllerKind, o.Controller = "Job", text.Draw(t, "controller")
		default:
			o.Kind, o.PID, o.Command = attribution.OwnerKind(i-1), uint32(i), text.Draw(t, "command")
		}
		owners = append(owners, o)
	}
	ownerOn := func(node string, holds bool) *attribution.Owner {
		for {
			o := rapid.SampledFrom(owners).Draw(t, "owner")
			if o.Node == node && o.Kind != attribution.Gateway && (!holds || o.Kind == attribution.Container) {
				return o
			}
		}
	}
	now := start
	emit := func(e sampler.Event) { e.Time = now; s.events = append(s.events, e) }
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		now += rapid.Int64Range(1, 20*attribution.WindowNanos).Draw(t, "step")
		if len(devices) == 0 || rapid.IntRange(0, 7).Draw(t, "add") == 0 {
			n := rapid.SampledFrom(s.nodes).Draw(t, "node")
			x := &attribution.Device{
				ID: fmt.Sprint("GPU-", len(s.events)), Cluster: n.Cluster, Node: n.Name, Model: text.Draw(t, "model"),
				MemoryBytes: rapid.Int64Range(0, maxMemory).Draw(t, "memory"), Labels: labels("labels"),
				Sensors: attribution.Sensors(rapid.IntRange(0, 3).Draw(t, "sensors")),
			}
			if rapid.Bool().Draw(t, "mig") {
				x.Share, x.Profile = attribution.MIGShare{Compute: 1, ComputeOf: 7, Memory: 1, MemoryOf: 8}, "1g.10gb"
				if x.Remainder = rapid.Bool().Draw(t, "remainder"); !x.Remainder {
					x.Parent = "GPU-p"
				}
			}
			devices = append(devices, &dev{facts: x})
			emit(sampler.Event{Kind: sampler.DeviceAdded, Node: n.Name, DeviceID: x.ID, Device: x})
			continue
		}
		d := rapid.SampledFrom(devices).Draw(t, "device")
		on := sampler.Event{Node: d.facts.Node, DeviceID: d.facts.ID}
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0:
			if o := ownerOn(d.facts.Node, true); len(d.holders) == 0 {
				d.holders = append(d.holders, o)
				on.Kind, on.Owner, on.Replicas = sampler.Held, o, rapid.Int64Range(1, 9).Draw(t, "replicas")
				emit(on)
			}
		case 1:
			if len(d.holders) > 0 {
				on.Kind, on.Owner = sampler.Released, d.holders[0]
				d.holders = nil
				emit(on)
			}
		case 2:
			o := rapid.SampledFrom(owners).Draw(t, "owner")
			if now-start < 20*attribution.WindowNanos {
				continue
			}
			emit(sampler.Event{Kind: sampler.Tallied, Node: o.Node, Tally: &sampler.Tally{
				Owner: o, Model: text.Draw(t, "model"), Seconds: rapid.Int64Range(1, 20).Draw(t, "seconds"),
				Values: genValues(t, text),
			}})
		default:
			smp := &sampler.Sample{ProcessSM: rapid.Bool().Draw(t, "process_sm")}
			past := now - d.at
			smp.Gap = d.last != nil && (past > s.header.MaxInterval || rapid.IntRange(0, 9).Draw(t, "gap") == 0)
			if d.last != nil && !smp.Gap {
				smp.SMActive = d.last.SMActive + rapid.Int64Range(0, past).Draw(t, "sm")
				smp.Energy = d.last.Energy
			}
			if d.facts.Sensors&attribution.SensorEnergy != 0 {
				smp.Energy += rapid.Int64Range(0, 1000).Draw(t, "energy")
			}
			for pid := range rapid.IntRange(0, 3).Draw(t, "processes") {
				p := sampler.Process{PID: uint32(pid + 1), Start: uint64(now), Owner: ownerOn(d.facts.Node, false)}
				if d.facts.Sensors&attribution.SensorMemory != 0 {
					p.MemoryBytes = rapid.Int64Range(0, maxMemory).Draw(t, "bytes")
				}
				if smp.ProcessSM {
					p.SMActive = rapid.Int64().Filter(func(v int64) bool { return v >= 0 }).Draw(t, "psm")
				}
				smp.Processes = append(smp.Processes, p)
			}
			d.last, d.at = smp, now
			on.Kind, on.Sample = sampler.Sampled, smp
			emit(on)
		}
	}
	s.header.End = now + 1
	return s
}

func genValues(t *rapid.T, text *rapid.Generator[string]) []sampler.Value {
	count := rapid.Int64Range(0, maxValue)
	vs := []sampler.Value{{Measure: attribution.Success, Value: count.Draw(t, "success")}}
	for _, m := range []attribution.Measure{
		attribution.FailurePrefix + attribution.Measure(text.Draw(t, "reason")), attribution.TokensInput, attribution.TokensCached,
		attribution.TokensOutput, attribution.TokensAborted, "latency/3", "latency/20", attribution.Queue, "first-token/3", "first-token/127",
		attribution.Running, attribution.KVCache, attribution.Observed, attribution.Checkpoint,
	} {
		if rapid.Bool().Draw(t, "there") {
			limit := maxValue
			if strings.HasPrefix(string(m), tokensPrefix) {
				limit = maxTokens
			}
			vs = append(vs, sampler.Value{Measure: m, Value: rapid.Int64Range(0, limit).Draw(t, "value")})
		}
	}
	return vs
}

func (s *script) write(t interface{ Fatal(...any) }, w io.Writer) {
	rec := NewWriter(w)
	err := rec.Begin(s.header, s.nodes)
	for i := range s.events {
		err = errors.Join(err, rec.Write(&s.events[i]))
	}
	if err = errors.Join(err, rec.Close()); err != nil {
		t.Fatal(err)
	}
}

func readAll(r *Reader) (events []sampler.Event, err error) {
	for {
		var e sampler.Event
		if err := r.Next(&e); err != nil {
			if errors.Is(err, io.EOF) {
				return events, nil
			}
			return events, err
		}
		events = append(events, e)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genScript(t)
		var plain, zipped bytes.Buffer
		s.write(t, &plain)
		z := gzip.NewWriter(&zipped)
		s.write(t, z)
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		var boots []attribution.Boot
		for _, in := range []*bytes.Buffer{&plain, &zipped} {
			size := in.Len()
			text := bytes.Clone(in.Bytes())
			r, err := NewReader(in, "test")
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(r.Header(), s.header) || r.Start() != s.header.Start || r.End() != s.header.End || r.Horizon() != s.header.MaxInterval {
				t.Fatalf("header: %+v, want %+v", r.Header(), s.header)
			}
			events, err := readAll(r)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if !reflect.DeepEqual(events, s.events) && len(events)+len(s.events) > 0 {
				t.Fatalf("events differ after %d bytes:\n%+v\n%+v", size, events, s.events)
			}
			boots = append(boots, r.Nodes()[0].Boot, r.Nodes()[1].Boot)
		}
		if boots[0] != boots[2] || boots[1] != boots[3] || boots[0] == boots[1] {
			t.Fatalf("boots: %x", boots)
		}
	})
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := genScript(t)
		var b bytes.Buffer
		s.write(t, &b)
		cut := rapid.IntRange(0, b.Len()-2).Draw(t, "cut") // −1 would cut the newline only
		r, err := NewReader(bytes.NewReader(b.Bytes()[:cut]), "test")
		if err == nil {
			_, err = readAll(r)
		}
		var e *Error
		if !errors.As(err, &e) || e.Hint == "" {
			t.Fatalf("cut at %d of %d: %v", cut, b.Len(), err)
		}
	})
}

// TestAnyPointerStandsForAnOwner: equal owners under different pointers are
// one owner to the writer.
func TestAnyPointerStandsForAnOwner(t *testing.T) {
	owner := func() *attribution.Owner {
		return &attribution.Owner{Kind: attribution.Container, Node: "n", Namespace: "ns", Pod: "p", Container: "c"}
	}
	var b bytes.Buffer
	w := NewWriter(&b)
	x := &attribution.Device{ID: "GPU-1", Node: "n", Model: "m"}
	err := errors.Join(
		w.Begin(Header{Source: "test", End: 1e9, MaxInterval: 1e9}, []sampler.Node{{Name: "n"}}),
		w.Write(&sampler.Event{Kind: sampler.DeviceAdded, Node: "n", DeviceID: "GPU-1", Device: x}),
		w.Write(&sampler.Event{Kind: sampler.Held, Node: "n", DeviceID: "GPU-1", Owner: owner(), Replicas: 1}),
		w.Write(&sampler.Event{Kind: sampler.Released, Node: "n", DeviceID: "GPU-1", Owner: owner()}),
		w.Close())
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), `"kind":"owner"`); n != 1 {
		t.Fatalf("%d owners:\n%s", n, b.String())
	}
}

func TestWriterRefusesWhatAReaderWould(t *testing.T) {
	w := NewWriter(io.Discard)
	if err := w.Begin(Header{Source: "test", End: 1e9, MaxInterval: 1e9}, []sampler.Node{{Name: "n"}}); err != nil {
		t.Fatal(err)
	}
	err := w.Write(&sampler.Event{Kind: sampler.Sampled, Node: "n", DeviceID: "GPU-1", Sample: &sampler.Sample{}})
	if err == nil || !strings.Contains(err.Error(), `device "GPU-1" is not declared`) {
		t.Fatal(err)
	}
	if again := w.Close(); !errors.Is(again, err) {
		t.Fatalf("a broken recording was completed: %v", again)
	}
	if err := NewWriter(io.Discard).Close(); err == nil {
		t.Fatal("an empty recording was completed")
	}
}

func TestCheckCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.jsonl")
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	got.Header = Header{}
	want := Summary{Records: 10, Nodes: 1, Owners: 2, Devices: 1, Holdings: 1, Samples: 2, Tallies: 1}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	if _, err := Check(path + ".not"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func BenchmarkReader(b *testing.B) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	o := &attribution.Owner{Kind: attribution.Container, Node: "n", Namespace: "ns", Pod: "p", Container: "c"}
	x := &attribution.Device{ID: "GPU-8f1a3b52-0d1c-4d0e-9c53-1a2b3c4d5e6f", Node: "n", Model: "m", Sensors: attribution.SensorEnergy | attribution.SensorMemory}
	const samples = 10_000
	err := errors.Join(
		w.Begin(Header{Source: "test", End: (samples + 1) * 1e9, MaxInterval: 1e9}, []sampler.Node{{Name: "n"}}),
		w.Write(&sampler.Event{Kind: sampler.DeviceAdded, Node: "n", DeviceID: x.ID, Device: x}))
	for i := range int64(samples) {
		s := &sampler.Sample{SMActive: i * 7e8, Energy: i * 3e8, ProcessSM: true}
		for pid := range uint32(2) {
			s.Processes = append(s.Processes, sampler.Process{PID: pid + 1, Start: 7, Owner: o, SMActive: i * 3e8, MemoryBytes: 40 << 30})
		}
		err = errors.Join(err, w.Write(&sampler.Event{Kind: sampler.Sampled, Time: i * 1e9, Node: "n", DeviceID: x.ID, Sample: s}))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(buf.Len()))
	b.ReportAllocs()
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(buf.Bytes()), "bench")
		if err != nil {
			b.Fatal(err)
		}
		var e sampler.Event
		for err == nil {
			err = r.Next(&e)
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*samples/b.Elapsed().Seconds(), "lines/s")
}
