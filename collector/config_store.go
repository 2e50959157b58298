package collector

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
)

// The kinds of store.
const storeDuckDB = "duckdb"

// What is done about a damaged ledger.
const (
	onCorruptRefuse   = "refuse"
	onCorruptSetAside = "set-aside"
)

// openStore opens the ledger that a valid configuration names.
func (c *Config) openStore(ctx context.Context, log *slog.Logger) (store.Store, error) {
	if c.Store == storeClickHouse {
		return c.openClickHouse(ctx, log)
	}
	return duckdb.Open(ctx, duckdb.Options{
		Dir: c.DataDir, Decode: newDecoder().decode, MemoryBytes: c.DuckDB.MemoryBytes, Threads: c.DuckDB.Threads,
		SetAside: c.DuckDB.OnCorrupt == onCorruptSetAside, SkipCopy: !c.DuckDB.UpgradeCopy, Logger: log,
	})
}

// damagedLedgers are those that were set aside here and still lie there.
func (c *Config) damagedLedgers() ([]string, error) {
	if c.Store != storeDuckDB {
		return nil, nil
	}
	return duckdb.SetAside(c.DataDir)
}

// storeWarnings is what an operator should do something about, in words.
func (c *Config) storeWarnings() []string {
	files, err := c.damagedLedgers()
	if err != nil {
		return []string{fmt.Sprintf("the ledger's folder can't be read: %v", err)}
	}
	var ws []string
	for _, f := range files {
		ws = append(ws, fmt.Sprintf("a damaged ledger was set aside as %s, and what only it held is missing here: "+
			"restore a copy of before, or move the file away to end this warning", f))
	}
	return ws
}

func (c *Config) checkStore(bad func(key, format string, args ...any)) {
	if c.Store != storeDuckDB && c.Store != storeClickHouse {
		bad("store", "unknown %q: want duckdb or clickhouse", c.Store)
	}
	c.checkClickHouse(bad)
	if x := c.DuckDB.OnCorrupt; x != onCorruptRefuse && x != onCorruptSetAside {
		bad("duckdb.on_corrupt", "unknown %q: want refuse or set-aside", x)
	}
}
