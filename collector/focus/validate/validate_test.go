package validate_test

import (
	"bytes"
	"encoding/csv"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"

	"github.com/gpuledger/gpuledger/collector/focus/validate"
)

// rows is a valid file: one charge that is whole and one in three parts.
func rows() []map[string]string {
	base := map[string]string{
		"AvailabilityZone": "eu-1a", "BilledCost": "2.5", "BillingAccountId": "a1", "BillingAccountName": "A", "BillingCurrency": "USD",
		"BillingPeriodEnd": "2026-02-01T00:00:00Z", "BillingPeriodStart": "2026-01-01T00:00:00Z",
		"ChargeCategory": "Usage", "ChargeClass": "", "ChargeDescription": "GPU time", "ChargeFrequency": "Usage-Based",
		"ChargePeriodEnd": "2026-02-01T00:00:00Z", "ChargePeriodStart": "2026-01-31T23:00:00Z",
		"ConsumedQuantity": "3600", "ConsumedUnit": "GPU-Seconds", "ContractedCost": "2.5", "ContractedUnitPrice": "2.50",
		"EffectiveCost": "2.5", "HostProviderName": "P", "InvoiceIssuerName": "P", "ListCost": "2.5", "ListUnitPrice": "2.5",
		"PricingCategory": "Standard", "PricingQuantity": "1", "PricingUnit": "GPU-Hours", "ProviderName": "P", "PublisherName": "P",
		"RegionId": "eu-1", "RegionName": "eu-1", "ResourceId": "GPU-1", "ResourceName": "g", "ResourceType": "GPU",
		"ServiceCategory": "Compute", "ServiceName": "GPUs", "ServiceProviderName": "P", "ServiceSubcategory": "Virtual Machines",
		"SkuId": "s", "SkuMeter": "GPU Time", "SkuPriceDetails": `{"GpuCount":1,"x_Kind":"a"}`, "SkuPriceId": "s",
		"SubAccountId": "c", "SubAccountName": "c", "Tags": `{"zone":"a"}`,
		"CommitmentDiscountId": "", "CommitmentDiscountStatus": "", "CommitmentDiscountQuantity": "", "CommitmentDiscountUnit": "",
		"CommitmentDiscountCategory": "", "CommitmentDiscountType": "",
		"AllocatedMethodDetails": "", "AllocatedMethodId": "", "AllocatedResourceId": "", "AllocatedResourceName": "", "AllocatedTags": "",
		"x_OriginChargeId": "", "x_OriginEffectiveCost": "", "x_OriginPricingQuantity": "",
	}
	out := []map[string]string{base}
	for _, p := range []struct{ owner, ratio, cost, quantity string }{
		{"search", "0.5", "1.25", "0.5"}, {"ads", "0.3", "0.75", "0.3"}, {"", "0.2", "0.5", "0.2"},
	} {
		r := maps.Clone(base)
		r["ResourceId"] = "GPU-2"
		for _, c := range []string{"BilledCost", "EffectiveCost", "ListCost", "ContractedCost"} {
			r[c] = p.cost
		}
		r["PricingQuantity"], r["AllocatedMethodId"] = p.quantity, "sm"
		r["AllocatedMethodDetails"] = `{"Elements":[{"AllocatedRatio":` + p.ratio + `,"UsageUnit":"GPU-Seconds","UsageQuantity":7}]}`
		if p.owner != "" {
			r["AllocatedResourceId"], r["AllocatedResourceName"], r["AllocatedTags"] = p.owner, p.owner, `{"team":"`+p.owner+`"}`
		}
		r["x_OriginChargeId"], r["x_OriginEffectiveCost"], r["x_OriginPricingQuantity"] = "o2", "2.5", "1"
		out = append(out, r)
	}
	return out
}

