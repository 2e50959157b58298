package traces

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
)

// gentd26Lora imports the requests of GenTD26: who asked a service of image
// models with adapters for what, and how long that took. The trace does not
// tell on which GPU; what it lacks is assumed:
//
//   - So many GPUs serve, each with one replica of the service, from the first
//     request's second to the last one's end. By default there are as many as
//     the trace ran requests at once at its peak.
//   - A request goes to the replica that has been free longest, else to the one
//     that is free first, and waits there. It then takes all of its GPU for its
//     exec_time_seconds.
//   - A request counts in the last second of its work; one without any, in the
//     second in which it came. SUCCEED is a success, with waiting and work as
//     its latency; any other status is a failure by that reason, in small
//     letters. The customer is groupId, the model is
//     checkpoint_model_version_id. Images per request are not told apart.
func gentd26Lora() Importer {
	return Importer{
		Name:    "gentd26-lora",
		Summary: "GenTD26's requests: two weeks of 2,283 customers on 75 image models, with failures",
		Options: []Option{
			{"devices", "0", "GPUs that serve; 0: as many as requests ran at once at the trace's peak"},
			{"model", "generative-image-gpu", "name of the GPU model, which the trace does not tell; prices are found by it"},
			{"node", "gentd26-lora", "name of the node that holds the devices"},
		},
		run: runGentd26Lora,
	}
}

const (
	loraFile    = "lora_request_trace.csv"
	loraStamp   = "2006-01-02 15:04:05"
	loraService = "lora-serving"
	loraSample  = 600 * second // at most between two samples
)

// loraRequest is one request; times are in ns.
type loraRequest struct {
	at, exec              int64
	status, tenant, model string
}

// loraReplica is a GPU with its server.
type loraReplica struct {
	device  *attribution.Device
	owner   *attribution.Owner
	free    int64 // since when, or from when on
	active  int64 // ns of work so far
	sampled int64 // when the last sample was added
}

func runGentd26Lora(j *job) error {
	var errs [3]error
	devices, err := j.number("devices", 0, 1024)
	errs[0] = err
	model, err := j.text("model")
	errs[1] = err
	node, err := j.text("node")
	errs[2] = err
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	requests, err := j.loraRequests()
	if err != nil {
		return err
	}
	peak := peakOf(requests)
	n := int(devices)
	if n == 0 {
		n = max(1, peak)
	}
	start := requests[0].at
	replicas := make([]*loraReplica, n)
	for i := range replicas {
		replicas[i] = newLoraReplica(i, node, model, start)
		j.begin(replicas[i], start)
	}
	end, histogram := start+second, attribution.NewHistogram()
	for i := range requests {
		end = max(end, j.serve(histogram, next(replicas), &requests[i]))
		if end-start > 400*86_400*second {
			return errors.New("the requests take more than 400 days: raise devices")
		}
	}
	for _, r := range replicas {
		j.end(r, end)
	}
	return j.write(replay.Header{
		Source: "gentd26-lora", Start: start, End: end, MaxInterval: loraSample,
		Notes: fmt.Sprintf("GenTD26, lora_request_trace. Requests, customers, base models, statuses and execution times are the trace's. "+
			"Assumed: %d replicas with a GPU each (at its peak the trace ran %d requests at once), a request taking all of a GPU while it executes, "+
			"and going to the replica that has been free longest. The name of the GPU model is an assumption, and so is UTC.", n, peak),
	}, []sampler.Node{{Name: node}})
}

