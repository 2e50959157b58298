package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// readHeads reads what an earlier verification noted; a file that is not there
// notes nothing yet.
func readHeads(name string) ([]*pb.ChainHead, error) {
	if name == "" {
		return nil, nil
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--heads: %w", err)
	}
	var m pb.VerifyRequest
	if err := protojson.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("--heads: %s is not what an earlier verify wrote: %w", name, err)
	}
	return m.GetNoted(), nil
}

// writeHeads replaces the file as a whole. A node that has sent nothing new is
// noted again, so no node is forgotten.
func writeHeads(name string, heads []*pb.ChainHead) error {
	b, err := protojson.MarshalOptions{Multiline: true}.Marshal(&pb.VerifyRequest{Noted: heads})
	if err != nil {
		return fmt.Errorf("--heads: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("--heads: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("--heads: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
