package collector

import (
	"errors"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// LimitMemory tells Go's garbage collector how much memory the process may
// take, so that it works harder before the kernel ends the process. It goes by
// the cgroup's limit, where there is one: DuckDB's own memory and a tenth for
// what neither of the two counts are left out. The environment's GOMEMLIMIT
// counts more. It changes the whole process: call it from main, once.
//
// Go's garbage may take half as much as what is in use, not as much again, unless
// GOGC says otherwise: most of what is in use are seconds and chunks that live for
// a minute and come by the thousand, so that marking them more often costs some
// hundredths of the processor time.
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
	}
	heap, enough := goMemory(limit, cfg.DuckDB.MemoryBytes)
	debug.SetMemoryLimit(heap)
	if !enough {
		logger.Warn("the memory limit is tight: lower limits.pending_bytes and duckdb.memory_bytes, or raise it", "limit_bytes", limit, "go_bytes", heap)
	}
}

// garbagePercent is how much garbage may lie about, as a part of what is in use.
const garbagePercent = 50

// leastGoMemory is what a collector without agents is comfortable with.
const leastGoMemory = 256 << 20

// goMemory is what Go may take of a limit, and whether that is enough to work
// well.
func goMemory(limit uint64, duckdb int64) (bytes int64, enough bool) {
	if duckdb == 0 {
		duckdb = DefaultConfig().DuckDB.MemoryBytes
	}
	if limit >= 1<<62 { // some cgroups say "none" so
		return 1 << 62, true
	}
	bytes = int64(limit-limit/10) - duckdb
	return max(bytes, leastGoMemory), bytes >= leastGoMemory
}
