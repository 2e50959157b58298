package dcgmstub_test

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gpuledger/gpuledger/test/dcgmstub"
)

func exported(t *testing.T, dir string) []string {
	t.Helper()
	f, err := elf.Open(filepath.Join(dir, dcgmstub.Library))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range symbols {
		if s.Section != elf.SHN_UNDEF {
			names = append(names, s.Name)
		}
	}
	return names
}

func TestBuildIsKeptAndLeavesOutSymbols(t *testing.T) {
	cache := t.TempDir()
	dir, err := dcgmstub.Build(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(exported(t, dir), "dcgmWatchFields") {
		t.Error("dcgmWatchFields is not exported")
	}
	first, err := os.Stat(filepath.Join(dir, dcgmstub.Library))
	if err != nil {
		t.Fatal(err)
	}
	again, err := dcgmstub.Build(t.Context(), cache)
	if err != nil || again != dir {
		t.Fatalf("%q, %v; want %q", again, err, dir)
	}
	if second, err := os.Stat(filepath.Join(again, dcgmstub.Library)); err != nil || !os.SameFile(first, second) {
		t.Errorf("it was built again: %v", err)
	}
	old, err := dcgmstub.Build(t.Context(), cache, "dcgmWatchFields", "dcgmInit")
	if err != nil {
		t.Fatal(err)
	}
	if names := exported(t, old); slices.Contains(names, "dcgmWatchFields") || slices.Contains(names, "dcgmInit") || !slices.Contains(names, "dcgmShutdown") {
		t.Errorf("symbols: %v", names)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v; want the library alone", entries, err)
	}
}
