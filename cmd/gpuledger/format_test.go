package main

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	pb "github.com/gpuledger/gpuledger/proto/gpuledger/v1"
)

func TestMoneyText(t *testing.T) {
	for _, c := range []struct{ dec, want string }{
		{"", "–"},
		{"nonsense", "–"},
		{"0", "0.00"},
		{"0.000000000", "0.00"},
		{"0.0003", "0.0003000"},
		{"0.00031415", "0.0003142"},
		{"0.000000001", "0.000000001000"},
		{"0.05", "0.05000"},
		{"0.5", "0.5000"},
		{"0.99999", "1.0000"},
		{"1", "1.0000"},
		{"2.5", "2.5000"},
		{"59.327", "59.3270"},
		{"59.32719821", "59.3272"},
		{"99.99994", "99.9999"},
		{"100", "100.00"},
		{"999.999", "1,000.00"},
		{"4397.193749977", "4,397.19"},
		{"1234567.895", "1,234,567.90"},
		{"-0.0003", "-0.0003000"},
		{"-1234.5", "-1,234.50"},
	} {
		if got := moneyText(c.dec); got != c.want {
			t.Errorf("moneyText(%q) = %s, want %s", c.dec, got, c.want)
		}
	}
}

// TestMoneyTextIsClose: what is shown differs from the amount by less than a
// thousandth, or by at most half a cent.
func TestMoneyTextIsClose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nano := rapid.Int64Range(1, 1e18).Draw(t, "nano")
		amount := big.NewRat(nano, 1e9)
		shown, ok := new(big.Rat).SetString(strings.ReplaceAll(moneyText(amount.FloatString(9)), ",", ""))
		if !ok {
			t.Fatalf("%d: no number", nano)
		}
		diff := new(big.Rat).Sub(shown, amount)
		diff.Abs(diff)
		if diff.Cmp(big.NewRat(5, 1000)) > 0 || (diff.Cmp(new(big.Rat).Mul(amount, big.NewRat(1, 1000))) > 0) {
			t.Fatalf("%s is shown as %s", amount.FloatString(9), moneyText(amount.FloatString(9)))
		}
	})
}

