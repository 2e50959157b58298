package nvmlstub

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed lib/*.c lib/*.h
var sources embed.FS

// ErrNoCompiler says that there is no C compiler to build the library with.
var ErrNoCompiler = errors.New("no C compiler")

// EnvScenario is the environment variable that names the scenario file.
const EnvScenario = "GPULEDGER_NVML_SCENARIO"

// Soname is what the driver's library is called.
const Soname = "libnvidia-ml.so.1"

// Variant is a build of the library that lacks some of its symbols: dlsym does
// not find them. The zero Variant has them all.
type Variant struct {
	Without []string // such as nvmlDeviceGetSamples
}

// OldDriver is a variant with what drivers of about 2018 had: no GPM, no MIG,
// no MPS lists, no energy counter, and the first version of the process lists.
func OldDriver() Variant {
	old := regexp.MustCompile(`Gpm|Mig|MPS|Energy|GpuInstance|ComputeInstance|Attributes|ProcessesUtilizationInfo|RunningProcesses_v|EventSetWait_v2|PciInfo_v3|MemoryInfo_v2|Architecture`)
	return Variant{Without: slices.DeleteFunc(Symbols(), func(s string) bool { return !old.MatchString(s) })}
}

// Symbols are all that the library can export.
func Symbols() []string {
	text, err := sources.ReadFile("lib/symbols.h")
	if err != nil {
		panic("BUG: " + err.Error())
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^SYMBOL\((\w+)\)`).FindAllSubmatch(text, -1) {
		out = append(out, string(m[1]))
	}
	return out
}

// Build builds the library below dir and returns its path, which ends in
// [Soname], so that its folder can be on LD_LIBRARY_PATH. Without a dir it is
// kept in the user's cache. What has been built from the same sources is used
// again. Several processes may build at the same time.
func Build(ctx context.Context, dir string, v Variant) (string, error) {
	known := Symbols()
	for _, s := range v.Without {
		if !slices.Contains(known, s) {
			return "", fmt.Errorf("build the NVML stub without %s: it has no such symbol", s)
		}
	}
	exported := slices.DeleteFunc(known, func(s string) bool { return slices.Contains(v.Without, s) })
	script := fmt.Sprintf("{ global: %s; local: *; };\n", strings.Join(exported, "; "))
	return build(ctx, dir, Soname, script, []string{
		"-shared", "-fPIC", "-fvisibility=hidden", "-pthread",
		"-Wl,-soname," + Soname, "-Wl,-z,nodelete", "-Wl,--version-script=exports",
	}, func(name string) bool { return name != "check.c" })
}

// BuildCheck builds nvmlstub-check, which says what is wrong with a scenario
// file, or prints it as it was understood.
func BuildCheck(ctx context.Context, dir string) (string, error) {
	parts := []string{"check.c", "scenario.c", "fields.c"}
	return build(ctx, dir, "nvmlstub-check", "", nil, func(name string) bool { return slices.Contains(parts, name) })
}

// build compiles the parts of the sources into dir/HASH/name.
func build(ctx context.Context, dir, name, script string, flags []string, part func(string) bool) (string, error) {
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "gcc"
	}
	args := append([]string{"-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-o", name}, flags...)
	files, err := fs.ReadDir(sources, "lib")
	if err != nil {
		return "", fmt.Errorf("read the NVML stub's sources: %w", err)
	}
	hash := sha256.New()
	for _, f := range files {
		text, err := sources.ReadFile("lib/" + f.Name())
		if err != nil {
			return "", fmt.Errorf("read the NVML stub's sources: %w", err)
		}
		hash.Write(fmt.Appendf(nil, "%s %d\n%s", f.Name(), len(text), text))
		if strings.HasSuffix(f.Name(), ".c") && part(f.Name()) {
			args = append(args, f.Name())
		}
	}
	hash.Write(fmt.Appendf(nil, "%s %q %q", compiler, script, args))
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find a place for the NVML stub (give it a folder): %w", err)
		}
		dir = filepath.Join(cache, "gpuledger", "nvmlstub")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", fmt.Errorf("find a place for the NVML stub: %w", err)
	}
	home := filepath.Join(dir, hex.EncodeToString(hash.Sum(nil)[:12]))
	built := filepath.Join(home, name)
	if _, err := os.Stat(built); err == nil {
		return built, nil
	}
	return built, compile(ctx, compiler, args, script, home)
}

// compile builds beside home and moves the result there at once.
func compile(ctx context.Context, compiler string, args []string, script, home string) error {
	if _, err := exec.LookPath(compiler); err != nil {
		return fmt.Errorf("%w: the NVML stub is built with %s (apt install gcc libc6-dev, or set CC): %w", ErrNoCompiler, compiler, err)
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	work, err := os.MkdirTemp(filepath.Dir(home), "build-")
	if err != nil {
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	defer os.RemoveAll(work) //nolint:errcheck // after the rename it is gone
	lib, err := fs.Sub(sources, "lib")
	if err != nil {
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	if err := os.CopyFS(work, lib); err != nil {
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	if err := os.WriteFile(filepath.Join(work, "exports"), []byte(script), 0o644); err != nil {
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	cmd := exec.CommandContext(ctx, compiler, args...)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the NVML stub: %s: %w\n%s", compiler, err, out)
	}
	if err := os.Chmod(work, 0o755); err != nil { // it may be mounted into a container
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	if err := os.Rename(work, home); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("build the NVML stub: %w", err)
	}
	return nil
}
