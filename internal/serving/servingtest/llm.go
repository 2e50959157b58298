package servingtest

import (
	"strconv"
	"time"
)

func vllmBounds() []float64 {
	return []float64{.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
}

func firstBounds() []float64 {
	return []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
}

func kinds() []*kind {
	return []*kind{
		vllm(), sglang(), tgi(), trtllm(), nim(), triton(), torchServe(), tensorFlow(), kServe(), rayServe(),
		llmd(), liteLLM(), envoy(),
	}
}

// vllm is vLLM V1 with two engines. Clients that leave never reach
// finished_reason="abort", but their prompts are counted; every family has a
// gauge _created beside it, and iteration_tokens_total is a histogram.
func vllm() *kind {
	k := &kind{
		name: "vllm", path: "/metrics", model: true, input: true, output: true, cached: true, failedInput: true,
		untoldAborts: true, abortedTokens: true, reasons: []string{"error", "length-of-queue"},
		latency: vllmBounds(), first: firstBounds(), unit: time.Second, shards: 2,
	}
	ls := func(t *tally) labels { return labels{"engine", strconv.Itoa(t.shard), "model_name", t.model} }
	k.page = func(p *page, l *life) {
		p.process(l)
		p.each("vllm:num_requests_running", "gauge", l, ls, func(t *tally) int64 { return t.running })
		p.each("vllm:num_requests_waiting", "gauge", l, ls, func(t *tally) int64 { return t.waiting })
		p.each("vllm:kv_cache_usage_perc", "gauge", l, ls, func(t *tally) int64 { return min(1, t.running) })
		p.each("vllm:prompt_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.input })
		p.each("vllm:prompt_tokens_created", "gauge", l, ls, func(*tally) int64 { return l.began.Unix() })
		p.each("vllm:prompt_tokens_cached_total", "counter", l, ls, func(t *tally) int64 { return t.cached })
		p.each("vllm:generation_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.output })
		p.family("vllm:request_success_total", "counter")
		for _, t := range l.sorted() {
			p.sample("vllm:request_success_total", ls(t).with("finished_reason", "stop"), float64(t.success-t.success/3))
			p.sample("vllm:request_success_total", ls(t).with("finished_reason", "length"), float64(t.success/3))
			p.sample("vllm:request_success_total", ls(t).with("finished_reason", "abort"), 0)
			for _, reason := range k.reasons {
				p.sample("vllm:request_success_total", ls(t).with("finished_reason", reason), float64(t.failures[reason]))
			}
		}
		p.each("vllm:request_success_created", "gauge", l, ls, func(*tally) int64 { return l.began.Unix() })
		p.family("vllm:iteration_tokens_total", "histogram")
		for _, t := range l.sorted() {
			p.buckets("vllm:iteration_tokens_total", ls(t), []float64{1, 8, 16}, []float64{3, 9})
		}
		p.family("vllm:request_prompt_tokens", "histogram")
		for _, t := range l.sorted() {
			p.promptTokens(ls(t), t)
		}
		p.histogram("vllm:e2e_request_latency_seconds", l, k.latency, ls, latencies)
		p.histogram("vllm:time_to_first_token_seconds", l, k.first, ls, firsts)
	}
	return k
}

// promptTokens is a histogram of which only the highest bucket and the sum
// matter.
func (p *page) promptTokens(ls labels, t *tally) {
	n := float64(t.success)
	for _, v := range t.failures {
		n += float64(v)
	}
	const name = "vllm:request_prompt_tokens"
	for _, b := range []float64{1, 10, 100, 1000, 10000} {
		in := 0.0
		if float64(t.biggest) <= b {
			in = n
		}
		p.sample(name+"_bucket", ls.with("le", strconv.FormatFloat(b, 'f', 1, 64)), in)
	}
	p.sample(name+"_bucket", ls.with("le", "+Inf"), n)
	p.sample(name+"_count", ls, n)
	p.sample(name+"_sum", ls, float64(t.finishedInput))
}

// sglang shows, with priorities switched on, each priority beside the total,
// and no start: it collects from several processes.
func sglang() *kind {
	k := &kind{
		name: "sglang", path: "/metrics", model: true, input: true, output: true, cached: true,
		reasons: []string{aborted}, first: firstBounds(), unit: time.Second, shards: 1,
		latency: []float64{.1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400},
	}
	ls := func(t *tally) labels { return labels{"model_name", t.model, "tp_rank", "0"} }
	k.page = func(p *page, l *life) {
		both := func(name, kind string, v func(*tally) int64) {
			p.family(name, kind)
			for _, t := range l.sorted() {
				p.sample(name, ls(t).with("priority", ""), float64(v(t)))
				p.sample(name, ls(t).with("priority", "1"), float64(v(t)))
			}
		}
		both("sglang:num_running_reqs", "gauge", func(t *tally) int64 { return t.running })
		both("sglang:num_queue_reqs", "gauge", func(t *tally) int64 { return t.waiting })
		p.each("sglang:token_usage", "gauge", l, ls, func(*tally) int64 { return 0 })
		p.each("sglang:prompt_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.input })
		p.each("sglang:cached_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.cached })
		p.each("sglang:generation_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.output })
		// Every request that is over, those that clients left too.
		p.each("sglang:num_requests_total", "counter", l, ls, func(t *tally) int64 { return t.success + t.failures[aborted] })
		p.each("sglang:num_aborted_requests_total", "counter", l, ls, func(t *tally) int64 { return t.failures[aborted] })
		p.histogram("sglang:e2e_request_latency_seconds", l, k.latency, ls, latencies)
		p.histogram("sglang:time_to_first_token_seconds", l, k.first, ls, firsts)
	}
	return k
}

// tgi names no model. The length of prompts has requests that failed later.
func tgi() *kind {
	k := &kind{
		name: "tgi", path: "/metrics", input: true, output: true, failedInput: true,
		reasons: []string{"validation", "overloaded", "generation", "incomplete"}, unit: time.Second, shards: 1,
	}
	for b := 0.0001; len(k.latency) < 35; {
		b *= 1.5
		k.latency = append(k.latency, b)
	}
	none := func(*tally) labels { return nil }
	k.page = func(p *page, l *life) {
		l.tally(Request{}) // it has no labels, so everything is there from the start
		p.each("tgi_queue_size", "gauge", l, none, func(t *tally) int64 { return t.waiting })
		p.each("tgi_batch_current_size", "gauge", l, none, func(t *tally) int64 { return t.running })
		p.each("tgi_request_count", "counter", l, none, func(t *tally) int64 { return t.received })
		p.each("tgi_request_success", "counter", l, none, func(t *tally) int64 { return t.success })
		p.family("tgi_request_failure", "counter")
		for _, t := range l.sorted() {
			for _, reason := range k.reasons {
				if n := t.failures[reason]; n > 0 {
					p.sample("tgi_request_failure", labels{"err", reason}, float64(n))
				}
			}
		}
		p.each("tgi_request_input_length_sum", "untyped", l, none, func(t *tally) int64 { return t.input })
		p.each("tgi_request_generated_tokens_sum", "untyped", l, none, func(t *tally) int64 { return t.output })
		p.histogram("tgi_request_duration", l, k.latency, none, latencies)
	}
	return k
}

// trtllm is trtllm-serve.
func trtllm() *kind {
	k := &kind{
		name: "trtllm", path: "/prometheus/metrics", model: true, input: true, output: true, cached: true,
		reasons: []string{"error"}, latency: vllmBounds(), first: firstBounds(), unit: time.Second, shards: 1,
	}
	ls := func(t *tally) labels { return labels{"engine_type", "undefined", "model_name", t.model} }
	k.page = func(p *page, l *life) {
		p.process(l)
		stop := func(t *tally) labels { return ls(t).with("finished_reason", "stop") }
		p.each("trtllm_request_success_total", "counter", l, stop, func(t *tally) int64 { return t.success })
		p.each("trtllm_request_error_total", "counter", l, ls, func(t *tally) int64 { return t.failures["error"] })
		p.each("trtllm_prompt_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.input })
		p.each("trtllm_prompt_cached_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.cached })
		p.each("trtllm_generation_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.output })
		p.each("trtllm_num_requests_running", "gauge", l, ls, func(t *tally) int64 { return t.running })
		p.each("trtllm_num_requests_waiting", "gauge", l, ls, func(t *tally) int64 { return t.waiting })
		p.histogram("trtllm_e2e_request_latency_seconds", l, k.latency, ls, latencies)
		p.histogram("trtllm_time_to_first_token_seconds", l, k.first, ls, firsts)
	}
	return k
}

// nim has vLLM's families without a prefix.
func nim() *kind {
	k := &kind{
		name: "nim", path: "/v1/metrics", model: true, input: true, output: true,
		reasons: []string{"error"}, latency: vllmBounds(), first: firstBounds(), unit: time.Second, shards: 1,
	}
	ls := func(t *tally) labels { return labels{"model_name", t.model} }
	k.page = func(p *page, l *life) {
		p.process(l)
		p.each("num_requests_running", "gauge", l, ls, func(t *tally) int64 { return t.running })
		p.each("num_requests_waiting", "gauge", l, ls, func(t *tally) int64 { return t.waiting })
		p.each("gpu_cache_usage_perc", "gauge", l, ls, func(*tally) int64 { return 0 })
		p.each("prompt_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.input })
		p.each("generation_tokens_total", "counter", l, ls, func(t *tally) int64 { return t.output })
		p.each("request_success_total", "counter", l, ls, func(t *tally) int64 { return t.success })
		p.each("request_failure_total", "counter", l, ls, func(t *tally) int64 { return t.failures["error"] })
		p.histogram("e2e_request_latency_seconds", l, k.latency, ls, latencies)
		p.histogram("time_to_first_token_seconds", l, k.first, ls, firsts)
	}
	return k
}
