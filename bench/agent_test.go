package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/agent/sampler"
	"github.com/gpuledger/gpuledger/agent/sampler/replay"
	"github.com/gpuledger/gpuledger/agent/sampler/simulated"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// restTime is how long the agent at rest is watched: GPULEDGER_REST, or 30 s.
func restTime(b *testing.B) time.Duration {
	b.Helper()
	text := os.Getenv("GPULEDGER_REST")
	if text == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		b.Fatalf("GPULEDGER_REST=%q: want a duration such as 5m", text)
	}
	return d
}

// BenchmarkAgentAtRest watches an agent on a simulated node of 8 devices and 64
// processes, in real time against a real collector. Of the agent's processor
// time that of the simulation is a part, in the place of the driver's. The
// first five seconds, in which it starts, do not count.
func BenchmarkAgentAtRest(b *testing.B) {
	watch := restTime(b)
	var cpu, wall time.Duration
	var now, most float64
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		c := startCollector(b, dir)
		a := start(b, dir, ours(b, "gpuledger-agent"), "--collector", c.GRPC, "--state-dir", filepath.Join(dir, "agent"),
			"--source", "simulated", "--profile", "busy", "--speed", "1")
		a.lasts(b, 5*time.Second)
		before, began := a.cpu(b), time.Now()
		b.StartTimer()
		a.lasts(b, watch)
		b.StopTimer()
		wall += time.Since(began)
		cpu += a.cpu(b) - before
		now, most = max(now, a.memory(b, "VmRSS")), max(most, a.memory(b, "VmHWM"))
		a.stop(b)
		checkRest(b, c, watch)
		c.stop(b)
		b.StartTimer()
	}
	b.ReportMetric(100*cpu.Seconds()/wall.Seconds(), "%-of-a-core")
	b.ReportMetric(now/mib, "RSS-MiB")
	b.ReportMetric(most/mib, "peak-RSS-MiB")
}

// checkRest makes sure that the agent did its work: all its seconds are there.
func checkRest(b *testing.B, c *collector, watched time.Duration) {
	b.Helper()
	answer, err := c.ledger(b).Report(context.Background(), &pb.ReportRequest{})
	if err != nil {
		b.Fatal(err)
	}
	ns, err := strconv.ParseInt(answer.GetTotal().GetSum().GetDeviceTimeNs(), 10, 64)
	if want := 8 * watched.Nanoseconds(); err != nil || ns < want {
		b.Fatalf("the ledger has %d ns of device time (%v): want %d or more", ns, err, want)
	}
}

// lasts waits and fails where the program does not.
func (p *program) lasts(b *testing.B, d time.Duration) {
	b.Helper()
	select {
	case <-p.done:
		b.Fatalf("%s ended: %v\n%s", p.cmd.Path, p.cmd.ProcessState, p.tail())
	case <-time.After(d):
	}
}

// BenchmarkReplay plays an hour of a simulated fleet of 16 nodes from a
// recording, through the programs, until all of it is durable, as
// "gpuledger replay" does: slices of real time from file to ledger, starting
// and stopping of the programs included.
func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	recording, card := filepath.Join(dir, "fleet.jsonl"), filepath.Join(dir, "card.yaml")
	record(b, recording, simulated.Options{Seed: 1, Cluster: "bench", Profile: simulated.Fleet, Nodes: 16, Devices: 8, Duration: 3600})
	write(b, card, flatCard)
	slices := 0
	for b.Loop() {
		b.StopTimer()
		data := b.TempDir()
		var out, errOut bytes.Buffer
		c := exec.Command(ours(b, "gpuledger"), "replay", recording, "--data", data, "--ratecard", card, "-o", "json")
		c.Stdout, c.Stderr = &out, &errOut
		b.StartTimer()
		if err := c.Run(); err != nil {
			b.Fatalf("%v\n%s", err, errOut.Bytes())
		}
		var summary struct{ Slices int }
		if err := json.Unmarshal(out.Bytes(), &summary); err != nil {
			b.Fatalf("%v\n%s", err, out.Bytes())
		}
		slices += summary.Slices
	}
	b.ReportMetric(float64(slices)/b.Elapsed().Seconds(), "slices/s")
	b.ReportMetric(float64(slices)/float64(b.N), "slices")
}

// record writes a simulation as a recording.
func record(b *testing.B, path string, opt simulated.Options) {
	b.Helper()
	s, err := simulated.New(opt)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := replay.NewWriter(f)
	if err := w.Begin(replay.Header{Source: "simulated", Start: s.Start(), End: s.End(), MaxInterval: s.Horizon()}, s.Nodes()); err != nil {
		b.Fatal(err)
	}
	var e sampler.Event
	for err = s.Next(&e); err == nil; err = s.Next(&e) {
		if err := w.Write(&e); err != nil {
			b.Fatal(err)
		}
	}
	if !errors.Is(err, io.EOF) {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