// write makes a CSV file of the columns that the first row has.
func write(t testing.TB, rows []map[string]string, columns ...string) []byte {
	t.Helper()
	if columns == nil {
		columns = slices.Sorted(maps.Keys(rows[0]))
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if err := w.Write(columns); err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		line := make([]string, len(columns))
		for i, c := range columns {
			line[i] = r[c]
		}
		if err := w.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	w.Flush()
	return b.Bytes()
}

func TestValid(t *testing.T) {
	rep, err := validate.CSV(bytes.NewReader(write(t, rows())))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rep.Findings {
		t.Error(f)
	}
	if rep.Rows != 4 || rep.Splits != 1 || rep.Cost != "5" || rep.Currency != "USD" {
		t.Errorf("%+v", rep)
	}
}

// planted is a defect and the finding that it must lead to, and no other.
type planted struct {
	row           int // data row, from 1
	column, to    string
	rule, column2 string // of the finding
	also          map[string]string
}

// Every defect is found, where it is, by its rule.
func TestPlantedDefects(t *testing.T) {
	defects := map[string]planted{
		"no cost":                    {1, "BilledCost", "", "not-null", "BilledCost", nil},
		"float text":                 {1, "BilledCost", "2.5e0", "number", "BilledCost", nil},
		"comma":                      {1, "BilledCost", "2,5", "number", "BilledCost", nil},
		"plus":                       {1, "BilledCost", "+2.5", "number", "BilledCost", nil},
		"no account":                 {1, "BillingAccountId", "", "not-null", "BillingAccountId", nil},
		"blank account":              {1, "BillingAccountId", "  ", "blank", "BillingAccountId", nil},
		"NULL as text":               {1, "SkuMeter", "NULL", "blank", "SkuMeter", nil},
		"not UTF-8":                  {1, "ResourceName", "\xff", "blank", "ResourceName", nil},
		"currency":                   {1, "BillingCurrency", "USDT", "currency", "BillingCurrency", nil},
		"category":                   {1, "ServiceCategory", "GPU", "value", "ServiceCategory", map[string]string{"ServiceSubcategory": "Other (GPU)"}},
		"subcategory":                {1, "ServiceSubcategory", "Generative AI", "subcategory", "ServiceSubcategory", nil},
		"class":                      {1, "ChargeClass", "Normal", "value", "ChargeClass", nil},
		"frequency":                  {1, "ChargeFrequency", "Usage", "value", "ChargeFrequency", nil},
		"usage-based purchase":       {1, "ChargeCategory", "Purchase", "frequency", "ChargeFrequency", map[string]string{"ConsumedQuantity": "", "ConsumedUnit": ""}},
		"consumed in a purchase":     {1, "ChargeCategory", "Purchase", "null", "ConsumedQuantity", map[string]string{"ChargeFrequency": "Recurring"}},
		"usage without quantity":     {1, "ConsumedQuantity", "", "not-null", "ConsumedQuantity", map[string]string{"ConsumedUnit": ""}},
		"priced tax":                 {1, "ChargeCategory", "Tax", "null", "PricingQuantity", nil},
		"time with offset":           {1, "ChargePeriodStart", "2026-01-31T23:00:00+00:00", "time", "ChargePeriodStart", nil},
		"time without seconds":       {1, "ChargePeriodStart", "2026-01-31T23:00Z", "time", "ChargePeriodStart", nil},
		"reversed period":            {1, "ChargePeriodStart", "2026-02-01T00:00:00Z", "charge-period", "ChargePeriodEnd", nil},
		"outside the billing period": {1, "BillingPeriodEnd", "2026-01-31T23:30:00Z", "billing-period", "ChargePeriodStart", nil},
		"reversed billing period":    {1, "BillingPeriodStart", "2026-03-01T00:00:00Z", "billing-period", "BillingPeriodEnd", nil},
		"list cost":                  {1, "ListCost", "2.500000000000000000001", "unit-price", "ListCost", nil},
		"contracted cost":            {1, "ContractedUnitPrice", "2.4", "unit-price", "ContractedCost", nil},
		"negative price":             {1, "ListUnitPrice", "-2.5", "negative", "ListUnitPrice", map[string]string{"ListCost": "-2.5"}},
		"no pricing unit":            {1, "PricingUnit", "", "pricing-unit", "PricingUnit", nil},
		"no price":                   {1, "ListUnitPrice", "", "not-null", "ListUnitPrice", nil},
		"unit":                       {1, "PricingUnit", "gpu-hours", "unit", "PricingUnit", nil},
		"unit of time":               {1, "ConsumedUnit", "GPU-seconds", "unit", "ConsumedUnit", nil},
		"billed by another":          {1, "InvoiceIssuerName", "Cloud", "billed-cost", "BilledCost", nil},
		"nested tags":                {1, "Tags", `{"a":{"b":1}}`, "json-flat", "Tags", nil},
		"tag twice":                  {1, "Tags", `{"a":"1","a":"2"}`, "json-flat", "Tags", nil},
		"tags as list":               {1, "Tags", `["a"]`, "json", "Tags", nil},
		"broken tags":                {1, "Tags", `{"a":`, "json", "Tags", nil},
		"more than tags":             {1, "Tags", `{"a":"1"}{}`, "json", "Tags", nil},
		"sku property":               {1, "SkuPriceDetails", `{"GpuKind":"a"}`, "json-flat", "SkuPriceDetails", nil},
		"sku price without sku":      {1, "SkuId", "", "null", "SkuPriceId", map[string]string{"SkuMeter": ""}},
		"region without name":        {1, "RegionName", "", "not-null", "RegionName", nil},
		"name without resource":      {1, "ResourceId", "", "null", "ResourceName", map[string]string{"ResourceType": ""}},
		"name without account":       {1, "SubAccountId", "", "null", "SubAccountName", nil},
		"committed":                  {1, "PricingCategory", "Committed", "commitment", "PricingCategory", nil},
		"commitment without id":      {1, "CommitmentDiscountStatus", "Used", "commitment", "CommitmentDiscountStatus", nil},
		"commitment without status":  {1, "CommitmentDiscountId", "c", "not-null", "CommitmentDiscountStatus", map[string]string{"CommitmentDiscountCategory": "Usage", "CommitmentDiscountType": "RI"}},
		"owner of a whole":           {1, "AllocatedTags", `{"team":"a"}`, "split-method", "AllocatedTags", nil},
		"owner without name":         {2, "AllocatedResourceName", "", "split-name", "AllocatedResourceName", nil},
		"repeated tag":               {2, "AllocatedTags", `{"zone":"b"}`, "split-tags", "AllocatedTags", nil},
		"no elements":                {2, "AllocatedMethodDetails", `{"elements":[]}`, "split-details", "AllocatedMethodDetails", nil},
		"quantity without unit":      {2, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":0.5,"UsageQuantity":1}]}`, "split-details", "AllocatedMethodDetails", nil},
		"ratio as text":              {2, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":"0.5"}]}`, "split-details", "AllocatedMethodDetails", nil},
		"ratios":                     {2, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":0.5000000001}]}`, "split-ratio", "AllocatedMethodDetails", nil},
		"part's cost":                {4, "EffectiveCost", "0.500000001", "split-sum", "EffectiveCost", nil},
		"part's quantity":            {4, "PricingQuantity", "0.21", "split-sum", "PricingQuantity", map[string]string{"ListCost": "0.525", "ContractedCost": "0.525"}},
		"part's dimension":           {3, "ChargeDescription", "other", "split-dimensions", "ChargeDescription", nil},
		"credit's list cost": {1, "ChargeCategory", "Credit", "credit", "ListCost", map[string]string{
			"ListUnitPrice": "", "ConsumedQuantity": "", "ConsumedUnit": "", "ListCost": "2", "PricingCategory": "", "ChargeFrequency": "One-Time",
		}},
		"commitment bought at a cost": {1, "ChargeCategory", "Purchase", "commitment", "EffectiveCost", map[string]string{
			"ChargeFrequency": "One-Time", "ConsumedQuantity": "", "ConsumedUnit": "", "CommitmentDiscountId": "c", "CommitmentDiscountCategory": "Usage", "CommitmentDiscountType": "RI",
		}},
		"price id of two SKUs":      {2, "SkuId", "another", "parent", "SkuId", nil},
		"service of two categories": {2, "ServiceCategory", "Storage", "parent", "ServiceCategory", map[string]string{"ServiceSubcategory": "Block Storage"}},
		"N/A":                       {1, "SkuMeter", "N/A", "blank", "SkuMeter", nil},
		"not applicable":            {1, "RegionName", "Not applicable", "blank", "RegionName", nil},
		"NaN":                       {1, "EffectiveCost", "NaN", "number", "EffectiveCost", nil},
		"no digit after the point":  {1, "EffectiveCost", "2.", "number", "EffectiveCost", nil},
		"30th of February":          {1, "ChargePeriodStart", "2026-02-30T00:00:00Z", "time", "ChargePeriodStart", nil},
		"leap second":               {1, "ChargePeriodStart", "2026-01-31T23:59:60Z", "time", "ChargePeriodStart", nil},
		"fraction of a second":      {1, "ChargePeriodStart", "2026-01-31T23:00:00.5Z", "time", "ChargePeriodStart", nil},
		"lower-case currency":       {1, "BillingCurrency", "usd", "currency", "BillingCurrency", nil},
		"two currencies in a split": {3, "BillingCurrency", "EUR", "split-dimensions", "BillingCurrency", nil},
		"tag holds null twice":      {1, "Tags", `{"a":null,"a":null}`, "json-flat", "Tags", nil},
		"ratio above 1":             {2, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":1.5},{"AllocatedRatio":-1}]}`, "split-ratio", "AllocatedMethodDetails", nil},
		"usage quantity as text":    {2, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":0.5,"UsageUnit":"GPU-Seconds","UsageQuantity":"7"}]}`, "split-details", "AllocatedMethodDetails", nil},
		"usage unit as number":      {2, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":0.5,"UsageUnit":7}]}`, "split-details", "AllocatedMethodDetails", nil},
		"own key without x_":        {2, "AllocatedMethodDetails", `{"Policy":"sm","Elements":[{"AllocatedRatio":0.5}]}`, "split-details", "AllocatedMethodDetails", nil},
		"parts of different wholes": {3, "x_OriginEffectiveCost", "2.6", "split-dimensions", "x_OriginEffectiveCost", nil},
		"a part is gone":            {4, "x_OriginChargeId", "o3", "split-sum", "EffectiveCost", nil},
		"a part twice":              {3, "AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":0.5}]}`, "split-ratio", "AllocatedMethodDetails", nil},
		"denominator of 0":          {1, "PricingUnit", "Units/0 Months", "unit", "PricingUnit", nil},
		"unit with a count of text": {1, "PricingUnit", "1,000 Tokens", "unit", "PricingUnit", nil},
		"unused, yet consumed": {1, "CommitmentDiscountStatus", "Unused", "null", "ConsumedQuantity", map[string]string{
			"CommitmentDiscountId": "c", "CommitmentDiscountCategory": "Usage", "CommitmentDiscountType": "RI",
		}},
		"whole and parts": {1, "ResourceId", "GPU-2", "split-twice", "AllocatedMethodId", nil},
	}
	for name, d := range defects {
		file := rows()
		r := file[d.row-1]
		r[d.column] = d.to
		maps.Copy(r, d.also)
		rep, err := validate.CSV(bytes.NewReader(write(t, file)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.ContainsFunc(rep.Findings, func(f validate.Finding) bool {
			at := f.Row == int64(d.row) || strings.HasPrefix(d.rule, "split-") // some are told of the first part
			return at && f.Rule == d.rule && f.Column == d.column2
		}) {
			t.Errorf("%s: found %v, not %s in %s", name, rep.Findings, d.rule, d.column2)
		}
		for _, f := range rep.Findings {
			if f.Hint == "" || f.Problem == "" {
				t.Errorf("%s: %v says too little", name, f)
			}
		}
	}
	covered := map[string]bool{"column-missing": true, "column-unknown": true, "column-twice": true, "column-order": true, "column-type": true, "row-length": true}
	for _, d := range defects {
		covered[d.rule] = true
	}
	for rule := range validate.Rules() {
		if !covered[rule] {
			t.Errorf("no defect shows that %s can fail", rule)
		}
	}
}

// What the rules allow is not found.
func TestAllowed(t *testing.T) {
	purchase := map[string]string{
		"ChargeCategory": "Purchase", "ChargeFrequency": "One-Time", "ConsumedQuantity": "", "ConsumedUnit": "",
	}
	for name, change := range map[string]map[string]string{
		"a denominator":         {"PricingUnit": "Units/3 Months"},
		"a count":               {"PricingUnit": "1000 Tokens"},
		"a rate of a compound":  {"PricingUnit": "Core-Hours/Day"},
		"a year bought at once": {"ChargePeriodEnd": "2027-01-31T23:00:00Z"},
		"a correction":          {"ChargeClass": "Correction", "ListCost": "-7", "ChargePeriodStart": "2025-01-01T00:00:00Z", "ChargePeriodEnd": "2025-01-02T00:00:00Z"},
		"a refund":              {"ChargeCategory": "Credit", "ConsumedQuantity": "", "ConsumedUnit": "", "BilledCost": "-2.5", "EffectiveCost": "-2.5", "ListCost": "-2.5", "ContractedCost": "-2.5", "ListUnitPrice": "", "ContractedUnitPrice": ""},
		"tags of all kinds":     {"Tags": `{"a":1,"b":true,"c":null,"d":"","":"e"}`},
		"a word of one's own":   {"x_OriginChargeId": "N/A"},
		"38 digits":             {"EffectiveCost": "12345678901234567890123456789.123456789"},
	} {
		file := rows()
		if name == "a year bought at once" {
			maps.Copy(file[0], purchase)
		}
		maps.Copy(file[0], change)
		rep, err := validate.CSV(bytes.NewReader(write(t, file)))
		if err != nil || !rep.Valid() {
			t.Errorf("%s: %v, %v", name, rep.Findings, err)
		}
	}
	// Nothing names the charges of this file: two that are alike are no mistake.
	file := rows()
	file = append(file, file[1:]...)
	columns := slices.DeleteFunc(slices.Sorted(maps.Keys(file[0])), func(c string) bool { return strings.HasPrefix(c, "x_") })
	rep, err := validate.CSV(bytes.NewReader(write(t, file, columns...)))
	if err != nil || !rep.Valid() {
		t.Errorf("two charges alike: %v, %v", rep.Findings, err)
	}
	rep, err = validate.CSV(bytes.NewReader(write(t, file[:6], columns...)))
	if err != nil || rep.Count["split-ratio"] != 1 {
		t.Errorf("a part is gone: %v, %v", rep.Findings, err)
	}
}

func TestColumns(t *testing.T) {
	all := slices.Sorted(maps.Keys(rows()[0]))
	without := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == "PricingUnit" })
	for name, c := range map[string]struct {
		columns      []string
		rule, column string
	}{
		"missing":          {without, "column-missing", "PricingUnit"},
		"unknown":          {append([]string{"Team"}, all...), "column-unknown", "Team"},
		"twice":            {append([]string{"Tags"}, all...), "column-twice", "Tags"},
		"own column first": {append([]string{"x_Team"}, all...), "column-order", "AllocatedMethodDetails"},
	} {
		rep, err := validate.CSV(bytes.NewReader(write(t, rows(), c.columns...)))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(rep.Findings, func(f validate.Finding) bool { return f.Row == 0 && f.Rule == c.rule && f.Column == c.column }) {
			t.Errorf("%s: %v", name, rep.Findings)
		}
	}
	short := append(write(t, rows()), "a,b\n"...)
	if rep, err := validate.CSV(bytes.NewReader(short)); err != nil || rep.Count["row-length"] != 1 {
		t.Errorf("a short row: %+v, %v", rep, err)
	}
}

// Findings are bounded, and all counted.
func TestFindingsAreBounded(t *testing.T) {
	file := rows()[:1]
	file[0]["BillingCurrency"] = "XXY"
	for range 100 {
		file = append(file, file[0])
	}
	rep, err := validate.CSV(bytes.NewReader(write(t, file)))
	if err != nil || rep.Count["currency"] != 101 || len(rep.Findings) != validate.MaxFindings {
		t.Errorf("%d findings, %v, %v", len(rep.Findings), rep.Count, err)
	}
}

func TestUnreadable(t *testing.T) {
	good := write(t, rows())
	for name, body := range map[string][]byte{
		"empty":             nil,
		"an open quote":     append(slices.Clone(good), "\"a,b\n"...),
		"an endless quote":  append(append(slices.Clone(good), '"'), bytes.Repeat([]byte("x"), 5<<20)...),
		"only magic":        []byte("PAR1"),
		"cut Parquet":       []byte("PAR1xxxxxxxxxxxxxxxxxx"),
		"a boastful footer": append([]byte("PAR1xxxxxxxxxxxxxxxxxx\xff\xff\xff\x7f"), "PAR1"...),
		"a footer of noise": append(append([]byte("PAR1"), bytes.Repeat([]byte{0x19, 0xfc}, 50)...), "\x50\x00\x00\x00PAR1"...),
	} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := validate.File(file); !errors.Is(err, validate.ErrUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := validate.File(filepath.Join(t.TempDir(), "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// A float can't hold a decimal: the type alone is a finding, and so is a time
// that is not UTC.
func TestParquetTypes(t *testing.T) {
	group := parquet.Group{}
	for c := range rows()[0] {
		group[c] = parquet.Optional(parquet.String())
	}
	group["ListCost"] = parquet.Optional(parquet.Leaf(parquet.DoubleType))
	group["ChargePeriodEnd"] = parquet.Optional(parquet.TimestampAdjusted(parquet.Millisecond, false))
	group["BilledCost"] = parquet.Optional(parquet.Decimal(2, 9, parquet.Int32Type))
	group["PricingQuantity"] = parquet.Optional(parquet.Leaf(parquet.Int64Type))
	var b bytes.Buffer
	w := parquet.NewWriter(&b, parquet.NewSchema("f", group))
	var row parquet.Row
	for i, c := range slices.Sorted(maps.Keys(rows()[0])) {
		v := parquet.ByteArrayValue([]byte(rows()[0][c]))
		switch c {
		case "SkuMeter":
			v = parquet.ByteArrayValue([]byte{})
		case "ListCost":
			v = parquet.DoubleValue(2.5)
		case "ChargePeriodEnd":
			v = parquet.Int64Value(1769904000000)
		case "BilledCost":
			v = parquet.Int32Value(-250)
		case "PricingQuantity":
			v = parquet.Int64Value(1)
		}
		level := 1
		if rows()[0][c] == "" {
			v, level = parquet.NullValue(), 0
		}
		row = append(row, v.Level(0, level, i))
	}
	if _, err := w.WriteRows([]parquet.Row{row}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	rep, err := validate.Parquet(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range rep.Findings {
		if f.Rule != "column-type" && f.Column != "SkuMeter" {
			t.Error(f)
		}
		found[f.Column] = true
	}
	if rep.Count["blank"] != 1 || !found["SkuMeter"] {
		t.Errorf("empty text is not null: found %v", rep.Findings)
	}
	if !found["ListCost"] || !found["ChargePeriodEnd"] || !found["EffectiveCost"] || found["BilledCost"] || found["PricingQuantity"] {
		t.Errorf("found %v", found)
	}
}

func FuzzCSV(f *testing.F) {
	f.Add(write(f, rows()))
	f.Add([]byte("BilledCost,AllocatedMethodId,AllocatedMethodDetails\n1,a,{\"Elements\":[{\"AllocatedRatio\":1}]}\n"))
	f.Add([]byte("Tags,SkuPriceDetails,PricingUnit\n{},{\"x_a\":null},1000 Tokens/2 Months\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		rep, err := validate.CSV(bytes.NewReader(body))
		if err == nil && rep.Valid() && rep.Rows > 0 && rep.Currency == "" {
			t.Errorf("a file without a currency is valid")
		}
	})
}

func FuzzParquet(f *testing.F) {
	var b bytes.Buffer
	w := parquet.NewWriter(&b, parquet.NewSchema("f", parquet.Group{
		"BilledCost": parquet.Optional(parquet.Decimal(9, 38, parquet.FixedLenByteArrayType(16))),
		"Tags":       parquet.Optional(parquet.String()),
	}))
	row := parquet.Row{parquet.FixedLenByteArrayValue(make([]byte, 16)).Level(0, 1, 0), parquet.ByteArrayValue([]byte("{}")).Level(0, 1, 1)}
	if _, err := w.WriteRows([]parquet.Row{row, row}); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, body []byte) {
		_, _ = validate.Parquet(bytes.NewReader(body), int64(len(body)))
	})
}