func TestFigures(t *testing.T) {
	for _, c := range []struct{ name, got, want string }{
		{"hours", hoursText("3600000000000"), "1.000"},
		{"hours, a second", hoursText("1000000000"), "<0.001"},
		{"hours, two seconds", hoursText("2000000000"), "0.001"},
		{"hours, none", hoursText("0"), "0.000"},
		{"hours, many", hoursText("22794996000000000000"), "6,331,943.3"},
		{"hours unknown", hoursText(""), "–"},
		{"seconds", secondsText("462205820000000"), "462205.82"},
		{"seconds, whole", secondsText("60000000000"), "60"},
		{"seconds, none", secondsText("0"), "0"},
		{"seconds, a ns", secondsText("1"), "0.000000001"},
		{"seconds unknown", secondsText(""), ""},
		{"percent", percentText("462205820000000", "6331959000000000"), "7.3%"},
		{"percent, all", percentText("5", "5"), "100.0%"},
		{"percent, none", percentText("0", "5"), "0.0%"},
		{"percent, a little", percentText("1", "1000000"), "<0.1%"},
		{"percent of nothing", percentText("0", "0"), "–"},
		{"percent unknown", percentText("", "5"), "–"},
		{"count", countText("74117"), "74,117"},
		{"count, fraction cut", countText("74117.93"), "74,117"},
		{"count, less than one", countText("0.4"), "<1"},
		{"count, none", countText("0"), "0"},
		{"count unknown", countText(""), "–"},
		{"thousands", thousands("1234567.12345"), "1,234,567.12345"},
		{"thousands, short", thousands("123"), "123"},
		{"thousands, exact", thousands("-123456"), "-123,456"},
		{"thousands, empty", thousands(""), ""},
		{"nano", nanoText("4397.193749977"), "4397193749977"},
		{"nano unknown", nanoText(""), ""},
		{"sum", addDecimals("1.5", "", "0.000000001"), "1.500000001"},
		{"sum of nothing known", addDecimals("", ""), ""},
		{"money column", moneyColumn("cost", "USD"), "cost_usd"},
		{"money column without a currency", moneyColumn("cost", ""), "cost"},
		{"pace", pace("0.01", 60), "0.6000"},
		{"pace over nothing", pace("0.01", 0), "–"},
		{"per second", perSecond("60000000000", 60, 1e9, 1), "1.0"},
		{"one", plural(1, "price"), "1 price"},
		{"none", plural(0, "price"), "0 prices"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
}

func TestKeyText(t *testing.T) {
	for _, c := range []struct {
		key     string
		missing bool
		want    string
	}{
		{"search", false, "search"},
		{"", false, `""`},
		{"", true, "(none)"},
		{"(none)", false, "(none)"},
		{"Größe 7 équipe 検索", false, "Größe 7 équipe 検索"},
		{"a\x1b[2J\x1b]0;title\x07b", false, "a?[2J?]0;title?b"},
		{"a\nb\tc\r", false, "a?b?c?"},
		{"a\x00b\x7fc", false, "a?b?c"},
		{"a\u0085b\u009b1m", false, "a?b?1m"},
		{"a\u202eb\u2066c\u200f", false, "a?b?c?"},
		{"a\xffb", false, "a\ufffdb"},
	} {
		if got := keyText(c.key, c.missing); got != c.want {
			t.Errorf("keyText(%q, %v) = %q, want %q", c.key, c.missing, got, c.want)
		}
	}
}

// TestLaw9IdleCostUnknown: idle time without a price has no known cost; no idle
// time costs nothing.
func TestLaw9IdleCostUnknown(t *testing.T) {
	row := func(of ...*pb.BasisSum) *pb.ReportRow {
		return &pb.ReportRow{ByBasis: of, Sum: sum("", "2", "1", "0")}
	}
	for want, r := range map[string]*pb.ReportRow{
		"":            row(sum("used", "1", "1", "0"), sum("reserved", "1", "", "1000000000")),
		"0":           row(sum("used", "2", "1", "0")),
		"1.500000000": row(sum("reserved", "1", "1", "0"), sum("unallocated", "1", "0.5", "0")),
	} {
		if got := idleCost(r); got != want {
			t.Errorf("%v: idle cost %q, want %q", r, got, want)
		}
	}
}

// TestLaw9CSVTellsEmptyFromMissing: an absent key and an empty one differ, and
// no column comes twice.
func TestLaw9CSVTellsEmptyFromMissing(t *testing.T) {
	res := &pb.ReportResponse{GroupBy: []string{"label:a", "basis"}, Rows: []*pb.ReportRow{
		{Keys: []string{"", "used"}, Missing: []bool{true, false}, ByBasis: []*pb.BasisSum{sum("used", "1", "", "1")}},
		{Keys: []string{"", "used"}, Missing: []bool{false, false}, ByBasis: []*pb.BasisSum{sum("used", "1", "", "1")}},
	}}
	var b strings.Builder
	if err := reportCSV(&b, res); err != nil {
		t.Fatal(err)
	}
	const want = `time,label:a,basis,device_seconds,sm_active_seconds,memory_byte_seconds,energy_uj,cost,unpriced_seconds
1970-01-01T00:00:00Z,,used,1,0,,,,0.000000001
1970-01-01T00:00:00Z,"""""",used,1,0,,,,0.000000001
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &b, want)
	}
}

// TestJSONIsStable: the output is that of the HTTP API, byte by byte.
func TestJSONIsStable(t *testing.T) {
	var b strings.Builder
	if err := printJSON(&b, &pb.VerifyProgress{ChunksTotal: 7}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "{\n  \"chunks\": \"0\",\n  \"chunks_total\": \"7\",\n") {
		t.Error(b.String())
	}
}

func TestTable(t *testing.T) {
	tab := newTable("TEAM", ">COST", "")
	tab.add("search", "1.50", "")
	tab.add("größe", "1,234.00", "UNPRICED")
	tab.add("short")
	tab.rows = append(tab.rows, nil)
	tab.add("total", "1,235.50", "")
	var b strings.Builder
	if err := tab.write(&b); err != nil {
		t.Fatal(err)
	}
	const want = `TEAM        COST
──────  ────────  ────────
search      1.50
größe   1,234.00  UNPRICED
short
──────  ────────  ────────
total   1,235.50
`
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", &b, want)
	}
}

func TestCSV(t *testing.T) {
	var b strings.Builder
	if err := printCSV(&b, []string{"team", "cost_usd"}, [][]string{{`a "b", c`, "0.000000001"}, {"", ""}}); err != nil {
		t.Fatal(err)
	}
	if want := "team,cost_usd\n\"a \"\"b\"\", c\",0.000000001\n,\n"; b.String() != want {
		t.Errorf("%q, want %q", &b, want)
	}
}
