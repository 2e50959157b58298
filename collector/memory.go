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
// DuckDB's memory, half of that again or an eighth of the limit (256 MiB at most) for
// what DuckDB does not count, and a tenth for the rest are left out. A quarter of Go's
// memory may be taken by what is pending, if the configuration would let it be more;
// DuckDB takes an eighth of what a limit has above a gibibyte, where its default is
// more, and what was configured for it in any case. The environment's GOMEMLIMIT
// counts more. It changes the whole process: call it from main, once, before the
// collector is made.
//
// Where nothing is known to limit memory, Go's garbage may take half as much as what
// is in use, not as much again, unless GOGC says otherwise: marking more often costs
// a large fleet about a tenth of its processor time.
func LimitMemory(cfg *Config, logger *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit, err := memlimit.FromCgroup()
	switch {
	case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported), err == nil && limit >= noLimit:
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(garbagePercent)
		}
		return
	case err != nil:
		logger.Warn("the cgroup's memory limit can't be read; Go's garbage collector goes by none", "error", err, "hint", "set GOMEMLIMIT")
		return
	}
	fitted, heap, enough := fitMemory(limit, *cfg)
	debug.SetMemoryLimit(heap)
	if got := fitted.DuckDB.MemoryBytes; got != cfg.DuckDB.MemoryBytes {
		logger.Info("DuckDB gets less than its default, since memory is limited", "limit_bytes", limit, "duckdb_bytes", got, "hint", "duckdb.memory_bytes")
	}
	if got := fitted.Limits.PendingBytes; got != cfg.Limits.PendingBytes {
		logger.Info("less may be pending than is configured, since memory is limited", "limit_bytes", limit, "pending_bytes", got, "configured", configuredPending(cfg))
	}
	if !enough {
		hint := "raise the memory limit"
		if cfg.Store == storeDuckDB {
			hint += ", or lower duckdb.memory_bytes"
		}
		logger.Warn("the memory limit is tight", "limit_bytes", limit, "go_bytes", heap, "hint", hint)
	}
	*cfg = fitted
}

// garbagePercent is how much garbage may lie about, as a part of what is in use.
const garbagePercent = 50

// pendingPart is the part of Go's memory that may be pending; what was just
// committed takes some of that again.
const pendingPart = 4

// noLimit is from where on a limit is none: some cgroups say so.
const noLimit = 1 << 62

// leastGoMemory is what a collector without agents is comfortable with.
const leastGoMemory = 256 << 20

// duckdbPart is the part that DuckDB may take of what a limit has above duckdbAbove,
// where nobody said what it may take: agents come first, questions can spill.
const (
	duckdbPart  = 8
	duckdbAbove = 1 << 30
)

// leastDuckDBMemory is what DuckDB can work with.
const leastDuckDBMemory = 128 << 20

// uncountedPart is the part of a limit that is left for what DuckDB takes without
// counting it, however little it counts, and mostUncounted what that is at most:
// results that it hands out, and rows that it is given. With half as much, 10,000
// agents that caught up at once ended a collector of 2 GiB.
const (
	uncountedPart = 8
	mostUncounted = 256 << 20
)

// fitMemory is the configuration as it fits into a limit, what Go may take of the
// limit, and whether that is enough to work well.
func fitMemory(limit uint64, cfg Config) (fitted Config, heap int64, enough bool) {
	if cfg.Store == storeDuckDB {
		cfg.DuckDB.MemoryBytes = duckdbMemory(limit, cfg.DuckDB.MemoryBytes)
		heap, enough = goMemory(limit, withDuckDB(limit, cfg.DuckDB.MemoryBytes))
	} else {
		heap, enough = goMemory(limit, 0)
	}
	if most := heap / pendingPart; configuredPending(&cfg) > most {
		cfg.Limits.PendingBytes = most
	}
	return cfg, heap, enough
}

// configuredPending is how many bytes may be pending by the configuration.
func configuredPending(cfg *Config) int64 {
	if n := cfg.Limits.PendingBytes; n != 0 {
		return n
	}
	return ingest.DefaultLimits().PendingBytes
}

// duckdbMemory is what DuckDB may take of a limit. The default written out is as
// the default: a configuration does not tell the two apart.
func duckdbMemory(limit uint64, configured int64) int64 {
	otherwise := DefaultConfig().DuckDB.MemoryBytes
	if configured != 0 && configured != otherwise {
		return configured
	}
	if part := (int64(limit) - duckdbAbove) / duckdbPart; part < otherwise {
		return max(part, leastDuckDBMemory)
	}
	return configured
}

// withDuckDB is what DuckDB may take of a limit in all, counted and not.
func withDuckDB(limit uint64, duckdb int64) int64 {
	if duckdb == 0 {
		duckdb = DefaultConfig().DuckDB.MemoryBytes
	}
	return duckdb + max(duckdb/2, min(int64(limit/uncountedPart), mostUncounted))
}

// goMemory is what Go may take of a limit beside others, and whether that is enough to
// work well.
func goMemory(limit uint64, others int64) (bytes int64, enough bool) {
	bytes = int64(limit-limit/10) - others
	return max(bytes, leastGoMemory), bytes >= leastGoMemory
}
