package validate

// money checks costs and quantities.
func (c *checker) money(row []value) {
	quantity := c.numbers["PricingQuantity"]
	for _, x := range [][2]string{{"ListUnitPrice", "ListCost"}, {"ContractedUnitPrice", "ContractedCost"}} {
		price, cost := c.numbers[x[0]], c.numbers[x[1]]
		if price == nil || cost == nil || quantity == nil {
			continue
		}
		if p := price.times(quantity); p.cmp(cost) != 0 && c.get(row, "ChargeClass").null {
			c.find("unit-price", x[1], "is %s, but %s × %s = %s", cost, price, quantity, p)
		}
	}
	for _, x := range [][2]string{
		{"PricingQuantity", "PricingUnit"}, {"ConsumedQuantity", "ConsumedUnit"}, {"CommitmentDiscountQuantity", "CommitmentDiscountUnit"},
	} {
		if c.has(x[0]) && c.has(x[1]) && c.get(row, x[0]).null != c.get(row, x[1]).null {
			c.find("pricing-unit", x[1], "one of %s and %s is null", x[0], x[1])
		}
	}
	c.credit(row)
	provider, issuer := c.get(row, "ProviderName"), c.get(row, "InvoiceIssuerName")
	if billed := c.numbers["BilledCost"]; billed != nil && !billed.zero() && !provider.null && !issuer.null && provider != issuer {
		c.find("billed-cost", "BilledCost", "is %s, but %q issues the invoice, not %q", billed, clip(issuer.text), clip(provider.text))
	}
}

// credit checks the costs of what has no price: a credit's are what is billed.
func (c *checker) credit(row []value) {
	billed := c.numbers["BilledCost"]
	if c.get(row, "ChargeCategory").text != "Credit" || billed == nil {
		return
	}
	for _, x := range [][2]string{{"ListUnitPrice", "ListCost"}, {"ContractedUnitPrice", "ContractedCost"}} {
		if cost := c.numbers[x[1]]; cost != nil && c.get(row, x[0]).null && cost.cmp(billed) != 0 {
			c.find("credit", x[1], "is %s, but %s is billed", cost, billed)
		}
	}
}

// resource checks names and ids that come together.
func (c *checker) resource(row []value) {
	for _, x := range [][2]string{
		{"RegionId", "RegionName"}, {"CapacityReservationId", "CapacityReservationStatus"},
	} {
		switch {
		case !c.has(x[0]) || !c.has(x[1]):
		case c.get(row, x[0]).null:
			c.mustBe(row, x[1], true, "though "+x[0]+" is")
		case x[0] != "CapacityReservationId" || c.get(row, "ChargeCategory").text == "Usage": // a purchase has no status
			c.mustBe(row, x[1], false, "though "+x[0]+" is not")
		}
	}
	if c.has("ResourceId") && c.get(row, "ResourceId").null {
		for _, name := range []string{"ResourceName", "ResourceType"} {
			c.mustBe(row, name, true, "though ResourceId is")
		}
	}
	if c.has("SubAccountId") && c.get(row, "SubAccountId").null {
		for _, name := range []string{"SubAccountName", "SubAccountType"} {
			c.mustBe(row, name, true, "though SubAccountId is")
		}
	}
}

// periods checks the times against each other. A correction is billed later
// than it was charged, and what is bought at once may last for years.
func (c *checker) periods(row []value) {
	chargeFrom, a := parseInstant(c.get(row, "ChargePeriodStart").text)
	chargeTo, b := parseInstant(c.get(row, "ChargePeriodEnd").text)
	if a && b && !chargeFrom.Before(chargeTo) {
		c.find("charge-period", "ChargePeriodEnd", "is not after ChargePeriodStart")
	}
	billFrom, x := parseInstant(c.get(row, "BillingPeriodStart").text)
	billTo, y := parseInstant(c.get(row, "BillingPeriodEnd").text)
	switch {
	case !x || !y:
	case !billFrom.Before(billTo):
		c.find("billing-period", "BillingPeriodEnd", "is not after BillingPeriodStart")
	case a && b && c.get(row, "ChargeClass").null && c.get(row, "ChargeCategory").text == "Usage" && (chargeFrom.Before(billFrom) || chargeTo.After(billTo)):
		c.find("billing-period", "ChargePeriodStart", "the charge period is not within the billing period")
	}
}
