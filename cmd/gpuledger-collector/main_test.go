package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuledger/gpuledger/collector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = execute(ctx, nil, args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	typo := write("typo.yaml", "grpc_listen: 127.0.0.1:0\nretension: {}\n")
	card := write("card.yaml", "currency: USD\nprices: [{model: \"*\", per_device_hour: -1}]\n")
	file := write("file", "")
	local := []string{"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"version":         {[]string{"version"}, 0, "gpuledger-collector dev"},
		"config print":    {[]string{"config", "print", "--data-dir", "x"}, 0, "data_dir: x\n"},
		"help":            {[]string{"--help"}, 0, "--rate-card"},
		"unknown flag":    {[]string{"--fast"}, 2, "--fast"},
		"unknown command": {[]string{"serve"}, 2, "serve"},
		"unknown key":     {[]string{"--config", typo}, 2, "retension"},
		"no file":         {[]string{"--config", filepath.Join(dir, "none")}, 2, "none"},
		"open to all":     {[]string{"--grpc-listen", ":9440"}, 2, "insecure_listen"},
		"negative price":  {append(local, filepath.Join(dir, "d"), "--rate-card", card), 2, "card.yaml"},
		"not a directory": {append(local, file), 1, "file"},
	} {
		code, stdout, stderr := do(context.Background(), c.args...)
		if code != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%s: exit code %d, want %d saying %q:\n%s%s", name, code, c.code, c.says, stdout, stderr)
		}
		if (code == 0) != (stderr == "") {
			t.Errorf("%s: exit code %d and on standard error: %s", name, code, stderr)
		}
	}
}

func TestServesUntilToldToStop(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready.json")
	args := []string{
		"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "d"),
		"--ready-file", ready, "--log-level", "error",
	}
	ctx, stop := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		c, _, _ := do(ctx, args...)
		code <- c
	}()
	var at collector.Addresses
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for at.GRPC == "" {
		select {
		case c := <-code:
			t.Fatalf("it ended with %d", c)
		case <-tick.C:
			if b, err := os.ReadFile(ready); err == nil {
				if err := json.Unmarshal(b, &at); err != nil {
					t.Fatalf("half a file: %s", b)
				}
			}
		}
	}
	if strings.HasSuffix(at.GRPC, ":0") || strings.HasSuffix(at.HTTP, ":0") {
		t.Errorf("serves at %+v", at)
	}
	// Its files are the owner's alone, those that the store makes as it goes too.
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err == nil && path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	// The ledger has one collector at a time.
	if c, _, stderr := do(context.Background(), args...); c != 1 || stderr == "" {
		t.Errorf("a second collector: exit code %d, %s", c, stderr)
	}
	stop()
	if c := <-code; c != 0 {
		t.Errorf("told to stop, it ended with %d", c)
	}
}
