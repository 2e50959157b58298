package inference

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/workload/pods"
	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
)

// pageServer answers each request with the page of that time.
type pageServer func() string

func (f pageServer) RoundTrip(q *http.Request) (*http.Response, error) {
	page := f()
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: q, ContentLength: int64(len(page)),
		Header: http.Header{"Content-Type": {"text/plain; version=0.0.4"}}, Body: io.NopCloser(strings.NewReader(page)),
	}, nil
}

type nobody struct{}

func (nobody) Yield(*sampler.Event) {}
func (nobody) Close()               {}

// BenchmarkReading is what one of eight vLLM servers takes each time that it is
// read: pages of 150 KB with 1,500 series, some of which move, and what is
// remembered written after each.
func BenchmarkReading(b *testing.B) {
	fake := servingtest.Start(b, "vllm", time.Unix(1_800_000_000, 0))
	var others strings.Builder
	for i := range 1300 {
		fmt.Fprintf(&others, "vllm:inter_token_latency_seconds_bucket{engine=\"0\",le=\"%d\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"} 5.0\n", i)
	}
	request := servingtest.Request{Model: "meta-llama/Llama-3.1-8B-Instruct", Input: 100, Output: 10, Latency: time.Second}
	fake.Serve(request, 100)
	pages := make([]string, 16)
	for i := range pages {
		fake.Serve(request, 3)
		pages[i] = fake.Page() + others.String()
	}
	n := 0
	second := attribution.Second(1_800_000_100)
	s, err := New(Options{
		Pods: func() *pods.View { return nil }, Holders: func() []*attribution.Owner { return nil },
		Now: func() int64 { return second.Nanos() }, Unsealed: func() attribution.Second { return second }, Lasting: func() attribution.Second { return second - 3 }, Dir: b.TempDir(),
	})
	if err != nil {
		b.Fatal(err)
	}
	s.client.Transport = pageServer(func() string { return pages[n/8%len(pages)] })
	lanes := OpenLanes(func() sampler.Producer { return nobody{} })
	owner := &attribution.Owner{Kind: attribution.Container, Pod: "p"}
	var sites []*site
	for i := range 8 {
		sites = append(sites, &site{wish: wish{
			pod: &pods.Pod{Name: "p"}, owner: owner, id: fmt.Sprintf("%064d", i), ip: netip.MustParseAddr("10.0.0.1"),
			places: []place{{"http", 8000, "/metrics", ""}},
		}, triton: &triton{}})
	}
	b.SetBytes(int64(len(pages[0])))
	b.ReportAllocs()
	for b.Loop() {
		t := sites[n%8]
		j := t.job()
		r := s.read(b.Context(), &j)
		if r.err != nil {
			b.Fatal(r.err)
		}
		s.ledger.pending = append(s.ledger.pending, observation{t, second.Nanos(), r.began, r.reading})
		s.ledger.commit(time.Unix(int64(second), 0), lanes)
		n++
		if n%2 == 0 {
			second++
			s.ledger.last = time.Time{}
		}
	}
}
