package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// customers is an answer in which everything is known of one tenant, and
// nothing of the part that no gateway saw.
func customers() *pb.UnitCostsResponse {
	acme := &pb.UnitCost{
		Keys: []string{"acme"}, Missing: []bool{false}, AllocationCost: "12.5", UsageCost: "5", DeviceTimeNs: "100", UsedTimeNs: "40", UnpricedTimeNs: "0",
		Inferences: "9900", Failures: "100", InputTokens: "4000000", CachedTokens: "2000000", OutputTokens: "1000000",
		Per_1KInferencesAllocation: "1.262626262626", Per_1KInferencesUsage: "0.505050505051", Per_1MTokensAllocation: "2.50", Per_1MTokensUsage: "1.00",
		Per_1MInputAllocation: "2.016129032258", Per_1MCachedAllocation: "0.201612903226", Per_1MOutputAllocation: "8.064516129032",
		PerSuccessAllocation: "0.001262626263", PerSuccessUsage: "0.000505050505", Good: "9000", PerGoodAllocation: "0.001388888889", PerGoodUsage: "0.000555555556",
		ErrorRate: "0.01", LatencyP50Ms: "512", LatencyP95Ms: "2048", LatencyP99Ms: "9741.984686", FirstTokenP95Ms: "215.269482",
		FailedCost: "0.125", AbortedTokens: "200000", AbortedCost: "0.50", Coverage: "1.00", TenantSource: "gateway",
		FailuresByReason: []*pb.FailureCount{{Reason: "abort", Count: "10", Cost: "0.0125"}, {Reason: "time\x1bout", Count: "90", Cost: "0.1125"}},
		QueueMean:        "2.50", RunningMean: "16.00", KvCacheMean: "0.625",
	}
	rest := &pb.UnitCost{
		Keys: []string{""}, Missing: []bool{true}, AllocationCost: "2.5", DeviceTimeNs: "20", UsedTimeNs: "0", UnpricedTimeNs: "0",
		Inferences: "0", Reason: "no inferences; tokens not measured", TenantSource: "unseen",
		Reasons: map[string]string{
			"inferences": "no inferences", "tokens": "tokens not measured", "token types": "tokens not measured", "failures": "failures not measured",
			"aborted tokens": "aborted tokens not measured", "latency": "no inferences", "load": "queue, running, kv-cache not measured",
		},
	}
	return &pb.UnitCostsResponse{
		From: 1700006400, To: 1700092800, Currency: "USD", GroupBy: []string{"tenant"}, Rows: []*pb.UnitCost{acme, rest},
		Total: &pb.UnitCost{AllocationCost: "15", DeviceTimeNs: "120", UsedTimeNs: "40", UnpricedTimeNs: "0", Inferences: "9900", TenantSource: "gateway+unseen"},
	}
}

func (f *fakeLedger) Runs(context.Context, *pb.RunsRequest) (*pb.RunsResponse, error) {
	run := func(name string, lost, why string) *pb.Run {
		return &pb.Run{
			Run: "lab/" + name, Name: "Job/" + name, Namespace: "lab", Team: "science", Pods: 9, Restarts: 1, FirstSecond: 1700006400, LastSecond: 1700092799,
			DeviceTimeNs: "691200000000000", UsedTimeNs: "600000000000000", AllocationCost: "480", UsageCost: "416.666666667", IdleCost: "63.333333333",
			UnpricedTimeNs: "0", CheckpointLossCost: lost, CheckpointLossTimeNs: "1", Checkpoints: "24", Reason: why,
		}
	}
	return &pb.RunsResponse{
		From: 1700006400, To: 1700092800, Currency: "USD", OutsideCost: "1000.25",
		Rows:  []*pb.Run{run("train", "2.5", "times are to the minute"), run("tune", "", "no checkpoints were reported; times are to the minute")},
		Total: &pb.Run{Pods: 18, Restarts: 2, FirstSecond: 1700006400, LastSecond: 1700092799, AllocationCost: "960", CheckpointLossCost: "2.5", Reason: "times are to the minute"},
	}, nil
}

