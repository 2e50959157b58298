package duckdb_test

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/store/storetest"
)

//go:embed testdata/version1.sql
var version1 string

// A ledger of version 1 opens with all that it holds, answers as it would have
// been answered, maps its owners by all that rules say, and goes on.
func TestAnOlderLedgerIsBroughtUp(t *testing.T) {
	now := t.TempDir()
	s := open(t, now)
	commit(t, s, storetest.Batch(1, append(storetest.Minute(0, storetest.Day), storetest.Minute(1, storetest.Day+3600)...)...))
	if err := s.SetMapping(t.Context(), mapAll); err != nil {
		t.Fatal(err)
	}
	if err := s.Roll(t.Context(), storetest.Day+3600); err != nil {
		t.Fatal(err)
	}
	want := answers(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	old := t.TempDir()
	asVersion1(t, now, old)
	for _, name := range []string{"at once", "again"} {
		s = open(t, old)
		if name == "at once" {
			// What a crash would leave here opens too, and is no longer version 1.
			crashed := t.TempDir()
			for _, suffix := range []string{"", ".wal"} {
				b, err := os.ReadFile(filepath.Join(old, duckdb.FileName+suffix))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(crashed, duckdb.FileName+suffix), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c := open(t, crashed)
			if err := c.SetMapping(t.Context(), mapAll); err != nil {
				t.Fatal(err)
			}
			if got := answers(t, c); !slices.Equal(got, want) {
				t.Errorf("after a crash: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		goesBack(t, old, want)
		if got := owners(t, s); got != "" {
			t.Errorf("%s: mappings end with their program, but these are left: %s", name, got)
		}
		if err := s.SetMapping(t.Context(), mapAll); err != nil {
			t.Fatal(err)
		}
		if got := answers(t, s); !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if name == "again" {
			commit(t, s, storetest.Batch(2, storetest.Minute(2, storetest.Day)...))
			if got := owners(t, s); !strings.Contains(got, "pays pod-2-0") {
				t.Errorf("who came later is mapped to %q", got)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// goesBack fails unless what the ledger was is beside it, as it was: for its
// owner alone, of the old version, and with the same answers.
func goesBack(t *testing.T, dir string, want []string) {
	t.Helper()
	kept, back := duckdb.OldCopy(dir, 1), t.TempDir()
	st, err := os.Stat(kept)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the copy: %v, %v", st, err)
	}
	b, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(back, duckdb.FileName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("duckdb", filepath.Join(back, duckdb.FileName))
	if err != nil {
		t.Fatal(err)
	}
	var version int
	if err := db.QueryRowContext(t.Context(), `SELECT version FROM state`).Scan(&version); err != nil || version != 1 {
		t.Errorf("the copy has version %d, %v", version, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: back, Decode: storetest.Decode, SkipCopy: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetMapping(t.Context(), mapAll); err != nil {
		t.Fatal(err)
	}
	if got := answers(t, s); !slices.Equal(got, want) {
		t.Error("the copy answers otherwise")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(duckdb.OldCopy(back, 1)); !os.IsNotExist(err) {
		t.Errorf("a copy was made that was not wanted: %v", err)
	}
}

func mapAll(o *attribution.Owner) store.Mapped {
	if o.Pod == "" {
		return store.Mapped{}
	}
	return store.Mapped{
		Team: "team " + o.Pod, BudgetOwner: "pays " + o.Pod, Environment: "prod", Model: "m",
		Class: "c", Tier: "t", Run: "run " + o.Pod,
	}
}

// asVersion1 writes the ledger in a directory as the program of version 1 did.
func asVersion1(t *testing.T, from, to string) {
	t.Helper()
	db, err := sql.Open("duckdb", filepath.Join(to, duckdb.FileName))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec := func(q string) {
		t.Helper()
		if _, err := conn.ExecContext(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	for q := range strings.SplitSeq(strings.TrimSpace(version1), ";") {
		if strings.TrimSpace(q) != "" {
			exec(q)
		}
	}
	exec(`ATTACH '` + filepath.Join(from, duckdb.FileName) + `' AS now (READ_ONLY)`)
	for _, table := range []string{
		"state", "owner", "owner_label", "device", "device_label", "method", "series", "tally_series",
		"minute", "hour", "day", "tally_minute", "tally_hour", "tally_day", "late", "life", "document",
	} {
		exec(`INSERT INTO ` + table + ` SELECT * FROM now.` + table)
	}
	exec(`INSERT INTO roster SELECT id, fingerprint, body FROM now.roster`)
	unpacked(t, conn)
	exec(`INSERT INTO chunk SELECT life, sequence, seconds, roster, body, digest FROM now.chunk`)
	exec(`INSERT INTO covered SELECT life, first, last FROM now.covered`)
	exec(`INSERT INTO owner_map SELECT owner, team, model, class, tier FROM now.owner_map`)
	exec(`INSERT INTO served SELECT owner, model, several FROM now.served`)
	exec(`UPDATE state SET version = 1`)
	exec(`DETACH now`)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// unpacked makes of compressed rosters what they were before version 6.
func unpacked(t *testing.T, conn *sql.Conn) {
	t.Helper()
	bodies := make(map[int32][]byte)
	rows, err := conn.QueryContext(t.Context(), `SELECT id, body FROM roster`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close() //nolint:errcheck // Err tells
	unzip, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer unzip.Close()
	for rows.Next() {
		var id int32
		var body []byte
		if err := rows.Scan(&id, &body); err != nil {
			t.Fatal(err)
		}
		if bodies[id], err = unzip.DecodeAll(body, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := rows.Err(); err != nil || len(bodies) == 0 {
		t.Fatal(len(bodies), err)
	}
	for id, body := range bodies {
		if _, err := conn.ExecContext(t.Context(), `UPDATE roster SET body = ? WHERE id = ?`, body, id); err != nil {
			t.Fatal(err)
		}
	}
}

func answers(t *testing.T, s *duckdb.Store) (out []string) {
	t.Helper()
	err := s.View(t.Context(), func(r store.Reader) error {
		for _, by := range []store.Dimension{store.Team, store.Run, store.Revision, store.Kind, store.Pod, store.Counted, store.Mixed} {
			for _, to := range []attribution.Second{storetest.Day + 86400, storetest.Day + 33} {
				q := &store.Query{From: storetest.Day, To: to, GroupBy: []store.Dimension{by, store.BudgetOwner}}
				rows, err := r.Query(context.Background(), q)
				if err != nil {
					return err
				}
				for i := range rows {
					out = append(out, fmt.Sprintf("%s %+v %v %s %s", by, rows[i].Keys, rows[i].Basis, &rows[i].DeviceTime, &rows[i].Cost))
				}
				tallies, err := r.QueryTallies(context.Background(), q)
				if err != nil {
					return err
				}
				for i := range tallies {
					out = append(out, fmt.Sprintf("%s %+v %s %s", by, tallies[i].Keys, tallies[i].Measure, &tallies[i].Value))
				}
			}
		}
		return nil
	})
	if err != nil || len(out) < 20 {
		t.Fatalf("%d answers, %v", len(out), err)
	}
	return out
}

// owners is who pays, by the store alone.
func owners(t *testing.T, s *duckdb.Store) string {
	t.Helper()
	var out []string
	err := s.View(t.Context(), func(r store.Reader) error {
		rows, err := r.Query(context.Background(), &store.Query{
			From: storetest.Day, To: storetest.Day + 86400, GroupBy: []store.Dimension{store.BudgetOwner},
			Filters: []store.Filter{{Dimension: store.BudgetOwner, Values: []string{"*"}}},
		})
		for i := range rows {
			out = append(out, rows[i].Keys[0].Value)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, ", ")
}
