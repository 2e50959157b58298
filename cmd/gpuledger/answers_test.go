package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// fakeLedger answers from values.
type fakeLedger struct {
	pb.UnimplementedLedgerServer
	asked *pb.ReportRequest

	units      *pb.UnitCostsResponse // what to answer; nil: something small
	unitsAsked *pb.UnitCostsRequest
	slo        *pb.SLORequest

	rerate []*pb.RerateRequest
	verify []*pb.VerifyProgress
	err    error
	hang   chan struct{} // closed when a question has come that is not answered
}

func sum(basis, seconds, cost, unpriced string) *pb.BasisSum {
	return &pb.BasisSum{Basis: basis, DeviceTimeNs: seconds + "000000000", SmActiveNs: "0", EnergyUj: "", Cost: cost, UnpricedTimeNs: unpriced}
}

func (f *fakeLedger) Report(ctx context.Context, req *pb.ReportRequest) (*pb.ReportResponse, error) {
	f.asked = req
	if f.hang != nil {
		close(f.hang)
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	res := &pb.ReportResponse{
		From: 1700006400, To: 1700010000, Currency: "USD", GroupBy: []string{"team", "model"},
		Rows: []*pb.ReportRow{
			{
				Time: 1700006400, Keys: []string{"sea\x1b[31mrch", "llama"}, Missing: []bool{false, false},
				ByBasis: []*pb.BasisSum{sum("used", "900", "0.625", "0"), sum("reserved", "2700", "1.875", "0")}, Sum: sum("", "3600", "2.5", "0"),
			},
			{
				Time: 1700006400, Keys: []string{"", ""}, Missing: []bool{true, false},
				ByBasis: []*pb.BasisSum{sum("unattributed", "36", "", "36000000000")}, Sum: sum("", "36", "", "36000000000"),
			},
			{Time: 1700006400, Other: true, ByBasis: []*pb.BasisSum{sum("unobserved", "36", "0.0003", "0")}, Sum: sum("", "36", "0.0003", "0")},
		},
		Total: &pb.ReportRow{
			ByBasis: []*pb.BasisSum{
				sum("used", "900", "0.625", "0"), sum("reserved", "2700", "1.875", "0"),
				sum("unattributed", "36", "", "36000000000"), sum("unobserved", "36", "0.0003", "0"),
			},
			Sum: sum("", "3672", "2.5003", "36000000000"),
		},
	}
	if req.GetLines() {
		res.Rows[0].Lines = []*pb.CostLine{{Name: "gpu", Cost: "2"}, {Name: "Host", Cost: "0.5"}}
		res.Rows[2].Lines = []*pb.CostLine{{Name: "gpu", Cost: "0.0003"}}
		res.Total.Lines = []*pb.CostLine{{Name: "Host", Cost: "0.5"}, {Name: "gpu", Cost: "2.0003"}}
	}
	return res, nil
}

func (f *fakeLedger) UnitCosts(_ context.Context, req *pb.UnitCostsRequest) (*pb.UnitCostsResponse, error) {
	if f.unitsAsked = req; f.units != nil {
		return f.units, nil
	}
	if len(req.GetGroupBy()) == 1 && req.GetGroupBy()[0] == "tenant" {
		res := customers()
		if req.GetLatencyTargetMs() > 0 {
			res.LatencyTargetMs = "2048"
		}
		return res, nil
	}
	total := &pb.UnitCost{
		AllocationCost: "4397.193749977", UsageCost: "320.976289607", DeviceTimeNs: "6331959000000000", UsedTimeNs: "462205820504442",
		Inferences: "74117.4", Per_1KInferencesAllocation: "59.327401135461", Per_1KInferencesUsage: "4.330673254", Coverage: "0.699",
		Reason: "tokens not measured", UnallocatedCost: "12.5", UnpricedTimeNs: "0",
	}
	return &pb.UnitCostsResponse{
		From: 1700006400, To: 1700010000, Currency: "USD", GroupBy: []string{"model"},
		Rows: []*pb.UnitCost{
			{
				Keys: []string{"llama"}, Missing: []bool{false}, AllocationCost: "0.0009", UsageCost: "0.0003", DeviceTimeNs: "10", UsedTimeNs: "3",
				Inferences: "0.4", Per_1KInferencesAllocation: "2.25", Per_1KInferencesUsage: "0.75", InputTokens: "5", OutputTokens: "1",
				Per_1MTokensAllocation: "150", Per_1MTokensUsage: "50", Coverage: "1", UnpricedTimeNs: "0",
			},
			{Keys: []string{""}, Missing: []bool{true}, AllocationCost: "1", DeviceTimeNs: "10", UsedTimeNs: "0", Coverage: "0", Reason: "not measured", UnpricedTimeNs: "0"},
		},
		Total: total,
	}, nil
}

func (f *fakeLedger) Devices(context.Context, *pb.DevicesRequest) (*pb.DevicesResponse, error) {
	return &pb.DevicesResponse{Currency: "USD", Devices: []*pb.DeviceRow{
		{Id: "GPU-1", Node: "n1", Model: "NVIDIA L4", PricePerHour: "0.71", Sum: sum("", "3600", "0.71", "0"), UsedTimeNs: "360000000000"},
		{Id: "MIG-1", Node: "n1", Model: "NVIDIA A100", Profile: "1g.5gb", Parent: "GPU-2", Sum: sum("", "3600", "", "3600000000000"), UsedTimeNs: "0"},
		{Id: "GPU-2", Node: "n1", Model: "NVIDIA A100", PricePerHour: "1.6", Sum: sum("", "3600", "1.6", "0"), UsedTimeNs: "1"},
	}}, nil
}

func (f *fakeLedger) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{
		Version: "v1", RulesRevision: 2, PendingChunks: 1, FirstSecond: 1700006400, LastSecond: 1700009999,
		Nodes: []*pb.NodeStatus{
			{Cluster: "lab", Node: "n1", Connected: true, AgentVersion: "v1", StoredThrough: 1700009940, VisibleThrough: 1700010000},
			{Cluster: "lab", Node: "n2"},
		},
		Gateways: []*pb.GatewayStatus{
			{Cluster: "lab", Name: "litellm", Format: "litellm", LastScrape: 1700009995, Addresses: 2, Answering: 2, StoredThrough: 1700009940, Tenants: 31},
			{Cluster: "lab", Name: "edge", Addresses: 1, Error: "connection refused"},
		},
		Warnings: []string{"1 device has no price", "gateway edge: 1 of 1 addresses can't be read: connection refused"},
	}, nil
}

