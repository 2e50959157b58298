package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	typo := file("typo.yaml", "cluster: a\nclutser: b\n")
	bad := file("bad.jsonl", "{\"kind\":\"recording\"\n")
	for name, test := range map[string]struct {
		args []string
		code int
		says string
	}{
		"version":             {[]string{"version"}, 0, "gpuledger-agent dev"},
		"help":                {[]string{"--help"}, 0, "--source"},
		"config print":        {[]string{"config", "print", "--cluster", "prod"}, 0, "cluster: prod"},
		"unknown flag":        {[]string{"--bogus"}, 2, "unknown flag"},
		"unknown command":     {[]string{"bogus"}, 2, "bogus"},
		"unknown key":         {[]string{"--config", typo}, 2, "[2:1]"},
		"no config":           {[]string{"--config", filepath.Join(dir, "none.yaml")}, 2, "none.yaml"},
		"wrong settings":      {[]string{"--source", "magic"}, 2, "source: unknown \"magic\""},
		"bad speed":           {[]string{"--source", "simulated", "--speed", "fast"}, 2, "--speed"},
		"another machine":     {[]string{"--collector", "10.0.0.1:9440"}, 2, "insecure: true"},
		"malformed recording": {[]string{"--source", "replay", "--recording", bad, "--state-dir", filepath.Join(dir, "state")}, 1, "bad.jsonl"},
		"missing recording":   {[]string{"--source", "replay", "--recording", filepath.Join(dir, "none")}, 1, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs strings.Builder
			ctx := context.Background()
			if code := execute(ctx, ctx, test.args, strings.NewReader(""), &out, &errs); code != test.code {
				t.Fatalf("exit code %d, want %d; says %s", code, test.code, errs.String())
			}
			if text := out.String() + errs.String(); !strings.Contains(text, test.says) {
				t.Fatalf("says %s\nwant %s", text, test.says)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
		t.Fatal("a malformed recording left a state directory")
	}
}

func TestNothingIsSimulatedUnasked(t *testing.T) {
	if _, err := os.Stat("/dev/nvidiactl"); err == nil {
		t.Skip("this machine has a driver")
	}
	var out, errs strings.Builder
	ctx := context.Background()
	if code := execute(ctx, ctx, []string{"--state-dir", t.TempDir()}, strings.NewReader(""), &out, &errs); code != 1 || !strings.Contains(errs.String(), "--source simulated") {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
}