func (f *fakeLedger) SLO(_ context.Context, req *pb.SLORequest) (*pb.SLOResponse, error) {
	f.slo = req
	res := &pb.SLOResponse{
		From: 1700006400, To: 1700013600, Step: req.GetStep(), Currency: "USD", GroupBy: []string{"model"},
		LatencyP95Ms: "2048", ErrorRate: req.GetErrorRate(), CostPerSuccess: req.GetCostPerSuccess(),
		Rows: []*pb.SLORow{
			{
				Keys: []string{"llama"}, Missing: []bool{false}, LatencyP95Ms: "2048", ErrorRate: "0.002", CostPerSuccess: "0.0031",
				Latency: "met", Errors: "met", Cost: "missed", Joint: "missed", Intervals: 2, IntervalsMet: 1,
			},
			{
				Keys: []string{""}, Missing: []bool{true}, Latency: "unknown", Errors: "unknown", Cost: "unknown", Joint: "unknown",
				IntervalsUnknown: 2, Reason: "latency not measured; failures not measured; inferences not measured",
			},
		},
	}
	if req.GetStep() > 0 {
		res.Rows[0].ByInterval = []*pb.SLOInterval{
			{Time: 1700006400, LatencyP95Ms: "2048", ErrorRate: "0", CostPerSuccess: "0.0019", Joint: "met"},
			{Time: 1700010000, LatencyP95Ms: "2048", ErrorRate: "0.004", CostPerSuccess: "0.0044", Joint: "missed"},
		}
	}
	return res, nil
}

// TestUnitQuestions: flags become the questions that are meant.
func TestUnitQuestions(t *testing.T) {
	f := &fakeLedger{units: customers()}
	addr := serve(t, f)
	ask := func(want int, args ...string) (string, string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(args, "--collector", addr), &stdout, &stderr); code != want {
			t.Fatalf("%v: exit code %d: %s", args, code, &stderr)
		}
		return stdout.String(), stderr.String()
	}
	ask(exitOK, "inferences", "--by", "tenant", "--latency-target", "1500ms", "--split-by", "requests", "--output-weight", "5")
	if a := f.unitsAsked; a.GetLatencyTargetMs() != 1500 || a.GetSplitBy() != "requests" || a.GetOutputWeight() != "5" || a.GetInputWeight() != "1" || a.GetCachedWeight() != "0.1" {
		t.Errorf("asked %v", a)
	}
	ask(exitOK, "slo", "--p95", "2s", "--errors", "0.5%", "--cost", "0.002", "--step", "1h")
	if a := f.slo; a.GetLatencyP95Ms() != 2000 || a.GetErrorRate() != "0.005" || a.GetCostPerSuccess() != "0.002" || a.GetStep() != 3600 {
		t.Errorf("asked %v", a)
	}
	if _, err := ask(exitFailure, "slo", "--cost", "0.002", "--check"); !strings.Contains(err, "1 of 2 groups missed a target") {
		t.Error(err)
	}
	f.units.Rows = nil
	if out, _ := ask(exitOK, "inferences"); !strings.Contains(out, "No device time is on record here.") {
		t.Error(out)
	}
}

func TestShare(t *testing.T) {
	for in, want := range map[string]string{"1%": "0.01", "0.5%": "0.005", "100%": "1", "0%": "0", "0.01": "0.01", "": ""} {
		if got, err := share(in); err != nil || got != want {
			t.Errorf("%s is %s, %v", in, got, err)
		}
	}
	for _, in := range []string{"%", "x%", "1e9%", "1/3%", "1%%", strings.Repeat("9", 99) + "%"} {
		if got, err := share(in); err == nil {
			t.Errorf("%s is %s", in, got)
		}
	}
}

func TestDurationText(t *testing.T) {
	for in, want := range map[string]string{"": "–", "512": "512 ms", "2048": "2.05 s", "1000": "1.00 s", "999.4": "999 ms", "3600000": "3,600.00 s", "nonsense": "–"} {
		if got := durationText(in); got != want {
			t.Errorf("%s ms is %s, want %s", in, got, want)
		}
	}
	if _, err := milliseconds("--p95", 1500*time.Microsecond); err == nil {
		t.Error("1.5 ms is not whole")
	}
}
