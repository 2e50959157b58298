package agent

import (
	"github.com/gpuledger/gpuledger/agent/inference"
	"github.com/gpuledger/gpuledger/agent/inference/push"
)

// inference sends what is known of the servers that are read.
func (c *nodeCollector) inference(s *inference.Stats) {
	const target = "1 for each container that may serve models, by its state: probing, counting, unreachable, timeout, unknown (no format fits), gateway."
	for i := range s.Targets {
		t := &s.Targets[i]
		c.gauge("inference_target", target, 1, "namespace", t.Namespace, "pod", t.Pod, "container", t.Container, "format", t.Format, "state", string(t.State))
	}
	for state, v := range s.Readings {
		c.count("inference_readings_total", "Readings of servers' pages, by what they came to.", v, "outcome", string(state))
	}
	c.count("inference_refused_targets_total", "Containers beyond the number that are read, each time that pods are looked at.", s.Refused)
	c.count("inference_unfit_total", "Annotations and rules that make no sense at a pod, each time that pods are looked at.", s.Unfit)
	c.count("inference_baselines_total", "Servers that had begun before anybody looked: what they had served then is not counted.", s.Firsts)
	c.count("inference_restarts_total", "Restarts of servers.", s.Restarts)
	c.count("inference_fallen_series_total", "Series that fell although their server told of no restart: taken as restarts.", s.Fallen)
	c.count("inference_frozen_readings_total", "Readings of servers that work and whose counters stand still: they may be switched off.", s.Frozen)
	c.count("inference_unsure_readings_total", "Readings of Triton servers that don't tell which models are ensembles: all are counted.", s.Unsure)
	c.count("inference_late_total", "Times that tallies came after their second was sealed: a crash just then could count them twice or not at all.", s.Late)
	c.count("inference_unkept_total", "Times that what servers had served could not be written.", s.Unkept)
	c.count("inference_damaged_total", "Times that it could not be read at a start.", s.Damaged)
	d := &s.Dropped
	for reason, v := range map[string]uint64{
		"malformed": d.Malformed, "long": d.Long, "labels": d.Labels, "duplicate": d.Duplicate, "series": d.Excess, "value": d.Value,
		"remembered": d.Tracker, "tally": d.Tally,
	} {
		c.count("inference_dropped_total", "Series and values of servers' pages that don't count, by reason.", v, "reason", reason)
	}
}

// pushed sends what is known of those who push.
func (c *nodeCollector) pushed(s *push.Stats) {
	c.count("push_requests_total", "Requests that were counted, by kind.", s.Records, "kind", "record")
	c.count("push_requests_total", "Requests that were counted, by kind.", s.Exports, "kind", "otlp")
	c.count("push_duplicates_total", "Requests and points that had been counted before, and were not again.", s.Duplicates)
	c.count("push_ignored_points_total", "OpenTelemetry metrics that are not about what is served.", s.Ignored)
	const refused = "What was pushed and did not count, by reason."
	for reason, v := range map[string]uint64{
		"point": s.Rejected, "unfit": s.Unfit, "stranger": s.Strangers, "early": s.Early, "rate": s.TooMany, "connection": s.Connections,
		"client": s.Clients, "series": s.Series, "value": s.Excess,
	} {
		c.count("push_refused_total", refused, v, "reason", reason)
	}
	c.count("push_unkept_total", "Times that what was pushed could not be written.", s.Unkept)
	c.count("push_damaged_total", "Times that it could not be read at a start.", s.Damaged)
}
