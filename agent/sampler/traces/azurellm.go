package traces

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/apportion"
)

// azureLLM imports the Azure LLM inference trace, conversation service: when
// each request came and how many tokens went in and out. What the trace lacks
// is assumed, by options, and said in the notes:
//
//   - The service has so many replicas, each with a device of its own; requests
//     go round them in order of arrival.
//   - A request takes (tokens in ÷ prefill rate) + (tokens out ÷ decode rate)
//     of its device's time, rounded down to a nanosecond. A replica does its
//     requests one after another as they come: a device is active while it has
//     work, at most 100 %, and falls behind rather than lose any.
//   - A request succeeds, and its tokens count, in the second in which it is
//     done. Each replica tallies every second, 0 where nothing was done.
//
// Latency is not in the trace; what the assumptions make of it is not tallied.
func azureLLM() Importer {
	return Importer{
		Name:    "azure-llm",
		Summary: "Azure LLM inference trace: an hour of a conversation service, 19,366 requests with tokens",
		Options: []Option{
			{"devices", "8", "replicas of the service, each with one GPU"},
			{"prefill", "8000", "assumed prompt tokens that a fully active GPU takes in a second"},
			{"decode", "600", "assumed tokens that a fully active GPU generates in a second"},
			{"gpu-model", "NVIDIA H100 80GB HBM3", "assumed GPU model; prices are found by it"},
			{"served-model", "azure-conversation", "name of the model served"},
			{"node", "azure-llm", "name of the node that holds the devices"},
		},
		run: runAzureLLM,
	}
}

const (
	azureFile  = "AzureLLMInferenceTrace_conv.csv"
	azureStamp = "2006-01-02 15:04:05"
)

type azureRequest struct {
	at            int64
	input, output int64
}

type azureConfig struct {
	devices, prefill, decode int64
	gpuModel, model, node    string
}

func (j *job) azureConfig() (c azureConfig, err error) {
	var errs [6]error
	c.devices, errs[0] = j.number("devices", 1, 4096)
	c.prefill, errs[1] = j.number("prefill", 1, 1_000_000_000)
	c.decode, errs[2] = j.number("decode", 1, 1_000_000_000)
	c.gpuModel, errs[3] = j.text("gpu-model")
	c.model, errs[4] = j.text("served-model")
	c.node, errs[5] = j.text("node")
	return c, errors.Join(errs[:]...)
}

func runAzureLLM(j *job) error {
	c, err := j.azureConfig()
	if err != nil {
		return err
	}
	queues, start, err := j.azureRequests(int(c.devices))
	if err != nil {
		return err
	}
	work := func(r azureRequest) int64 {
		return apportion.MulDiv(r.input, second, c.prefill) + apportion.MulDiv(r.output, second, c.decode)
	}
	end := start + second
	for _, q := range queues {
		done := start
		for _, r := range q {
			if done = max(done, r.at) + work(r); done-start > 400*86_400*second {
				return errors.New("the requests take more than 400 days at these rates: raise prefill, decode or devices")
			}
		}
		end = max(end, (done/second+1)*second)
	}
	if (end-start)/second*c.devices > 20_000_000 {
		return fmt.Errorf("%d s of %d devices are too much for one recording: raise prefill and decode", (end-start)/second, c.devices)
	}
	for i, q := range queues {
		c.replica(j, i, q, work, start, end)
	}
	return j.write(replay.Header{
		Source: "azure-llm", Start: start, End: end, MaxInterval: 10 * second,
		Notes: fmt.Sprintf("Azure LLM inference trace 2023, conversation service (CC-BY 4.0, Azure/AzurePublicDataset). Requests and tokens are the trace's. "+
			"Assumed: %d replicas with a GPU each, requests in turn, SM activity from %d prompt tokens/s and %d generated tokens/s of a fully active GPU.",
			c.devices, c.prefill, c.decode),
	}, []sampler.Node{{Name: c.node}})
}

