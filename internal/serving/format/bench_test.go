package format_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/internal/serving"
	"github.com/gpuledger/gpuledger/internal/serving/exposition"
	"github.com/gpuledger/gpuledger/internal/serving/format"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
)

// BenchmarkScrape is what reading one vLLM page takes, from its text to what
// was served: with 60 KB of families beside it that nobody wants.
func BenchmarkScrape(b *testing.B) {
	began := time.Unix(1_800_000_000, 0)
	fake := servingtest.Start(b, "vllm", began)
	fake.Serve(servingtest.Request{Model: "meta-llama/Llama-3.1-8B-Instruct", Input: 100, Output: 10, Latency: time.Second}, 20)
	var page strings.Builder
	page.WriteString(fake.Page())
	for i := range 600 {
		fmt.Fprintf(&page, "vllm:inter_token_latency_seconds_bucket{engine=\"0\",le=\"%d\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 5.0\n", i)
	}
	set := format.Builtin()
	tracker := serving.NewTracker(0, serving.DefaultLimits())
	b.SetBytes(int64(page.Len()))
	b.ReportAllocs()
	for i := int64(1); b.Loop(); i++ {
		p, err := exposition.Parse(strings.NewReader(page.String()), set.Wanted, exposition.DefaultLimits())
		if err != nil {
			b.Fatal(err)
		}
		r, err := set.Read(p, format.Options{})
		if err != nil {
			b.Fatal(err)
		}
		tracker.Observe(serving.Target{Name: "x"}, i*5e9, r)
	}
}
