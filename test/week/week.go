// Package week makes up a week of a small fleet, to ask questions of: who
// used, held and wasted what is known beforehand, because it is written here.
//
//	gpu-a  4 × H100  0, 1: two replicas of the search team's chat model, behind a gateway
//	                 2: a training run of the research team, preempted once
//	                 3: a notebook that is held all week and hardly used
//	gpu-b  2 × L4    0: the ads team's ranker
//	                 1: nobody's, but for a stray process on Friday
//
// It is Monday 2025-11-10 to Monday 2025-11-17, UTC. Everything is counted in
// whole numbers that depend on the minute alone.
package week

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

// Start is Monday 2025-11-10 00:00 UTC; End is a week later.
const (
	Start attribution.Second = 1_762_732_800
	End                      = Start + 7*86400
)

// Card prices the fleet.
const Card = `currency: USD
policy: sm
prices:
  - {model: "NVIDIA H100*", per_device_hour: "2.90"}
  - {model: "NVIDIA L4", per_device_hour: "0.71"}
overheads:
  - {name: host, per_node_hour: "0.40"}
  - {name: power, power: {watts: 450, per_kwh: "0.12", pue: "1.3"}}
`

const (
	minute = 60 * attribution.WindowNanos
	step   = minute // between two samples
)

// Record writes the week as a recording.
func Record(w io.Writer) error {
	r := replay.NewWriter(w)
	nodes := []sampler.Node{{Cluster: "prod", Name: "gpu-a"}, {Cluster: "prod", Name: "gpu-b"}, {Cluster: "prod", Name: "litellm"}}
	err := r.Begin(replay.Header{
		Source: "a week of a small fleet", Notes: "made up: whole numbers that depend on the minute alone",
		Start: Start.Nanos(), End: End.Nanos(), MaxInterval: 2 * minute,
	}, nodes)
	if err != nil {
		return err
	}
	for _, e := range events() {
		if err := r.Write(&e); err != nil {
			return err
		}
	}
	return r.Close()
}

// pod is a container of the fleet.
func pod(node, namespace, name, kind, controller string, labels map[string]string) *attribution.Owner {
	return &attribution.Owner{
		Kind: attribution.Container, Cluster: "prod", Node: node, Namespace: namespace, Pod: name, PodUID: "uid-" + name,
		Container: "main", ControllerKind: kind, Controller: controller, Labels: attribution.MakeLabels(labels),
	}
}

// The fleet's owners, by what they do.
var (
	chatLabels  = map[string]string{"team": "search", "app": "llama-chat", "env": "prod", "gpuledger.io/class": "interactive"}
	trainLabels = map[string]string{"team": "research", "jobset.sigs.k8s.io/jobset-uid": "7d1c2c1e-5a44-4f0e-9f0b-2f6a1f0e9b11", "env": "dev"}
)

// spell is a stretch in which a container holds a device, or a process uses it.
type spell struct {
	device   string
	owner    *attribution.Owner
	from, to attribution.Second
	held     bool
	busy     func(minute int64) int64 // thousandths of the device's time
	pid      uint32
}

func hours(day, hour int) attribution.Second { return Start + attribution.Second(day*86400+hour*3600) }

func spells() []spell {
	always := func(share int64) func(int64) int64 { return func(int64) int64 { return share } }
	first := pod("gpu-a", "research", "ranker-ft-0-x7x2p", "Job", "ranker-ft-0", trainLabels)
	second := pod("gpu-a", "research", "ranker-ft-0-m4q8z", "Job", "ranker-ft-0", trainLabels)
	return []spell{
		{"GPU-a0", chat(0), Start, End, true, func(m int64) int64 { return 8 * load(m) }, 100},
		{"GPU-a1", chat(1), Start, End, true, func(m int64) int64 { return 6 * load(m) }, 101},
		{"GPU-a2", first, hours(0, 8), hours(2, 2), true, always(930), 102},
		{"GPU-a2", second, hours(2, 3), hours(3, 20), true, always(930), 103},
		{"GPU-a3", pod("gpu-a", "research", "notebook-ada", "StatefulSet", "notebook", map[string]string{"team": "research", "env": "dev"}), Start, End, true, always(20), 104},
		{"GPU-b0", ranker(), Start, End, true, func(m int64) int64 { return 4 * load(m) }, 105},
		{
			"GPU-b1", &attribution.Owner{Kind: attribution.UnknownProcess, Cluster: "prod", Node: "gpu-b", PID: 4242, Command: "python3"},
			hours(4, 14), hours(4, 16), false, always(500), 4242,
		},
	}
}

