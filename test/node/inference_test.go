package node

import (
	"context"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// told is what the ledger says that a node has served, by pod and container.
type told struct{ successes, failures, input, output int64 }

func (n *node) told() (owner string, t told) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer, err := shared.ledger.UnitCosts(ctx, &pb.UnitCostsRequest{
		From: n.gpus.Start.Unix() - 1, To: time.Now().Unix() + 2, Filter: []string{"node=" + n.name}, GroupBy: []string{"namespace", "pod", "container"},
	})
	n.must(err)
	for _, r := range answer.GetRows() {
		if r.GetInferences() == "" {
			continue
		}
		if owner != "" {
			n.t.Fatalf("two have served: %s and %v", owner, r.GetKeys())
		}
		k := r.GetKeys()
		owner = k[0] + "/" + k[1] + "/" + k[2]
		t = told{n.number(r.GetInferences()), n.number(r.GetFailures()), n.number(r.GetInputTokens()), n.number(r.GetOutputTokens())}
	}
	return owner, t
}

// number is a whole number, 0 for "not measured".
func (n *node) number(text string) int64 {
	n.t.Helper()
	if text == "" {
		return 0
	}
	v, err := strconv.ParseFloat(text, 64)
	n.must(err)
	return int64(v)
}

// served is what a fake has served, whatever it has told.
func served(f *servingtest.Fake) (t told) {
	for p, v := range f.Served() {
		switch p.Measure {
		case attribution.Success:
			t.successes += v / int64(attribution.One)
		case attribution.TokensInput:
			t.input += v
		case attribution.TokensOutput:
			t.output += v
		default:
			if len(p.Measure) > len(attribution.FailurePrefix) && p.Measure[:len(attribution.FailurePrefix)] == attribution.FailurePrefix {
				t.failures += v / int64(attribution.One)
			}
		}
	}
	return t
}

// A vLLM serves while the agent is killed again and again, and is restarted
// itself once it was heard. The ledger has what was served, under the container
// that pays for the GPU.
func TestLaw4InferencesAreExactThroughKills(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	n.set("inference", map[string]any{"interval": "1s"})
	p := n.pod("prod/chat", has("llm", gpuA))
	n.run(p.c("llm"), nvmlstub.Process{Device: gpuA, SM: 44})
	n.start()
	llm := servingtest.Start(t, "vllm", time.Now())
	p.serves(llm.URL)
	request := servingtest.Request{Model: "llama", Input: 120, Output: 37, Latency: 700 * time.Millisecond, FirstToken: 90 * time.Millisecond}
	for round := range 4 {
		llm.Serve(request, 11+round)
		n.pause(time.Duration(300+700*round) * time.Millisecond)
		llm.Serve(request, 5)
		n.crash()
		llm.Serve(request, 7) // nobody looks
		n.start()
		llm.Serve(request, 3)
		if round%2 == 1 {
			n.heard(llm)
			llm.Restart(time.Now())
		}
	}
	n.heard(llm)
	owner, before := n.told()
	if owner != p.c("llm").owner() || before.successes != 4*(5+7+3)+11+12+13+14 || before.input != 120*before.successes {
		t.Errorf("%s has served %+v", owner, before)
	}
	n.pause(3 * time.Second) // nothing is served, and nothing is counted
	if _, after := n.told(); after != before {
		t.Errorf("%+v has become %+v", before, after)
	}
}

// heard waits until the ledger has all that a server has served, and it is
// durable.
func (n *node) heard(f *servingtest.Fake) {
	n.t.Helper()
	want := served(f)
	var got told
	defer func() {
		if n.t.Failed() {
			n.t.Logf("the ledger has %+v, and %+v was served", got, want)
		}
	}()
	n.await("the ledger does not have what was served", func() bool {
		_, got = n.told()
		if got.successes > want.successes || got.input > want.input {
			n.t.Fatalf("the ledger has %+v, and %+v was served", got, want)
		}
		return got == want
	})
}

// A training process that no server of metrics belongs to tells its checkpoints
// itself, and again after the agent was killed.
func TestPushedAreCountedOnce(t *testing.T) {
	n := newNode(t, h100(gpuA, 0))
	address := freePort(t)
	n.set("inference", map[string]any{"push_listen": address})
	p := n.pod("ml/train", has("main", gpuA))
	p.ip = "127.0.0.1"
	n.podsAPI.Put(p.uid, p.object())
	n.start()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	n.must(err)
	defer conn.Close()
	push := func(sequence uint64) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		answer, err := pb.NewPushClient(conn).Record(ctx, &pb.RecordRequest{
			Client: "run-1", Sequence: sequence, Served: []*pb.Served{{Model: "llama", Successes: new(uint64(2)), Checkpoints: new(uint64(1))}},
		})
		n.must(err)
		return answer.GetDuplicate()
	}
	if push(1) || push(2) || !push(2) {
		t.Error("what is sent twice is told by its sequence")
	}
	n.crash()
	n.start()
	if !push(2) || push(3) {
		t.Error("a restarted agent has forgotten what it answered, or made it up")
	}
	n.await("three are not in the ledger", func() bool {
		owner, got := n.told()
		return owner == p.c("main").owner() && got.successes == 6
	})
}
