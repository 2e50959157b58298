package validate

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
)

// check checks one row.
func (c *checker) check(row []value) {
	clear(c.numbers)
	for i, v := range row {
		name := c.names[i]
		if c.at[name] != i {
			continue // there twice
		}
		rule, known := c.rules[name]
		switch {
		case v.null:
			if rule.notNull {
				c.find("not-null", name, "is null")
			}
			continue
		case known && rule.kind != number && v.text != "" && c.good[i] == v.text:
			// As in a row before, where nothing was found.
		case known:
			before := c.found
			c.cell(name, &rule, v.text)
			if c.found == before {
				c.good[i] = strings.Clone(v.text)
			}
		default:
			if p := badText(name, v.text); p != "" {
				c.find("blank", name, "%s", p)
			}
		}
	}
	c.charge(row)
	c.money(row)
	c.resource(row)
	c.parents.row(c, row)
	c.periods(row)
	c.split.row(c, row)
	if d := c.numbers["EffectiveCost"]; d != nil {
		c.cost.add(d)
	}
	if c.report.Currency == "" {
		c.report.Currency = strings.Clone(clip(c.get(row, "BillingCurrency").text))
	}
}

// cell checks a value by itself.
func (c *checker) cell(name string, rule *column, s string) {
	if p := badText(name, s); p != "" {
		c.find("blank", name, "%s", p)
		return
	}
	switch rule.kind {
	case text:
	case number:
		d := new(decimal)
		if p := parseDecimal(s, d); p != "" {
			c.find("number", name, "%q %s", clip(s), p)
			return
		}
		c.numbers[name] = d
		if rule.positive && d.unscaled.Sign() < 0 {
			c.find("negative", name, "is %s", clip(s))
		}
	case instant:
		if _, ok := parseInstant(s); !ok {
			c.find("time", name, "%q", clip(s))
		}
	case currency:
		if !isCurrency(s) {
			c.find("currency", name, "%q", clip(s))
		}
	case unit:
		if !isUnit(s) {
			c.find("unit", name, "%q", clip(s))
		}
	case keyValues, object:
		c.object(name, s, rule.kind == keyValues)
	}
	if rule.values != nil && !slices.Contains(rule.values, s) {
		c.find("value", name, "%q", clip(s))
	}
}

func parseInstant(s string) (time.Time, bool) {
	t, err := time.Parse(instantLayout, s)
	return t, err == nil && len(s) == len(instantLayout)
}

// isUnit reads units such as GPU-Hours, GB/Hour, 1000 Tokens and Units/3 Months.
func isUnit(s string) bool {
	s = withoutCount(s)
	if above, below, ok := strings.Cut(s, "/"); ok {
		s = above + "/" + withoutCount(below)
	}
	for _, base := range strings.FieldsFunc(s, func(r rune) bool { return r == '-' || r == '/' }) {
		if strings.Contains(dataUnits, " "+base+" ") || strings.Contains(timeUnits, " "+base+" ") {
			continue
		}
		first := []rune(base)[0]
		lower := strings.ToLower(base)
		if !unicode.IsUpper(first) || strings.TrimSpace(base) != base || strings.Contains(strings.ToLower(timeUnits+dataUnits), " "+lower+" ") {
			return false // or another spelling of a unit that has one
		}
	}
	return strings.Trim(s, "-/") == s && s != "" && !strings.Contains(s, "--")
}

// withoutCount is 1000 Tokens without its 1000.
func withoutCount(s string) string {
	if n, rest, ok := strings.Cut(s, " "); ok && n != "" && strings.Trim(n, "0123456789") == "" && n[0] != '0' {
		return rest
	}
	return s
}

// object reads a JSON object, whose keys must be there once; flat allows no
// objects and lists in it.
func (c *checker) object(name, s string, flat bool) {
	d := json.NewDecoder(strings.NewReader(s))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		c.find("json", name, "%q", clip(s))
		return
	}
	seen := map[string]bool{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			break
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			break
		}
		k, _ := key.(string)
		switch {
		case seen[k]:
			c.find("json-flat", name, "key %q is there twice", clip(k))
		case flat && (v[0] == '{' || v[0] == '['):
			c.find("json-flat", name, "key %q holds an object or a list", clip(k))
		}
		seen[k] = true
		if name == "SkuPriceDetails" && !strings.HasPrefix(k, "x_") && !slices.Contains(skuProperties(), k) {
			c.find("json-flat", name, "key %q is none of FOCUS's and lacks x_", clip(k))
		}
	}
	if _, err := d.Token(); err != nil {
		c.find("json", name, "%q", clip(s))
		return
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		c.find("json", name, "%q goes on after the object", clip(s))
	}
}

