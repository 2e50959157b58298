package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write what is generated or golden anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gpuledger": main})
}

// TestScripts runs the command as people do. None of the scripts needs a
// collector or an agent.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup:               setup,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
	})
}

// setup adds what a script can't hold.
func setup(env *testscript.Env) error {
	switch filepath.Base(env.WorkDir) {
	case "script-rules-compare", "script-focus", "script-rerate-ledger", "script-backup":
		return smallLedger(env)
	}
	if filepath.Base(env.WorkDir) != "script-replay" {
		return nil
	}
	good, err := os.ReadFile(filepath.Join(env.WorkDir, "good.jsonl"))
	if err != nil {
		return err
	}
	head, rest, _ := strings.Cut(string(good), `{"kind":"device"`)
	whole := pack(good)
	for name, content := range map[string][]byte{
		"truncated.jsonl.gz": whole[:len(whole)-20],
		"bomb.jsonl.gz":      pack(bytes.Repeat([]byte("a"), 64<<20)),
		"long.jsonl":         []byte(head + `{"kind":"device","x":"` + strings.Repeat("x", 2<<20) + `"` + rest),
		"nested.jsonl":       []byte(strings.Replace(string(good), `{"kind":"end"`, `{"kind":"owner","labels":`+strings.Repeat(`{"a":`, 100_000)+"\n"+`{"kind":"end"`, 1)),
	} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func pack(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// exits runs a program that must exit with a code: exits 2 gpuledger report --to x.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && want != 0:
		ts.Fatalf("it succeeded, want exit code %d", want)
	case err != nil && !errors.As(err, &exit):
		ts.Fatalf("%v", err)
	case err != nil && exit.ExitCode() != want:
		ts.Fatalf("exit code %d, want %d", exit.ExitCode(), want)
	}
}

// TestReference keeps docs/commands.md, which is every command's help.
func TestReference(t *testing.T) {
	for _, name := range []string{"COLLECTOR", "DATA", "CA_FILE", "CERT_FILE", "KEY_FILE"} {
		t.Setenv("GPULEDGER_"+name, "")
	}
	const file = "../../docs/commands.md"
	want, err := reference(newRoot())
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("docs/commands.md is stale: run make generate")
	}
}

func TestHelpTeaches(t *testing.T) {
	for _, bad := range untaught(newRoot()) {
		t.Error(bad)
	}
}
