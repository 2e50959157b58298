package node

import (
	"compress/gzip"
	"context"
	"encoding/csv"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// asked is a request of the trace.
type asked struct {
	at            time.Duration // after the first one
	input, output int64
}

// azureHour reads the Azure LLM inference trace: an hour of a conversation
// service.
func azureHour(t *testing.T) []asked {
	t.Helper()
	dir := os.Getenv("GPULEDGER_TRACES")
	if dir == "" {
		t.Skip("GPULEDGER_TRACES names no folder of real traces")
	}
	f, err := os.Open(filepath.Join(dir, "azure-llm-2023", "AzureLLMInferenceTrace_conv.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(z).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out []asked
	var first time.Time
	for _, r := range records[1:] {
		at, err := time.Parse("2006-01-02 15:04:05", r[0])
		if err != nil {
			t.Fatal(err)
		}
		if first.IsZero() {
			first = at
		}
		a := asked{at: at.Sub(first)}
		if a.input, err = strconv.ParseInt(r[1], 10, 64); err != nil {
			t.Fatal(err)
		}
		if a.output, err = strconv.ParseInt(r[2], 10, 64); err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// An hour of a real conversation service, served by one GPU at 240 times the
// speed: what a million tokens cost by hand is what the ledger says, to the last
// digit.
func TestAzureHourServed(t *testing.T) {
	requests := azureHour(t)
	n := newNode(t, h100(gpuA, 0))
	n.set("inference", map[string]any{"interval": "1s"})
	p := n.pod("prod/chat", has("llm", gpuA))
	n.run(p.c("llm"), nvmlstub.Process{Device: gpuA, SM: 80})
	n.start()
	llm := servingtest.Start(t, "vllm", time.Now())
	p.serves(llm.URL)
	from := time.Now().Unix() + 3 // by then the pod is known to hold the GPU
	n.ledger(from, from+1)

	const speed = 240
	began := time.Now()
	var input, output int64
	for _, r := range requests {
		if wait := r.at/speed - time.Since(began); wait > 0 {
			n.pause(wait)
		}
		llm.Serve(servingtest.Request{Model: "llama", Input: r.input, Output: r.output, Latency: time.Second}, 1)
		input, output = input+r.input, output+r.output
	}
	n.heard(llm)
	to := n.visible()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := shared.ledger.UnitCosts(ctx, &pb.UnitCostsRequest{From: from, To: to, Filter: []string{"node=" + n.name}, GroupBy: []string{"pod"}})
	n.must(err)
	got := answer.GetTotal()

	// 2.50 an hour: the seconds of [from, to) cost ⌊to·P/3600⌋ − ⌊from·P/3600⌋
	// nano units (law 1), all of which the pod answers for.
	const perHour = 2_500_000_000
	floor := func(second int64) *big.Int {
		x := new(big.Int).Mul(big.NewInt(second), big.NewInt(perHour))
		return x.Quo(x, big.NewInt(3600))
	}
	cost := new(big.Int).Sub(floor(to), floor(from))
	unit := new(big.Rat).SetInt64(1_000_000_000)
	for _, c := range []struct {
		what, got string
		want      *big.Rat
		digits    int
	}{
		{"requests", got.GetInferences(), new(big.Rat).SetInt64(int64(len(requests))), 0},
		{"prompt tokens", got.GetInputTokens(), new(big.Rat).SetInt64(input), 0},
		{"generated tokens", got.GetOutputTokens(), new(big.Rat).SetInt64(output), 0},
		{"cost", got.GetAllocationCost(), new(big.Rat).Quo(new(big.Rat).SetInt(cost), unit), 9},
		{
			"per 1M tokens", got.GetPer_1MTokensAllocation(),
			new(big.Rat).Quo(new(big.Rat).SetFrac(new(big.Int).Mul(cost, big.NewInt(1_000_000)), big.NewInt(input+output)), unit), 12,
		},
	} {
		have, ok := new(big.Rat).SetString(c.got)
		want, _ := new(big.Rat).SetString(c.want.FloatString(c.digits))
		if !ok || have.Cmp(want) != 0 {
			t.Errorf("%s: %s, by hand %s", c.what, c.got, c.want.FloatString(c.digits))
		}
	}
	t.Logf("%d requests, %d tokens in %d s: %s per 1M tokens", len(requests), input+output, to-from, got.GetPer_1MTokensAllocation())
}
