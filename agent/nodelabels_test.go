package agent

import (
	"bytes"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// apiServer answers for node n1, until it is away; its kubeconfig is returned.
func apiServer(t *testing.T, answer func(w http.ResponseWriter)) (kubeconfig string, away func()) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/n1" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		answer(w)
	}))
	t.Cleanup(server.Close)
	name := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
"clusters": [{"name": "k", "cluster": {"server": "` + server.URL + `", "insecure-skip-tls-verify": true}}],
"users": [{"name": "u", "user": {"token": "t"}}]}`
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name, server.Close
}

func TestNodeLabels(t *testing.T) {
	body := `{"metadata": {"labels": {"topology.kubernetes.io/zone": "z1", "karpenter.sh/capacity-type": "spot",
"nvidia.com/gpu.product": "H100", "team": "not-wanted", "nvidia.com/gpu.mode": "other"}}}`
	kubeconfig, away := apiServer(t, func(w http.ResponseWriter) { _, _ = io.WriteString(w, body) })
	cfg := DefaultConfig()
	cfg.StateDir, cfg.Kubernetes.Kubeconfig = t.TempDir(), kubeconfig
	cfg.Labels = map[string]string{"nvidia.com/gpu.mode": "mine", "rack": "7"}
	want := map[string]string{
		"topology.kubernetes.io/zone": "z1", "karpenter.sh/capacity-type": "spot", "nvidia.com/gpu.product": "H100",
		"nvidia.com/gpu.mode": "mine", "rack": "7",
	}
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	got := nodeLabels(&cfg, "n1", logger)
	if !maps.Equal(got, want) || log.Len() > 0 || capacityType(got) != "spot" {
		t.Fatalf("%v\n%s", got, &log)
	}
	// Without the API server, and with one that talks nonsense, those of before.
	body = `{"metadata": {"labels": 7}}`
	if got := nodeLabels(&cfg, "n1", logger); !maps.Equal(got, want) {
		t.Errorf("after nonsense: %v", got)
	}
	away()
	if got := nodeLabels(&cfg, "n1", logger); !maps.Equal(got, want) || !bytes.Contains(log.Bytes(), []byte("those of the last start")) {
		t.Errorf("away: %v\n%s", got, &log)
	}
	// A damaged file is no reason not to start.
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "node-labels.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := nodeLabels(&cfg, "n1", logger); !maps.Equal(got, cfg.Labels) {
		t.Errorf("damaged: %v", got)
	}
	// Where no label is wanted nobody is asked.
	log.Reset()
	cfg.Kubernetes.NodeLabels = nil
	if got := nodeLabels(&cfg, "n1", logger); !maps.Equal(got, cfg.Labels) || log.Len() > 0 {
		t.Errorf("none wanted: %v\n%s", got, &log)
	}
}

func TestCapacityType(t *testing.T) {
	for want, labels := range map[string][]map[string]string{
		"":          {nil, {"karpenter.sh/capacity-type": "other"}},
		"spot":      {{"eks.amazonaws.com/capacityType": "SPOT"}, {"cloud.google.com/gke-spot": "true"}, {"kubernetes.azure.com/scalesetpriority": "spot"}, {"cloud.google.com/gke-preemptible": "true"}},
		"on-demand": {{"karpenter.sh/capacity-type": "on-demand"}, {"eks.amazonaws.com/capacityType": "ON_DEMAND"}},
		"reserved":  {{"karpenter.sh/capacity-type": "reserved"}, {"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}},
	} {
		for _, l := range labels {
			if got := capacityType(l); got != want {
				t.Errorf("%v is %q, want %q", l, got, want)
			}
		}
	}
}
