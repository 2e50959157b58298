package verify_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/attribution/rating"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
	"github.com/gpuledger/gpuledger/collector/rerating"
	"github.com/gpuledger/gpuledger/collector/rerating/plan"
	"github.com/gpuledger/gpuledger/collector/store"
	"github.com/gpuledger/gpuledger/collector/store/duckdb"
	"github.com/gpuledger/gpuledger/collector/verify"
)

// What reratings moved is what undoing them gives back: who changes that in the
// file, or a rerated row, is found out.
func TestLaw6ATamperedFileIsFound(t *testing.T) {
	dir := t.TempDir()
	on := func(f func(store.Store)) {
		t.Helper()
		s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: decode})
		if err != nil {
			t.Fatal(err)
		}
		f(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	check := func() (p *verify.Progress) {
		t.Helper()
		on(func(s store.Store) {
			var err error
			if p, err = verify.New(verify.Config{Store: s}).Run(t.Context(), 0, 0, nil); err != nil {
				t.Fatal(err)
			}
		})
		return p
	}
	on(func(s store.Store) {
		if err := s.Commit(t.Context(), batch(t, 1, querytest.NewWorld().Chunks(0, 300), nil)); err != nil {
			t.Fatal(err)
		}
		for i := range money.Amount(2) {
			rerateDuckDB(t, s, rerating.Entry{From: start + 30, To: start + 200, Currency: "USD", Card: &rating.Card{
				Currency: "USD", Policy: "sm", Prices: []rating.PriceRule{{Model: "*", PerDeviceHour: (i + 5) * money.Unit}},
			}})
		}
		if err := s.Roll(t.Context(), start+86400); err != nil {
			t.Fatal(err)
		}
	})
	if p := check(); p.Broken != nil {
		t.Fatal("not tampered with yet: ", p.Broken)
	}
	const one = ` WHERE rowid = (SELECT min(rowid) FROM transfer WHERE entry = 1 AND time > 0)`
	const row = ` WHERE rowid = (SELECT min(rowid) FROM minute WHERE cost > 0 AND series IN (SELECT id FROM series WHERE revision > 1000))`
	for name, c := range map[string]struct{ do, undo string }{
		"what is given back":      {`UPDATE transfer SET cost_before = cost_before + 1` + one, `UPDATE transfer SET cost_before = cost_before - 1` + one},
		"what was given":          {`UPDATE transfer SET cost_after = cost_after + 1` + one, `UPDATE transfer SET cost_after = cost_after - 1` + one},
		"its time":                {`UPDATE transfer SET time = time + 1` + one, `UPDATE transfer SET time = time - 1` + one},
		"its energy":              {`UPDATE transfer SET energy = energy + 1` + one, `UPDATE transfer SET energy = energy - 1` + one},
		"its bucket":              {`UPDATE transfer SET bucket = bucket + 1` + one, `UPDATE transfer SET bucket = bucket - 1` + one},
		"from whom":               {`UPDATE transfer SET source = source + 1` + one, `UPDATE transfer SET source = source - 1` + one},
		"to whom":                 {`UPDATE transfer SET target = target + 1` + one, `UPDATE transfer SET target = target - 1` + one},
		"by which rerating":       {`UPDATE transfer SET entry = 7` + one, `UPDATE transfer SET entry = 1 WHERE entry = 7`},
		"one is there twice":      {`INSERT INTO transfer SELECT * FROM transfer` + one, `DELETE FROM transfer WHERE rowid = (SELECT max(rowid) FROM transfer)`},
		"both layers, in between": {`UPDATE transfer SET cost_after = cost_after + CASE entry WHEN 1 THEN 1 ELSE 0 END, cost_before = cost_before + CASE entry WHEN 2 THEN 1 ELSE 0 END`, `UPDATE transfer SET cost_after = cost_after - CASE entry WHEN 1 THEN 1 ELSE 0 END, cost_before = cost_before - CASE entry WHEN 2 THEN 1 ELSE 0 END`},
		"a row":                   {`UPDATE minute SET cost = cost + 1` + row, `UPDATE minute SET cost = cost - 1` + row},
	} {
		tamper(t, dir, c.do)
		if p := check(); p.Broken == nil {
			t.Errorf("%s: not found", name)
		}
		tamper(t, dir, c.undo)
	}
	if p := check(); p.Broken != nil {
		t.Fatal("not put right: ", p.Broken)
	}
	tamper(t, dir, `DELETE FROM transfer`+one)
	if p := check(); p.Broken == nil || p.Broken.Law != 6 {
		t.Errorf("one is gone: %v", p.Broken)
	}
}

// Rows of which the ledger does not know whose they are end the run with that.
func TestRowsWithoutFactsAreCorrupt(t *testing.T) {
	for _, statement := range []string{`DELETE FROM owner WHERE kind = 1`, `DELETE FROM device`} {
		dir := t.TempDir()
		opened := func() store.Store {
			s, err := duckdb.Open(t.Context(), duckdb.Options{Dir: dir, Decode: decode})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := opened()
		if err := s.Commit(t.Context(), batch(t, 1, []*attribution.Chunk{wideChunk(wide(2), start)}, nil)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		tamper(t, dir, statement)
		s = opened()
		if p, err := verify.New(verify.Config{Store: s}).Run(t.Context(), 0, 0, nil); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", statement, p, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func rerateDuckDB(t *testing.T, s store.Store, e rerating.Entry) {
	t.Helper()
	var p *plan.Plan
	err := s.View(t.Context(), func(r store.Reader) (err error) {
		pl := plan.Planner{Decode: decode}
		p, err = pl.Rerate(t.Context(), r, e)
		return err
	})
	if err == nil {
		err = s.Rerate(t.Context(), p.Rerating())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func tamper(t *testing.T, dir, statement string) {
	t.Helper()
	db, err := sql.Open("duckdb", filepath.Join(dir, duckdb.FileName))
	if err != nil {
		t.Fatal(err)
	}
	res, err := db.ExecContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s: %d rows, %v", statement, n, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
