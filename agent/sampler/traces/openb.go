package traces

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

// openb imports a stretch of Alibaba's cluster-trace-gpu-v2023: which pods ran
// when, and how much of how many GPUs each asked for.
//
//   - So many nodes are taken, evenly spread over the trace's list.
//   - A pod runs from its scheduled time to its deletion. Pods without a GPU, or
//     that never ran, are left out.
//   - The trace does not say where a pod ran. Pods are placed in order of
//     scheduled time (those running at the start first): a part of a GPU goes
//     to the device of a fitting model with the least room that suffices, whole
//     GPUs to the node with the fewest free ones that suffice. What fits
//     nowhere is left out, and the notes count it. CPU and memory are not
//     looked at.
//   - A part of gpu_milli thousandths holds as many replicas of its device.
//   - There are no activity figures in the trace. Either they are made up, from
//     the seed alone, and the recording says so, or there is none and all held
//     time is reserved. Nothing is known of inferences.
func openb() Importer {
	return Importer{
		Name:    "openb",
		Summary: "Alibaba cluster-trace-gpu-v2023: pods with parts of GPUs on mixed nodes",
		Options: []Option{
			{"from", "12844800", "start in the trace's seconds; the default is its busiest hour"},
			{"duration", "1h", "how long, at most 240h"},
			{"nodes", "50", "how many of the trace's nodes"},
			{"activity", "synthetic", "SM activity, which the trace lacks: synthetic (made up from the seed), or none"},
			{"seed", "1", "for synthetic activity"},
			{"epoch", "2023-01-01T00:00:00Z", "assumed date of the trace's second 0"},
		},
		run: runOpenb,
	}
}

const (
	openbNodes  = "openb_node_list_gpu_node.csv"
	openbPods   = "openb_pod_list_default.csv"
	openbHint   = openbNodes + " and " + openbPods + " of Alibaba's cluster-trace-gpu-v2023"
	openbSample = 30 * second
	wholeGPU    = 1000
)

type openbConfig struct {
	from, length, nodes, seed, epoch int64
	synthetic                        bool
}

func (j *job) openbConfig() (c openbConfig, err error) {
	var errs [6]error
	c.from, errs[0] = j.number("from", 0, 1_000_000_000)
	c.length, errs[1] = j.duration("duration", time.Minute, 240*time.Hour)
	c.nodes, errs[2] = j.number("nodes", 1, 4096)
	c.seed, errs[3] = j.number("seed", 0, 1<<62)
	epoch, err := time.Parse(time.RFC3339, j.options["epoch"])
	if err != nil || epoch.Year() < 1970 || epoch.Year() > 2060 || epoch.Nanosecond() != 0 {
		errs[4] = fmt.Errorf("option epoch is %q: want a time such as 2023-01-01T00:00:00Z", j.options["epoch"])
	}
	c.epoch = epoch.Unix()
	switch j.options["activity"] {
	case "synthetic":
		c.synthetic = true
	case "none":
	default:
		errs[5] = fmt.Errorf("option activity is %q: want synthetic or none", j.options["activity"])
	}
	return c, errors.Join(errs[:]...)
}

// openbDevice is a GPU of the trace's cluster.
type openbDevice struct {
	facts *attribution.Device
	free  int64 // thousandths
	pods  []*openbPod
	sm    int64 // ns, so far
	at    int64 // of the last sample
}

type openbNode struct {
	name    string
	model   string
	devices []*openbDevice
}

type openbPod struct {
	name, qos             string
	gpus, milli           int64 // devices, thousandths of each
	models                []string
	scheduled, start, end int64 // trace seconds, the last two within the recording
	owner                 *attribution.Owner
	devices               []*openbDevice
	pid                   uint32
	level                 int64   // made-up mean activity, thousandths of its part
	active                []int64 // by device: ns of made-up SM activity
	seed                  uint64
}