// azureRequests reads the requests, dealt to so many replicas, and the whole
// second in which the first one came.
func (j *job) azureRequests(replicas int) (queues [][]azureRequest, start int64, err error) {
	queues = make([][]azureRequest, replicas)
	n, last := 0, int64(0)
	err = j.each(azureFile, azureFile+" of the Azure LLM inference trace", []string{"TIMESTAMP", "ContextTokens", "GeneratedTokens"}, func(r *row) error {
		// Parse accepts a fraction behind the seconds, to the nanosecond.
		t, err := time.Parse(azureStamp, r.fields[0])
		if err != nil || t.Year() < 1971 || t.Year() > 2099 {
			return r.errorf("TIMESTAMP %q: want a time such as 2023-11-16 18:15:46.6805900", r.fields[0])
		}
		x := azureRequest{at: t.UnixNano()}
		for i, to := range []*int64{&x.input, &x.output} {
			if *to, err = strconv.ParseInt(r.fields[i+1], 10, 64); err != nil || *to < 0 || *to > 1_000_000_000 {
				return r.errorf("%q is not a number of tokens", r.fields[i+1])
			}
		}
		if x.at < last {
			return r.errorf("the request comes before the one above it: the trace is in order of time")
		}
		if n == 0 {
			start = x.at - x.at%second
		}
		last = x.at
		queues[n%replicas] = append(queues[n%replicas], x)
		n++
		return nil
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("%s has no requests", azureFile)
	}
	return queues, start, err
}

// replica adds one replica's device, its samples and tallies, each second.
func (c *azureConfig) replica(j *job, i int, queue []azureRequest, work func(azureRequest) int64, start, end int64) {
	name := fmt.Sprintf("%s-%d", c.model, i)
	x := &attribution.Device{ID: "GPU-" + uuid("azure-llm/"+name), Node: c.node, Model: c.gpuModel}
	owner := &attribution.Owner{
		Kind: attribution.Container, Node: c.node, Namespace: "azure-llm", Pod: name, PodUID: uuid("pod/" + name),
		Container: "server", ControllerKind: "StatefulSet", Controller: c.model,
		Labels: attribution.MakeLabels(map[string]string{"app": c.model, "model": c.model}),
	}
	at := func(t int64, k sampler.Kind) sampler.Event {
		return sampler.Event{Kind: k, Time: t, Node: c.node, DeviceID: x.ID}
	}
	added, held := at(start, sampler.DeviceAdded), at(start, sampler.Held)
	added.Device = x
	held.Owner, held.Replicas = owner, 1
	j.add(added)
	j.add(held)
	first := at(start, sampler.Sampled)
	first.Sample = &sampler.Sample{}
	j.add(first)

	// The replica's clock: it is free from here on, and was active so long.
	free, active := start, int64(0)
	for t := start + second; t <= end; t += second {
		var success, input, output int64
		for len(queue) > 0 {
			r := queue[0]
			begun := max(free, r.at)
			done := begun + work(r)
			if done >= t {
				break
			}
			free, active = done, active+done-begun
			success, input, output = success+1, input+r.input, output+r.output
			queue = queue[1:]
		}
		sofar := active // and the part of the request under way
		if len(queue) > 0 {
			sofar += max(0, t-max(free, queue[0].at))
		}
		s := at(t, sampler.Sampled)
		s.Sample = &sampler.Sample{SMActive: sofar}
		j.add(s)
		j.add(sampler.Event{Kind: sampler.Tallied, Time: t, Node: c.node, Tally: &sampler.Tally{
			Owner: owner, Model: c.model, Seconds: 1,
			Values: []sampler.Value{
				{Measure: attribution.Success, Value: success * int64(attribution.One)},
				{Measure: attribution.TokensInput, Value: input},
				{Measure: attribution.TokensOutput, Value: output},
			},
		}})
	}
	released := at(end, sampler.Released)
	released.Owner = owner
	j.add(released)
	j.add(at(end, sampler.DeviceRemoved))
}
