package focus

import (
	"strings"
	"time"
)

// Kind is what a column holds.
type Kind uint8

// The kinds. JSON is text that holds an object.
const (
	Text Kind = iota
	JSON
	Number
	Instant // a second, UTC
)

// The decimals of quantities and costs. Costs of the list side are products.
const (
	moneyScale    = 9  // nano units
	quantityScale = 12 // of GPU hours
	secondsScale  = 9
	productScale  = moneyScale + quantityScale
	ratioScale    = 12
	joulesScale   = 6
	decimalDigits = 38 // of Parquet's widest common decimal
)

// Column is one column of the file.
type Column struct {
	Name  string
	Kind  Kind
	Scale int // of a Number: its decimals
	value func(*Row) Cell
}

// Cell is a value of a row: that of its column's kind, or null.
type Cell struct {
	Null bool
	text string
	num  Decimal
	time int64
}

// format is the cell as CSV has it; null is empty.
func (c *Cell) format(k Kind) string {
	switch {
	case c.Null:
		return ""
	case k == Number:
		return c.num.String()
	case k == Instant:
		return time.Unix(c.time, 0).UTC().Format("2006-01-02T15:04:05Z")
	}
	return c.text
}

// text is a text cell: blank is not there. FOCUS files are UTF-8.
func text(s string) Cell {
	if strings.TrimSpace(s) == "" {
		return Cell{Null: true}
	}
	return Cell{text: strings.ToValidUTF8(s, "\uFFFD")}
}

func number(d Decimal) Cell { return Cell{num: d} }

func maybe(d *Decimal) Cell {
	if d == nil {
		return Cell{Null: true}
	}
	return Cell{num: *d}
}

func instant(unix int64) Cell { return Cell{time: unix} }

