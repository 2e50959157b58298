package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/big"
	"slices"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// magic is how a file of version 1 begins.
const magic = "gpuledger backup 1\n"

// The kinds of frames.
const (
	frameHeader  = 'H'
	frameBlock   = 'B'
	frameTrailer = 'T'
)

const headSize = 4 + 1 + 4

// Progress is how far something has come.
type Progress struct {
	What  string // is being done
	Bytes int64  // of the file, read or written
	Parts int64  // of the ledger
}

// Write writes a ledger as a file, which is whole only where it returns without
// an error. It holds a view of the store for as long as it takes; its memory is
// bounded by a few blocks. program names the program's version; report, which
// may be nil, is called after each block.
func Write(ctx context.Context, s store.Store, out io.Writer, program string, report func(Progress) error) (*Summary, error) {
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = zip.Close() }() // it only frees
	f := &fileWriter{out: bufio.NewWriterSize(out, 256<<10), hash: sha256.New(), zip: zip}
	if err := f.write([]byte(magic)); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	w := newWalker(nil)
	blocks := uint64(0)
	begun := false
	header := func() error {
		if begun {
			return nil
		}
		begun = true
		return f.frame(frameHeader, encodeHeader(program, &w.marks))
	}
	w.emit = func(p *store.Part) error {
		if err := header(); err != nil {
			return err
		}
		blocks++
		if err := f.frame(frameBlock, encodeBlock(p)); err != nil {
			return err
		}
		if report == nil {
			return ctx.Err()
		}
		return report(Progress{What: "writing", Bytes: f.size, Parts: int64(blocks)})
	}
	if err := w.walk(ctx, s); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if err := header(); err != nil { // of an empty ledger
		return nil, fmt.Errorf("backup: %w", err)
	}
	trailer := &pb.BackupTrailer{Sha256: f.hash.Sum(nil), Blocks: blocks, Sums: encodeSummary(w.summary)}
	if err := f.frame(frameTrailer, trailer); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	if err := f.out.Flush(); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	return w.summary, nil
}

// fileWriter writes frames.
type fileWriter struct {
	out         *bufio.Writer
	hash        hash.Hash // of all so far
	zip         *zstd.Encoder
	size        int64
	place       uint64 // of the next frame
	plain, zstd []byte
}

func (f *fileWriter) write(b []byte) error {
	f.hash.Write(b)
	f.size += int64(len(b))
	_, err := f.out.Write(b)
	return err
}

func (f *fileWriter) frame(kind byte, m proto.Message) error {
	var err error
	if f.plain, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(f.plain[:0], m); err != nil {
		return err
	}
	if len(f.plain) > maxPlain {
		return fmt.Errorf("BUG: a block of %d bytes", len(f.plain))
	}
	f.zstd = f.zip.EncodeAll(f.plain, f.zstd[:0])
	head := binary.BigEndian.AppendUint32(make([]byte, 0, headSize), uint32(len(f.zstd)))
	head = append(head, kind)
	head = binary.BigEndian.AppendUint32(head, checksum(f.place, kind, f.zstd))
	f.place++
	if err := f.write(head); err != nil {
		return err
	}
	return f.write(f.zstd)
}

func checksum(place uint64, kind byte, payload []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, append(binary.BigEndian.AppendUint64(nil, place), kind))
	return crc32.Update(sum, table, payload)
}

func encodeHeader(program string, m *store.Marks) *pb.BackupHeader {
	seconds := func(of map[rollup.Resolution]attribution.Second) map[int64]int64 {
		out := make(map[int64]int64, len(of))
		for r, s := range of {
			out[int64(r)] = int64(s)
		}
		return out
	}
	return &pb.BackupHeader{Program: program, MadeNs: m.At.UnixNano(), Rolled: seconds(m.Rolled), Kept: seconds(m.Kept)}
}

func encodeSummary(s *Summary) []*pb.BackupSum {
	out := make([]*pb.BackupSum, 0, len(s.sums))
	for _, p := range s.places() {
		x := s.sums[p]
		m := &pb.BackupSum{Kind: p.kind, Day: int64(p.day), Count: x.count, Digest: x.digest}
		for i := range x.sums {
			m.Sums = append(m.Sums, x.sums[i].String())
		}
		out = append(out, m)
	}
	return out
}

func decodeSummary(ms []*pb.BackupSum) (*Summary, error) {
	s := newSummary()
	for _, m := range ms {
		x := &sum{count: m.GetCount(), sums: make([]big.Int, len(m.GetSums())), digest: slices.Clone(m.GetDigest())}
		for i, text := range m.GetSums() {
			if _, ok := x.sums[i].SetString(text, 10); !ok || len(text) > 100 {
				return nil, fmt.Errorf("%w: a sum of its %s is no number", ErrDamaged, m.GetKind())
			}
		}
		if len(x.sums) != len(measuresOf(m.GetKind())) {
			return nil, fmt.Errorf("%w: its %s have %d sums", ErrDamaged, m.GetKind(), len(x.sums))
		}
		s.sums[place{m.GetKind(), attribution.Second(m.GetDay())}] = x
	}
	return s, nil
}
