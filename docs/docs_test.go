package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLinks: what a page links to is there, and what the README links to here.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil || len(pages) < 5 {
		t.Fatal(pages, err)
	}
	link := regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`)
	for _, page := range append(pages, "../README.md") {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") || (page == "../README.md" && !strings.HasPrefix(m[1], "docs/")) {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

// TestMetrics: the metrics that the pages name are those of the programs.
func TestMetrics(t *testing.T) {
	for program, sources := range map[string][]string{
		"agent":     {"../agent/metrics.go", "../agent/gpunode_metrics.go", "../agent/inference_metrics.go", "../agent/exporter/prom/descs.go"},
		"collector": {"../collector/metrics.go"},
	} {
		code, found := "", 0
		for _, source := range sources {
			code += read(t, source)
		}
		for _, m := range regexp.MustCompile(`gpuledger_`+program+`_([a-z_]+)`).FindAllStringSubmatch(read(t, "operations.md")+read(t, "failures.md"), -1) {
			found++
			if !strings.Contains(code, `"`+m[1]+`"`) && !strings.Contains(code, `"`+program+"_"+m[1]+`"`) {
				t.Errorf("operations.md or failures.md names %s, which none of %v has", m[0], sources)
			}
		}
		if found == 0 {
			t.Errorf("operations.md and failures.md name no metric of the %s", program)
		}
	}
}
