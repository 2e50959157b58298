package collector

import (
	"context"
	"log/slog"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
)

// The kinds of store.
const storeDuckDB = "duckdb"

// openStore opens the ledger that a valid configuration names.
func (c *Config) openStore(ctx context.Context, log *slog.Logger) (store.Store, error) {
	return duckdb.Open(ctx, duckdb.Options{
		Dir: c.DataDir, Decode: newDecoder().decode, MemoryBytes: c.DuckDB.MemoryBytes, Threads: c.DuckDB.Threads,
		Logger: log,
	})
}

func (c *Config) checkStore(bad func(key, format string, args ...any)) {
	if c.Store != storeDuckDB {
		bad("store", "unknown %q: want duckdb", c.Store)
	}
}
