package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"golang.org/x/sync/errgroup"

	"github.com/gpuledger/gpuledger/attribution"
)

const (
	ingestNodes = 1000
	// ingestChunks are what a node catches up with: five minutes.
	ingestChunks = 30
	// promSeconds are those that Prometheus takes in on the clock, after the
	// one that makes its series.
	promSeconds = 15
	// promNodes are the nodes in one remote write request: 2,048 samples, about
	// what senders of many nodes put in one.
	promNodes  = 16
	promShards = 4
)

// BenchmarkIngest measures what it takes to make slices durable: 1,000 nodes of
// 8 devices with 4 owners each, four slices a device second. Processor time is
// the server process's alone, as the kernel counts it; what is sent was encoded
// before.
//
//	gpuledger       a collector with its DuckDB ledger; each node sends five
//	                minutes of chunks over its own connection, until all are
//	                acknowledged, which means committed and synced
//	gpuledger-live  the same facts as they come in steady state: each second as
//	                it is sealed, then the digests of the chunks that they make
//	prometheus      the same facts as remote write: four running totals a slice,
//	                second by second, until all requests are answered, which
//	                means appended to its log, not synced
func BenchmarkIngest(b *testing.B) {
	b.Run("gpuledger", func(b *testing.B) { benchIngest(b, false) })
	b.Run("gpuledger-live", func(b *testing.B) { benchIngest(b, true) })
	b.Run("prometheus", benchPrometheus)
}

func benchIngest(b *testing.B, live bool) {
	us, slices := defaultFleet().uplinks(b, ingestNodes, ingestChunks, live)
	var t ingestTotals
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		c := startCollector(b, dir)
		ctx, cancel := context.WithCancel(context.Background())
		streams := connect(ctx, b, c.GRPC, us)
		before := c.cpu(b)
		b.StartTimer()
		wall := catchUp(b, us, streams)
		b.StopTimer()
		t.add(slices, c.cpu(b)-before, wall, c.memory(b, "VmHWM"))
		cancel()
		c.stop(b)
		b.StartTimer()
	}
	t.report(b)
}

func benchPrometheus(b *testing.B) {
	requests, slices := promRequests(1 + promSeconds)
	var t ingestTotals
	for b.Loop() {
		b.StopTimer()
		p := startPrometheus(b, b.TempDir())
		// The first second makes the series, which the others do not pay for.
		p.take(b, requests[:1])
		before := p.cpu(b)
		b.StartTimer()
		began := time.Now()
		p.take(b, requests[1:])
		wall := time.Since(began)
		b.StopTimer()
		t.add(slices*promSeconds, p.cpu(b)-before, wall, p.memory(b, "VmHWM"))
		if got, want := p.appended(b), len(sliceMetrics)*slices*(1+promSeconds); got != want {
			b.Fatalf("%d samples are there, %d were sent", got, want)
		}
		p.stop(b)
		b.StartTimer()
	}
	t.report(b)
}

// ingestTotals are over a benchmark's runs.
type ingestTotals struct {
	slices    int
	cpu, wall time.Duration
	peak      float64 // bytes
}

func (t *ingestTotals) add(slices int, cpu, wall time.Duration, peak float64) {
	t.slices += slices
	t.cpu += cpu
	t.wall += wall
	t.peak = max(t.peak, peak)
}

func (t *ingestTotals) report(b *testing.B) {
	b.ReportMetric(float64(t.slices)/t.cpu.Seconds(), "slices/s-core")
	b.ReportMetric(float64(t.cpu.Microseconds())/float64(t.slices), "µs-CPU/slice")
	b.ReportMetric(float64(t.slices)/t.wall.Seconds(), "slices/s-wall")
	b.ReportMetric(t.peak/mib, "peak-RSS-MiB")
}

// promRequests are the remote write requests of so many seconds, by second and
// shard; slices are those of one second.
func promRequests(seconds int) (requests [][promShards][][]byte, slices int) {
	f := defaultFleet()
	requests = make([][promShards][][]byte, seconds)
	for first := 0; first < ingestNodes; first += promNodes {
		nodes := min(promNodes, ingestNodes-first)
		shard := first / promNodes % promShards
		chunks, running := make([]*attribution.Chunk, nodes), make([]totals, nodes)
		for s := range seconds {
			var body []byte
			for i := range chunks {
				if s%attribution.ChunkSeconds == 0 {
					chunks[i] = f.chunk(first+i, s/attribution.ChunkSeconds)
				}
				if s == 0 {
					running[i] = totals{}
					slices += slicesOf(chunks[i]) / attribution.ChunkSeconds
				}
				body = appendSeries(body, chunks[i], f.start+attribution.Second(s), running[i])
			}
			requests[s][shard] = append(requests[s][shard], snappy.Encode(nil, body))
		}
	}
	return requests, slices
}

// take sends requests, each shard's one after the other.
func (p *prometheusServer) take(b *testing.B, requests [][promShards][][]byte) {
	b.Helper()
	var g errgroup.Group
	for shard := range promShards {
		g.Go(func() error {
			for i := range requests {
				for _, body := range requests[i][shard] {
					if err := p.write(body); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

func (p *prometheusServer) write(body []byte) error {
	req, err := http.NewRequest(http.MethodPost, p.url+"/api/v1/write", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Encoding", "snappy")
	req.Header.Set("Content-Type", "application/x-protobuf")
	req.Header.Set("X-Prometheus-Remote-Write-Version", "0.1.0")
	_, err = answer(p.client.Do(req))
	return err
}

// appended is the number of samples that Prometheus has taken in.
func (p *prometheusServer) appended(b *testing.B) int {
	b.Helper()
	text, err := p.get("/metrics")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, `prometheus_tsdb_head_samples_appended_total{type="float"} `); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				b.Fatal(err)
			}
			return int(n)
		}
	}
	b.Fatal("prometheus does not say how many samples it took in")
	return 0
}

func (p *prometheusServer) get(path string) (string, error) {
	return answer(p.client.Get(p.url + path))
}

func answer(r *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", r.Status, text)
	}
	return string(text), err
}
