package simulation

import (
	"fmt"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/attribution"
)

// script says what happens on the devices of a node in each second. It is a
// pure function of its fields: the source plays it, the model looks it up.
type script struct {
	seed    uint64
	node    string
	devices []*attribution.Device
	epoch   int64 // seconds in which holdings stay as they are
}

const cluster = "sim"

func newScript(seed uint64, node string, devices int, epoch int64) *script {
	s := &script{seed: seed, node: node, epoch: epoch}
	for i := range devices {
		model := "H100"
		if i%2 == 1 {
			model = "L4"
		}
		s.devices = append(s.devices, &attribution.Device{
			ID: fmt.Sprintf("GPU-%s-%d", node, i), Cluster: cluster, Node: node, Model: model, MemoryBytes: 80 << 30,
		})
	}
	return s
}

// draw is a number of the second k of a device, the same whoever asks.
func (s *script) draw(device int, k int64, what uint64) uint64 {
	x := s.seed ^ uint64(device+1)*0x9e3779b97f4a7c15 ^ uint64(k)*0xbf58476d1ce4e5b9 ^ what*0x94d049bb133111eb
	for range 2 {
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		x ^= x >> 31
	}
	return x
}

// holder is who holds a device, and how many replicas of it.
type holder struct {
	owner    *attribution.Owner
	replicas int64
}

// worker is a process with its SM time in one second.
type worker struct {
	pid    uint32
	owner  *attribution.Owner
	active int64
}

func (s *script) pod(n uint64) *attribution.Owner {
	return &attribution.Owner{
		Kind: attribution.Container, Cluster: cluster, Node: s.node, Namespace: "team-" + fmt.Sprint(n%3),
		Pod: fmt.Sprintf("pod-%d", n%7), PodUID: fmt.Sprintf("uid-%d", n%7), Container: "main",
	}
}

// The ways in which a device is used in an epoch.
const (
	free     = iota // nobody holds it, nothing runs
	alone           // one holder, who uses it
	shared          // two holders of several replicas, who use it
	stranger        // one holder, and a process of unknown owner beside it
	host            // a host process, without a holding
	held            // one holder, who does not use it
	ways
)

func (s *script) way(device int, second attribution.Second) (way, epoch int64) {
	epoch = int64(second) / s.epoch
	return int64(s.draw(device, epoch, 1) % ways), epoch
}

// holders are those who hold a device in a second.
func (s *script) holders(device int, second attribution.Second) []holder {
	way, epoch := s.way(device, second)
	n := s.draw(device, epoch, 2)
	switch way {
	case alone, stranger, held:
		return []holder{{s.pod(n), 1}}
	case shared:
		return []holder{{s.pod(n), 1}, {s.pod(n + 1), 1 + int64(n>>8%2)}}
	}
	return nil
}

// busy is the SM time of a device in a second. What is left of the second can
// be divided by 2 and by 3.
func (s *script) busy(device int, second attribution.Second) int64 {
	const sixths = attribution.WindowNanos / 6
	rest := attribution.WindowNanos % 6
	switch s.draw(device, int64(second)/20, 3) % 4 {
	case 0:
		return 0
	case 1:
		return attribution.WindowNanos
	}
	return rest + 6*int64(s.draw(device, int64(second), 4)%uint64(sixths))
}

// workers are the processes on a device in a second.
func (s *script) workers(device int, second attribution.Second) []worker {
	way, epoch := s.way(device, second)
	n := s.draw(device, epoch, 2)
	a := s.busy(device, second)
	pid := uint32(1000 + 10*epoch%100_000)
	part := int64(s.draw(device, int64(second), 5) % uint64(a+1))
	switch way {
	case alone:
		return []worker{{pid, s.pod(n), a}}
	case shared:
		return []worker{{pid, s.pod(n), part}, {pid + 1, s.pod(n + 1), a - part}}
	case stranger:
		who := &attribution.Owner{Kind: attribution.UnknownProcess, Cluster: cluster, Node: s.node, PID: pid + 2, Command: "miner"}
		return []worker{{pid, s.pod(n), part}, {pid + 2, who, a - part}}
	case host:
		who := &attribution.Owner{Kind: attribution.HostProcess, Cluster: cluster, Node: s.node, PID: pid + 3, Command: "train"}
		return []worker{{pid + 3, who, a}}
	}
	return nil
}

// counters are a device's, as the source reads them.
type counters struct {
	active  int64
	epoch   int64
	workers map[uint32]int64
}

// read moves the counters over a second and is the sample at its end.
func (c *counters) read(s *script, device int, second attribution.Second) *sampler.Sample {
	ws := s.workers(device, second)
	if epoch := int64(second) / s.epoch; c.workers == nil || epoch != c.epoch {
		c.epoch, c.workers = epoch, map[uint32]int64{}
	}
	out := &sampler.Sample{ProcessSM: true}
	for _, w := range ws {
		c.active += w.active
		c.workers[w.pid] += w.active
		out.Processes = append(out.Processes, sampler.Process{
			PID: w.pid, Start: uint64(c.epoch), Owner: w.owner, SMActive: c.workers[w.pid],
		})
	}
	out.SMActive = c.active
	return out
}
