package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
	"github.com/gpuledger/gpuledger/test/nvmlstub"
)

// The stub driver understands the scene, and every device of it has a place on
// the screen.
func TestScene(t *testing.T) {
	check, err := nvmlstub.BuildCheck(context.Background(), "")
	if errors.Is(err, nvmlstub.ErrNoCompiler) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "gpus")
	if err := scenario().Write(file); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(check, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	shown := make(map[string]bool)
	for _, p := range places {
		shown[p.device] = true
	}
	for _, d := range scenario().Devices {
		if !shown[d.UUID] {
			t.Errorf("%s is not shown", d.UUID)
		}
	}
	for _, i := range scenario().Instances {
		if !shown[i.UUID] {
			t.Errorf("%s is not shown", i.UUID)
		}
	}
}

func TestOwner(t *testing.T) {
	for want, row := range map[string]*pb.ReportRow{
		"serving/Deployment/ranker": {Keys: []string{"g", "serving", "Deployment/ranker", "used"}, Missing: make([]bool, 4)},
		"(nobody)":                  {Keys: []string{"g", "", "", "unallocated"}, Missing: []bool{false, true, true, false}},
		"(a process nobody knows)":  {Keys: []string{"g", "", "", "unattributed"}, Missing: []bool{false, true, true, false}},
		"(a process of the host)":   {Keys: []string{"g", "", "", "used"}, Missing: []bool{false, true, true, false}},
	} {
		if got := owner(row); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What can't be started leaves nothing behind, and says why.
func TestNoPrograms(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var out bytes.Buffer
	err := run(context.Background(), []string{"--bin", tmp, "--load", filepath.Join(tmp, "gpuload"), "--for", time.Minute.String()}, &out, io.Discard)
	if errors.Is(err, nvmlstub.ErrNoCompiler) {
		t.Skip(err)
	}
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("%v", err)
	}
	left, err := filepath.Glob(filepath.Join(tmp, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
