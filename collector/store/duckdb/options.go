package duckdb

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
)

// FileName is the ledger's file within a data directory.
const FileName = "ledger.duckdb"

// Options say where the ledger is and what it may use.
type Options struct {
	// Dir is the data directory. It is made if it is not there, for its
	// owner's eyes only.
	Dir string

	// Decode decodes a stored chunk. The seconds at the edges of a query are
	// read with it. It is called by several goroutines at a time; what it
	// returns is not changed.
	Decode func(*store.Chunk, *store.Roster) (*attribution.Chunk, error)

	// MemoryBytes bounds DuckDB's own memory; what does not fit is spilled to
	// TempDir. The process takes some 200 MB more. Default: 512 MiB.
	MemoryBytes int64

	// Threads are those that one query is spread over. Default: the number of
	// cores.
	Threads int

	// TempDir is where DuckDB spills to. Default: Dir/tmp.
	TempDir string

	// TempBytes bounds the spill. Default: 10 GiB.
	TempBytes int64

	// CheckpointBytes is how long DuckDB's write-ahead log grows before it is
	// folded into the file. What is in it, DuckDB has in memory, and more than that
	// while it folds. Default: 64 MiB, or an eighth of MemoryBytes.
	CheckpointBytes int64

	// Readers is the number of views at a time; more wait. Default: 4.
	Readers int

	// SetAside has a damaged ledger renamed when it is opened, and a new one
	// begun, in place of [store.ErrCorrupt]. What only the damaged one held is
	// not in the new one: [SetAside] lists such files, and the log has an error.
	// A file of another program or of a newer version is refused all the same.
	// Default: damage is refused.
	SetAside bool

	// SkipCopy upgrades a ledger of an older version without a copy of it.
	// Default: a copy is made first ([OldCopy]), where the disk has room.
	SkipCopy bool

	// Logger is told of recoveries and slow housekeeping. Default: nothing is
	// logged.
	Logger *slog.Logger
}

// maxThreads keeps a typing error from exhausting the machine: DuckDB starts
// them all at once, and aborts the process where it can't.
const maxThreads = 1024

func (o Options) withDefaults() Options {
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 512 << 20
	}
	if o.Threads == 0 {
		o.Threads = runtime.NumCPU()
	}
	if o.TempDir == "" {
		o.TempDir = filepath.Join(o.Dir, "tmp")
	}
	if o.TempBytes == 0 {
		o.TempBytes = 10 << 30
	}
	if o.CheckpointBytes == 0 {
		o.CheckpointBytes = min(64<<20, o.MemoryBytes/8)
	}
	if o.Readers == 0 {
		o.Readers = 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate finds what is missing or impossible.
func (o Options) Validate() error {
	switch {
	case o.Dir == "":
		return errors.New("store: no data directory")
	case o.Decode == nil:
		return errors.New("store: no decoder of chunks")
	case o.MemoryBytes < 0 || o.Threads < 0 || o.TempBytes < 0 || o.CheckpointBytes < 0 || o.Readers < 0:
		return errors.New("store: a limit is negative")
	case o.Threads > maxThreads:
		return fmt.Errorf("store: %d threads: at most %d make sense, 0 is one per core", o.Threads, maxThreads)
	case o.MemoryBytes != 0 && o.MemoryBytes < 64<<20:
		return fmt.Errorf("store: a memory limit of %d bytes is too little to work with: give it 64 MiB or more", o.MemoryBytes)
	}
	return nil
}
