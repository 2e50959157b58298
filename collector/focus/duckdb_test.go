package focus_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/duckdb/duckdb-go/v2" // the driver

	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/focus"
	"github.com/gpuledger/gpuledger/collector/query"
	"github.com/gpuledger/gpuledger/collector/query/querytest"
)

// DuckDB opens both files, with decimals as decimals and times as times, and
// adds up what the report says.
func TestDuckDBReadsTheFiles(t *testing.T) {
	e := engine(querytest.NewWorld().Chunks(0, 600)...)
	csvFile, parquetFile, _ := export(t, e, cards{1: card(1, 5*money.Unit/2)}, &focus.Request{Step: focus.Hourly})
	rep, err := e.Report(t.Context(), &query.Request{})
	if err != nil {
		t.Fatal(err)
	}
	want := money.Text(&rep.Total.Sum.Cost)
	dir := t.TempDir()
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	ask := func(q, file string) (answer string) {
		t.Helper()
		if err := db.QueryRowContext(t.Context(), q, file).Scan(&answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	for name, x := range map[string]struct {
		body      []byte
		from, dec string
	}{
		"f.parquet": {parquetFile, "read_parquet(?)", "EffectiveCost"},
		"f.csv":     {csvFile, "read_csv(?, all_varchar=true)", "EffectiveCost::DECIMAL(38,9)"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, x.body, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := ask("SELECT rtrim(sum("+x.dec+")::VARCHAR, '0') FROM "+x.from, file); got != want {
			t.Errorf("%s sums to %s, the report says %s", name, got, want)
		}
	}
	file := filepath.Join(dir, "f.parquet")
	for q, want := range map[string]string{
		"SELECT typeof(EffectiveCost) || ' ' || typeof(ListCost) || ' ' || typeof(ChargePeriodStart) || ' ' || typeof(Tags) FROM read_parquet(?) LIMIT 1": "DECIMAL(38,9) DECIMAL(38,21) TIMESTAMP WITH TIME ZONE VARCHAR",
		"SELECT count(*)::VARCHAR FROM read_parquet(?) WHERE ListUnitPrice::DECIMAL(19,9) * PricingQuantity::DECIMAL(19,12) <> ListCost":                  "0",
		"SELECT count(*)::VARCHAR FROM read_parquet(?) WHERE ChargeClass IS NULL AND AllocatedResourceId IS DISTINCT FROM ''":                             "4",
		"SELECT epoch(min(ChargePeriodStart))::BIGINT::VARCHAR FROM read_parquet(?)":                                                                      "1700006400",
		"SELECT string_agg(json_extract_string(AllocatedTags, '$.\"gpuledger/team\"'), ',' ORDER BY AllocatedTags) FROM read_parquet(?)":                  "ads,search",
	} {
		if got := ask(q, file); got != want {
			t.Errorf("%s\ngives %s, want %s", q, got, want)
		}
	}
}
