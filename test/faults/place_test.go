package faults

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// place is where the ledger of one world is kept.
type place interface {
	// settings are those of a collector that keeps its ledger here.
	settings() map[string]any
	// disk is the folder of this machine that it fills, "" where there is none
	// that a test could make small.
	disk() string
	// save copies the ledger while nobody has it open, and restore puts the
	// copy back; damage spoils it at rest so that it can't be opened.
	save(t *testing.T)
	restore(t *testing.T)
	damage(t *testing.T)
	// copied is the place of the copy, to be read.
	copied() place
}

// placeKind is a kind of store.
type placeKind struct {
	name string
	// open makes a place for an empty ledger that lasts as long as the test.
	open func(t *testing.T, dir string) place
	// file says that the ledger is a file of one collector alone, with a
	// version: such faults are of no other store.
	file bool
}

// places are the kinds of store that are tested: all that there are, or those
// that GPULEDGER_FAULT_STORES lists.
func places() []placeKind {
	all := []placeKind{{name: "duckdb", open: func(_ *testing.T, dir string) place { return &folder{dir: filepath.Join(dir, "ledger")} }, file: true}}
	only := os.Getenv("GPULEDGER_FAULT_STORES")
	if only == "" {
		return all[:1]
	}
	return slices.DeleteFunc(all, func(k placeKind) bool { return !slices.Contains(strings.Split(only, ","), k.name) })
}

// folder is a ledger in a DuckDB file.
type folder struct{ dir string }

const ledgerFile = "ledger.duckdb"

func (f *folder) settings() map[string]any { return map[string]any{"data_dir": f.dir} }

func (f *folder) disk() string { return f.dir }

func (f *folder) copied() place { return &folder{dir: f.dir + ".copy"} }

func (f *folder) save(t *testing.T) { copyFolder(t, f.dir, f.dir+".copy") }

func (f *folder) restore(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(f.dir); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, f.dir+".copy", f.dir)
}

// damage spoils all three headers of the file.
func (f *folder) damage(t *testing.T) {
	t.Helper()
	name := filepath.Join(f.dir, ledgerFile)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for header := range 3 {
		for i := range 64 {
			b[header*4096+i] ^= 0x55
		}
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
