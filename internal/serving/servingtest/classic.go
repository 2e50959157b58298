package servingtest

import (
	"strconv"
	"strings"
	"time"
)

// triton counts each GPU's requests apart, and those on none, and has no start.
func triton() *kind {
	k := &kind{
		name: "triton", path: "/metrics", model: true, shards: 3,
		reasons: []string{"REJECTED", "CANCELED", "BACKEND", "OTHER", aborted},
		ledger:  map[string]string{"REJECTED": "rejected", "CANCELED": aborted, "BACKEND": "backend", "OTHER": "other"},
	}
	ls := func(t *tally) labels {
		out := labels{"model", t.model, "version", "1"}
		if t.shard > 0 {
			out = labels{"gpu_uuid", "GPU-" + strconv.Itoa(t.shard)}.with(out...)
		}
		return out
	}
	k.page = func(p *page, l *life) {
		p.each("nv_inference_request_success", "counter", l, ls, func(t *tally) int64 { return t.success })
		p.family("nv_inference_request_failure", "counter")
		for _, t := range l.sorted() {
			for _, reason := range k.reasons {
				n := t.failures[reason]
				if reason == "CANCELED" {
					n += t.failures[aborted]
				}
				if reason != aborted {
					p.sample("nv_inference_request_failure", ls(t).with("reason", reason), float64(n))
				}
			}
		}
		p.each("nv_inference_count", "counter", l, ls, func(t *tally) int64 { return 4 * t.success })
		p.each("nv_inference_request_duration_us", "counter", l, ls, func(t *tally) int64 { return 1000 * t.success })
		p.each("nv_inference_pending_request_count", "gauge", l, ls, func(t *tally) int64 { return t.waiting })
	}
	return k
}

// torchServe writes a comma after the last label, and families of which there
// is only the type. What it counts is what it received.
func torchServe() *kind {
	k := &kind{name: "torchserve", path: "/metrics", model: true, received: true, shards: 1}
	k.page = func(p *page, l *life) {
		p.family("Requests5XX", "counter")
		p.family("GPUUtilization", "gauge")
		p.family("HandlerTime", "gauge")
		p.family("ts_inference_requests_total", "counter")
		for _, t := range l.sorted() {
			q := &page{}
			q.sample("ts_inference_requests_total", labels{"model_name", t.model, "model_version", "default", "hostname", "h"},
				float64(t.received))
			p.WriteString(strings.Replace(q.String(), "}", ",}", 1))
		}
	}
	return k
}

// tensorFlow begins its names with a colon, and has no help.
func tensorFlow() *kind {
	k := &kind{
		name: "tensorflow-serving", path: "/monitoring/prometheus/metrics", model: true,
		reasons: []string{"INVALID_ARGUMENT", "CANCELLED", aborted}, unit: time.Microsecond, shards: 1,
		ledger: map[string]string{"INVALID_ARGUMENT": "invalid-argument", "CANCELLED": aborted},
	}
	for b := 10.0; len(k.latency) < 33; b *= 1.8 {
		k.latency = append(k.latency, b)
	}
	k.page = func(p *page, l *life) {
		const count, latency = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency"
		p.WriteString("# TYPE :tensorflow:core:graph_runs counter\n:tensorflow:core:graph_runs{} 12\n")
		p.WriteString("# TYPE " + count + " counter\n")
		for _, t := range l.sorted() {
			p.sample(count, labels{"model_name", t.model, "status", "OK"}, float64(t.success))
			for _, reason := range k.reasons[:2] {
				n := t.failures[reason]
				if reason == "CANCELLED" {
					n += t.failures[aborted]
				}
				if n > 0 {
					p.sample(count, labels{"model_name", t.model, "status", reason}, float64(n))
				}
			}
		}
		p.histogram(latency, l, k.latency, func(t *tally) labels {
			return labels{"model_name", t.model, "API", "predict", "entrypoint", "REST"}
		}, latencies)
	}
	return k
}

// kServe is KServe's server in Python; it counts only what succeeds.
func kServe() *kind {
	k := &kind{
		name: "kserve", path: "/metrics", model: true, unit: time.Second, shards: 1,
		latency: []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10},
	}
	ls := func(t *tally) labels { return labels{"model_name", t.model} }
	k.page = func(p *page, l *life) {
		p.process(l)
		p.histogram("request_predict_seconds", l, k.latency, ls, latencies)
		p.each("request_predict_seconds_created", "gauge", l, ls, func(*tally) int64 { return l.began.Unix() })
	}
	return k
}

// rayServe shows a series for each worker, and its own probes beside them.
func rayServe() *kind {
	k := &kind{
		name: "ray-serve", path: "/metrics", model: true, unit: time.Millisecond, shards: 2,
		reasons: []string{"500", "503", aborted}, latency: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000},
	}
	ls := func(t *tally) labels {
		return labels{"WorkerId", strconv.Itoa(t.shard), "application", t.model, "method", "POST", "route", "/" + t.model}
	}
	k.page = func(p *page, l *life) {
		const requests, errors = "ray_serve_num_http_requests_total", "ray_serve_num_http_error_requests_total"
		p.family(requests, "counter")
		p.sample(requests, labels{"application", "", "route", "/-/healthz", "status_code", "200"}, 4711)
		for _, t := range l.sorted() {
			p.sample(requests, ls(t).with("status_code", "200"), float64(t.success))
			for reason, n := range t.failures {
				p.sample(requests, ls(t).with("status_code", rayCode(reason)), float64(n))
			}
		}
		p.family(errors, "counter")
		for _, t := range l.sorted() {
			for reason, n := range t.failures {
				p.sample(errors, ls(t).with("error_code", rayCode(reason)), float64(n))
			}
		}
		ok := func(t *tally) labels { return ls(t).with("status_code", "200") }
		p.histogram("ray_serve_http_request_latency_ms", l, k.latency, ok, latencies)
	}
	return k
}

func rayCode(reason string) string {
	if reason == aborted {
		return "499"
	}
	return reason
}
