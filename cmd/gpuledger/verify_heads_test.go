package main

import (
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func TestHeadsAreKeptInAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "heads.json")
	if got, err := readHeads(name); err != nil || got != nil {
		t.Errorf("no file yet: %v, %v", got, err)
	}
	for _, n := range []int{3, 1} {
		var want []*pb.ChainHead
		for i := range n {
			want = append(want, &pb.ChainHead{Cluster: "c", Node: "n", Boot: make([]byte, 16), Second: int64(i), Link: []byte{1, byte(n)}})
		}
		if err := writeHeads(name, want); err != nil {
			t.Fatal(err)
		}
		got, err := readHeads(name)
		if err != nil || !proto.Equal(&pb.VerifyRequest{Noted: got}, &pb.VerifyRequest{Noted: want}) {
			t.Errorf("%v, %v: want %v", got, err, want)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
		t.Errorf("left beside it: %v, %v", entries, err)
	}
	if err := os.WriteFile(name, []byte("heads"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readHeads(name); err == nil {
		t.Error("garbage was taken for heads")
	}
	if err := writeHeads(filepath.Join(name, "under", "a", "file"), nil); err == nil {
		t.Error("written to where nothing can be written")
	}
}
