package simulation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// root is the module's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// plant patches a file's text, and fails where what it patches is not there once.
func plant(text string, m *Mutant, number int) (string, error) {
	if n := strings.Count(text, m.Old); n != 1 {
		return "", fmt.Errorf("%s: %q is there %d times: want 1", m.File, m.Old, n)
	}
	return strings.Replace(text, m.Old, strings.ReplaceAll(m.New, "PLANTED", fmt.Sprintf("planted(%d)", number)), 1), nil
}

// TestMutantsCanBePlanted fails when the sources have moved away from a mutant.
func TestMutantsCanBePlanted(t *testing.T) {
	for i, m := range Mutants() {
		b, err := os.ReadFile(filepath.Join(root(t), m.File))
		if err == nil {
			_, err = plant(string(b), &m, i)
		}
		if err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}

var packageClause = regexp.MustCompile(`(?m)^package (\w+)$`)

// overlay writes patched copies of all files, and says where they are.
func overlay(t *testing.T, dir string) string {
	t.Helper()
	texts := map[string]string{}
	for i, m := range Mutants() {
		file := filepath.Join(root(t), m.File)
		if texts[file] == "" {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts[file] = string(b)
		}
		out, err := plant(texts[file], &m, i)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = out
		name := packageClause.FindStringSubmatch(out)[1]
		texts[filepath.Join(filepath.Dir(file), "planted.go")] = fmt.Sprintf(
			"package %s\n\nimport (\"os\"; \"strconv\")\n\nvar plantedBug = os.Getenv(\"GPULEDGER_PLANTED\")\n\nfunc planted(n int) bool { return plantedBug == strconv.Itoa(n) }\n", name)
	}
	replace := map[string]string{}
	for file, text := range texts {
		to := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[file] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestMutants plants one bug after another and counts the seeds until it is
// found: a law is broken, a program panics, or nothing goes on any more.
func TestMutants(t *testing.T) {
	if os.Getenv("GPULEDGER_MUTANTS") == "" {
		t.Skip("set GPULEDGER_MUTANTS to plant bugs and see them found: some minutes")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "mutants.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay(t, dir), "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	first, last := int(number(t, "GPULEDGER_MUTANTS_FIRST", 0)), int(number(t, "GPULEDGER_MUTANTS_LAST", 1000))
	most := int(number(t, "GPULEDGER_MUTANTS_SEEDS", 100))
	for i, m := range Mutants() {
		if i < first || i > last {
			continue
		}
		began := time.Now()
		run := exec.CommandContext(t.Context(), binary, "-test.run", "^TestHunt$", "-test.v", "-test.timeout", "2h")
		run.Env = append(os.Environ(), fmt.Sprintf("GPULEDGER_PLANTED=%d", i), fmt.Sprintf("GPULEDGER_HUNT=%d", most), fmt.Sprintf("GPULEDGER_HUNT_DUCKDB=%t", m.DuckDB))
		out, err := run.CombinedOutput()
		seeds := bytes.Count(out, []byte("hunting in seed "))
		if err == nil {
			t.Errorf("| %s | NOT FOUND in %d seeds |", m.Name, seeds)
			continue
		}
		t.Logf("| %s | %d | %s | %.0f s", m.Name, seeds, clue(string(out)), time.Since(began).Seconds())
	}
}

// clue is what a hunt found.
func clue(out string) string {
	for line := range strings.Lines(out) {
		if _, what, ok := strings.Cut(line, "FOUND "); ok || strings.HasPrefix(line, "panic:") {
			if !ok {
				what = line
			}
			what = strings.TrimSpace(what)
			return what[:min(len(what), 110)]
		}
	}
	return "it ended"
}

// TestHunt runs seeds until one finds something.
func TestHunt(t *testing.T) {
	seeds := uint64(0)
	if _, err := fmt.Sscan(os.Getenv("GPULEDGER_HUNT"), &seeds); err != nil {
		t.Skip("it is part of TestMutants")
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		t.Logf("hunting in seed %d", seed)
		o := Options{Hours: 20}
		if os.Getenv("GPULEDGER_HUNT_DUCKDB") == "true" {
			o.Dir = t.TempDir()
		}
		// A seed takes a second or two. One that a bug keeps from ending is found, too.
		endless := time.AfterFunc(2*time.Minute, func() {
			_, _ = fmt.Println("FOUND it does not end")
			os.Exit(1)
		})
		r := simulate(t, seed, o)
		endless.Stop()
		if len(r.Broken) > 0 {
			t.Fatalf("FOUND %s", r.Broken[0])
		}
	}
}
