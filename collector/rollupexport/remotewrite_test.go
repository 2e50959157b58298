package rollupexport_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	write2 "github.com/prometheus/client_golang/exp/api/remote/genproto/v2"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rollupexport"
	"github.com/gpuledger/gpuledger/internal/secret"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// receiver2 is a receiver of remote write: series by their labels, with the newest
// value; those that were ended are gone.
type receiver2 struct {
	mu       sync.Mutex
	series   map[string]float64
	ended    int
	requests []*http.Request
	refuse   []int // statuses of the next answers
	news     chan struct{}
	bad      []error
}

func (r *receiver2) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() {
		select {
		case r.news <- struct{}{}:
		default:
		}
	}()
	r.requests = append(r.requests, req)
	if len(r.refuse) > 0 {
		w.WriteHeader(r.refuse[0])
		r.refuse = r.refuse[1:]
		return
	}
	body, err := io.ReadAll(req.Body)
	if err == nil {
		body, err = snappy.Decode(nil, body)
	}
	n := 0
	if err == nil && req.Header.Get("X-Prometheus-Remote-Write-Version") == "2.0.0" {
		n, err = r.take2(body)
	} else if err == nil {
		err = r.take1(body)
	}
	if err != nil {
		r.bad = append(r.bad, err)
	}
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", fmt.Sprint(n))
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver2) take1(body []byte) error {
	var m pb.RemoteWrite
	if err := proto.Unmarshal(body, &m); err != nil {
		return err
	}
	for _, s := range m.GetTimeseries() {
		var labels []string
		for _, l := range s.GetLabels() {
			labels = append(labels, l.GetName(), l.GetValue())
		}
		r.put(labels, s.GetSamples()[0].GetValue())
	}
	return nil
}

func (r *receiver2) take2(body []byte) (int, error) {
	var m write2.Request
	if err := proto.Unmarshal(body, &m); err != nil {
		return 0, err
	}
	for _, s := range m.GetTimeseries() {
		var labels []string
		for _, ref := range s.GetLabelsRefs() {
			labels = append(labels, m.GetSymbols()[ref])
		}
		r.put(labels, s.GetSamples()[0].GetValue())
	}
	return len(m.GetTimeseries()), nil
}

func (r *receiver2) put(labels []string, v float64) {
	var names []string
	for i := 0; i < len(labels); i += 2 {
		names = append(names, labels[i])
	}
	if !slices.IsSorted(names) {
		r.bad = append(r.bad, fmt.Errorf("labels are not in order: %q", labels))
	}
	k := strings.Join(labels, " ")
	if math.Float64bits(v) == 0x7ff0000000000002 {
		r.ended++
		delete(r.series, k)
		return
	}
	r.series[k] = v
}

func receive2(t *testing.T, tls bool) (*receiver2, *httptest.Server) {
	t.Helper()
	r := &receiver2{series: make(map[string]float64), news: make(chan struct{}, 1)}
	s := httptest.NewUnstartedServer(r)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return r, s
}

