// Package reproducible_test builds the programs twice, in different folders and
// with different caches, and compares them byte by byte.
package reproducible_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReproducible takes as long as building everything anew: set
// GPULEDGER_REPRODUCIBLE=1, or to the names of some programs.
func TestReproducible(t *testing.T) {
	which := os.Getenv("GPULEDGER_REPRODUCIBLE")
	if which == "" {
		t.Skip("builds everything anew: set GPULEDGER_REPRODUCIBLE=1, as make check-reproducible does")
	}
	programs := []string{"gpuledger", "gpuledger-agent", "gpuledger-collector"}
	if which != "1" {
		programs = strings.Fields(which)
	}
	first, second := checkout(t, "a"), checkout(t, "another/place")
	for _, name := range programs {
		a := build(t, first, name)
		b := build(t, second, name, "GOCACHE="+t.TempDir())
		if !bytes.Equal(a, b) {
			t.Errorf("%s: %d and %d bytes that differ", name, len(a), len(b))
		}
		if bytes.Contains(a, []byte(first)) {
			t.Errorf("%s knows where it was built", name)
		}
		t.Logf("%x  %s", sha256.Sum256(a), name)
	}
}

// checkout is a copy of the last commit.
func checkout(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("git -C ../.. archive HEAD | tar -x -C '%s'", dir)
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// build builds one program as make release does.
func build(t *testing.T, dir, name string, env ...string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), "make", "dist/"+name, "VERSION=test")
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "dist", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
