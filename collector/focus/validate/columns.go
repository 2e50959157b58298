package validate

import "strings"

type kind uint8

const (
	text kind = iota
	number
	instant
	keyValues // a flat JSON object
	object    // a JSON object
	currency
	unit
)

// column is what FOCUS 1.2 (and 1.3, for its own) says of one column.
type column struct {
	kind     kind
	must     bool     // be in the file
	notNull  bool     // in any row
	positive bool     // or 0
	values   []string // the only ones allowed
	summable bool     // over the charges that one was split into
	split    bool     // says how a charge was split: differs from the origin's
}

// columns are those of 1.2, and the eight of 1.3.
func columns() map[string]column {
	cs := map[string]column{
		"AllocatedMethodDetails": {kind: object, split: true},
		"AllocatedMethodId":      {split: true},
		"AllocatedResourceId":    {split: true},
		"AllocatedResourceName":  {split: true},
		"AllocatedTags":          {kind: keyValues, split: true},

		"BilledCost":         {kind: number, must: true, notNull: true, summable: true},
		"BillingAccountId":   {must: true, notNull: true},
		"BillingAccountName": {must: true},
		"BillingCurrency":    {kind: currency, must: true, notNull: true},
		"BillingPeriodEnd":   {kind: instant, must: true, notNull: true},
		"BillingPeriodStart": {kind: instant, must: true, notNull: true},

		"CapacityReservationStatus": {values: []string{"Used", "Unused"}},
		"ChargeCategory":            {must: true, notNull: true, values: []string{"Usage", "Purchase", "Tax", "Credit", "Adjustment"}},
		"ChargeClass":               {must: true, values: []string{"Correction"}},
		"ChargeDescription":         {must: true},
		"ChargeFrequency":           {notNull: true, values: []string{"One-Time", "Recurring", "Usage-Based"}},
		"ChargePeriodEnd":           {kind: instant, must: true, notNull: true},
		"ChargePeriodStart":         {kind: instant, must: true, notNull: true},

		"CommitmentDiscountCategory": {values: []string{"Spend", "Usage"}},
		"CommitmentDiscountQuantity": {kind: number, summable: true},
		"CommitmentDiscountStatus":   {values: []string{"Used", "Unused"}},
		"CommitmentDiscountUnit":     {kind: unit},
		"ConsumedQuantity":           {kind: number, summable: true},
		"ConsumedUnit":               {kind: unit},
		"ContractApplied":            {kind: object},
		"ContractedCost":             {kind: number, must: true, notNull: true, summable: true},
		"ContractedUnitPrice":        {kind: number, positive: true},
		"EffectiveCost":              {kind: number, must: true, notNull: true, summable: true},
		"HostProviderName":           {notNull: true},
		"InvoiceIssuerName":          {must: true, notNull: true},
		"ListCost":                   {kind: number, must: true, notNull: true, summable: true},
		"ListUnitPrice":              {kind: number, positive: true},

		"PricingCategory":                    {values: []string{"Standard", "Dynamic", "Committed", "Other"}},
		"PricingCurrencyContractedUnitPrice": {kind: number, positive: true},
		"PricingCurrencyEffectiveCost":       {kind: number, summable: true},
		"PricingCurrencyListUnitPrice":       {kind: number, positive: true},
		"PricingQuantity":                    {kind: number, must: true, summable: true},
		"PricingUnit":                        {kind: unit, must: true},
		"ProviderName":                       {must: true, notNull: true},
		"PublisherName":                      {must: true, notNull: true},
		"ServiceCategory":                    {must: true, notNull: true, values: serviceCategories()},
		"ServiceName":                        {must: true, notNull: true},
		"ServiceProviderName":                {notNull: true},
		"ServiceSubcategory":                 {notNull: true},
		"SkuPriceDetails":                    {kind: keyValues},
		"Tags":                               {kind: keyValues},
	}
	for plain := range strings.FieldsSeq(`AvailabilityZone BillingAccountType CapacityReservationId CommitmentDiscountId
		CommitmentDiscountName CommitmentDiscountType InvoiceId PricingCurrency RegionId RegionName ResourceId ResourceName
		ResourceType SkuId SkuMeter SkuPriceId SubAccountId SubAccountName SubAccountType`) {
		cs[plain] = column{}
	}
	return cs
}

// subcategories are the allowed ones by category; each has "Other (CATEGORY)"
// on top.
func subcategories() map[string][]string {
	return map[string][]string{
		"AI and Machine Learning":   {"AI Platforms", "Bots", "Generative AI", "Machine Learning", "Natural Language Processing"},
		"Analytics":                 {"Analytics Platforms", "Business Intelligence", "Data Processing", "Search", "Streaming Analytics"},
		"Business Applications":     {"Productivity and Collaboration"},
		"Compute":                   {"Containers", "End User Computing", "Quantum Compute", "Serverless Compute", "Virtual Machines"},
		"Databases":                 {"Caching", "Data Warehouses", "Ledger Databases", "NoSQL Databases", "Relational Databases", "Time Series Databases"},
		"Developer Tools":           {"Developer Platforms", "Continuous Integration and Deployment", "Development Environments", "Source Code Management", "Quality Assurance"},
		"Identity":                  {"Identity and Access Management"},
		"Integration":               {"API Management", "Messaging", "Workflow Orchestration"},
		"Internet of Things":        {"IoT Analytics", "IoT Platforms"},
		"Management and Governance": {"Architecture", "Compliance", "Cost Management", "Data Governance", "Disaster Recovery", "Endpoint Management", "Observability", "Support"},
		"Media":                     {"Content Creation", "Gaming", "Media Streaming", "Mixed Reality"},
		"Migration":                 {"Data Migration", "Resource Migration"},
		"Mobile":                    nil,
		"Multicloud":                {"Multicloud Integration"},
		"Networking":                {"Application Networking", "Content Delivery", "Network Connectivity", "Network Infrastructure", "Network Routing", "Network Security"},
		"Security":                  {"Secret Management", "Security Posture Management", "Threat Detection and Response"},
		"Storage":                   {"Backup Storage", "Block Storage", "File Storage", "Object Storage", "Storage Platforms"},
		"Web":                       {"Application Platforms"},
		"Other":                     nil,
	}
}

func serviceCategories() []string {
	var out []string
	for c := range subcategories() {
		out = append(out, c)
	}
	return out
}

// units of time and data that have one spelling.
const (
	timeUnits = " Year Years Month Months Day Days Hour Hours Minute Minutes Second Seconds Millisecond Milliseconds Microsecond Microseconds "
	dataUnits = " b Kb Mb Gb Tb Pb Eb Kib Mib Gib Tib Pib Eib B KB MB GB TB PB EB KiB MiB GiB TiB PiB EiB "
)
