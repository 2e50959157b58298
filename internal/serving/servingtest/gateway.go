package servingtest

import "time"

// llmd is llm-d's endpoint picker: what it counts, it counts when a request
// comes, and takes back with its errors.
func llmd() *kind {
	k := &kind{
		name: "llm-d", path: "/metrics", model: true, tenant: true, input: true, output: true, cached: true,
		reasons: []string{"ServiceUnavailable", "ClientClosedRequest", aborted}, unit: time.Second, shards: 1,
		ledger:  map[string]string{"ServiceUnavailable": "serviceunavailable", "ClientClosedRequest": aborted},
		latency: []float64{.005, .025, .05, .1, .2, .4, .6, .8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60, 120},
	}
	ls := func(t *tally) labels {
		return labels{"fairness_id", t.tenant, "model_name", "alias-of-" + t.model, "target_model_name", t.model}
	}
	k.page = func(p *page, l *life) {
		p.process(l)
		p.each("llm_d_epp_request_total", "counter", l, ls, func(t *tally) int64 { return t.received })
		p.family("llm_d_epp_request_error_total", "counter")
		for _, t := range l.sorted() {
			for _, reason := range k.reasons[:2] {
				n := t.failures[reason]
				if reason == "ClientClosedRequest" {
					n += t.failures[aborted]
				}
				if n > 0 {
					p.sample("llm_d_epp_request_error_total", ls(t).with("error_code", reason), float64(n))
				}
			}
		}
		tokens := func(name string, v func(*tally) int64) {
			p.family(name, "histogram")
			for _, t := range l.sorted() {
				p.sample(name+"_bucket", ls(t).with("le", "+Inf"), float64(t.success))
				p.sample(name+"_sum", ls(t), float64(v(t)))
				p.sample(name+"_count", ls(t), float64(t.success))
			}
		}
		tokens("llm_d_epp_request_input_tokens", func(t *tally) int64 { return t.input })
		tokens("llm_d_epp_request_output_tokens", func(t *tally) int64 { return t.output })
		tokens("llm_d_epp_request_cached_tokens", func(t *tally) int64 { return t.cached })
		p.each("llm_d_epp_request_running", "gauge", l, ls, func(t *tally) int64 { return t.running })
		p.histogram("llm_d_epp_request_duration_seconds", l, k.latency, ls, latencies)
	}
	return k
}

// liteLLM tells the backend's address only of deployments; tokens have the
// deployment's id. It writes None for what is not there.
func liteLLM() *kind {
	k := &kind{
		name: "litellm", path: "/metrics", model: true, tenant: true, backend: true, input: true, output: true,
		reasons: []string{"429", "500", aborted}, unit: time.Second, shards: 1,
	}
	ls := func(t *tally) labels {
		team := t.tenant
		if team == "" {
			team = "None"
		}
		return labels{"end_user", "None", "model_id", "id-" + t.backend, "requested_model", t.model, "team", "None", "team_alias", team}
	}
	k.page = func(p *page, l *life) {
		p.process(l)
		deployment := func(t *tally) labels {
			base := t.backend
			if base == "" {
				base = "None"
			}
			return ls(t).with("api_base", base)
		}
		p.each("litellm_deployment_success_responses_total", "counter", l, deployment, func(t *tally) int64 { return t.success })
		p.family("litellm_deployment_failure_responses_total", "counter")
		for _, t := range l.sorted() {
			for reason, n := range t.failures {
				p.sample("litellm_deployment_failure_responses_total", deployment(t).with("exception_status", rayCode(reason)), float64(n))
			}
		}
		p.each("litellm_proxy_total_requests_metric_total", "counter", l, ls, func(t *tally) int64 { return t.received })
		p.each("litellm_input_tokens_metric_total", "counter", l, ls, func(t *tally) int64 { return t.input })
		p.each("litellm_output_tokens_metric_total", "counter", l, ls, func(t *tally) int64 { return t.output })
	}
	return k
}

// envoy is Envoy AI Gateway; its customer is a label that its configuration
// names: here x_tenant.
func envoy() *kind {
	k := &kind{
		name: "envoy-ai-gateway", path: "/metrics", model: true, tenant: true, input: true, output: true,
		reasons: []string{"500", aborted}, unit: time.Second, shards: 1,
		latency: []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92},
	}
	ls := func(t *tally) labels {
		return labels{
			"gen_ai_operation_name", "chat", "gen_ai_provider_name", "openai", "gen_ai_request_model", t.model,
			"otel_scope_name", "envoyproxy/ai-gateway", "x_tenant", t.tenant,
		}
	}
	k.page = func(p *page, l *life) {
		p.process(l)
		const duration, usage = "gen_ai_server_request_duration_seconds", "gen_ai_client_token_usage_token"
		p.histogram(duration, l, k.latency, ls, latencies)
		for _, t := range l.sorted() {
			for reason, n := range t.failures {
				p.buckets(duration, ls(t).with("error_type", reason), k.latency, make([]float64, n))
			}
		}
		p.family(usage, "histogram")
		for _, t := range l.sorted() {
			for kind, v := range map[string]int64{"input": t.input, "output": t.output, "total": t.input + t.output} {
				p.sample(usage+"_sum", ls(t).with("gen_ai_token_type", kind), float64(v))
			}
		}
	}
	return k
}
