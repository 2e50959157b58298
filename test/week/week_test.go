package week

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gpuledger/gpuledger/agent/sampler/replay"
)

// The week is a sound recording, and the same every time.
func TestRecord(t *testing.T) {
	var a, b bytes.Buffer
	if err := errors.Join(Record(&a), Record(&b)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("two recordings of the week differ")
	}
	file := filepath.Join(t.TempDir(), "week.jsonl")
	if err := os.WriteFile(file, a.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := replay.Check(file)
	if err != nil {
		t.Fatal(err)
	}
	if s.Nodes != 3 || s.Devices != 6 || s.Samples != 6*7*1440 || s.Tallies < 6*(7*1440-1) {
		t.Errorf("a week of %+v", s)
	}
}
