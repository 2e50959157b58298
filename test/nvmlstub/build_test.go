package nvmlstub_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

func TestBuildIsKept(t *testing.T) {
	dir := t.TempDir()
	lib, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Variant{})
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(lib) != nvmlstub.Soname {
		t.Errorf("the library is %s", lib)
	}
	// Where it is there, no compiler is needed; another variant wants one.
	t.Setenv("PATH", t.TempDir())
	if again, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Variant{}); err != nil || again != lib {
		t.Errorf("again: %s, %v", again, err)
	}
	if _, err := nvmlstub.Build(t.Context(), dir, nvmlstub.OldDriver()); !errors.Is(err, nvmlstub.ErrNoCompiler) {
		t.Errorf("without a compiler: %v", err)
	}
	if _, err := nvmlstub.Build(t.Context(), dir, nvmlstub.Variant{Without: []string{"nvmlSing"}}); err == nil || errors.Is(err, nvmlstub.ErrNoCompiler) {
		t.Errorf("without an unknown symbol: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "build-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// The sources stand the strictest reading.
func TestSourcesHaveNoWarnings(t *testing.T) {
	files, err := filepath.Glob("lib/*.c")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	args := []string{"-std=c11", "-O2", "-fPIC", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes"}
	if out, err := exec.Command("gcc", append(args, files...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestOldDriverLacksWhatIsNew(t *testing.T) {
	old := nvmlstub.OldDriver().Without
	for _, s := range []string{"nvmlGpmSampleGet", "nvmlDeviceGetMigMode", "nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMPSComputeRunningProcesses"} {
		if !slices.Contains(old, s) {
			t.Errorf("it has %s", s)
		}
	}
	for _, s := range []string{"nvmlInit_v2", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetProcessUtilization", "nvmlDeviceGetUUID"} {
		if slices.Contains(old, s) {
			t.Errorf("it lacks %s", s)
		}
	}
}

// buildProgram builds a program of this module, statically.
func buildProgram(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

func indent(s string) string {
	return "\t" + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n\t")
}
