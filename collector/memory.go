package collector

import (
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/gpuledger/gpuledger/collector/ingest"
)

// LimitMemory fits the process into the memory that it may take, which is the
// cgroup's limit, where there is one. It tells Go's garbage collector how much of
// that is its own, so that it works harder before the kernel ends the process:
// DuckDB's memory and a tenth for what neither of the two counts are left out. A
// third of Go's memory may be taken by what is pending, if the configuration would
// let it be more. The environment's GOMEMLIMIT counts more. It changes the whole
// process: call it from main, once, before the collector is made.
//
// Go's garbage may take half as much as what is in use, not as much again, unless
// GOGC says otherwise: most of what is in use are chunks that live for a minute and
// come by the thousand, so that marking them more often costs some hundredths of the
// processor time.
func LimitMemory(cfg *Config, logger *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit, err := memlimit.FromCgroup()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		return
	case err != nil:
		logger.Warn("the cgroup's memory limit can't be read; Go's garbage collector goes by none", "error", err, "hint", "set GOMEMLIMIT")
		return
	case limit >= noLimit:
		return
	}
	heap, enough := goMemory(limit, cfg.DuckDB.MemoryBytes)
	debug.SetMemoryLimit(heap)
	pending, most := cfg.Limits.PendingBytes, heap/pendingPart
	if pending == 0 {
		pending = ingest.DefaultLimits().PendingBytes
	}
	if pending > most {
		logger.Info("less may be pending than is configured, since memory is limited", "limit_bytes", limit, "pending_bytes", most, "configured", pending)
		cfg.Limits.PendingBytes = most
	}
	if !enough {
		logger.Warn("the memory limit is tight: lower duckdb.memory_bytes, or raise it", "limit_bytes", limit, "go_bytes", heap)
	}
}

// garbagePercent is how much garbage may lie about, as a part of what is in use.
const garbagePercent = 50

// pendingPart is the part of Go's memory that may be pending; what was just
// committed takes up to half as much again.
const pendingPart = 3

// noLimit is from where on a limit is none: some cgroups say so.
const noLimit = 1 << 62

// leastGoMemory is what a collector without agents is comfortable with.
const leastGoMemory = 256 << 20

// goMemory is what Go may take of a limit, and whether that is enough to work
// well.
func goMemory(limit uint64, duckdb int64) (bytes int64, enough bool) {
	if duckdb == 0 {
		duckdb = DefaultConfig().DuckDB.MemoryBytes
	}
	bytes = int64(limit-limit/10) - duckdb
	return max(bytes, leastGoMemory), bytes >= leastGoMemory
}
