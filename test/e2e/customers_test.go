package e2e

import (
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/test/programs"
)

// loraShare is what a customer asked of a model on one day.
type loraShare struct{ tenant, model string }

// loraDays works out what one GPU, doing one request after another, did for
// whom on each UTC day; and how many requests succeeded and failed.
func loraDays(t *testing.T, path string) (days map[int64]map[loraShare]int64, asked map[loraShare][2]int64, from, to int64) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	r := csv.NewReader(unpacked)
	head, err := r.Read()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{}
	for i, name := range head {
		at[name] = i
	}
	days, asked = map[int64]map[loraShare]int64{}, map[loraShare][2]int64{}
	free := int64(0)
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return days, asked, from, to
		}
		if err != nil {
			t.Fatal(err)
		}
		came, err := time.Parse(time.DateTime, row[at["gmt_create"]])
		if err != nil {
			t.Fatal(err)
		}
		seconds, err := strconv.ParseInt(strings.TrimSuffix(row[at["exec_time_seconds"]], ".0"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if from == 0 {
			from = came.Unix()
		}
		free = max(free, came.Unix())
		counted := max(free, free+seconds-1) // the last second of the work
		free += seconds
		to = max(to, counted+1)
		who := loraShare{row[at["groupId"]], row[at["checkpoint_model_version_id"]]}
		if days[counted/86400] == nil {
			days[counted/86400] = map[loraShare]int64{}
		}
		days[counted/86400][who]++
		n := asked[who]
		if row[at["predict_status"]] == "SUCCEED" {
			n[0]++
		} else {
			n[1]++
		}
		asked[who] = n
	}
}

// TestCustomersOfAProductionFleet replays two weeks of requests of a production
// service: what each customer's use of each base model cost sums exactly to
// what the fleet cost, is what it is by hand, and failed work is shown as waste.
func TestCustomersOfAProductionFleet(t *testing.T) {
	trace := programs.Traces(t, "gentd26")
	days, asked, from, to := loraDays(t, filepath.Join(trace, "lora_request_trace.csv.gz"))
	dir := t.TempDir()
	recording, data := filepath.Join(dir, "lora.jsonl"), filepath.Join(dir, "ledger")
	ledger(t, "import", "gentd26-lora", trace, "--devices", "1", "-o", recording)
	ledger(t, "replay", recording, "--data", data, "--ratecard", flatCard(t))

	var ans struct {
		Rows  []customerRow
		Total customerRow
	}
	if err := json.Unmarshal([]byte(ledger(t, "inferences", "--data", data, "--by", "tenant,model", "-o", "json")), &ans); err != nil {
		t.Fatal(err)
	}
	// 2.50 an hour; a day costs 60.
	cost := func(seconds int64) *big.Rat { return big.NewRat(seconds*5, 7200) }
	want := map[loraShare]*big.Rat{}
	for d, shares := range days {
		all, today := int64(0), cost(min(to, (d+1)*86400)-max(from, d*86400))
		for _, n := range shares {
			all += n
		}
		for who, n := range shares {
			if want[who] == nil {
				want[who] = new(big.Rat)
			}
			want[who].Add(want[who], new(big.Rat).Mul(today, big.NewRat(n, all)))
		}
	}
	sum, failed := new(big.Rat), int64(0)
	for _, r := range ans.Rows {
		who := loraShare{r.Keys[0], r.Keys[1]}
		sum.Add(sum, decimal(t, r.Cost))
		n := asked[who]
		failed += n[1]
		if decimal(t, r.Inferences).Cmp(big.NewRat(n[0], 1)) != 0 || decimal(t, r.Failures).Cmp(big.NewRat(n[1], 1)) != 0 {
			t.Errorf("%v: %s succeeded and %s failed, want %v", who, r.Inferences, r.Failures, n)
		}
		// Each of 15 days is rounded to a nano unit.
		if off := new(big.Rat).Sub(decimal(t, r.Cost), want[who]); off.Abs(off).Cmp(big.NewRat(15, 1e9)) > 0 {
			t.Errorf("%v costs %s, by hand %s", who, r.Cost, want[who].FloatString(12))
		}
		waste := new(big.Rat).Mul(decimal(t, r.Cost), big.NewRat(n[1], n[0]+n[1]))
		if off := waste.Sub(waste, decimal(t, r.FailedCost)); off.Abs(off).Cmp(big.NewRat(1, 1e9)) >= 0 {
			t.Errorf("%v wasted %s of %s with %v", who, r.FailedCost, r.Cost, n)
		}
		delete(want, who)
	}
	if len(want) > 0 || len(ans.Rows) != len(asked) {
		t.Errorf("%d rows, want %d; missing %v", len(ans.Rows), len(asked), want)
	}
	total := decimal(t, ans.Total.Cost)
	off := new(big.Rat).Sub(total, cost(to-from))
	if sum.Cmp(total) != 0 || off.Abs(off).Cmp(big.NewRat(1, 1e9)) >= 0 {
		t.Errorf("customers cost %s, the fleet %s, %d s by hand %s", sum.FloatString(9), ans.Total.Cost, to-from, cost(to-from).FloatString(12))
	}
	if failed != 240 || ans.Total.Inferences != "13171" || ans.Total.Failures != "240" || ans.Total.Source != "server" {
		t.Errorf("%d failed; total %+v", failed, ans.Total)
	}
	if got := ledger(t, "verify", "--data", data); !strings.HasPrefix(got, "The laws hold") {
		t.Errorf("verify: %s", got)
	}
}

type customerRow struct {
	Keys       []string
	Cost       string `json:"allocation_cost"`
	Inferences string
	Failures   string
	FailedCost string `json:"failed_cost"`
	Source     string `json:"tenant_source"`
}

func decimal(t *testing.T, s string) *big.Rat {
	t.Helper()
	x, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is no number", s)
	}
	return x
}
