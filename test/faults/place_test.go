package faults

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gpuledger/gpuledger/collector/store/clickhouse/clickhousetest"
)

// place is where the ledger of one world is kept.
type place interface {
	// settings are those of a collector that keeps its ledger here.
	settings() map[string]any
}

// filed is a place that is a folder of one collector's alone: such a ledger can
// be copied, damaged, on a disk that is full, and of another version.
type filed interface {
	place
	disk() string
	// save copies the ledger while nobody has it open, and restore puts the
	// copy back; copied is the place of the copy. damage spoils the ledger so
	// that it can't be opened.
	save(t *testing.T)
	restore(t *testing.T)
	copied() place
	damage(t *testing.T)
}

// served is a place on a server, which can be killed and started again.
type served interface {
	place
	addresses() []string
	kill()
	start(t *testing.T)
}

// placeKind is a kind of store.
type placeKind struct {
	name string
	// open makes a place for an empty ledger that lasts as long as the test.
	open func(t *testing.T, dir string) place
}

// places are the kinds of store that are tested: those that
// GPULEDGER_FAULT_STORES lists, else DuckDB alone.
func places() []placeKind {
	all := []placeKind{
		{"duckdb", inFolder},
		{"clickhouse", onServer},
	}
	only := os.Getenv("GPULEDGER_FAULT_STORES")
	if only == "" {
		return all[:1]
	}
	return slices.DeleteFunc(all, func(k placeKind) bool { return !slices.Contains(strings.Split(only, ","), k.name) })
}

// onServer is a ledger on a ClickHouse server of its own.
func onServer(t *testing.T, dir string) place {
	t.Helper()
	return &server{cluster: clickhousetest.Start(t, 1, 1), dir: filepath.Join(dir, "collector")}
}

type server struct {
	cluster *clickhousetest.Cluster
	dir     string // of what the collector keeps beside it
}

var _ served = (*server)(nil)

func (s *server) settings() map[string]any {
	return map[string]any{
		"store": "clickhouse", "data_dir": s.dir,
		"clickhouse": map[string]any{"addresses": s.cluster.Addresses()},
	}
}

func (s *server) addresses() []string { return s.cluster.Addresses() }

func (s *server) kill() { s.cluster.Nodes[0].Kill() }

func (s *server) start(t *testing.T) {
	t.Helper()
	if err := s.cluster.Nodes[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func inFolder(_ *testing.T, dir string) place { return &folder{dir: filepath.Join(dir, "ledger")} }

// folder is a ledger in a DuckDB file.
type folder struct{ dir string }

var _ filed = (*folder)(nil)

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
