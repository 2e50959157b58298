package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	for args, code := range map[string]int{
		"gpuload --for 1ms":           0,
		"gpuload --help":              0,
		"gpuload --processes 0":       2,
		"gpuload --for -1s":           2,
		"gpuload --nonsense":          2,
		"gpuload --name a b":          2,
		"gpuload --exit-code=3 --for": 2,
	} {
		if got, err := run(strings.Fields(args), io.Discard, io.Discard); got != code || (err != nil) != (code != 0) {
			t.Errorf("%s: %d, %v", args, got, err)
		}
	}
}

func TestItSaysWhoItIs(t *testing.T) {
	var out bytes.Buffer
	if code, err := run([]string{"gpuload", "--name", "a", "--for", "1ms"}, &out, io.Discard); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	if !strings.HasPrefix(out.String(), "gpuload a: process 1 of 1, pid ") {
		t.Errorf("it said %q", out.String())
	}
}
