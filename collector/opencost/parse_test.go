package opencost

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

func TestWindows(t *testing.T) {
	now := time.Date(2026, 1, 14, 15, 4, 5, 0, time.FixedZone("", 7200)) // 13:04:05 UTC on a Wednesday
	for text, want := range map[string]string{
		"today":                                "2026-01-14T00:00:00Z 2026-01-15T00:00:00Z",
		"yesterday":                            "2026-01-13T00:00:00Z 2026-01-14T00:00:00Z",
		"week":                                 "2026-01-11T00:00:00Z 2026-01-15T00:00:00Z",
		"lastweek":                             "2026-01-04T00:00:00Z 2026-01-11T00:00:00Z",
		"month":                                "2026-01-01T00:00:00Z 2026-01-15T00:00:00Z",
		"lastmonth":                            "2025-12-01T00:00:00Z 2026-01-01T00:00:00Z",
		"30m":                                  "2026-01-14T12:35:00Z 2026-01-14T13:05:00Z",
		"7d":                                   "2026-01-07T13:05:00Z 2026-01-14T13:05:00Z",
		"1h offset 1d":                         "2026-01-13T12:05:00Z 2026-01-13T13:05:00Z",
		"2026-01-01T00:00:00+01:00,2026-01-02": "2025-12-31T23:00:00Z 2026-01-02T00:00:00Z",
		"1767225600,1767225601":                "2026-01-01T00:00:00Z 2026-01-01T00:00:01Z",
	} {
		w, err := parseWindow(text, now)
		if err == nil {
			w, err = w.ending(now, minute)
		}
		if got := rfc3339(w.from) + " " + rfc3339(w.to); err != nil || got != want {
			t.Errorf("%s: %s %v, want %s", text, got, err, want)
		}
	}
	w, err := parseWindow("25h", now)
	if err == nil {
		w, err = w.ending(now, day)
	}
	if got := rfc3339(w.from) + " " + rfc3339(w.to); err != nil || got != "2026-01-13T00:00:00Z 2026-01-15T00:00:00Z" {
		t.Errorf("to the day: %s %v", got, err)
	}
}

func TestSetsMakeTheWindow(t *testing.T) {
	w := window{from: 1_767_225_600 - 3700, to: 1_767_225_600 + 200*day}
	for _, period := range []string{"", "day", "week", "month", "quarter"} {
		sets, err := w.sets(10*day, period)
		if err != nil {
			t.Fatal(err)
		}
		at := w.from
		for _, s := range sets {
			if s.from != at || s.to <= s.from {
				t.Fatalf("%s: %v after %d", period, s, at)
			}
			at = s.to
			if period != "" && s.to != w.to && s.to%day != 0 {
				t.Errorf("%s: %v", period, rfc3339(s.to))
			}
		}
		if at != w.to {
			t.Errorf("%s: it ends at %d", period, at)
		}
	}
}

// world is what filters are tried on.
var world = []map[store.Dimension]string{
	{store.Cluster: "c1", store.Node: "n1", store.Namespace: "kube-system", store.Controller: "DaemonSet/dcgm", store.Pod: "dcgm-x", "label:app": "dcgm"},
	{store.Cluster: "c1", store.Node: "n2", store.Namespace: "search", store.Controller: "Deployment/llama", store.Pod: "llama-7", "label:app": ""},
	{store.Cluster: "c2", store.Node: "n1", store.Namespace: "ads", store.Pod: "bare"},
	{store.Cluster: "c2", store.Node: "n3"},
}

func kept(p *predicate, filters []store.Filter) (out string) {
	for i, facts := range world {
		key := func(d store.Dimension) store.Key {
			v, ok := facts[d]
			return store.Key{Value: v, Missing: !ok}
		}
		ok := p.keep(key)
		for _, f := range filters {
			ok = ok && f.Match(key(f.Dimension))
		}
		if ok {
			out += fmt.Sprint(i)
		}
	}
	return out
}

