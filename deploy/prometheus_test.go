package deploy_test

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

var update = flag.Bool("update", false, "write the PrometheusRule from the rule files")

const ruleResource = "components/prometheus-operator/prometheusrule.yaml"

var ruleFiles = []string{"prometheus/recording.yaml", "prometheus/alerts.yaml"}

// ruleFile is a file of Prometheus rules.
type ruleFile struct {
	Groups []struct {
		Name     string `yaml:"name"`
		Interval string `yaml:"interval,omitempty"`
		Rules    []struct {
			Record      string            `yaml:"record,omitempty"`
			Alert       string            `yaml:"alert,omitempty"`
			Expr        string            `yaml:"expr"`
			For         string            `yaml:"for,omitempty"`
			Labels      map[string]string `yaml:"labels,omitempty"`
			Annotations map[string]string `yaml:"annotations,omitempty"`
		} `yaml:"rules"`
	} `yaml:"groups"`
}

func rules(t *testing.T) (all ruleFile) {
	t.Helper()
	for _, file := range ruleFiles {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var f ruleFile
		if err := yaml.UnmarshalWithOptions(text, &f, yaml.Strict()); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all.Groups = append(all.Groups, f.Groups...)
	}
	return all
}

// TestPromtool has Prometheus's own tool judge the rules.
func TestPromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	for _, args := range [][]string{{"check", "rules", "recording.yaml", "alerts.yaml"}, {"test", "rules", "tests.yaml"}} {
		c := exec.CommandContext(t.Context(), tool, args...)
		c.Dir = "prometheus"
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestThePrometheusRuleIsTheFiles: kustomize can't make one of the other.
func TestThePrometheusRuleIsTheFiles(t *testing.T) {
	type resource struct {
		APIVersion string            `yaml:"apiVersion"`
		Kind       string            `yaml:"kind"`
		Metadata   map[string]string `yaml:"metadata"`
		Spec       ruleFile          `yaml:"spec"`
	}
	want := resource{"monitoring.coreos.com/v1", "PrometheusRule", map[string]string{"name": "gpuledger", "namespace": "gpuledger"}, rules(t)}
	if *update {
		text, err := yaml.MarshalWithOptions(want, yaml.UseLiteralStyleIfMultiline(true))
		if err != nil {
			t.Fatal(err)
		}
		head := "# The rules of prometheus/, for the operator: go test ./deploy -update writes it.\n"
		if err := os.WriteFile(ruleResource, append([]byte(head), text...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(ruleResource)
	if err != nil {
		t.Fatal(err)
	}
	var got resource
	if err := yaml.UnmarshalWithOptions(text, &got, yaml.Strict()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s is not what the rule files say (-update writes it): %v", ruleResource, err)
	}
}

// exported are the names of all metrics that agents and collectors have.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{"up": true}
	read := func(file string) string {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, page := range []string{"../agent/exporter/prom/testdata/usd.txt", "../collector/rollupexport/testdata/page.txt"} {
		for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(read(page), -1) {
			names[m[1]] = true
		}
	}
	// What programs count of themselves is named in their sources.
	sources, err := filepath.Glob("../agent/*metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range sources {
		for _, m := range regexp.MustCompile(`[({]"([a-z0-9_]+)"`).FindAllStringSubmatch(read(file), -1) {
			names["gpuledger_agent_"+m[1]] = true
		}
	}
	for _, m := range regexp.MustCompile(`[({]"([a-z0-9_]+)", "`).FindAllStringSubmatch(read("../collector/metrics.go"), -1) {
		names["gpuledger_collector_"+m[1]] = true
	}
	if len(names) < 100 {
		t.Fatalf("only %d metrics were found", len(names))
	}
	return names
}

var (
	quoted   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'`)
	matchers = regexp.MustCompile(`\{[^}]*\}|\[[^\]]*\]`)
	clause   = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	number   = regexp.MustCompile(`\b[0-9][0-9a-z.]*\b`)
	word     = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*(\s*\()?`)
	keywords = []string{"and", "or", "unless", "bool", "offset", "by", "without"}
)

// metrics are the names of metrics in an expression of PromQL.
func metrics(expr string) (names []string) {
	expr = quoted.ReplaceAllString(expr, `""`)
	expr = matchers.ReplaceAllString(expr, " ")
	expr = clause.ReplaceAllString(expr, " ")
	expr = number.ReplaceAllString(expr, " ")
	for _, w := range word.FindAllString(expr, -1) {
		if !strings.HasSuffix(w, "(") && !slices.Contains(keywords, w) {
			names = append(names, w)
		}
	}
	return names
}

func TestMetricsOfPromQL(t *testing.T) {
	for expr, want := range map[string]string{
		`1e6 * sum by (a, b) (rate(x_total{c=~"d|e{}",f!="g"}[5m])) / on (a) group_left () (y:z:rate1h > 0)`: "x_total y:z:rate1h",
		`up == 0 or increase(x[1h] offset 1d) and on () vector(0)`:                                           "up x",
		`label_replace(x, "a", "$1", "b", "(.*)") unless time() - y > 1e3`:                                   "x y",
	} {
		if got := strings.Join(metrics(expr), " "); got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func TestRulesUseWhatIsExported(t *testing.T) {
	known := exported(t)
	all := rules(t)
	recorded := regexp.MustCompile(`^[a-z]+:gpuledger_[a-z0-9_]+:[a-z0-9_]+$`)
	for _, g := range all.Groups {
		for _, r := range g.Rules {
			if r.Record != "" && !recorded.MatchString(r.Record) {
				t.Errorf("%s: want level:metric:operation", r.Record)
			}
			known[r.Record] = true
		}
	}
	count := 0
	for _, g := range all.Groups {
		for _, r := range g.Rules {
			for _, m := range metrics(r.Expr) {
				if count++; !known[m] {
					t.Errorf("%s%s: nothing exports %s", r.Record, r.Alert, m)
				}
			}
			if r.Alert != "" && (r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "") {
				t.Errorf("%s: want a severity, a summary and a description", r.Alert)
			}
		}
	}
	if count < 40 {
		t.Errorf("only %d metrics were found", count)
	}
}

// dashboard is what is checked of a Grafana dashboard.
type dashboard struct {
	ID            *int
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		ID          int
		Title, Type string
		Datasource  datasource
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct {
			RefID      string
			Expr       string
			Datasource datasource
		}
	}
}

type datasource struct{ Type, UID string }

func TestDashboards(t *testing.T) {
	known := exported(t)
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			known[r.Record] = true
		}
	}
	files, err := filepath.Glob("grafana/*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	uids := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if d.ID != nil || d.SchemaVersion < 39 || d.UID == "" || uids[d.UID] || d.Templating.List[0].Type != "datasource" {
			t.Errorf("%s: id %v, uid %q, schema %d, first variable %+v", file, d.ID, d.UID, d.SchemaVersion, d.Templating.List[0])
		}
		uids[d.UID] = true
		check := func(where, expr string) {
			ms := metrics(strings.NewReplacer("$__rate_interval", "5m", "$__range", "1d").Replace(expr))
			if len(ms) == 0 {
				t.Errorf("%s: %s: no metric in %s", file, where, expr)
			}
			for _, m := range ms {
				if !known[m] {
					t.Errorf("%s: %s: nothing exports %s", file, where, m)
				}
			}
		}
		variables := map[string]bool{"__rate_interval": true, "__range": true}
		for _, v := range d.Templating.List {
			variables[v.Name] = true
			if v.Type == "query" {
				series, _, _ := strings.Cut(strings.TrimPrefix(v.Definition, "label_values("), ", ")
				check(v.Name, series)
			}
		}
		ids := map[int]bool{}
		for i, p := range d.Panels {
			if ids[p.ID] || p.Datasource.UID != "${datasource}" || p.GridPos.X+p.GridPos.W > 24 || len(p.Targets) == 0 {
				t.Errorf("%s: panel %d %q: id %d, %+v, %+v", file, i, p.Title, p.ID, p.Datasource, p.GridPos)
			}
			ids[p.ID] = true
			for _, q := range p.Targets {
				if q.Datasource.UID != "${datasource}" {
					t.Errorf("%s: %s: data source %+v", file, p.Title, q.Datasource)
				}
				check(p.Title, q.Expr)
				for _, v := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
					if !variables[v[1]] {
						t.Errorf("%s: %s: there is no variable %s", file, p.Title, v[1])
					}
				}
			}
		}
	}
}

// TestDashboardQueriesParse has promtool read every query of the dashboards.
func TestDashboardQueriesParse(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed")
	}
	files, err := filepath.Glob("grafana/*.json")
	if err != nil {
		t.Fatal(err)
	}
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var queries []rule
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatal(err)
		}
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				expr := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1d").Replace(q.Expr)
				queries = append(queries, rule{"query", expr})
			}
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboards", "rules": queries}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	// Only the syntax: all have one name here.
	if out, err := exec.CommandContext(t.Context(), tool, "check", "rules", "--lint=none", file).CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