func runOpenb(j *job) error {
	c, err := j.openbConfig()
	if err != nil {
		return err
	}
	nodes, err := j.openbNodes(int(c.nodes))
	if err != nil {
		return err
	}
	pods, err := j.openbPods(c.from, c.from+c.length)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return fmt.Errorf("no pod with a GPU ran in [%d, %d): choose another --from", c.from, c.from+c.length)
	}
	p := openbPlayer{job: j, openbConfig: c, nodes: nodes}
	p.play(pods)
	activity := "there is no SM activity in the trace and none in this recording: all held time is reserved."
	if c.synthetic {
		activity = fmt.Sprintf("SM ACTIVITY IS SYNTHETIC, made up from seed %d: it is not in the trace.", c.seed)
	}
	source := "openb"
	if c.synthetic {
		source = "openb with synthetic activity"
	}
	named := make([]sampler.Node, len(nodes))
	for i, n := range nodes {
		named[i].Name = n.name
	}
	return j.write(replay.Header{
		Source: source, Start: p.unix(c.from), End: p.unix(c.from + c.length), MaxInterval: 2 * openbSample,
		Notes: fmt.Sprintf("Alibaba cluster-trace-gpu-v2023, seconds %d to %d, %d nodes. %d of %d pods fit; their placement (best fit) and the date are assumptions; %s",
			c.from, c.from+c.length, len(nodes), len(pods)-p.refused, len(pods), activity),
	}, named)
}

// openbNodes reads the node list and takes n of it, evenly spread.
func (j *job) openbNodes(n int) ([]*openbNode, error) {
	var all []*openbNode
	names := make(map[string]bool)
	err := j.each(openbNodes, openbHint, []string{"sn", "gpu", "model"}, func(r *row) error {
		gpus, err := strconv.Atoi(r.fields[1])
		if err != nil || gpus < 0 || gpus > 64 {
			return r.errorf("gpu %q: want a number of GPUs up to 64", r.fields[1])
		}
		x := &openbNode{name: strings.Clone(r.fields[0]), model: strings.Clone(r.fields[2])}
		if x.name == "" || x.model == "" || names[x.name] {
			return r.errorf("node %q of model %q: a name or model is missing, or the node is there twice", x.name, x.model)
		}
		names[x.name] = true
		for i := range gpus {
			x.devices = append(x.devices, &openbDevice{free: wholeGPU, facts: &attribution.Device{
				ID: "GPU-" + uuid(fmt.Sprintf("openb/%s/%d", x.name, i)), Node: x.name, Model: x.model,
			}})
		}
		if gpus > 0 {
			all = append(all, x)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no nodes with GPUs", openbNodes)
	}
	if n >= len(all) {
		return all, nil
	}
	taken := make([]*openbNode, n)
	for i := range taken {
		taken[i] = all[i*len(all)/n]
	}
	return taken, nil
}

// openbPods reads the pods that ran with a GPU within [from, to), in order of
// their start.
func (j *job) openbPods(from, to int64) ([]*openbPod, error) {
	columns := []string{"name", "num_gpu", "gpu_milli", "gpu_spec", "qos", "scheduled_time", "deletion_time"}
	var pods []*openbPod
	names := make(map[string]bool)
	err := j.each(openbPods, openbHint, columns, func(r *row) error {
		var n [4]int64
		for i, at := range []int{1, 2, 5, 6} {
			if at >= 5 && r.fields[at] == "" {
				return nil // it never ran
			}
			var err error
			if n[i], err = strconv.ParseInt(r.fields[at], 10, 64); err != nil || n[i] < 0 || n[i] > 1_000_000_000 {
				return r.errorf("%s %q: want a whole number", columns[at], r.fields[at])
			}
		}
		p := &openbPod{gpus: n[0], milli: n[1], scheduled: n[2], start: max(n[2], from), end: min(n[3], to)}
		if p.gpus == 0 || p.start >= p.end {
			return nil
		}
		if p.milli < 1 || p.milli > wholeGPU || (p.gpus > 1 && p.milli != wholeGPU) {
			return r.errorf("%d GPUs of %d thousandths: want whole GPUs, or a part of one", p.gpus, p.milli)
		}
		p.name, p.qos = strings.Clone(r.fields[0]), strings.Clone(r.fields[4])
		if p.name == "" || names[p.name] {
			return r.errorf("pod %q has no name or is there twice", p.name)
		}
		names[p.name] = true
		if r.fields[3] != "" {
			p.models = strings.Split(strings.Clone(r.fields[3]), "|")
		}
		pods = append(pods, p)
		return nil
	})
	slices.SortFunc(pods, func(a, b *openbPod) int {
		return cmp.Or(cmp.Compare(a.scheduled, b.scheduled), cmp.Compare(a.name, b.name))
	})
	return pods, err
}