// Columns are the file's columns in their order: FOCUS's by name, then our own
// by name. It is also the order of bytes, which Parquet's schema takes.
func Columns() []Column {
	own := func(name string, k Kind, scale int, f func(*Row) Cell) Column { return Column{name, k, scale, f} }
	str := func(name string, f func(*Row) string) Column {
		return Column{name, Text, 0, func(r *Row) Cell { return text(f(r)) }}
	}
	fix := func(name, value string) Column { return str(name, func(*Row) string { return value }) }
	return []Column{
		own("AllocatedMethodDetails", JSON, 0, func(r *Row) Cell { return text(r.details) }),
		str("AllocatedMethodId", func(r *Row) string { return r.method }),
		str("AllocatedResourceId", func(r *Row) string { return r.ownerID }),
		str("AllocatedResourceName", func(r *Row) string { return r.ownerName }),
		own("AllocatedTags", JSON, 0, func(r *Row) Cell { return text(r.ownerTags) }),
		str("AvailabilityZone", func(r *Row) string { return r.zone }),
		own("BilledCost", Number, moneyScale, func(r *Row) Cell { return number(r.billed) }),
		str("BillingAccountId", func(r *Row) string { return r.names.BillingAccountID }),
		str("BillingAccountName", func(r *Row) string { return r.names.BillingAccountName }),
		str("BillingCurrency", func(r *Row) string { return r.names.Currency }),
		own("BillingPeriodEnd", Instant, 0, func(r *Row) Cell { return instant(r.month[1]) }),
		own("BillingPeriodStart", Instant, 0, func(r *Row) Cell { return instant(r.month[0]) }),
		fix("ChargeCategory", "Usage"),
		fix("ChargeClass", ""),
		str("ChargeDescription", func(r *Row) string { return r.description }),
		fix("ChargeFrequency", "Usage-Based"),
		own("ChargePeriodEnd", Instant, 0, func(r *Row) Cell { return instant(int64(r.to)) }),
		own("ChargePeriodStart", Instant, 0, func(r *Row) Cell { return instant(int64(r.from)) }),
		own("ConsumedQuantity", Number, secondsScale, func(r *Row) Cell { return number(r.seconds) }),
		fix("ConsumedUnit", "GPU-Seconds"),
		own("ContractedCost", Number, productScale, func(r *Row) Cell { return number(r.list) }),
		own("ContractedUnitPrice", Number, moneyScale, func(r *Row) Cell { return number(r.unitPrice) }),
		own("EffectiveCost", Number, moneyScale, func(r *Row) Cell { return number(r.cost) }),
		str("HostProviderName", func(r *Row) string { return r.names.Host }),
		str("InvoiceIssuerName", func(r *Row) string { return r.names.InvoiceIssuer }),
		own("ListCost", Number, productScale, func(r *Row) Cell { return number(r.list) }),
		own("ListUnitPrice", Number, moneyScale, func(r *Row) Cell { return number(r.unitPrice) }),
		str("PricingCategory", func(r *Row) string { return r.pricing }),
		own("PricingQuantity", Number, quantityScale, func(r *Row) Cell { return number(r.quantity) }),
		fix("PricingUnit", "GPU-Hours"),
		str("ProviderName", func(r *Row) string { return r.names.Provider }),
		str("PublisherName", func(r *Row) string { return r.names.Provider }),
		str("RegionId", func(r *Row) string { return r.region }),
		str("RegionName", func(r *Row) string { return r.region }),
		str("ResourceId", func(r *Row) string { return r.device.ID }),
		str("ResourceName", func(r *Row) string { return r.resourceName }),
		str("ResourceType", func(r *Row) string { return r.resourceType }),
		fix("ServiceCategory", "Compute"),
		fix("ServiceName", "GPU compute"),
		str("ServiceProviderName", func(r *Row) string { return r.names.Provider }),
		fix("ServiceSubcategory", "Virtual Machines"),
		str("SkuId", func(r *Row) string { return r.sku }),
		fix("SkuMeter", "GPU Time"),
		own("SkuPriceDetails", JSON, 0, func(r *Row) Cell { return text(r.skuDetails) }),
		str("SkuPriceId", func(r *Row) string { return r.sku }),
		str("SubAccountId", func(r *Row) string { return r.device.Cluster }),
		str("SubAccountName", func(r *Row) string { return r.device.Cluster }),
		own("Tags", JSON, 0, func(r *Row) Cell { return text(r.tags) }),
		str("x_CapacityType", func(r *Row) string { return r.device.CapacityType }),
		str("x_DeviceModel", func(r *Row) string { return r.device.Model }),
		own("x_EnergyJoules", Number, joulesScale, func(r *Row) Cell { return maybe(r.energy) }),
		str("x_NodeName", func(r *Row) string { return r.device.Node }),
		own("x_OriginChargeId", Text, 0, func(r *Row) Cell { return text(r.originID) }),
		own("x_OriginEffectiveCost", Number, moneyScale, func(r *Row) Cell { return maybe(r.originCost) }),
		own("x_OriginPricingQuantity", Number, quantityScale, func(r *Row) Cell { return maybe(r.originQuantity) }),
		str("x_Portion", func(r *Row) string { return string(r.portion) }),
		own("x_PriceRevision", Number, 0, func(r *Row) Cell { return maybe(r.revision) }),
		own("x_ReratingId", Number, 0, func(r *Row) Cell { return maybe(r.rerating) }),
		own("x_ReservedSeconds", Number, secondsScale, func(r *Row) Cell { return maybe(r.reserved) }),
		own("x_UnallocatedSeconds", Number, secondsScale, func(r *Row) Cell { return maybe(r.unallocated) }),
		own("x_UnattributedSeconds", Number, secondsScale, func(r *Row) Cell { return maybe(r.unattributed) }),
		str("x_UnitPriceSource", func(r *Row) string { return r.priceSource }),
		own("x_UnobservedSeconds", Number, secondsScale, func(r *Row) Cell { return maybe(r.unobserved) }),
		own("x_UsedCost", Number, moneyScale, func(r *Row) Cell { return maybe(r.usedCost) }),
		own("x_UsedSeconds", Number, secondsScale, func(r *Row) Cell { return maybe(r.used) }),
	}
}
