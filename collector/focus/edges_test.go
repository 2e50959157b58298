package focus_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuledger/gpuledger/attribution"
	"github.com/gpuledger/gpuledger/attribution/money"
	"github.com/gpuledger/gpuledger/collector/focus"
)

// stretch is a chunk of ten seconds of one device, held by containers of the
// namespaces in equal parts.
func stretch(t *testing.T, model, at string, perHour money.Amount, namespaces ...string) *attribution.Chunk {
	t.Helper()
	first, err := time.Parse(time.RFC3339, at)
	if err != nil {
		t.Fatal(err)
	}
	r := &attribution.Roster{Methods: []string{"sm/device"}, Devices: []attribution.Device{{ID: "GPU-1", Cluster: "eu/prod", Node: "n", Model: model}}}
	for i, n := range namespaces {
		r.Owners = append(r.Owners, attribution.Owner{
			Kind: attribution.Container, Cluster: "eu/prod", Node: "n", Namespace: n, Pod: fmt.Sprint("p", i), PodUID: fmt.Sprint(i), Container: "main",
		})
	}
	var ws []attribution.DeviceWindow
	for s := range attribution.Second(10) {
		w := attribution.DeviceWindow{Second: attribution.Second(first.Unix()) + s, Price: attribution.Price{Revision: 1, PerHour: perHour}}
		left := attribution.WindowNanos
		for i := range namespaces {
			n := left / int64(len(namespaces)-i)
			left -= n
			w.Slices = append(w.Slices, attribution.Slice{Owner: uint32(i), Basis: attribution.Reserved, Time: n})
		}
		ws = append(ws, w)
	}
	c := attribution.BuildChunk(attribution.ChunkKey{Cluster: "eu/prod", Node: "n", Sequence: attribution.Second(first.Unix())}, 10, r.Facts(), ws, nil)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	return c
}

// A charge period never crosses the end of a month, in any step, and the range
// cuts the first and the last.
func TestMonthsEdge(t *testing.T) {
	e := engine(
		stretch(t, "NVIDIA H100", "2024-02-29T23:59:50Z", money.Unit, "a"),
		stretch(t, "NVIDIA H100", "2024-03-01T00:00:00Z", money.Unit, "a"),
	)
	for _, step := range []int64{focus.Hourly, focus.Daily} {
		file, _, _ := export(t, e, cards{1: card(1, money.Unit)}, &focus.Request{Step: step})
		var got []string
		for _, r := range table(t, file) {
			got = append(got, strings.Join([]string{r["ChargePeriodStart"], r["ChargePeriodEnd"], r["BillingPeriodStart"], r["BillingPeriodEnd"]}, " "))
		}
		want := []string{
			"2024-02-29T23:59:50Z 2024-03-01T00:00:00Z 2024-02-01T00:00:00Z 2024-03-01T00:00:00Z",
			"2024-03-01T00:00:00Z 2024-03-01T00:00:10Z 2024-03-01T00:00:00Z 2024-04-01T00:00:00Z",
		}
		if !slices.Equal(got, want) {
			t.Errorf("step %d: got\n%s\nwant\n%s", step, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// A driver that is upgraded may call the same device by another name: these
// are two charges of one day, with ids of their own.
func TestDeviceIsRenamed(t *testing.T) {
	e := engine(
		stretch(t, "Tesla V100", "2024-03-01T00:00:00Z", money.Unit, "a", "b"),
		stretch(t, "NVIDIA V100", "2024-03-01T00:00:10Z", money.Unit, "a", "b"),
	)
	file, _, sum := export(t, e, cards{}, &focus.Request{AllocateBy: []string{"namespace"}})
	ids := map[string]int{}
	for _, r := range table(t, file) {
		ids[r["x_OriginChargeId"]]++
	}
	want := []string{"eu%2Fprod/n/GPU-1/NVIDIA V100/20240301T000000Z/1", "eu%2Fprod/n/GPU-1/Tesla V100/20240301T000000Z/1"}
	if len(ids) != 2 || ids[want[0]] != 2 || ids[want[1]] != 2 || sum.Origins != 2 {
		t.Errorf("%d charges: %v, want two parts each of %q", sum.Origins, ids, want)
	}
}

// What is free costs 0, which is known: it has rows, its parts share by time.
func TestFreeDevice(t *testing.T) {
	e := engine(stretch(t, "NVIDIA H100", "2024-03-01T00:00:00Z", 0, "a", "b", "c"))
	file, _, sum := export(t, e, cards{1: card(1, 0)}, &focus.Request{AllocateBy: []string{"namespace"}})
	for _, r := range table(t, file) {
		if r["EffectiveCost"] != "0" || r["ListUnitPrice"] != "0" || r["x_UnitPriceSource"] != "rate-card" || !strings.Contains(r["AllocatedMethodDetails"], `"AllocatedRatio":0.33333333`) {
			t.Errorf("%v", r)
		}
	}
	if sum.Rows != 3 || sum.Unpriced.Sign() != 0 {
		t.Errorf("%d rows, %v ns without a price", sum.Rows, &sum.Unpriced)
	}
}

// Names come out of both files as they went in, whatever is in them, read by a
// reader that is not ours.
func TestNamesSurvive(t *testing.T) {
	names := []string{
		"=1+1", "+1", "-1", "@SUM(A1)", "a,b", `"`, `""`, "a\nb", "a\rb", "a\r\nb", " lead", "trail ", "é", "漢字", "🙂", "NULL", "null", `\N`,
		`{"a":1}`, "\t", strings.Repeat("x", 5000), "a\u2028b",
	}
	e := engine(stretch(t, "NVIDIA H100", "2024-03-01T00:00:00Z", money.Unit, names...))
	csvFile, parquetFile, _ := export(t, e, cards{}, &focus.Request{AllocateBy: []string{"namespace"}})
	db, err := sql.Open("duckdb", "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var want []string
	for _, n := range names {
		want = append(want, "namespace="+strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(n))
	}
	slices.Sort(want)
	for name, x := range map[string]struct {
		body []byte
		from string
	}{"f.parquet": {parquetFile, "read_parquet(?)"}, "f.csv": {csvFile, "read_csv(?, all_varchar=true, header=true, max_line_size=8000000)"}} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, x.body, 0o600); err != nil {
			t.Fatal(err)
		}
		rows, err := db.QueryContext(t.Context(), "SELECT AllocatedResourceId FROM "+x.from, file)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			got = append(got, s)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%q\nwant\n%q", name, got, want)
		}
	}
}

// A writer that fails, as on a full disk, ends the export with its error.
func TestWriterFails(t *testing.T) {
	e := engine(stretch(t, "NVIDIA H100", "2024-03-01T00:00:00Z", money.Unit, "a"))
	for name, w := range map[string]focus.Writer{"csv": focus.NewCSV(full{}), "parquet": focus.NewParquet(full{})} {
		_, err := focus.Export(context.Background(), e, cards{}, &focus.Request{Names: focus.Names{Currency: "USD"}}, w)
		if err = errors.Join(err, w.Close()); !errors.Is(err, errFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b bytes.Buffer
	if err := focus.NewCSV(&b).Close(); err != nil || !strings.HasSuffix(b.String(), ",x_UsedSeconds\r\n") {
		t.Errorf("a file without rows: %q, %v", b.String(), err)
	}
}

type full struct{}

var errFull = errors.New("no space left on device")

func (full) Write([]byte) (int, error) { return 0, errFull }
