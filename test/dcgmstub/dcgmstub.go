// Package dcgmstub builds a stand-in for NVIDIA's libdcgm.so.4, so that the
// agent's real way through dlopen runs where there is neither a GPU nor DCGM.
//
// The library is found by its name only: a process sees it if LD_LIBRARY_PATH
// has named its folder since the process began. Hence tests run it in a child
// process; [Env] has what the child's environment needs.
//
// A scenario is a text file of one statement a line, read again at each call:
//
//	listen HOST:PORT              where dcgmConnect_v2 reaches a hostengine
//	listen-unix PATH              the same, by a socket's path
//	generation N                  another number: the hostengine was restarted
//	gpu ID UUID                   a GPU, by DCGM's number
//	gi ENTITY GPU NVML            a GPU instance: DCGM's entity, NVML's number
//	ci ENTITY GI NVML             a compute instance of the GPU instance GI
//	value KIND ID FIELD VALUE     KIND is gpu, gi or ci; VALUE a number (nan,
//	                              inf), blank, unsupported, denied or integer
//	value KIND ID FIELD V age MS  the same, measured MS before
//	value KIND ID FIELD status N  a DCGM_ST code instead
//	unwatchable KIND ID CODE      dcgmWatchFields refuses groups with it
//	fail CALL CODE                the call returns the code
//	delay CALL MS                 the call takes so long
//	hierarchy-count N             a count that the hierarchy doesn't have
//	calls FILE                    calls are written down here, one a line
//
// Asking for live data is the call dcgmEntitiesGetLatestValues(live).
package dcgmstub

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Library is the file name that DCGM's clients open.
const Library = "libdcgm.so.4"

// Scenario is the environment variable that names the scenario file.
const Scenario = "GPULEDGER_DCGM_SCENARIO"

//go:embed library/dcgm.c
var source []byte

// Build compiles the library below the folder cache, unless it is there, and
// returns the folder that it lies in. The symbols in omit are left out of it,
// as in an older library. It needs the C compiler that CC names, else cc.
func Build(ctx context.Context, cache string, omit ...string) (string, error) {
	sum := sha256.Sum256(append([]byte(strings.Join(omit, ",")+"\n"), source...))
	dir := filepath.Join(cache, "dcgmstub-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(dir, Library)); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work) //nolint:errcheck // only leaves a folder behind
	symbols := "{ global: *; };\n"
	if len(omit) > 0 {
		symbols = "{ global: *; local: " + strings.Join(omit, "; ") + "; };\n"
	}
	code, script, out := filepath.Join(work, "dcgm.c"), filepath.Join(work, "symbols"), filepath.Join(work, Library)
	for path, text := range map[string][]byte{code: source, script: []byte(symbols)} {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return "", err
		}
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	args := append(strings.Fields(cc), "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread",
		"-Wl,-soname,"+Library, "-Wl,--version-script,"+script, "-o", out, code)
	if text, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("dcgmstub: %s: %w\n%s", cc, err, text)
	}
	// Whoever builds the same at the same time ends up with the same file.
	return dir, os.Rename(out, filepath.Join(dir, Library))
}

// Env is what a process's environment needs beside its own to find the library
// in dir, and its scenario.
func Env(dir, scenario string) []string {
	return []string{"LD_LIBRARY_PATH=" + dir, Scenario + "=" + scenario}
}

// Write replaces the scenario at once: a call sees the old or the new one.
func Write(path, text string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
