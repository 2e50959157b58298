package bench

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse"
	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
)

// ledger is a place for a ledger that a benchmark fills and asks.
type ledger struct {
	// open opens it; the benchmark closes what it gets before somebody else does.
	open func(b *testing.B) store.Store
	// settings are those of a collector that keeps its ledger here.
	settings string
}

// decode decodes a stored chunk.
type decode func(*store.Chunk, *store.Roster) (*attribution.Chunk, error)

// ledgers are the kinds that are measured side by side, each with what makes one
// below a folder: ClickHouse, a server beside the benchmark, where there is one.
func ledgers(d decode) map[string]func(b *testing.B, dir string) ledger {
	kinds := map[string]func(b *testing.B, dir string) ledger{"duckdb": func(b *testing.B, dir string) ledger {
		b.Helper()
		return ledger{open: func(b *testing.B) store.Store {
			b.Helper()
			return opened(b)(duckdb.Open(context.Background(), duckdb.Options{Dir: filepath.Join(dir, "ledger"), Decode: d}))
		}}
	}}
	if _, ok := clickhousetest.Find(); ok {
		kinds["clickhouse"] = func(b *testing.B, _ string) ledger {
			b.Helper()
			at := clickhousetest.Start(b, 1, 1).Nodes[0].Address
			return ledger{
				settings: fmt.Sprintf("store: clickhouse\nclickhouse: {addresses: [\"%s\"], name: bench}\n", at),
				open: func(b *testing.B) store.Store {
					b.Helper()
					return opened(b)(clickhouse.Open(context.Background(), clickhouse.Options{Addresses: []string{at}, Name: "bench", Decode: d}))
				},
			}
		}
	}
	return kinds
}

func opened(b *testing.B) func(store.Store, error) store.Store {
	return func(s store.Store, err error) store.Store {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
}
