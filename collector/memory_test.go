package collector

import (
	"reflect"
	"testing"

	"github.com/gpuledger/gpuledger/collector/ingest"
)

func TestGoMemory(t *testing.T) {
	for _, c := range []struct {
		limit  uint64
		duckdb int64
		want   int64
		enough bool
	}{
		{2 << 30, 512 << 20, (2<<30 - (2<<30)/10 - 768<<20), true},
		{2 << 30, 0, (2<<30 - (2<<30)/10 - 768<<20), true},
		{512 << 20, 512 << 20, leastGoMemory, false},
	} {
		if got, enough := goMemory(c.limit, withDuckDB(c.limit, c.duckdb)); got < c.want || got > c.want+1 || enough != c.enough {
			t.Errorf("%d with %d for DuckDB: %d, %v; want %d, %v", c.limit, c.duckdb, got, enough, c.want, c.enough)
		}
	}
}

// What is pending gets a quarter of Go's memory at most, DuckDB an eighth of what a small
// limit has above 1 GiB unless it was told otherwise, and nothing else of the configuration changes.
func TestFitMemory(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	const quarterOfGo = -1
	d := DefaultConfig()
	if d.Limits.PendingBytes != gib || d.DuckDB.MemoryBytes != 512*mib || ingest.DefaultLimits().PendingBytes != gib {
		t.Fatal("the defaults are others: this table is about 1 GiB pending and 512 MiB for DuckDB")
	}
	for _, c := range []struct {
		what               string
		limit              int64 // all in MiB
		pending, duckdb    int64 // configured
		wantPending        int64 // quarterOfGo: a quarter of wantGo
		wantDuckDB, wantGo int64
		enough             bool
	}{
		{"defaults, plenty", 10_240, 0, 0, 0, 0, 8448, true},
		{"defaults written out, plenty", 10_240, 1024, 512, 1024, 512, 8448, true},
		{"less pending than a quarter", 10_240, 100, 0, 100, 0, 8448, true},
		{"more pending than a quarter", 10_240, 4000, 0, quarterOfGo, 0, 8448, true},
		{"just too little for the default of what is pending", 5400, 0, 0, quarterOfGo, 0, 4092, true},
		{"just enough for it", 5410, 0, 0, 0, 0, 4101, true},
		{"DuckDB's default is an eighth of what is above 1 GiB", 5120, 0, 0, quarterOfGo, 0, 3840, true},
		{"and a little more", 5040, 0, 0, quarterOfGo, 502, 3778, true},
		{"the same, written out", 5040, 1024, 512, quarterOfGo, 502, 3778, true},
		{"more configured for DuckDB", 3060, 0, 1000, quarterOfGo, 1000, 1254, true},
		{"less configured for DuckDB than its least", 3060, 200, 100, 200, 100, 2398, true},
		{"small", 2400, 0, 0, quarterOfGo, 172, 1732, true},
		{"small, DuckDB's least", 1600, 0, 0, quarterOfGo, 128, 1112, true},
		{"DuckDB's least", 600, 0, 0, quarterOfGo, 128, 337, true},
		{"tight for what is configured", 600, 64, 400, 64, 400, 256, false},
		{"tight", 400, 0, 0, quarterOfGo, 128, 256, false},
		{"tighter than Go's least", 100, 0, 0, quarterOfGo, 128, 256, false},
	} {
		cfg := DefaultConfig()
		cfg.Limits.PendingBytes, cfg.DuckDB.MemoryBytes = c.pending*mib, c.duckdb*mib
		want := cfg
		want.Limits.PendingBytes, want.DuckDB.MemoryBytes = c.wantPending*mib, c.wantDuckDB*mib
		if c.wantPending == quarterOfGo {
			want.Limits.PendingBytes = c.wantGo * mib / 4
		}
		got, heap, enough := fitMemory(uint64(c.limit*mib), cfg)
		if heap != c.wantGo*mib || enough != c.enough {
			t.Errorf("%s: %d bytes for Go, enough: %v; want %d, %v", c.what, heap, enough, c.wantGo*mib, c.enough)
		}
		if got.Limits.PendingBytes != want.Limits.PendingBytes || got.DuckDB.MemoryBytes != want.DuckDB.MemoryBytes {
			t.Errorf("%s: %d pending and %d for DuckDB; want %d and %d", c.what,
				got.Limits.PendingBytes, got.DuckDB.MemoryBytes, want.Limits.PendingBytes, want.DuckDB.MemoryBytes)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: more of the configuration changed: %+v; want %+v", c.what, got, want)
		}
		if err := got.Validate(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// Where the ledger is on servers, there is no DuckDB that takes a part.
func TestFitMemoryWithoutDuckDB(t *testing.T) {
	const mib = 1 << 20
	cfg := DefaultConfig()
	cfg.Store = storeClickHouse
	for limit, want := range map[int64]int64{3000: 2700, 300: 270, 250: 256} {
		got, heap, enough := fitMemory(uint64(limit*mib), cfg)
		if heap != want*mib || enough != (limit >= 300) || got.DuckDB != cfg.DuckDB || got.Limits.PendingBytes != want*mib/pendingPart {
			t.Errorf("%d MiB: %d for Go, enough: %v, %+v", limit, heap, enough, got)
		}
	}
}
