package traces

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"slices"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// openbPlayer lets pods come and go on the nodes' devices and adds the events.
type openbPlayer struct {
	*job
	openbConfig
	nodes   []*openbNode
	refused int    // pods that fit nowhere
	pids    uint32 // given out
}

func (p *openbPlayer) unix(t int64) int64 { return (p.epoch + t) * second }

// play goes through the instants at which something happens: pods end, pods
// start, and every device is sampled each openbSample.
func (p *openbPlayer) play(pods []*openbPod) {
	for _, n := range p.nodes {
		for _, d := range n.devices {
			e := p.on(d, p.from, sampler.DeviceAdded)
			e.Device = d.facts
			p.add(e)
			d.at = -1
			p.sample(d, p.from)
		}
	}
	var running []*openbPod
	step := openbSample / second
	for t := p.from; t <= p.from+p.length; t++ {
		for i := 0; i < len(running); { // ends come before starts
			if running[i].end > t || t == p.from+p.length {
				i++
				continue
			}
			p.stop(running[i], t)
			running = slices.Delete(running, i, i+1)
		}
		for len(pods) > 0 && pods[0].start == t {
			pod := pods[0]
			pods = pods[1:]
			if pod.devices = p.place(pod); pod.devices == nil {
				p.refused++
				continue
			}
			p.start(pod, t)
			running = append(running, pod)
		}
		if grid := t - p.from; grid > 0 && (grid%step == 0 || grid == p.length) {
			for _, n := range p.nodes {
				for _, d := range n.devices {
					p.sample(d, t)
				}
			}
		}
	}
}

func (p *openbPlayer) on(d *openbDevice, t int64, k sampler.Kind) sampler.Event {
	return sampler.Event{Kind: k, Time: p.unix(t), Node: d.facts.Node, DeviceID: d.facts.ID}
}

// place finds room for a pod; nil if there is none.
func (p *openbPlayer) place(pod *openbPod) []*openbDevice {
	var best []*openbDevice
	left := int64(1<<63 - 1) // room left on the best so far
	for _, n := range p.nodes {
		if len(pod.models) > 0 && !slices.Contains(pod.models, n.model) {
			continue
		}
		if pod.milli < wholeGPU {
			for _, d := range n.devices {
				if d.free >= pod.milli && d.free < left {
					best, left = []*openbDevice{d}, d.free
				}
			}
			continue
		}
		var free []*openbDevice
		for _, d := range n.devices {
			if d.free == wholeGPU {
				free = append(free, d)
			}
		}
		if have := int64(len(free)); have >= pod.gpus && have < left {
			best, left = free[:pod.gpus], have
		}
	}
	return best
}

func (p *openbPlayer) start(pod *openbPod, t int64) {
	node := pod.devices[0].facts.Node
	pod.owner = &attribution.Owner{
		Kind: attribution.Container, Node: node, Namespace: "openb", Pod: pod.name, PodUID: uuid("openb/" + pod.name), Container: "main",
		Labels: attribution.MakeLabels(map[string]string{"qos": pod.qos}),
	}
	h := fnv.New64a()
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(p.seed)))
	h.Write([]byte(pod.name))
	pod.seed = h.Sum64()
	p.pids++
	pod.pid = 1000 + p.pids
	pod.active = make([]int64, len(pod.devices))
	// Latency-sensitive pods idle a lot, best-effort ones are there to compute.
	if pod.level = 50 + int64(scramble(pod.seed)%350); pod.qos == "BE" {
		pod.level += 400
	}
	for _, d := range pod.devices {
		p.sample(d, t) // what follows is with the pod
		d.free -= pod.milli
		d.pods = append(d.pods, pod)
		slices.SortFunc(d.pods, func(a, b *openbPod) int { return cmp.Compare(a.pid, b.pid) })
		e := p.on(d, t, sampler.Held)
		e.Owner, e.Replicas = pod.owner, pod.milli
		p.add(e)
	}
}

// stop takes the last readings of a pod and releases its devices.
func (p *openbPlayer) stop(pod *openbPod, t int64) {
	for _, d := range pod.devices {
		p.sample(d, t)
		e := p.on(d, t, sampler.Released)
		e.Owner = pod.owner
		p.add(e)
		d.free += pod.milli
		d.pods = slices.DeleteFunc(d.pods, func(x *openbPod) bool { return x == pod })
	}
}

// sample adds a device's sample, once at an instant. A pod's first reading is
// in the sample after its start; with its start time it counts from there.
func (p *openbPlayer) sample(d *openbDevice, t int64) {
	if t == d.at {
		return
	}
	s := &sampler.Sample{}
	if p.synthetic {
		s.ProcessSM = len(d.pods) > 0
		for _, pod := range d.pods {
			active := &pod.active[slices.Index(pod.devices, d)]
			grown := pod.activity(d.at, t) * pod.milli // of a thousandth of a thousandth
			*active += grown
			d.sm += grown
			s.Processes = append(s.Processes, sampler.Process{PID: pod.pid, Start: uint64(p.unix(pod.start)), Owner: pod.owner, SMActive: *active})
		}
	}
	s.SMActive = d.sm
	d.at = t
	e := p.on(d, t, sampler.Sampled)
	e.Sample = s
	p.add(e)
}

// activity is what a pod did in [from, to): ns per thousandth of a GPU, at most
// the time that passed. It drifts about the pod's level each minute.
func (p *openbPod) activity(from, to int64) (ns int64) {
	for t := from; t < to; t++ {
		drift := int64(scramble(p.seed^uint64(t/60))%301) - 150
		ns += min(max(p.level+drift, 0), wholeGPU) * (second / 1_000_000)
	}
	return ns
}

// scramble is the finalizer of SplitMix64: a number that looks random and
// depends on x alone, in every release of Go.
func scramble(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
