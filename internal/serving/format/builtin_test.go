package format_test

import (
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/format"
)

// Ray Serve takes requests over HTTP and over gRPC, and counts its own probes.
func TestRaysRequestsOverGRPC(t *testing.T) {
	const grpc = `
ray_serve_num_grpc_requests_total{application="chat",method="/acme.Chat/Ask",route="chat",status_code="StatusCode.OK"} 7
ray_serve_num_grpc_requests_total{application="chat",method="/acme.Chat/Ask",route="chat",status_code="StatusCode.CANCELLED"} 2
ray_serve_num_grpc_requests_total{application="",method="/ray.serve.RayServeAPIService/Healthz",route="",status_code="StatusCode.OK"} 999
ray_serve_num_grpc_error_requests_total{application="chat",error_code="StatusCode.CANCELLED",method="/acme.Chat/Ask",route="chat"} 2
ray_serve_num_grpc_error_requests_total{application="chat",error_code="StatusCode.INTERNAL",method="/acme.Chat/Ask",route="chat"} 1
`
	const http = `
ray_serve_num_http_requests_total{application="chat",method="POST",route="/chat",status_code="200"} 5
`
	for text, want := range map[string]int64{grpc: 7, http: 5, grpc + http: 12} {
		r := readText(t, "ray-serve", text, format.Options{})
		if got := total(r, attribution.Success); got != want*int64(attribution.One) {
			t.Errorf("%d succeeded, want %d", got, want)
		}
		if text == http {
			continue
		}
		if got := total(r, "failure/abort"); got != 2*int64(attribution.One) {
			t.Errorf("%d aborted", got)
		}
		if got := total(r, "failure/statuscode.internal"); got != int64(attribution.One) {
			t.Errorf("%d internal errors", got)
		}
	}
}

// One Triton may have models of both of its LLM backends.
func TestTritonWithBothBackends(t *testing.T) {
	r := readText(t, "triton", `
nv_inference_request_success{model="a",version="1"} 1
nv_inference_request_success{model="b",version="1"} 1
vllm:prompt_tokens_total{model="a",version="1"} 100
vllm:generation_tokens_total{model="a",version="1"} 10
nv_llm_input_token_len_sum{model="b",response_metric_type="total_input_tokens",version="1"} 200
nv_llm_output_token_len_sum{model="b",response_metric_type="total_output_tokens",version="1"} 20
`, format.Options{})
	if in, out := total(r, attribution.TokensInput), total(r, attribution.TokensOutput); in != 300 || out != 30 {
		t.Errorf("%d in, %d out", in, out)
	}
}

// Gauges that are as large as any may be do not wrap when they add up.
func TestHugeGaugesDoNotWrap(t *testing.T) {
	text := "vllm:prompt_tokens_total 1\n"
	for i := range 64 {
		text += "vllm:num_requests_running{engine=\"" + strconv.Itoa(i) + "\"} 1e12\n"
	}
	r := readText(t, "vllm", text, format.Options{})
	if len(r.Gauges) != 1 || r.Gauges[0].Value < math.MaxInt64/2 {
		t.Errorf("%+v", r.Gauges)
	}
}

// A page that is not whole tells its start where nothing can be missing of it.
func TestTheStartOnAPageThatIsNotWhole(t *testing.T) {
	for text, want := range map[string]int64{
		"process_start_time_seconds 1.79e9\n":                                                               1_790_000_000e9,
		"vllm:prompt_tokens_created{engine=\"0\"} 1.79e9\n":                                                 0,
		"process_start_time_seconds{pid=\"7\"} 1.79e9\nprocess_start_time_seconds{pid=\"8\"} 1.7900001e9\n": 0,
	} {
		r := readText(t, "vllm", "vllm:prompt_tokens_total 1\nvllm:generation_tokens_total broken\n"+text, format.Options{})
		if !r.Partial || r.Started != want {
			t.Errorf("%q: %d, partial %v", text, r.Started, r.Partial)
		}
	}
}

// A new reason among the first ones makes another one "other", and what that
// one has counted must not be counted again.
func TestMoreReasonsThanAreKept(t *testing.T) {
	page := func(first, last int) *serving.Reading {
		text := "tgi_request_success 1\n"
		for i := first; i <= last; i++ {
			text += fmt.Sprintf("tgi_request_failure{err=\"e%02d\"} 1000\n", i)
		}
		return readText(t, "tgi", text, format.Options{})
	}
	tracker := serving.NewTracker(1, serving.DefaultLimits())
	tracker.Observe(serving.Target{Name: "x"}, 1e9, page(10, 30))
	values, note := tracker.Observe(serving.Target{Name: "x"}, 2e9, page(9, 30))
	sum := int64(0)
	for _, v := range values {
		sum += v.Value
	}
	if sum != 1000*int64(attribution.One) || note.Fallen != 0 {
		t.Errorf("%v %+v", values, note)
	}
}
