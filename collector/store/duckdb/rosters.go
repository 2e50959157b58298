package duckdb

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/gpuledger/gpuledger/collector/store"
)

// Rosters are compressed, to some tenth: DuckDB has 2,048 rows of a column in memory
// at once when it folds its log into the file, which of the rosters of nodes with
// hundreds of pods, 100 KiB each, is more than a small collector's DuckDB may take.
// No commit would succeed ever again.
var (
	packer   = newPacker()
	unpacker = must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(mostRoster)))
)

// mostRoster bounds a roster, in bytes: sixteen times what travels.
const mostRoster = 64 << 20

func must[T any](x T, err error) T {
	if err != nil {
		panic("BUG: zstd options: " + err.Error())
	}
	return x
}

func newPacker() *zstd.Encoder {
	e := must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true)))
	e.EncodeAll(nil, nil) // it makes its parts with its first use
	return e
}

func packRoster(body []byte) []byte { return packer.EncodeAll(body, nil) }

// rosterBody is a roster's as it was given to the store.
func rosterBody(b []byte, packed bool) ([]byte, error) {
	if !packed {
		return b, nil
	}
	body, err := unpacker.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: a roster: %w", store.ErrCorrupt, err)
	}
	return body, nil
}
