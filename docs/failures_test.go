package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sources is the text of all Go files of the programs, without tests.
func sources(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, root := range []string{"../agent", "../collector", "../cmd", "../attribution"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			b.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// TestFailures: every row of failures.md names what proves it, that is there;
// what it says is logged is in the programs; its alerts are alerts.
func TestFailures(t *testing.T) {
	page, code, alerts := read(t, "failures.md"), sources(t), read(t, "../deploy/prometheus/alerts.yaml")
	var faults strings.Builder
	files, err := filepath.Glob("../test/faults/*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		faults.WriteString(read(t, f))
	}
	tests := regexp.MustCompile("`([a-z0-9/]+)` (Test\\w+)")
	real := regexp.MustCompile(`\*([^*]+)\*`)
	quoted := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.SplitSeq(page, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) < 5 || strings.HasPrefix(line, "| ---") || strings.Contains(line, "proved by") {
			continue
		}
		rows++
		proofs := cells[len(cells)-1]
		proved := 0
		for _, m := range tests.FindAllStringSubmatch(proofs, -1) {
			proved++
			if !declares(t, "../"+m[1], m[2]) {
				t.Errorf("%s has no %s:\n%s", m[1], m[2], line)
			}
		}
		for _, m := range real.FindAllStringSubmatch(proofs, -1) {
			proved++
			if !strings.Contains(faults.String(), `{"`+m[1]+`",`) {
				t.Errorf("test/faults has no fault %q:\n%s", m[1], line)
			}
		}
		if proved == 0 {
			t.Errorf("nothing proves\n%s", line)
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[1], -1) {
			if strings.Contains(m[1], " ") && !strings.HasPrefix(m[1], "gpuledger ") && !strings.Contains(code, m[1]) {
				t.Errorf("no program says %q", m[1])
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d rows: the tables are not read as they are written", rows)
	}
	for _, name := range regexp.MustCompile(`\bGpuledger\w+`).FindAllString(page, -1) {
		if !strings.Contains(alerts, "alert: "+name+"\n") {
			t.Errorf("there is no alert %s", name)
		}
	}
}

func declares(t *testing.T, dir, test string) bool {
	t.Helper()
	files, err := filepath.Glob(dir + "/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.Contains(read(t, f), "\nfunc "+test+"(") {
			return true
		}
	}
	return false
}