func (f *fakeLedger) Verify(_ *pb.VerifyRequest, s grpc.ServerStreamingServer[pb.VerifyProgress]) error {
	for _, p := range f.verify {
		if err := s.Send(p); err != nil {
			return err
		}
	}
	return nil
}

// serve answers on loopback until the test ends.
func serve(t *testing.T, f *fakeLedger, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	pb.RegisterLedgerServer(s, f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestAnswers compares what is printed with testdata/answers.
func TestAnswers(t *testing.T) {
	t.Setenv("GPULEDGER_DATA", "")
	addr := serve(t, &fakeLedger{verify: []*pb.VerifyProgress{
		{Chunks: 3, ChunksTotal: 6, Windows: 1000},
		{Done: true, Chunks: 6, Windows: 6331959, Slices: 8323002, Rows: 12, Unchecked: []string{"seconds before 2023-11-14, which are not kept"}},
	}})
	for name, args := range map[string][]string{
		"report.txt":      {"report", "--by", "team,model"},
		"report.csv":      {"report", "-o", "csv"},
		"lines.txt":       {"report", "--lines"},
		"lines.csv":       {"report", "--lines", "-o", "csv"},
		"inferences.txt":  {"inferences"},
		"inferences.csv":  {"inferences", "-o", "csv"},
		"tenants.txt":     {"inferences", "--by", "tenant"},
		"tenants.csv":     {"inferences", "--by", "tenant", "-o", "csv"},
		"tokens.txt":      {"inferences", "--by", "tenant", "--show", "tokens"},
		"waste.txt":       {"inferences", "--by", "tenant", "--show", "waste,latency,load", "--latency-target", "2s"},
		"runs.txt":        {"runs"},
		"runs.csv":        {"runs", "-o", "csv"},
		"slo.txt":         {"slo", "--p95", "2s", "--errors", "1%", "--cost", "0.002"},
		"slo-steps.txt":   {"slo", "--p95", "2s", "--errors", "1%", "--cost", "0.002", "--step", "1h"},
		"slo.csv":         {"slo", "--p95", "2s", "--errors", "1%", "--cost", "0.002", "--step", "1h", "-o", "csv"},
		"devices.txt":     {"devices"},
		"devices.csv":     {"devices", "-o", "csv"},
		"status.txt":      {"status"},
		"verify.txt":      {"verify"},
		"rates-check.txt": {"ratecard", "check", "demo-ratecard.yaml"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), append(args, "--collector", addr), &stdout, &stderr); code != exitOK {
			t.Errorf("%s: exit code %d: %s", name, code, &stderr)
		}
		file := filepath.Join("testdata", "answers", name)
		if *update {
			if err := os.WriteFile(file, stdout.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(stdout.Bytes(), want) {
			t.Errorf("%v:\n%s\nwant:\n%s", args, &stdout, want)
		}
	}
}

// TestAsked: flags become the question that is meant.
func TestAsked(t *testing.T) {
	f := &fakeLedger{}
	addr := serve(t, f)
	var stdout, stderr bytes.Buffer
	args := []string{"report", "--collector", addr, "--from", "1700006400", "--to", "1700010000", "--by", "none", "--step", "1m", "--filter", "team=search", "--filter", "basis!=used", "--limit", "5"}
	if code := run(t.Context(), args, &stdout, &stderr); code != exitOK {
		t.Fatal(code, stderr.String())
	}
	a := f.asked
	if a.GetFrom() != 1700006400 || a.GetTo() != 1700010000 || a.GetStep() != 60 || a.GetLimit() != 5 || len(a.GetGroupBy()) != 0 ||
		strings.Join(a.GetFilter(), " ") != "team=search basis!=used" {
		t.Errorf("asked %v", a)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		name   string
		ledger *fakeLedger
		args   []string
		want   int
		say    string
	}{
		{"a law is broken", &fakeLedger{verify: []*pb.VerifyProgress{{Law: 1, Broken: "GPU-1 at 1700000000: 999999999 ns"}}}, []string{"verify"}, exitBroken, "BROKEN: law 1: GPU-1 at 1700000000: 999999999 ns"},
		{"no verdict", &fakeLedger{verify: []*pb.VerifyProgress{{Chunks: 1}}}, []string{"verify"}, exitFailure, "without a result"},
		{"the collector refuses the question", &fakeLedger{err: status.Error(codes.InvalidArgument, "a step of 1 s cuts the range into 999999 rows")}, []string{"report"}, exitUsage, "gpuledger: a step of 1 s cuts"},
		{"the collector fails", &fakeLedger{err: status.Error(codes.Internal, "disk error")}, []string{"report"}, exitFailure, "gpuledger: disk error\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append(c.args, "--collector", serve(t, c.ledger)), &stdout, &stderr)
		if code != c.want || !strings.Contains(stderr.String(), c.say) {
			t.Errorf("%s: exit code %d, %q, want %d, %q", c.name, code, &stderr, c.want, c.say)
		}
	}
}

func TestInterrupted(t *testing.T) {
	f := &fakeLedger{hang: make(chan struct{})}
	addr := serve(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-f.hang
		cancel()
	}()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"report", "--collector", addr}, &stdout, &stderr); code != exitInterrupted || stderr.String() != "gpuledger: interrupted\n" {
		t.Errorf("exit code %d: %q", code, &stderr)
	}
}

// TestProgramsMissing: without the programs that replay starts, nothing is
// made.
func TestProgramsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	recording := filepath.Join(dir, "r.jsonl")
	text := `{"kind":"recording","version":1,"source":"by hand","start":1700000000,"end":1700000060,"max_interval_s":30}
{"kind":"node","node":"n1"}
{"kind":"end","records":1}
`
	if err := os.WriteFile(recording, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"replay", recording, "--data", filepath.Join(dir, "ledger"), "--ratecard", "demo-ratecard.yaml"}, &stdout, &stderr)
	if code != exitFailure || !strings.Contains(stderr.String(), "gpuledger-collector is neither beside gpuledger nor on the PATH\nhint: make build") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "ledger")); !os.IsNotExist(err) {
		t.Errorf("the folder was made: %v", err)
	}
}
