package collector

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
)

// What other people's tools read of the program: OpenCost's API at both of its
// addresses, and the sums as counters.
func TestExports(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.OpenCostListen = "127.0.0.1:0"
	cfg.RateCard = filepath.Join(t.TempDir(), "card.yaml")
	if err := os.WriteFile(cfg.RateCard, []byte(card), 0o600); err != nil {
		t.Fatal(err)
	}
	r := serve(t, cfg)
	defer r.end()
	now := attribution.Second(time.Now().Unix())
	r.deliver(chunks((now-now%60)-120, 6), true)

	ask := "/allocation/compute?window=1h&aggregate=namespace&accumulate=true&includeIdle=true&filterNamespaces="
	const want = `"gpuCost":0.06,`
	for _, prefix := range []string{"", "/model"} {
		if code, body := r.get(prefix + ask); code != http.StatusOK || !strings.Contains(body, `"currency":"USD","data":[{"shop":{"name":"shop"`) || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", prefix, code, body)
		}
	}
	resp, err := http.Get("http://" + r.at.OpenCost + ask)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer func() { _ = resp.Body.Close() }()
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(b), want) {
		t.Errorf("at its own address: %v %s", err, b)
	}
	if code, body := r.get("/allocation?window=nonsense"); code != http.StatusBadRequest || !strings.Contains(body, `{"code":400,"message":"window`) {
		t.Errorf("nonsense: %d %s", code, body)
	}
	if (now/86400+3)%7 == 0 && now%86400 < 300 {
		t.Skip("the counters have just begun again, as on every Monday")
	}
	code, body := r.get("/metrics/rollups")
	for _, line := range []string{
		`gpuledger_rollup_cost_usd_total{basis="used",class="",cluster="c",model="llama",team=""} 0.015`,
		`gpuledger_rollup_gpu_seconds_total{basis="reserved",class="",cluster="c",model="llama",team=""} 45`,
		`gpuledger_rollup_inferences_total{class="",cluster="c",model="llama",outcome="success",team=""} 60`,
	} {
		if code != http.StatusOK || !strings.Contains(body, line+"\n") {
			t.Errorf("%d, no %s in\n%s", code, line, body)
		}
	}
}
