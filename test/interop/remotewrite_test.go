package interop_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/collector/mapping"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/collector/store"
)

// What the collector writes to a Prometheus by remote write is what its ledger
// holds.
func TestPrometheusTakesRemoteWrite(t *testing.T) {
	path := program(t, "prometheus", "apt-get install prometheus")
	now := time.Unix(int64(querytest.Start)+600, 0)
	s := querytest.NewStore(querytest.NewWorld().Chunks(0, 600)...)
	s.Map = mapping.Default().Compile()
	rollups, err := rollupexport.New(rollupexport.Options{
		Query: query.New(query.Config{Store: s, Mapping: func() store.Mapping { return s.Map }}),
		Log:   slog.New(slog.DiscardHandler), Now: func() time.Time { return now }, Currency: func() string { return "USD" },
		Changed: func(context.Context) (time.Time, error) { return time.Time{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	dir, listen := t.TempDir(), address(t)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, path, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+listen, "--web.enable-remote-write-receiver")
	db := database{"http://" + listen}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	await(t, "Prometheus", func() bool {
		response, err := http.Get(db.base + "/-/ready")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	w, err := rollupexport.NewRemoteWriter(rollups, rollupexport.RemoteWriteOptions{
		URL: db.base + "/api/v1/write", Interval: time.Second, Labels: map[string]string{"job": "gpuledger-collector"},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	await(t, "a push", func() bool { return w.Stats().Pushes > 0 })
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	snapshot, err := rollups.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	type series struct{ cluster, team, model, class, basis string }
	got := make(map[series]float64)
	for _, x := range db.query(t, fmt.Sprintf(`gpuledger_rollup_gpu_seconds_total{job="gpuledger-collector"} @ %d`, now.Unix())) {
		m := x.Metric
		got[series{m["cluster"], m["team"], m["model"], m["class"], m["basis"]}] = x.value(t)
	}
	for _, x := range snapshot.Series {
		k := series{x.Values[0], x.Values[1], x.Values[2], x.Values[3], x.Basis.String()}
		want := float64(x.Time.Int64()) / 1e9
		if v, ok := got[k]; !ok || v != want {
			t.Errorf("%+v is %v (there: %t), want %v", k, v, ok, want)
		}
	}
	if len(got) != len(snapshot.Series) || len(got) == 0 {
		t.Errorf("%d series, want %d", len(got), len(snapshot.Series))
	}
}
