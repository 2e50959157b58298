package traces

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

// gentd26 imports GenTD26, a production generative-image serving fleet. Its
// files are joined by container.
//
//   - Duty-cycle rows that name no container are left out.
//   - Each container with duty-cycle rows holds one device of its own, from its
//     first row to one step of 57 s after its last.
//   - A duty-cycle row holds from its time until the container's next row, for
//     at most 120 s; the rest until then is unobserved.
//   - Activity is duty % of the time that a row holds. Its sum over a container
//     is rounded down to a nanosecond, so no fraction of a row is lost.
//   - Memory is the container's newest memory row when the held time begins, at
//     most 120 s old; else none is known of that time.
//   - Inferences are qps × 57 of each "Generative Requests" row, served in the
//     57 s from its time on. Fractions are carried over a container's rows into
//     millionths. Rows of containers without a device, or outside its life,
//     count all the same: the container is then an owner that held nothing.
func gentd26() Importer {
	return Importer{
		Name:    "gentd26",
		Summary: "GenTD26: 96 containers of a production generative-image fleet over 22.8 h",
		Options: []Option{
			{"model", "generative-image-gpu", "name of the GPU model, which the trace does not tell; prices are found by it"},
			{"node", "gentd26", "name of the node that holds the devices"},
		},
		run: runGentd26,
	}
}

const (
	gentd26Step = 57 * second
	gentd26Hold = 120 * second

	gentd26Files = "pod_gpu_duty_cycle_anon.csv, pod_gpu_memory_used_bytes_anon.csv and qps.csv of GenTD26"
	gentd26Model = "generative-image"
)

// reading is a row of one container.
type reading struct {
	at    int64    // Unix ns
	value *big.Int // scaled
}

func runGentd26(j *job) error {
	model, err := j.text("model")
	if err != nil {
		return err
	}
	node, err := j.text("node")
	if err != nil {
		return err
	}
	duty, err := j.readings("pod_gpu_duty_cycle_anon.csv", 100, func(r *row) bool { return r.fields[2] != "" })
	if err != nil {
		return err
	}
	if len(duty) == 0 {
		return errors.New("pod_gpu_duty_cycle_anon.csv names no container")
	}
	memory, err := j.readings("pod_gpu_memory_used_bytes_anon.csv", 1<<42, func(*row) bool { return true })
	if err != nil {
		return err
	}
	qps, err := j.readings("qps.csv", 1_000_000, func(r *row) bool { return r.fields[3] == "Generative Requests" })
	if err != nil {
		return err
	}
	g := gentdImport{job: j, node: node, model: model, start: 1<<63 - 1, owners: make(map[string]*attribution.Owner)}
	for i, c := range slices.Sorted(maps.Keys(duty)) {
		g.device(c, uint32(i+1), duty[c], memory[c])
	}
	for _, c := range slices.Sorted(maps.Keys(qps)) {
		g.tallies(c, qps[c])
	}
	return j.write(replay.Header{
		Source: "gentd26", Start: g.start, End: g.end, MaxInterval: gentd26Hold,
		Notes: "GenTD26. One exclusive device per container; a duty-cycle row holds until the next, at most 120 s, " +
			"beyond that time is unobserved; inferences are qps times 57 s. The publishers scaled qps, so absolute costs per inference are illustrative. " +
			"The name of the GPU model is an assumption.",
	}, []sampler.Node{{Name: node}})
}

// readings reads a file of the trace, by container and in order of time.
func (j *job) readings(name string, limit int64, wanted func(*row) bool) (map[string][]reading, error) {
	columns := []string{"timestamp_anon", "value", "container_ip"}
	if name == "qps.csv" {
		columns = append(columns, "request_type")
	}
	most := new(big.Int).Mul(big.NewInt(limit), unit)
	out := make(map[string][]reading)
	lines := make(map[string]map[int64]int)
	err := j.each(name, gentd26Files, columns, func(r *row) error {
		if !wanted(r) {
			return nil
		}
		at, err := parseInteger(r.fields[0], second, 4_000_000_000*second)
		if err != nil {
			return r.errorf("timestamp_anon %q: %w", r.fields[0], err)
		}
		value, err := parseScaled(r.fields[1])
		if err == nil && value.Cmp(most) > 0 {
			err = fmt.Errorf("more than %d is impossible", limit)
		}
		if err != nil {
			return r.errorf("value %q: %w", r.fields[1], err)
		}
		c := strings.Clone(r.fields[2])
		if lines[c] == nil {
			lines[c] = make(map[int64]int)
		}
		if first, twice := lines[c][at]; twice {
			return r.errorf("container %q has a row of this time on line %d already", c, first)
		}
		lines[c][at] = r.line
		out[c] = append(out[c], reading{at, value})
		return nil
	})
	for _, rs := range out {
		slices.SortFunc(rs, func(a, b reading) int { return cmp.Compare(a.at, b.at) })
	}
	return out, err
}