// until waits for requests until something holds.
func (r *receiver2) until(t *testing.T, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		r.mu.Lock()
		done := holds()
		r.mu.Unlock()
		if done {
			return
		}
		select {
		case <-r.news:
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

// scraped is device time and cost of the page, as remote write would tell it.
func scraped(t *testing.T, f *fixture, add ...string) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for name, family := range parse(t, f.page(t)) {
		if !strings.HasPrefix(name, "gpuledger_rollup_gpu") && !strings.HasPrefix(name, "gpuledger_rollup_cost") {
			continue
		}
		for _, m := range family.GetMetric() {
			ls := map[string]string{"__name__": name}
			for _, l := range m.GetLabel() {
				if l.GetValue() != "" {
					ls[l.GetName()] = l.GetValue()
				}
			}
			for i := 0; i < len(add); i += 2 {
				ls[add[i]] = add[i+1]
			}
			var text []string
			for _, k := range slices.Sorted(maps.Keys(ls)) {
				text = append(text, k, ls[k])
			}
			v := m.GetCounter().GetValue()
			if family.GetType() == dto.MetricType_GAUGE {
				v = m.GetGauge().GetValue()
			}
			out[strings.Join(text, " ")] = v
		}
	}
	return out
}

// What is written is what a scrape finds, in both versions, with what the
// options say; a series that is no more is ended.
func TestRemoteWriteTellsWhatAScrapeDoes(t *testing.T) {
	for _, protocol := range []string{rollupexport.RemoteWrite1, rollupexport.RemoteWrite2} {
		t.Run(protocol, func(t *testing.T) {
			f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunks(0, 600)...)
			r, server := receive2(t, false)
			token := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			w, err := rollupexport.NewRemoteWriter(f.Rollups, rollupexport.RemoteWriteOptions{
				URL: server.URL + "/api/v1/write", Protocol: protocol, BearerTokenFile: token, Interval: time.Second,
				Headers: map[string]secret.Text{"X-Scope-OrgID": "fleet"}, Labels: map[string]string{"job": "gpuledger-collector", "basis": "not of a series that has one"},
				Version: "1.2.3",
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := rollupexport.Push(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			want := scraped(t, f, "job", "gpuledger-collector")
			for k, v := range want {
				if got, ok := r.series[k]; !ok || got != v {
					t.Errorf("%s is %v (%t), want %v", k, got, ok, v)
				}
			}
			if len(want) < 10 || len(r.bad) > 0 {
				t.Errorf("%d series; %v", len(want), r.bad)
			}
			h := r.requests[0].Header
			if h.Get("Authorization") != "Bearer secret" || h.Get("X-Scope-OrgID") != "fleet" || h.Get("User-Agent") != "gpuledger-collector/1.2.3" || r.requests[0].URL.Path != "/api/v1/write" {
				t.Errorf("%s %v", r.requests[0].URL, h)
			}
			before := len(r.series)
			f.changed = f.now.Add(10 * time.Second)
			f.later()
			if err := rollupexport.Push(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			if r.ended < len(want)/2 || len(r.series) != before-r.ended {
				t.Errorf("of %d series %d were ended and %d are left", before, r.ended, len(r.series))
			}
			if len(r.bad) > 0 {
				t.Error(r.bad)
			}
			rollupexport.CloseIdle(w)
		})
	}
}

// A receiver that is down for a moment is asked again; one that refuses is not,
// and is told everything by the next push; and whoever is redirected gets no
// token.
func TestRemoteWriteSurvivesRefusals(t *testing.T) {
	f := newFixture(t, rollupexport.Options{}, querytest.NewWorld().Chunks(0, 600)...)
	r, server := receive2(t, true)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	r.refuse = []int{http.StatusServiceUnavailable, http.StatusBadRequest, http.StatusTemporaryRedirect}
	w, err := rollupexport.NewRemoteWriter(f.Rollups, rollupexport.RemoteWriteOptions{URL: server.URL, CAFile: ca, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	r.until(t, func() bool { return len(r.series) > 0 && w.Stats().Pushes > 0 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := w.Stats(); s.Failures != 2 || s.Retries != 1 || len(r.requests) < 4 {
		t.Errorf("%+v after %d requests", s, len(r.requests))
	}
}

func TestRemoteWriteOptions(t *testing.T) {
	for name, c := range map[string]struct {
		o    rollupexport.RemoteWriteOptions
		want string
	}{
		"no URL":           {rollupexport.RemoteWriteOptions{URL: "metrics.example:9090"}, "want http"},
		"a password":       {rollupexport.RemoteWriteOptions{URL: "https://user:hunter2@metrics.example/"}, "bearer_token_file"},
		"plain":            {rollupexport.RemoteWriteOptions{URL: "http://metrics.example/api/v1/write"}, "plain HTTP to another machine"},
		"plain with a CA":  {rollupexport.RemoteWriteOptions{URL: "http://127.0.0.1/", CAFile: "x"}, "no certificates"},
		"half a pair":      {rollupexport.RemoteWriteOptions{URL: "https://m/", CertFile: "x"}, "come together"},
		"too often":        {rollupexport.RemoteWriteOptions{URL: "https://m/", Interval: time.Millisecond}, "at least 1s"},
		"another protocol": {rollupexport.RemoteWriteOptions{URL: "https://m/", Protocol: "3.0"}, `want "1.0" or "2.0"`},
		"a bad header":     {rollupexport.RemoteWriteOptions{URL: "https://m/", Headers: map[string]secret.Text{"X": "a\n"}}, "line break"},
		"two tokens":       {rollupexport.RemoteWriteOptions{URL: "https://m/", BearerTokenFile: "x", Headers: map[string]secret.Text{"authorization": "y"}}, "exclude"},
		"a bad label":      {rollupexport.RemoteWriteOptions{URL: "https://m/", Labels: map[string]string{"a-b": "c"}}, "label"},
	} {
		err := c.o.Validate()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want something with %q", name, err, c.want)
		}
	}
	for _, url := range []string{"http://127.0.0.1:9090/api/v1/write", "http://localhost/", "https://metrics.example/x?y=z"} {
		if err := (rollupexport.RemoteWriteOptions{URL: url}).Validate(); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}
