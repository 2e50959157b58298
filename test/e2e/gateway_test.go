package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/internal/serving/servingtest"
	"github.com/gpuledger/gpuledger/test/programs"
)

// TestLaw4GatewayAndAKilledCollector has a gateway serve its customers while the
// collector that reads it is killed again and again: the ledger has what was
// served, to the token, and keeps all laws.
func TestLaw4GatewayAndAKilledCollector(t *testing.T) {
	dir := t.TempDir()
	gateway := servingtest.Start(t, "litellm", time.Now().Add(-time.Hour))
	addr := freePort(t)
	args := gatewayCollector(t, dir, addr, gateway.URL)
	start := func() *programs.Proc {
		p := startProc(t, filepath.Join(dir, "collector.log"), "gpuledger-collector", args...)
		awaitReady(t, dir, p)
		return p
	}
	// Began before the collector: its first page is the baseline.
	request := servingtest.Request{Model: "hosted_vllm/llama", Backend: "http://k:secret@llama.prod.svc:8000/v1", Input: 1000, Output: 100}
	gateway.Serve(request, 7)
	collector := start()
	awaitGateway(t, addr)
	before := gateway.Served()

	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for i := range 2 * max(kills(t)-1, 1) {
		for k := range 20 {
			request.Tenant = fmt.Sprintf("customer-%d", k%7)
			gateway.Serve(request, 1+rng.IntN(5))
			gateway.Fail(request, "429", rng.IntN(2))
		}
		time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond)
		if i%2 == 1 {
			collector.Kill()
			gateway.Serve(request, 11) // while it is away
			collector = start()
		}
	}
	awaitTold(t, addr)
	collector.Stop(t)

	got := tallies(t, filepath.Join(dir, "ledger"))
	for p, v := range gateway.Served() {
		k := tallied{strings.TrimPrefix(p.Subject.Model, "hosted_vllm/"), p.Subject.Tenant, "http://llama.prod.svc:8000/v1", p.Measure}
		if want := v - before[p]; got[k] != want {
			t.Errorf("%+v: the ledger has %d, want %d", k, got[k], want)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("the ledger has more: %v", got)
	}
	if out := ledger(t, "verify", "--data", filepath.Join(dir, "ledger")); !strings.Contains(out, "The laws hold") {
		t.Errorf("verify says\n%s", out)
	}
}

func gatewayCollector(t *testing.T, dir, addr, url string) []string {
	t.Helper()
	card := filepath.Join(dir, "card.yaml")
	if err := os.WriteFile(card, []byte("currency: USD\nprices: [{model: \"*\", per_device_hour: 2.50}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := collectorArgs(t, dir, addr, card)
	f, err := os.OpenFile(filepath.Join(dir, "collector.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "gateways:\n  - {name: litellm, interval: 1s, urls: [%q]}\n", url); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return args
}

// awaitGateway waits until the gateway's page has been read.
func awaitGateway(t *testing.T, addr string) {
	t.Helper()
	awaitStatus(t, addr, func(text string) bool { return strings.Contains(text, `"answering": 1`) })
}

// awaitTold waits until two more rounds have been: what was served before is in
// the first of them at the latest.
func awaitTold(t *testing.T, addr string) {
	t.Helper()
	now := time.Now().Unix()
	awaitStatus(t, addr, func(text string) bool {
		var last int64
		_, rest, _ := strings.Cut(text, `"last_scrape": "`)
		_, err := fmt.Sscan(rest, &last)
		return err == nil && last > now+1
	})
}

func awaitStatus(t *testing.T, addr string, is func(string) bool) {
	t.Helper()
	var out string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var code int
		if out, _, code = tryLedger(t, "status", "--collector", addr, "-o", "json"); code == 0 && is(out) {
			return
		}
	}
	t.Fatalf("the gateway is not read:\n%s", out)
}

type tallied struct {
	model, tenant, backend string
	measure                attribution.Measure
}

// tallies are the sums of what gateways told, in a ledger that nobody has open.
func tallies(t *testing.T, dir string) map[tallied]int64 {
	t.Helper()
	st, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Threads: 1, Decode: func(*store.Chunk, *store.Roster) (*attribution.Chunk, error) {
		return nil, fmt.Errorf("nothing is decoded here")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	all := make(map[tallied]int64)
	err = st.View(t.Context(), func(r store.Reader) error {
		return r.TallyRows(context.Background(), rollup.Minute, 0, attribution.MaxSecond, func(x *store.TallyFactRow) error {
			if x.Owner.Kind != attribution.Gateway || x.Owner.Node != "gateway/litellm" {
				t.Errorf("owner %+v", *x.Owner)
			}
			all[tallied{x.Model, x.Tenant, x.Owner.Controller, x.Measure}] += x.Value
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
