package simulated

import (
	"crypto/sha256"
	"fmt"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

const gib = 1 << 30

// gpu is a model of GPU.
type gpu struct {
	name      string
	memory    int64
	idle, top int64 // watts
}

var (
	h100 = gpu{"NVIDIA H100 80GB HBM3", 80 * gib, 70, 700}
	a100 = gpu{"NVIDIA A100-SXM4-80GB", 80 * gib, 55, 400}
	l40s = gpu{"NVIDIA L40S", 48 * gib, 35, 350}
)

func workload(kind appKind, controllerKind, namespace, name, team, model, env string) app {
	labels := map[string]string{"app.kubernetes.io/name": name, "team": team, "env": env}
	if model != "" {
		labels["model"] = model
	}
	return app{
		kind: kind, name: name, namespace: namespace, controllerKind: controllerKind, model: model,
		labels: attribution.MakeLabels(labels), processes: 1, memory: 8 * gib,
	}
}

// inference is a server that is replaced within life seconds, 0 never.
func inference(namespace, name, team, model, env string, peak, life int64) app {
	a := workload(server, "Deployment", namespace, name, team, model, env)
	a.peak, a.life, a.pause = peak, life, 12
	a.request, a.latency, a.memory = 180*second/1000, 46, 60*gib
	a.customers = []customer{{"", "", 1}}
	switch model {
	case "llama-3-70b":
		a.input, a.cached, a.output, a.memory = 1100, 320, 260, 72*gib
	case "mistral-7b":
		a.request, a.latency, a.memory = 60*second/1000, 40, 18*gib
		a.input, a.cached, a.output = 700, 150, 180
	case "bge-m3":
		a.request, a.latency, a.memory = 8*second/1000, 20, 4*gib
		a.input = 380
	case "sdxl":
		a.request, a.latency, a.memory = 1400*second/1000, 45, 14*gib
	case "whisper-large":
		a.request, a.latency, a.memory = 450*second/1000, 39, 10*gib
	}
	return a
}

// catalogue is the apps of Fleet.
type catalogue struct {
	llama, llamaIdle, mistral, bge, sdxl, sdxlFree, whisper, whisperShared app
	finetune, lora, jupyter, workbench, clips, render, stray               app
}

func makeCatalogue() *catalogue {
	c := &catalogue{
		llama:         inference("search", "llama-chat", "search", "llama-3-70b", "prod", 620, 4200),
		llamaIdle:     inference("search", "llama-staging", "search", "llama-3-70b", "staging", 12, 0),
		mistral:       inference("assist", "mistral-router", "assist", "mistral-7b", "prod", 420, 0),
		bge:           inference("search", "bge-embed", "search", "bge-m3", "prod", 300, 0),
		sdxl:          inference("media", "sdxl-studio", "media", "sdxl", "prod", 450, 5400),
		sdxlFree:      inference("media", "sdxl-free", "media", "sdxl", "prod", 260, 0),
		whisper:       inference("speech", "whisper-api", "speech", "whisper-large", "prod", 380, 0),
		whisperShared: inference("speech", "whisper-captions", "speech", "whisper-large", "prod", 160, 0),
		finetune:      workload(trainer, "Job", "research", "llama-finetune", "research", "", "batch"),
		lora:          workload(trainer, "Job", "media", "sdxl-lora", "media", "", "batch"),
		jupyter:       workload(notebook, "StatefulSet", "research", "jupyter", "research", "", "dev"),
		workbench:     workload(notebook, "StatefulSet", "assist", "workbench", "assist", "", "dev"),
		clips:         workload(shortJobs, "Job", "media", "clip-thumbnails", "media", "", "batch"),
		render:        app{kind: hostProcess, name: "blender", processes: 1, memory: 6 * gib, peak: 320},
		stray:         app{kind: unknownProcess, name: "python3", processes: 1, memory: 2 * gib, peak: 450},
	}
	c.llama.customers = []customer{{"acme", "gold", 5}, {"globex", "silver", 3}, {"", "free", 2}}
	c.sdxl.customers = []customer{{"acme", "gold", 3}, {"initech", "silver", 2}}
	c.sdxlFree.customers = []customer{{"", "free", 1}}
	c.whisper.customers = []customer{{"globex", "gold", 1}, {"initech", "silver", 2}}
	c.finetune.peak, c.finetune.life, c.finetune.pause, c.finetune.memory = 970, 7200, 300, 74*gib
	c.lora.peak, c.lora.life, c.lora.pause, c.lora.memory = 930, 2400, 240, 40*gib
	c.jupyter.peak, c.jupyter.memory = 700, 20*gib
	c.workbench.peak, c.workbench.memory = 500, 6*gib
	c.clips.peak, c.clips.life, c.clips.pause, c.clips.memory = 800, 5, 4, 3*gib
	return c
}

// place is what is on one GPU: its seats, or its MIG instances.
type place struct {
	seats []seat
	mig   []instance
}

// instance is a part of a GPU, in compute slices of 7 and memory slices of 8.
type instance struct {
	profile         string
	compute, memory int32
	seats           []seat
}

func exclusive(a *app) place { return place{seats: []seat{{app: a, replicas: 1}}} }
func bare(a *app) place      { return place{seats: []seat{{app: a}}} }

// rack is a sort of node: what is on each of eight GPUs.
type rack struct {
	gpu      gpu
	capacity string
	places   [8]place
}

func (c *catalogue) racks() []rack {
	sliced := place{seats: []seat{{app: &c.whisperShared, replicas: 1}, {app: &c.sdxlFree, replicas: 2}, {app: &c.workbench, replicas: 1}}}
	free := place{}
	mig := place{mig: []instance{
		{"1g.10gb", 1, 1, []seat{{app: &c.bge, replicas: 1}}},
		{"2g.20gb", 2, 2, []seat{{app: &c.workbench, replicas: 1}}},
		{"3g.40gb", 3, 4, []seat{{app: &c.mistral, replicas: 1}}},
	}}
	return []rack{
		{h100, "on-demand", [8]place{
			exclusive(&c.llama), exclusive(&c.finetune), exclusive(&c.llama), exclusive(&c.llamaIdle),
			exclusive(&c.llama), exclusive(&c.jupyter), mig, free,
		}},
		{a100, "reserved", [8]place{
			exclusive(&c.sdxl), sliced, exclusive(&c.sdxl), exclusive(&c.clips),
			exclusive(&c.lora), exclusive(&c.jupyter), exclusive(&c.sdxl), bare(&c.render),
		}},
		{l40s, "on-demand", [8]place{
			exclusive(&c.whisper), exclusive(&c.sdxlFree), sliced, exclusive(&c.whisper),
			exclusive(&c.workbench), sliced, exclusive(&c.mistral), bare(&c.stray),
		}},
		{h100, "spot", [8]place{
			exclusive(&c.finetune), exclusive(&c.finetune), mig, exclusive(&c.llama),
			exclusive(&c.clips), exclusive(&c.lora), free, free,
		}},
	}
}

// busyRack shares each GPU among four servers of two processes; the first of
// them is scraped for tallies, the others do as much without.
func busyRack() []rack {
	r := rack{gpu: a100, capacity: "on-demand"}
	for i := range r.places {
		for j := range 4 {
			a := inference("bench", fmt.Sprintf("server-%d-%d", i, j), fmt.Sprintf("team-%d", j), "llama-3-70b", "bench", 300, 0)
			a.processes, a.memory = 2, 18*gib
			if j > 0 {
				a.kind, a.model = notebook, ""
			}
			r.places[i].seats = append(r.places[i].seats, seat{app: &a, replicas: 1})
		}
	}
	return []rack{r}
}

// build makes the nodes of the profile, racks in turn.
func (s *Script) build() {
	racks := busyRack()
	if s.opt.Profile == Fleet {
		racks = makeCatalogue().racks()
	}
	for i := range s.opt.Nodes {
		r := &racks[i%len(racks)]
		n := &node{Node: sampler.Node{Cluster: s.opt.Cluster, Name: fmt.Sprintf("gpu-node-%02d", i)}}
		n.Boot = s.boot(n.Name)
		for j := range s.opt.Devices {
			s.place(n, r, &r.places[j%len(r.places)], draw(s.opt.Seed, uint64(i)<<16|uint64(j)))
		}
		s.nodes = append(s.nodes, n)
	}
}

// boot is a node's, from everything that decides what happens on it.
func (s *Script) boot(name string) (b attribution.Boot) {
	sum := sha256.Sum256(fmt.Appendf(nil, "simulated/1 %+v %q", s.opt, name))
	copy(b[:], sum[:])
	return b
}

// place adds a GPU, or the parts that it is cut into, to a node.
func (s *Script) place(n *node, r *rack, p *place, seed uint64) {
	facts := attribution.Device{
		ID: "GPU-" + uuid(seed, draw(seed, 7)), Cluster: n.Cluster, Node: n.Name, Model: r.gpu.name,
		CapacityType: r.capacity, MemoryBytes: r.gpu.memory, Sensors: attribution.SensorMemory,
		Labels: attribution.MakeLabels(map[string]string{"topology.kubernetes.io/zone": "zone-" + string(rune('a'+len(s.nodes)%3))}),
	}
	if len(p.mig) == 0 {
		facts.Sensors |= attribution.SensorEnergy
		n.add(&device{facts: &facts, seed: seed, idle: r.gpu.idle, top: r.gpu.top}, p.seats)
		return
	}
	rest := attribution.MIGShare{Compute: 7, ComputeOf: 7, Memory: 8, MemoryOf: 8}
	for i, m := range p.mig {
		x := facts
		x.Parent, x.Profile = facts.ID, m.profile
		x.ID = "MIG-" + uuid(seed, draw(seed, uint64(20+i)))
		x.Share = attribution.MIGShare{Compute: m.compute, ComputeOf: 7, Memory: m.memory, MemoryOf: 8}
		x.MemoryBytes = r.gpu.memory / 8 * int64(m.memory)
		rest.Compute, rest.Memory = rest.Compute-m.compute, rest.Memory-m.memory
		n.add(&device{facts: &x, seed: draw(seed, uint64(40+i))}, m.seats)
	}
	facts.Remainder, facts.Share = true, rest
	facts.MemoryBytes = r.gpu.memory / 8 * int64(rest.Memory)
	n.add(&device{facts: &facts, seed: draw(seed, 60)}, nil)
}

func (n *node) add(d *device, seats []seat) {
	d.number = len(n.devices)
	for i := range seats {
		x := seats[i]
		x.number, x.seed = i, draw(d.seed, uint64(80+i))
		d.seats = append(d.seats, &x)
	}
	n.devices = append(n.devices, d)
}