func skuProperties() []string {
	return []string{
		"CoreCount", "DiskMaxIops", "DiskSpace", "DiskType", "GpuCount", "InstanceType", "InstanceSeries", "MemorySize",
		"NetworkMaxIops", "NetworkMaxThroughput", "OperatingSystem", "Redundancy", "StorageClass",
	}
}

// mustBe finds a column that is in the file and should, or should not, be
// null.
func (c *checker) mustBe(row []value, name string, null bool, why string) {
	if !c.has(name) || c.get(row, name).null == null {
		return
	}
	if null {
		c.find("null", name, "is not null %s", why)
		return
	}
	c.find("not-null", name, "is null %s", why)
}

// charge checks what depends on the sort of charge.
func (c *checker) charge(row []value) {
	category := c.get(row, "ChargeCategory").text
	correction := !c.get(row, "ChargeClass").null
	priced := (category == "Usage" || category == "Purchase") && !correction
	for _, name := range []string{"PricingQuantity", "ListUnitPrice", "ContractedUnitPrice", "PricingCategory", "SkuPriceId"} {
		switch {
		case category == "Tax":
			c.mustBe(row, name, true, "though the charge is a tax")
		case priced:
			c.mustBe(row, name, false, "though the charge is usage or a purchase")
		}
	}
	unused := c.get(row, "CommitmentDiscountStatus").text == "Unused"
	switch {
	case category != "Usage" || unused:
		c.mustBe(row, "ConsumedQuantity", true, "though nothing was used")
	case !correction:
		c.mustBe(row, "ConsumedQuantity", false, "though the charge is usage")
	}
	if category == "Purchase" && c.get(row, "ChargeFrequency").text == "Usage-Based" {
		c.find("frequency", "ChargeFrequency", "is Usage-Based in a purchase")
	}
	if c.get(row, "SkuId").null && c.has("SkuId") {
		for _, name := range []string{"SkuMeter", "SkuPriceId"} {
			c.mustBe(row, name, true, "though SkuId is")
		}
	}
	if c.has("SkuPriceId") && c.get(row, "SkuPriceId").null {
		c.mustBe(row, "SkuPriceDetails", true, "though SkuPriceId is")
	}
	if s := c.get(row, "ServiceSubcategory"); !s.null {
		category := c.get(row, "ServiceCategory").text
		if s.text != "Other ("+category+")" && !slices.Contains(c.sub[category], s.text) {
			c.find("subcategory", "ServiceSubcategory", "%q is none of %q", clip(s.text), clip(category))
		}
	}
	c.commitment(row, category)
}

func (c *checker) commitment(row []value, category string) {
	id := c.get(row, "CommitmentDiscountId")
	if id.null {
		for _, name := range []string{"Category", "Name", "Quantity", "Status", "Type", "Unit"} {
			if name = "CommitmentDiscount" + name; !c.get(row, name).null {
				c.find("commitment", name, "is there, but CommitmentDiscountId is not")
			}
		}
		if c.get(row, "PricingCategory").text == "Committed" {
			c.find("commitment", "PricingCategory", "is Committed, but CommitmentDiscountId is not there")
		}
		return
	}
	for _, name := range []string{"CommitmentDiscountCategory", "CommitmentDiscountType"} {
		c.mustBe(row, name, false, "though CommitmentDiscountId is not")
	}
	switch category {
	case "Usage":
		c.mustBe(row, "CommitmentDiscountStatus", false, "though usage is covered")
	case "Purchase":
		// What it covers has the cost: both would count it twice.
		if d := c.numbers["EffectiveCost"]; d != nil && !d.zero() {
			c.find("commitment", "EffectiveCost", "is %s in the purchase of a commitment", d)
		}
	}
}
