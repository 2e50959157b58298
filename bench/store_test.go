package bench

import (
	"context"
	"database/sql"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/rollup"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

// storeRows are how many rows BenchmarkStore stores at least.
const storeRows = 10_000_000

// BenchmarkStore stores ten million minute rows of 1,000 nodes of 8 devices
// with 4 owners each, a commit a minute and a roll an hour.
// It reports the size of the closed ledger by the minutes that owners were on
// devices, the same without the free room in the file, and what a row took to
// be committed. The seconds' chunks, which are kept for two hours, are not in it.
//
//	shared  owners only use: a row each minute, as in BenchmarkIngest
//	held    each also holds its part of what is idle: two rows
func BenchmarkStore(b *testing.B) {
	for _, shape := range []struct {
		name string
		held bool
	}{{"shared", false}, {"held", true}} {
		b.Run(shape.name, func(b *testing.B) {
			f := defaultFleet()
			f.held = shape.held
			var stored storeTotals
			for b.Loop() {
				stored.fill(b, newRows(f, ingestNodes))
			}
			stored.report(b)
		})
	}
}

// storeTotals are over a benchmark's runs.
type storeTotals struct {
	rows, owned, bytes, live int64
	committing               time.Duration
}

func (t *storeTotals) fill(b *testing.B, r *rows) {
	b.Helper()
	dir := b.TempDir()
	s := openStore(b, dir)
	now := r.start
	var rs []rollup.Row
	stored := int64(0)
	for n := uint64(1); stored < storeRows; n++ {
		b.StopTimer()
		rs = r.add(rs[:0], now, 1)
		batch := r.batch(b, n, now, rs)
		b.StartTimer()
		began := time.Now()
		if err := s.Commit(context.Background(), batch); err != nil {
			b.Fatal(err)
		}
		t.committing += time.Since(began)
		stored += int64(len(rs))
		t.owned += int64(len(r.places) * r.fleet.owners)
		if now += 60; now%3600 == 0 { // as a collector does
			if err := s.Roll(context.Background(), now); err != nil {
				b.Fatal(err)
			}
		}
	}
	t.rows += stored
	if err := s.Roll(context.Background(), now); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(dir, duckdb.FileName)
	file, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	t.bytes += file.Size()
	t.live += liveBytesOf(b, path)
}

func (t *storeTotals) report(b *testing.B) {
	b.ReportMetric(float64(t.bytes)/float64(t.owned), "B/device-owner-minute")
	b.ReportMetric(float64(t.live)/float64(t.owned), "live-B/device-owner-minute")
	b.ReportMetric(float64(t.bytes)/float64(t.rows), "B/row")
	b.ReportMetric(float64(t.committing.Nanoseconds())/float64(t.rows), "ns/row")
	b.ReportMetric(float64(t.rows)/float64(b.N), "rows")
}

// liveBytesOf is what is in use of a closed ledger's file; the rest is room that
// rolls left behind and the next rows take.
func liveBytesOf(b *testing.B, path string) (bytes int64) {
	b.Helper()
	db, err := sql.Open("duckdb", path+"?access_mode=read_only")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(`SELECT block_size * used_blocks FROM pragma_database_size()`).Scan(&bytes); err != nil {
		b.Fatal(err)
	}
	return bytes
}

// noSeconds decodes nothing.
func noSeconds(*store.Chunk, *store.Roster) (*attribution.Chunk, error) {
	panic("BUG: nobody asks for seconds")
}

// openStore opens a ledger that is written to and not asked for seconds.
func openStore(b *testing.B, dir string) *duckdb.Store {
	b.Helper()
	s, err := duckdb.Open(context.Background(), duckdb.Options{
		Dir: dir, Decode: noSeconds,
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

const (
	showbackDays  = 30
	showbackNodes = 125 // of 8 devices
	showbackReps  = 50
	// showbackEdge is how far into an hour the range begins and ends, so that
	// it has hours and minutes at both ends.
	showbackEdge = 40 * 60
	halfDay      = 12 * 3600
)

// BenchmarkShowback asks a collector, over gRPC, for 30 days of 1,000 devices
// with 4 owners each, who are other pods every day: by team, by model, and by
// team a day. It reports percentiles of the time to the answer, as the asker
// sees it, that of the very first question after the start, and the most memory
// that the collector had, and the processor time of the mean answer, which a
// busy machine disturbs least.
//
// The ledger is built through Commit and Roll, an hour a row instead of sixty
// minutes of it, save at the ends of the range.
func BenchmarkShowback(b *testing.B) {
	kinds := ledgers(noSeconds)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		at := kinds[kind]
		b.Run("store="+kind, func(b *testing.B) {
			dir := b.TempDir()
			showback(b, dir, at(b, dir))
		})
	}
}

func showback(b *testing.B, dir string, at ledger) {
	b.Helper()
	began := time.Now()
	r := newRows(defaultFleet(), showbackNodes)
	r.held = true
	from, to, n := buildShowback(b, at.open(b), r)
	b.Logf("built %d rows in %.1f s", n, time.Since(began).Seconds())
	c := startCollector(b, dir, at.settings)
	ledger := c.ledger(b)
	for _, ask := range []struct {
		name string
		by   string
		step int64
	}{{"team", "team", 0}, {"model", "model", 0}, {"team-a-day", "team", 86400}} {
		req := &pb.ReportRequest{From: int64(from), To: int64(to), GroupBy: []string{ask.by}, Step: ask.step}
		b.Run(ask.name, func(b *testing.B) {
			var took []time.Duration
			first, before := time.Duration(0), c.cpu(b)
			for b.Loop() {
				for range showbackReps {
					began := time.Now()
					answer, err := ledger.Report(context.Background(), req)
					if err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(began))
					checkShowback(b, answer)
				}
				if first == 0 {
					first = took[0]
				}
			}
			b.ReportMetric((c.cpu(b)-before).Seconds()*1e3/float64(len(took)), "ms-CPU")
			slices.Sort(took)
			b.ReportMetric(first.Seconds()*1e3, "first-ms")
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
			b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
			b.ReportMetric(c.memory(b, "VmHWM")/mib, "peak-RSS-MiB")
		})
	}
	c.stop(b)
}

// checkShowback compares an answer to what the range must hold: every second of
// every device.
func checkShowback(b *testing.B, answer *pb.ReportResponse) {
	b.Helper()
	const seconds = showbackDays * 86400 * showbackNodes * 8
	got := answer.GetTotal().GetSum()
	if want := strconv.Itoa(seconds) + "000000000"; got.GetDeviceTimeNs() != want || len(answer.GetRows()) < 8 {
		b.Fatalf("the answer has %s ns of device time in %d rows: want %s", got.GetDeviceTimeNs(), len(answer.GetRows()), want)
	}
}

// buildShowback fills a ledger from noon, so that days and hours are at both
// ends, and returns the range to ask for and how many rows were committed.
func buildShowback(b *testing.B, s store.Store, r *rows) (from, to attribution.Second, committed int) {
	b.Helper()
	number := uint64(0)
	add := func(t, until attribution.Second, minutes int64) {
		number++
		at := t
		var rs []rollup.Row
		for ; t < until; t += attribution.Second(60 * minutes) {
			rs = r.add(rs, t, minutes)
		}
		committed += len(rs)
		if err := s.Commit(context.Background(), r.batch(b, number, at, rs)); err != nil {
			b.Fatal(err)
		}
	}
	first := r.start + halfDay
	last := first + showbackDays*86400
	for t := first; t < last; t += 6 * 3600 {
		by := t
		if t == first {
			for ; by < first+3600; by += 600 {
				add(by, by+600, 1)
			}
		}
		add(by, t+6*3600, 60)
		if err := s.Roll(context.Background(), t); err != nil {
			b.Fatal(err)
		}
	}
	for t := last; t < last+showbackEdge; t += 600 {
		add(t, t+600, 1)
	}
	if err := s.Roll(context.Background(), last+showbackEdge); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	return first + showbackEdge, last + showbackEdge, committed
}