func chat(replica int) *attribution.Owner {
	return pod("gpu-a", "search", fmt.Sprintf("llama-chat-6d5f9c7b4-%d", replica), "Deployment", "llama-chat", chatLabels)
}

func ranker() *attribution.Owner {
	return pod("gpu-b", "ads", "ranker-0", "StatefulSet", "ranker", map[string]string{"team": "ads", "app": "ranker", "env": "prod"})
}

// load is the traffic of a minute, 5 at night to 60 by day, less at weekends.
func load(minute int64) int64 {
	hour, day := minute/60%24, minute/1440
	by := [24]int64{8, 6, 5, 5, 5, 6, 10, 20, 35, 48, 55, 58, 60, 58, 57, 56, 54, 50, 44, 36, 28, 20, 15, 10}
	if day >= 5 {
		return (by[hour] + 1) / 2
	}
	return by[hour]
}

// events are all that happens, in order of time.
func events() []sampler.Event {
	var es []sampler.Event
	devices := map[string]string{"GPU-a0": "gpu-a", "GPU-a1": "gpu-a", "GPU-a2": "gpu-a", "GPU-a3": "gpu-a", "GPU-b0": "gpu-b", "GPU-b1": "gpu-b"}
	all := spells()
	for id, node := range devices {
		model := "NVIDIA H100 80GB HBM3"
		if node == "gpu-b" {
			model = "NVIDIA L4"
		}
		es = append(es, sampler.Event{Kind: sampler.DeviceAdded, Time: Start.Nanos(), Node: node, DeviceID: id, Device: &attribution.Device{
			ID: id, Cluster: "prod", Node: node, Model: model, CapacityType: "on-demand", MemoryBytes: 80 << 30, Sensors: attribution.SensorEnergy,
			Labels: attribution.MakeLabels(map[string]string{"topology.kubernetes.io/region": "eu-west-1"}),
		}})
		es = append(es, samples(id, node, all)...)
	}
	for i := range all {
		if s := &all[i]; s.held {
			node := s.owner.Node
			es = append(es, sampler.Event{Kind: sampler.Held, Time: s.from.Nanos(), Node: node, DeviceID: s.device, Owner: s.owner, Replicas: 1})
			if s.to < End {
				es = append(es, sampler.Event{Kind: sampler.Released, Time: s.to.Nanos(), Node: node, DeviceID: s.device, Owner: s.owner})
			}
		}
	}
	es = append(es, traffic()...)
	slices.SortStableFunc(es, func(a, b sampler.Event) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.DeviceID, b.DeviceID))
	})
	return es
}

// samples are a device's, one a minute, with the process that is on it.
func samples(id, node string, all []spell) []sampler.Event {
	var es []sampler.Event
	var active, energy int64
	own := map[int]int64{} // SM activity of each spell's process
	for t := Start.Nanos(); t <= End.Nanos()-1; t += step {
		s := &sampler.Sample{ProcessSM: true}
		if t > Start.Nanos() {
			m := (t - Start.Nanos() - step) / minute // the minute that has passed
			for i := range all {
				x := &all[i]
				from, to := (x.from.Nanos()-Start.Nanos())/minute, (x.to.Nanos()-Start.Nanos())/minute
				if x.device != id || m < from || m >= to {
					continue
				}
				used := x.busy(m) * (minute / 1000)
				active += used
				own[i] += used
				s.Processes = append(s.Processes, sampler.Process{PID: x.pid, Start: uint64(x.from), Owner: x.owner, SMActive: own[i]})
			}
			energy = 60_000_000*70*(m+1) + active/1000*400 // 70 W idle, 400 W more when busy
		}
		s.SMActive, s.Energy = active, energy
		es = append(es, sampler.Event{Kind: sampler.Sampled, Time: t, Node: node, DeviceID: id, Sample: s})
	}
	return es
}