func (j *job) loraRequests() ([]loraRequest, error) {
	columns := []string{"gmt_create", "predict_status", "exec_time_seconds", "groupId", "checkpoint_model_version_id"}
	var out []loraRequest
	err := j.each(loraFile, loraFile+" of GenTD26", columns, func(r *row) error {
		t, err := time.Parse(loraStamp, r.fields[0])
		if err != nil || t.Year() < 1971 || t.Year() > 2099 || t.Nanosecond() != 0 {
			return r.errorf("gmt_create %q: want a time such as 2024-11-15 16:57:50", r.fields[0])
		}
		exec, err := parseInteger(r.fields[2], second, 86_400*second)
		if err != nil {
			return r.errorf("exec_time_seconds %q: %w", r.fields[2], err)
		}
		if r.fields[1] == "" {
			return r.errorf("the request has no predict_status")
		}
		x := loraRequest{
			at: t.UnixNano(), exec: exec, status: strings.ToLower(r.fields[1]),
			tenant: strings.Clone(r.fields[3]), model: strings.Clone(r.fields[4]),
		}
		if n := len(out); n > 0 && x.at < out[n-1].at {
			return r.errorf("the request comes before the one above it: the trace is in order of time")
		}
		out = append(out, x)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s has no requests", loraFile)
	}
	return out, err
}

// peakOf is how many requests ran at once, as the trace has it.
func peakOf(requests []loraRequest) (peak int) {
	var ends []int64 // of those that still run
	for _, r := range requests {
		kept := ends[:0]
		for _, e := range ends {
			if e > r.at {
				kept = append(kept, e)
			}
		}
		ends = kept
		if r.exec > 0 {
			ends = append(ends, r.at+r.exec)
		}
		peak = max(peak, len(ends))
	}
	return peak
}

// next is the replica that has been free longest, or is free first; of equals
// the first.
func next(replicas []*loraReplica) *loraReplica {
	best := replicas[0]
	for _, r := range replicas[1:] {
		if r.free < best.free {
			best = r
		}
	}
	return best
}

func newLoraReplica(i int, node, model string, start int64) *loraReplica {
	name := fmt.Sprintf("%s-%d", loraService, i)
	return &loraReplica{
		device: &attribution.Device{ID: "GPU-" + uuid("gentd26-lora/"+name), Node: node, Model: model},
		owner: &attribution.Owner{
			Kind: attribution.Container, Node: node, Namespace: "gentd26-lora", Pod: name, PodUID: uuid("pod/" + name), Container: "server",
			ControllerKind: "StatefulSet", Controller: loraService, Labels: attribution.MakeLabels(map[string]string{"app": loraService}),
		},
		free: start, sampled: start,
	}
}

func (j *job) begin(r *loraReplica, start int64) {
	at := sampler.Event{Time: start, Node: r.device.Node, DeviceID: r.device.ID}
	added, held, first := at, at, at
	added.Kind, added.Device = sampler.DeviceAdded, r.device
	held.Kind, held.Owner, held.Replicas = sampler.Held, r.owner, 1
	first.Kind, first.Sample = sampler.Sampled, &sampler.Sample{}
	j.add(added)
	j.add(held)
	j.add(first)
}

// sample adds samples up to t, over which the device worked or was idle.
func (j *job) sample(r *loraReplica, t int64, working bool) {
	for r.sampled < t {
		next := min(t, r.sampled+loraSample)
		if working {
			r.active += next - r.sampled
		}
		r.sampled = next
		j.add(sampler.Event{
			Kind: sampler.Sampled, Time: next, Node: r.device.Node, DeviceID: r.device.ID, Sample: &sampler.Sample{SMActive: r.active},
		})
	}
}

// serve has a replica do a request, and returns the end of the second in which
// it counts.
func (j *job) serve(h *attribution.Histogram, r *loraReplica, x *loraRequest) int64 {
	begun := max(r.free, x.at)
	done := begun + x.exec
	j.sample(r, begun, false)
	j.sample(r, done, true)
	r.free = done
	counted := max((done+second-1)/second*second, (begun/second+1)*second)
	y := &sampler.Tally{Owner: r.owner, Model: x.model, Tenant: x.tenant, Seconds: 1}
	y.Values = []sampler.Value{{Measure: attribution.Success}, {Measure: attribution.FailurePrefix + "failed"}}
	one := int64(attribution.One)
	if x.status == "succeed" {
		y.Values[0].Value = one
		bucket := h.Bucket(done - x.at)
		y.Values = append(y.Values, sampler.Value{Measure: attribution.BucketMeasure(attribution.LatencyPrefix, bucket), Value: one})
	} else {
		y.Values[1] = sampler.Value{Measure: attribution.FailurePrefix + attribution.Measure(x.status), Value: one}
	}
	j.add(sampler.Event{Kind: sampler.Tallied, Time: counted, Node: r.device.Node, Tally: y})
	return counted
}

func (j *job) end(r *loraReplica, end int64) {
	j.sample(r, end, false)
	at := sampler.Event{Time: end, Node: r.device.Node, DeviceID: r.device.ID}
	released, removed := at, at
	released.Kind, released.Owner = sampler.Released, r.owner
	removed.Kind = sampler.DeviceRemoved
	j.add(released)
	j.add(removed)
}
