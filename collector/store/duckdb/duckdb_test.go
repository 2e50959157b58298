package duckdb_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

var driver = storetest.Driver{
	New: func(t testing.TB) string { return t.TempDir() },
	Open: func(ctx context.Context, place string) (store.Store, error) {
		return duckdb.Open(ctx, duckdb.Options{Dir: place, Decode: storetest.Decode})
	},
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(fullDisk); dir != "" {
		if err := fillDisk(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(storetest.Main(m, driver))
}

func TestStore(t *testing.T) { storetest.Run(t, driver) }

func TestLoader(t *testing.T) { storetest.RunLoader(t, driver) }