type gentdImport struct {
	*job
	node, model string
	start, end  int64
	owners      map[string]*attribution.Owner
}

// device adds a container's device with its holder and samples.
func (g *gentdImport) device(container string, pid uint32, duty, memory []reading) {
	first, end := duty[0].at, duty[len(duty)-1].at+gentd26Step
	g.start, g.end = min(g.start, first), max(g.end, end)
	x := &attribution.Device{ID: "GPU-" + uuid(container), Node: g.node, Model: g.model}
	if len(memory) > 0 {
		x.Sensors = attribution.SensorMemory
	}
	owner := g.owner(container)
	at := func(t int64, k sampler.Kind) sampler.Event {
		return sampler.Event{Kind: k, Time: t, Node: g.node, DeviceID: x.ID}
	}
	added, held := at(first, sampler.DeviceAdded), at(first, sampler.Held)
	added.Device = x
	held.Owner, held.Replicas = owner, 1
	g.add(added)
	g.add(held)
	sample := func(t int64, s sampler.Sample) {
		e := at(t, sampler.Sampled)
		e.Sample = &s
		g.add(e)
	}
	sample(first, sampler.Sample{})
	var active int64
	var fraction carried
	for i, r := range duty {
		next := end
		if i+1 < len(duty) {
			next = duty[i+1].at
		}
		hold := min(next-r.at, gentd26Hold)
		active += fraction.take(r.value, hold, 100)
		s := sampler.Sample{SMActive: active}
		if m := newest(memory, r.at); m != nil {
			s.Processes = []sampler.Process{{PID: pid, Start: uint64(first), Owner: owner, MemoryBytes: new(big.Int).Quo(m, unit).Int64()}}
		}
		sample(r.at+hold, s)
		if r.at+hold < next {
			sample(next, sampler.Sample{SMActive: active, Gap: true})
		}
	}
	released := at(end, sampler.Released)
	released.Owner = owner
	g.add(released)
	g.add(at(end, sampler.DeviceRemoved))
}

// newest is the value of the last reading at a time, nil if that is older than
// a reading holds.
func newest(rs []reading, at int64) *big.Int {
	i, there := slices.BinarySearchFunc(rs, at, func(r reading, t int64) int { return cmp.Compare(r.at, t) })
	if !there {
		i--
	}
	if i < 0 || at-rs[i].at > gentd26Hold {
		return nil
	}
	return rs[i].value
}

// tallies adds what a container served.
func (g *gentdImport) tallies(container string, qps []reading) {
	var fraction carried
	for _, r := range qps {
		v := fraction.take(r.value, gentd26Step/second*int64(attribution.One), 1)
		g.start, g.end = min(g.start, r.at), max(g.end, r.at+gentd26Step)
		g.add(sampler.Event{
			Kind: sampler.Tallied, Time: r.at + gentd26Step, Node: g.node,
			Tally: &sampler.Tally{
				Owner: g.owner(container), Model: gentd26Model, Seconds: gentd26Step / second,
				Values: []sampler.Value{{Measure: attribution.Success, Value: v}},
			},
		})
	}
}

func (g *gentdImport) owner(container string) *attribution.Owner {
	o := g.owners[container]
	if o == nil {
		name := container
		if name == "" {
			name = "unnamed"
		}
		o = &attribution.Owner{
			Kind: attribution.Container, Node: g.node, Namespace: "gentd26",
			Pod: gentd26Model + "-" + name, PodUID: uuid(container), Container: "server",
			ControllerKind: "Deployment", Controller: gentd26Model,
			Labels: attribution.MakeLabels(map[string]string{"app": gentd26Model, "model": gentd26Model}),
		}
		g.owners[container] = o
	}
	return o
}

// uuid writes a name in the form of a UUID: as it is if it is 32 hex digits, as
// the trace's are, else by its digest.
func uuid(name string) string {
	if raw, err := hex.DecodeString(name); err != nil || len(raw) != 16 {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:16])
	}
	return name[:8] + "-" + name[8:12] + "-" + name[12:16] + "-" + name[16:20] + "-" + name[20:]
}
