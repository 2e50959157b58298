package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// freshnessSeconds is how many windows are waited for; GPULEDGER_FRESHNESS
// overrides it.
const freshnessSeconds = 30

// BenchmarkFreshness measures how long after its end a window is in a query's
// answer, at real speed: four simulated nodes of eight GPUs, and a program that
// asks every 20 ms for the device time of the very second, until all devices
// have it.
func BenchmarkFreshness(b *testing.B) {
	seconds := freshnessSeconds
	if n, err := strconv.Atoi(os.Getenv("GPULEDGER_FRESHNESS")); err == nil {
		seconds = n
	}
	dir := b.TempDir()
	c := startCollector(b, dir)
	config := filepath.Join(dir, "agent.yaml")
	write(b, config, fmt.Sprintf("source: simulated\nstate_dir: %s\ncollector: {address: %q}\nsimulated: {speed: 1}\nlog: {level: warn}\n", dir, c.GRPC))
	start(b, dir, ours(b, "gpuledger-agent"), "--config", config)
	conn, err := grpc.NewClient(c.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	ledger := pb.NewLedgerClient(conn)

	var lags []time.Duration
	for b.Loop() {
		lags = append(lags, watch(b, ledger, seconds)...)
	}
	slices.Sort(lags)
	at := func(p int) float64 { return lags[min(len(lags)-1, len(lags)*p/100)].Seconds() }
	b.ReportMetric(at(50), "p50-s")
	b.ReportMetric(at(99), "p99-s")
	b.ReportMetric(lags[len(lags)-1].Seconds(), "max-s")
	b.ReportMetric(float64(len(lags)), "windows")
	b.ReportMetric(0, "ns/op")
}

// watch waits for so many consecutive seconds to be visible, each on all
// devices, and returns how long after their ends they were.
func watch(b *testing.B, ledger pb.LedgerClient, seconds int) []time.Duration {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(seconds+60)*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	// A few seconds in, all nodes are connected and every device is known.
	var second int64
	for second == 0 {
		st, err := ledger.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			b.Fatal(err)
		}
		if st.GetLastSecond() > 0 {
			second = time.Now().Unix() + 6
		}
		select {
		case <-ctx.Done():
			b.Fatal("nothing is visible")
		case <-tick.C:
		}
	}
	var lags []time.Duration
	devices := ""
	for len(lags) < seconds {
		select {
		case <-ctx.Done():
			b.Fatalf("second %d is not visible", second)
		case <-tick.C:
		}
		end := time.Unix(second+1, 0)
		if time.Now().Before(end) {
			continue
		}
		if devices == "" {
			// Long sealed: the measure of all.
			if devices = deviceTime(ctx, b, ledger, second-3); len(devices) < len("1000000000") {
				b.Fatalf("second %d has a device time of %q ns", second-3, devices)
			}
		}
		if deviceTime(ctx, b, ledger, second) == devices {
			lags = append(lags, time.Since(end))
			second++
		}
	}
	return lags
}

// deviceTime is what the ledger says now of one second, "" where nothing.
func deviceTime(ctx context.Context, b *testing.B, ledger pb.LedgerClient, second int64) string {
	r, err := ledger.Report(ctx, &pb.ReportRequest{From: second, To: second + 1})
	if err != nil {
		b.Fatal(err)
	}
	return r.GetTotal().GetSum().GetDeviceTimeNs()
}
