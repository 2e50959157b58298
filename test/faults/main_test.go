// Package faults has real processes suffer real faults, and compares the ledger
// with that of a run in which nothing happened, minute by minute and device by
// device: not one nanosecond may be lost or doubled.
//
// An agent plays a simulated fleet at many times its speed, so what the ledger
// must be is known exactly. A fault is a function that spoils something in the
// middle of the play: kill -9, SIGSTOP, a network that is cut or bad (package
// network), full disks (small tmpfs), damaged files, other versions of the
// programs, built from the repository's history. Afterwards the play goes on to
// its end, which is when everything is durable.
//
// Quick faults run always. GPULEDGER_FAULTS=N runs all of them N times on each
// store that GPULEDGER_FAULT_STORES lists (duckdb,clickhouse) and writes the table of docs/failures.md's claims as Markdown to the
// file that GPULEDGER_FAULT_TABLE names: make fault-test. What needs root (the
// network, small disks) or history is skipped without it, and says so.
//
// A process's wall clock can't be stepped without stepping the machine's: clocks
// are in agent/clock_test.go and test/simulation.
package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/programs"
)

// now is the programs as they are in this checkout.
var now programs.Dir

const checkout = "../.."

func TestMain(m *testing.M) {
	flag.Parse()
	// Faults mostly wait: many can at once.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("8")
	}
	code := programs.Main(m, checkout, func(d programs.Dir) { now = d })
	if old.root != "" {
		_ = os.RemoveAll(old.root)
	}
	os.Exit(code)
}

// repeats is how often each fault is to happen; 0 is the quick ones once.
func repeats(t testing.TB) int {
	t.Helper()
	text := os.Getenv("GPULEDGER_FAULTS")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("GPULEDGER_FAULTS=%s: want how often each fault is to happen", text)
	}
	return n
}

// fault is something that goes wrong.
type fault struct {
	name  string
	quick bool
	// happens starts the world's programs, spoils something, and leaves an
	// agent and a collector running.
	happens func(*world)
}

func faults() []fault {
	return slices.Concat(processFaults(), networkFaults(), diskFaults(), damageFaults(), versionFaults())
}

// TestLaw3And4Faults is the matrix of faults and stores.
func TestLaw3And4Faults(t *testing.T) {
	n := repeats(t)
	var results table
	t.Run("all", func(t *testing.T) {
		for _, f := range faults() {
			if n == 0 && !f.quick {
				continue
			}
			for _, kind := range places() {
				at := results.row(f.name, kind.name)
				for i := range max(n, 1) {
					t.Run(fmt.Sprintf("%s/%s/%d", strings.ReplaceAll(f.name, " ", "-"), kind.name, i+1), func(t *testing.T) {
						t.Parallel()
						results.run(t, f, kind, at)
					})
				}
			}
		}
	})
	text := results.markdown()
	t.Logf("\n%s", text)
	if file := os.Getenv("GPULEDGER_FAULT_TABLE"); file != "" {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
}

// table is what came of all faults.
type table struct {
	mu   sync.Mutex
	rows []*row
}

// row is a fault on a store.
type row struct {
	fault, store  string
	times, failed int
	lost, doubled int64 // ns
	deviceNanos   int64 // compared, of one repeat
	seen          []string
	skipped       string
}

func (r *table) run(t *testing.T, f fault, kind placeKind, at *row) {
	w := newWorld(t, kind)
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t.Skipped() {
			at.skipped = w.why
			return
		}
		at.times++
		if t.Failed() {
			at.failed++
		}
		for _, s := range w.seen {
			if !slices.Contains(at.seen, s) {
				at.seen = append(at.seen, s)
			}
		}
	})
	f.happens(w)
	d := w.settle()
	t.Logf("seed %d: %s", w.seed, d)
	if d.broken() {
		t.Errorf("law 4: %s\n%s", d, strings.Join(d.minutes[:min(len(d.minutes), 50)], "\n"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at.lost, at.doubled, at.deviceNanos = at.lost+d.lost, at.doubled+d.doubled, d.compared
}

// row begins the row of a fault and a store.
func (r *table) row(fault, store string) *row {
	r.rows = append(r.rows, &row{fault: fault, store: store})
	return r.rows[len(r.rows)-1]
}

func (r *table) markdown() string {
	var b strings.Builder
	b.WriteString("| fault | store | repeats | failed | lost ns | doubled ns | of ns each | seen |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n")
	for _, x := range r.rows {
		seen := strings.Join(x.seen, "; ")
		if x.times == 0 {
			seen = "skipped: " + x.skipped
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d | %s |\n", x.fault, x.store, x.times, x.failed, x.lost, x.doubled, x.deviceNanos, seen)
	}
	return b.String()
}

// between is a random duration.
func between(rng *rand.Rand, from, to time.Duration) time.Duration {
	return from + time.Duration(rng.Int64N(int64(to-from)))
}