func TestFilters(t *testing.T) {
	for text, want := range map[string]string{
		``:                                                  "0123",
		` ( namespace : "search" , "ads" ) `:                "12",
		`namespace!:"search","ads"`:                         "03",
		`namespace:"__unallocated__"`:                       "3",
		`namespace:""`:                                      "3",
		`label[app]:""`:                                     "123",
		`label[app]!:"dcgm"`:                                "123",
		`namespace~:"ea"`:                                   "1",
		`namespace!~:"ea"`:                                  "023",
		`namespace<~:"kube"`:                                "0",
		`namespace!<~:"kube"`:                               "123",
		`namespace~>:"s"`:                                   "2",
		`namespace!~>:"s"`:                                  "013",
		`controllerKind:"Deployment","daemonset"`:           "01",
		`controllerName:"llama"`:                            "1",
		`controller:"deployment:llama"`:                     "1",
		`cluster:"c1"+node:"n1"`:                            "0",
		`cluster:"c1" node:"n1"`:                            "0", // a + that was not escaped
		`cluster:"c1"|node:"n1"`:                            "012",
		`cluster:"c2"+(node:"n3"|namespace:"ads")`:          "23",
		`(cluster:"c1"+node:"n1")|(cluster:"c2"+node:"n3")`: "03",
		`pod:"*"`:                                           "", // no wildcard here
	} {
		p, err := parseFilter(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := kept(&p, nil); got != want {
			t.Errorf("%s keeps %q, want %q", text, got, want)
		}
	}
	for _, x := range []struct{ name, text, want string }{
		{"filterNamespaces", "search, ad*", "12"},
		{"filterLabels", "app:dcgm", "0"},
		{"filterControllers", "Deployment:llama,dcgm", "01"},
		{"filterControllerKinds", "DaemonSet", "0"},
		{"filterClusters", "c2", "23"},
	} {
		p, err := parseOldFilter(x.name, x.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := kept(&p, nil); got != x.want {
			t.Errorf("%s=%s keeps %q, want %q", x.name, x.text, got, x.want)
		}
	}
}

// FuzzFilter: whatever is written is parsed within bounds, and what the store
// applies of it with the rest of it keeps what the whole keeps.
func FuzzFilter(f *testing.F) {
	f.Add(`namespace:"a"+label[app]:"b"`)
	f.Add(`cluster:"c1"+(node!~>:"n1"|pod<~:"*","")+controllerKind:"Job"`)
	f.Add(`label[app]!:"","x"  team~:"s"`)
	f.Add(strings.Repeat(`(`, 30) + `pod:"`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseFilter(text)
		if err != nil {
			return
		}
		whole := kept(&p, nil)
		filters, rest := p.split()
		if got := kept(&rest, filters); got != whole {
			t.Errorf("%q keeps %q as a whole and %q split into %+v and %+v", text, whole, got, filters, rest)
		}
		p.dims(nil)
	})
}

// FuzzRequest: parameters are refused or understood, and never more.
func FuzzRequest(f *testing.F) {
	f.Add("window=7d&aggregate=namespace,label:app&step=1d&accumulate=false&shareIdle=even&filterLabels=a:b,c:d*")
	f.Add("window=lastweek&filter=pod%3A%22a%22&shareNamespaces=a&limit=3&offset=9")
	f.Add("window=0,1&window=%zz")
	now := time.Unix(1_767_225_600, 0)
	f.Fuzz(func(t *testing.T, raw string) {
		r, err := parseRequest(raw, now)
		if err != nil {
			return
		}
		w, err := r.window.ending(now, hour)
		if err != nil {
			return
		}
		if w.from >= w.to || w.from < 0 {
			t.Fatalf("%q: window %+v", raw, w)
		}
		if sets, err := w.sets(r.step, r.period); err == nil && (len(sets) == 0 || len(sets) > maxSets) {
			t.Fatalf("%q: %d sets", raw, len(sets))
		}
		if n := len(newPlan(r).dims); n > 600 {
			t.Fatalf("%q: %d dimensions", raw, n)
		}
	})
}

// TestALabelsKeyIsWrittenSafely: a roster may name anything a label.
func TestALabelsKeyIsWrittenSafely(t *testing.T) {
	r, err := parseRequest("window=1d&aggregate="+`label:a%22b%5C`, time.Unix(1_767_225_600, 0))
	if err != nil {
		t.Fatal(err)
	}
	p := newPlan(r)
	items := p.items([]store.Row{{Keys: []store.Key{{Value: "c"}, {Value: "\x00\""}}, Basis: attribution.Used}})
	if got, want := items[0].properties(p), `{"cluster":"c","labels":{"a\"b\\":"\u0000\""}}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
